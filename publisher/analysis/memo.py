"""Fingerprints already worked out in this process, for as long as nothing they were made from has moved.

Decides freshness by the file system's own stamps and, for a live class, by the identity of its attributes. In doubt,
as with a file written this very moment, it remembers nothing.
"""

from __future__ import annotations

import os
import time
import types
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["Memo"]

T = TypeVar("T")
_ENTRIES_LIMIT = 64
_SETTLED_NS = 100_000_000
"""A file changed less than this ago may change again without its stamp moving (coarse kernel clocks)."""

_Stamp = tuple[int, int, int, int] | None


@dataclass(frozen=True)
class _Entry(Generic[T]):
    value: T
    stamps: tuple[tuple[str, _Stamp], ...]
    cls: weakref.ref[type] | None
    attributes: tuple[object, ...]


class Memo(Generic[T]):
    """A bounded memory of results by target."""

    def __init__(self) -> None:
        self._entries: dict[object, _Entry[T]] = {}

    def get(self, key: object, target: object) -> T | None:
        """Return what was remembered for `key`, None when anything it was made from is not as it was."""
        entry = self._entries.get(key)
        if entry is None or any(_stamp(path) != stamp for path, stamp in entry.stamps):
            return None
        if isinstance(target, type):
            if entry.cls is None or entry.cls() is not target:
                return None
            now = _attributes(target)
            if len(now) != len(entry.attributes) or any(a is not b for a, b in zip(now, entry.attributes, strict=True)):
                return None
        return entry.value

    def put(self, key: object, target: object, value: T, paths: Iterable[Path]) -> None:
        """Remember a result made from files and directories, unless one of them is too young to trust its stamp."""
        stamps = tuple((str(path), _stamp(str(path))) for path in dict.fromkeys(paths))
        edge = time.time_ns() - _SETTLED_NS
        if any(stamp is not None and max(stamp[:2]) > edge for _, stamp in stamps):
            return
        if len(self._entries) >= _ENTRIES_LIMIT:
            self._entries.pop(next(iter(self._entries)))
        cls = weakref.ref(target) if isinstance(target, type) else None
        self._entries[key] = _Entry(value, stamps, cls, _attributes(target) if isinstance(target, type) else ())


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116 (called for every file on every look: Path would double the cost)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _attributes(cls: type) -> tuple[object, ...]:
    """Everything that patching a class would replace, in an order that only patching changes."""
    found: list[object] = []
    for one in cls.__mro__[:-1]:
        for name, value in vars(one).items():
            found.extend((name, value))
            function = getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType):
                found.append(function.__code__)
    return tuple(found)
