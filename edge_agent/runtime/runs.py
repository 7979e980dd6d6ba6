"""Runs of row numbers: those that were taken and are not done with, and those that are gone.

It only keeps count; what is taken, done with or dropped others decide.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Gaps", "Taken"]


class Taken:
    """Rows that were taken and are not done with, in the order of their numbers; some may lie between them."""

    def __init__(self) -> None:
        self._runs: deque[tuple[int, int]] = deque()  # number of the first row, rows

    def __bool__(self) -> bool:
        return bool(self._runs)

    @property
    def start(self) -> int:
        """The number of the oldest; there must be one."""
        return self._runs[0][0]

    def add(self, start: int, rows: int) -> None:
        """Rows from `start` on were taken."""
        self._runs.append((start, rows))

    def confirm(self, rows: int) -> None:
        """The oldest `rows` are done with. `ValueError` if so many were not taken."""
        while rows > 0:
            if not self._runs:
                raise ValueError(f"{rows} samples cannot be acknowledged: they are not taken")
            start, here = self._runs.popleft()
            if here > rows:
                self._runs.appendleft((start + rows, here - rows))
            rows -= here


class Gaps:
    """Rows that were dropped and are not come by yet."""

    def __init__(self) -> None:
        self._gone: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        """Rows `start` to `end` (exclusive) were dropped, behind all that were before."""
        if self._gone and self._gone[-1][1] == start:
            start = self._gone.pop()[0]
        self._gone.append((start, end))

    def others(self, start: int, end: int) -> int:
        """Return how many rows from `start` to `end` (exclusive) were not dropped, and forget what lies below `end`."""
        found = end - start - sum(max(0, min(end, last) - max(start, first)) for first, last in self._gone)
        self._gone = [one for one in self._gone if one[1] > end]
        return found

    def clear(self) -> None:
        """Forget all."""
        self._gone.clear()
