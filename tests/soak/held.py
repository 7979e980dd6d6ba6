"""What a process holds of the system, as the kernel tells it: processes, threads, descriptors, memory, disk."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Held", "descendants", "held"]


class Held(NamedTuple):
    """Counts, and KiB of memory: `pss` proportional, `own` anonymous and the process's alone."""

    children: int
    threads: int
    descriptors: int
    pss: int
    own: int
    disk: int


def held(pid: int, state: Path) -> Held:
    """Return what process `pid`, its children not counted in, holds; `disk` is the KiB below `state`."""
    place = Path(f"/proc/{pid}")
    rollup = ""
    with contextlib.suppress(PermissionError):  # a worker hides from its own user; root may look
        rollup = (place / "smaps_rollup").read_text()
    return Held(
        children=len(list(descendants(pid))),
        threads=len(list((place / "task").iterdir())),
        descriptors=_count(place / "fd"),
        pss=_kib(rollup, "Pss"),
        own=_kib(rollup, "Anonymous"),
        disk=sum(_size(path) for path in state.rglob("*")) // 1024,
    )


def descendants(pid: int) -> Iterator[int]:
    """Yield every process below `pid`, those that only wait to be collected too."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                yield child
                with contextlib.suppress(OSError):
                    yield from descendants(child)


def _count(place: Path) -> int:
    with contextlib.suppress(PermissionError):
        return len(list(place.iterdir()))
    return 0


def _kib(rollup: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) if found else 0


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return 0
