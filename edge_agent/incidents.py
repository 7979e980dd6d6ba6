"""What is kept when a release fails here: reason, traceback, versions, evidence, and the last input frames (§10).

Each incident is a directory of its own, `incidents/<number>` in the agent's state, written whole or not at all. Their
number and size are bounded; the oldest goes first. Columns that the device's owner named are left out, and nothing of
the configuration or the environment is ever put in. It judges nothing, and a disk that takes no incident stops nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edge_agent.contract.digest import decode_msgpack, encode_msgpack
from edge_agent.contract.errors import Reason, StoreError

__all__ = ["DIRECTORY", "Frame", "Incident", "Incidents", "Rows", "frames_of", "listed", "read", "readable"]

FORMAT = 1
DIRECTORY = "incidents"
FILE = "incident.msgpack"
REPEATED_SECONDS = 600.0
DEFERRED = "deferred"  # it is tried again for ever, an hour apart in the end
TEXT_MAX = 16_384
_READ_BYTES_MAX = 64 << 20


class Rows(Protocol):
    """Samples as the runtime has them, see `edge_agent.runtime.samples`."""

    columns: tuple[str, ...]
    dtypes: tuple[str, ...]
    sequences: array[int]
    timestamps: array[int]
    values: Any


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input frame: numbers and times (nanoseconds UTC) of its rows, and their values, None where redacted."""

    columns: list[str]
    sequences: list[int]
    timestamps: list[int]
    values: list[list[Any]]
    dtypes: list[str] = []


class Incident(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One failure of one release. `time` is seconds UTC by the device's clock.

    `state` is what became of the release: `rolled_back`, `reverted`, or `deferred` where the environment is to blame.
    `evidence` is in numbers, `stages` in microseconds. `versions` are the agent's, Python's and the libraries',
    `profile` the digest of the device's profile. `frames` begin with the one that failed last, if it is known, then go
    back from the newest. `redacted` columns are not in them.
    """

    format: int = FORMAT
    number: int = 0
    time: float
    slot: str
    release: str
    digest: str
    state: str
    reason: Reason
    traceback: str = ""
    versions: dict[str, str] = {}
    profile: str = ""
    evidence: dict[str, float] = {}
    stages: dict[str, int] = {}
    frames: list[Frame] = []
    redacted: list[str] = []


class Incidents:
    """The incidents below `state`; `keep` of them stay. For the agent's main loop only."""

    def __init__(self, state: Path, keep: int) -> None:
        self._directory, self._keep = state / DIRECTORY, keep
        self._newest: dict[str, int] = {}
        for number in listed(state):
            with contextlib.suppress(StoreError, ValueError):
                self._newest[read(state, number).slot] = number

    def newest(self, slot: str) -> int:
        """Return the number of the slot's last incident, 0 when there is none."""
        return self._newest.get(slot, 0)

    def add(self, incident: Incident) -> int:
        """Keep an incident and return its number; one that repeats the slot's last is not kept again.

        Raises `StoreError` when the disk does not take it; nothing half-written stays.
        """
        state, last = self._directory.parent, self._newest.get(incident.slot)
        if last is not None and _repeats(state, last, incident):
            return last
        number = max(listed(state), default=0) + 1
        building = self._directory / f".{number}.new"
        try:
            building.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (building / FILE).open("wb") as file:
                file.write(encode_msgpack(msgspec.structs.replace(incident, number=number)))
                file.flush()
                os.fsync(file.fileno())
            building.rename(self._directory / str(number))
            _sync(self._directory)
            for old in listed(state)[: -self._keep]:
                shutil.rmtree(self._directory / str(old))
        except OSError as error:
            shutil.rmtree(building, ignore_errors=True)
            raise StoreError(f"incident not kept below {self._directory}: {error}") from error
        self._newest[incident.slot] = number
        return number


def listed(state: Path) -> list[int]:
    """Return the numbers of the incidents below `state`, oldest first."""
    directory = state / DIRECTORY
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def read(state: Path, number: int) -> Incident:
    """Return one incident. Raises `StoreError` when it is not there or cannot be read."""
    path = state / DIRECTORY / str(number) / FILE
    try:
        if path.stat().st_size > _READ_BYTES_MAX:
            raise StoreError(f"{path} is larger than {_READ_BYTES_MAX} bytes, which no incident is")
        found = decode_msgpack(path.read_bytes(), Incident)
    except FileNotFoundError:
        known = ", ".join(map(str, listed(state))) or "none"
        raise StoreError(f"there is no incident {number} on this device; there is {known}") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"incident {number} cannot be read: {error}") from None
    if found.format != FORMAT:
        raise StoreError(f"incident {number} has format {found.format}, this program reads {FORMAT}")
    return found


def frames_of(kept: Sequence[Rows], *, count: int, kilobytes: int, redact: Sequence[str] = ()) -> list[Frame]:
    """Return the first `count` frames of `kept` as far as they fit into `kilobytes`, without the columns to redact."""
    found: list[Frame] = []
    room, seen = kilobytes * 1024, set()
    for rows in kept:
        if len(found) == count or not rows.sequences or id(rows) in seen:
            continue
        seen.add(id(rows))
        frame = _frame(rows, frozenset(redact))
        room -= len(encode_msgpack(frame))
        if room < 0:
            break
        found.append(frame)
    return found


def _frame(rows: Rows, redact: frozenset[str]) -> Frame:
    width = len(rows.columns)
    hidden = {place for place, name in enumerate(rows.columns) if name in redact}
    cells = list(_cells(rows.values, width, hidden))
    return Frame(
        columns=list(rows.columns),
        sequences=list(rows.sequences),
        timestamps=list(rows.timestamps),
        values=cells,
        dtypes=list(rows.dtypes),
    )


def _cells(values: Sequence[Any], width: int, hidden: set[int]) -> Iterator[list[Any]]:
    for start in range(0, len(values), width or 1):
        yield [None if place in hidden else one for place, one in enumerate(values[start : start + width])]


def _repeats(state: Path, last: int, incident: Incident) -> bool:
    """Tell whether it says what the slot's last one said a moment ago: a loop must not push all others out."""
    try:
        before = read(state, last)
    except StoreError:
        return False
    same = (before.release, before.state, before.reason.code) == (
        incident.release,
        incident.state,
        incident.reason.code,
    )
    return same and (incident.state == DEFERRED or 0 <= incident.time - before.time < REPEATED_SECONDS)


def readable(incident: Incident) -> Mapping[str, Any]:
    """Return the incident as what JSON knows; numbers that JSON cannot say are text."""
    found: dict[str, Any] = msgspec.to_builtins(incident)
    found["evidence"] = {
        name: value if math.isfinite(value) else str(value) for name, value in incident.evidence.items()
    }
    return found


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
