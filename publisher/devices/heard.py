"""What of each device was counted last, over all runs of the publisher: a replayed message must not count again.

One small file in the home, `heard.json`: certificate serial to boot counter and counter, apart for reports and events.
It only grows, two publishers at once included; without it (lost, another workstation) the first message sets the mark.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.errors import StoreError
from publisher.devices.standing import Mark

__all__ = ["FILE_NAME", "Heard"]

FILE_NAME = "heard.json"
BYTES_MAX = 64 * 1024 * 1024


class _File(msgspec.Struct):
    format: int = 1
    reports: dict[str, tuple[int, int]] = {}
    events: dict[str, tuple[int, int]] = {}


class Heard:
    """The newest counted message of each certificate, by serial; without `path` kept as long as this object."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._written: _File | None = None
        self.reports: dict[str, Mark] = {}
        self.events: dict[str, Mark] = {}
        if path is not None:
            self._take(_read(path))

    def save(self) -> None:
        """Write what is newer than the file, whole or not at all. Raises `StoreError`."""
        path = self._path
        if path is None or self._file() == self._written:
            return
        with _errors(path), (path.parent / f".{FILE_NAME}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._take(_read(path))
            new = path.with_name(f".{path.name}.new")
            with new.open("wb") as file:
                file.write(encode_json(self._file()))
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        self._written = self._file()

    def _file(self) -> _File:
        return _File(
            reports={serial: (mark.boot, mark.counter) for serial, mark in self.reports.items()},
            events={serial: (mark.boot, mark.counter) for serial, mark in self.events.items()},
        )

    def _take(self, found: _File) -> None:
        for known, told in ((self.reports, found.reports), (self.events, found.events)):
            for serial, (boot, counter) in told.items():
                mark = Mark(boot=boot, counter=counter)
                known[serial] = max(known.get(serial, mark), mark)
        self._written = found


def _read(path: Path) -> _File:
    with _errors(path):
        try:
            with path.open("rb") as file:
                return decode_json(file.read(BYTES_MAX), _File)
        except FileNotFoundError:
            return _File()
        except msgspec.DecodeError as error:
            raise StoreError(f"{path} is damaged ({error}): remove it; old messages may then count once") from None


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be read or written: {error.strerror or error}") from None
