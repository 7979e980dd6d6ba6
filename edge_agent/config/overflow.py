"""What becomes of samples that come faster than a slot takes them: the policy of an input, and what is wrong with it.

    block        nothing more is read, and the peer waits
    drop_oldest  the oldest waiting samples are dropped and counted
    spool        they wait on disk

Without a policy a source that can be held back, or whose peer keeps what is not acknowledged, blocks; from one that
goes on whether somebody listens or not the oldest samples are dropped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from edge_agent.config.plugs import InferenceInput, JsonlInput, MergeInput, OpcuaInput, Polled, SerialInput
from edge_agent.config.sections import CsvInput, Input

__all__ = ["QUEUE_ROWS", "SPOOL_MB", "disk_faults", "overflow_faults", "policy", "queue_rows", "spool_bytes"]

QUEUE_ROWS = 4096
QUEUE_ROWS_MIN, QUEUE_ROWS_MAX = 16, 1_000_000
SPOOL_MB = 64.0
SPOOL_MB_MIN, SPOOL_MB_MAX = 1.0, 1_048_576.0
MEGABYTE = 1_000_000


def policy(section: Input) -> str:
    """Return an input's policy: the one it names, else the one that suits its source."""
    if section.overflow is not None:
        return section.overflow
    return "drop_oldest" if isinstance(section, Polled | OpcuaInput | SerialInput) else "block"


def queue_rows(section: Input) -> int:
    """Return how many samples wait in memory at the most."""
    return QUEUE_ROWS if section.queue_rows is None else section.queue_rows


def spool_bytes(section: Input) -> int:
    """Return how many bytes may wait on disk."""
    return int((SPOOL_MB if section.spool_mb is None else section.spool_mb) * MEGABYTE)


def overflow_faults(section: Input) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with an input's policy; the key is relative to the input."""
    chosen, rows, spool_mb = policy(section), section.queue_rows, section.spool_mb
    if chosen != "block" and (why := _waits(section)):
        yield "overflow", f"{chosen!r} does not suit: {why}; leave it out"
    if rows is not None and chosen == "block":
        yield "queue_rows", 'needs overflow = "drop_oldest" or "spool"'
    elif rows is not None and not QUEUE_ROWS_MIN <= rows <= QUEUE_ROWS_MAX:
        yield "queue_rows", f"{rows} must be {QUEUE_ROWS_MIN} to {QUEUE_ROWS_MAX} samples"
    if spool_mb is not None and chosen != "spool":
        yield "spool_mb", 'needs overflow = "spool"'
    elif spool_mb is not None and not SPOOL_MB_MIN <= spool_mb <= SPOOL_MB_MAX:
        yield "spool_mb", f"{spool_mb:g} must be {SPOOL_MB_MIN:g} to {SPOOL_MB_MAX:g}"
    for name, part in section.part.items() if isinstance(section, MergeInput) else ():
        for key in ("overflow", "queue_rows", "spool_mb"):
            if getattr(part, key) is not None:
                yield f"part.{name}.{key}", "belongs to the whole: write it with the parts, not in one"


def disk_faults(inputs: Mapping[str, Input], state: Path) -> Iterator[tuple[str, str]]:
    """Yield which spools of slots (by name) the disk with the directory `state` can never hold, all together."""
    spools = {name: spool_bytes(one) for name, one in inputs.items() if policy(one) == "spool"}
    place = state
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        size = shutil.disk_usage(place).total
    except OSError:
        return  # then the spool says so, in words, when it is needed
    if spools and sum(spools.values()) > size:
        wanted = sum(spools.values()) / MEGABYTE
        words = f"all spools together are {wanted:g} MB, and the disk of {state} has {size / MEGABYTE:.0f} MB"
        yield from ((f"slot.{name}.input.spool_mb", words) for name in spools)


def _waits(section: Input) -> str:
    if isinstance(section, CsvInput | JsonlInput):
        return "a file waits until it is read"
    if isinstance(section, InferenceInput):
        return "who asks waits for the answer, and waiting_max bounds that"
    if isinstance(section, MergeInput) and any(isinstance(one, CsvInput | JsonlInput) for one in section.part.values()):
        return "a file is among the parts, and waits until it is read"
    return ""
