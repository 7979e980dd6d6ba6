"""Samples that came and wait to be taken: numbered, stamped, bounded."""

from __future__ import annotations

import time

from edge_agent.runtime.fields import Row
from edge_agent.runtime.samples import Samples, bytes_of

__all__ = ["BYTES_MAX", "ROWS_MAX", "Arrivals"]

ROWS_MAX = 4096
BYTES_MAX = 4 << 20  # of texts and the like


class Arrivals:
    """A queue of rows. It counts from `start_sequence` where rows bring no number and stamps those without time."""

    def __init__(
        self, columns: tuple[str, ...], dtypes: tuple[str, ...], start_sequence: int = 0, *, rows_max: int = ROWS_MAX
    ) -> None:
        self._waiting = Samples.none(columns, dtypes)
        self._bytes = 0
        self._next = start_sequence
        self._rows_max = rows_max

    @property
    def rows(self) -> int:
        """How many wait."""
        return self._waiting.rows

    @property
    def full(self) -> bool:
        """Whether no more should be read for now."""
        return self._waiting.rows >= self._rows_max or self._bytes >= BYTES_MAX

    def add(self, row: Row) -> None:
        """Queue one row."""
        sequence, timestamp, values = row
        if sequence is None:
            sequence, self._next = self._next, self._next + 1
        self._waiting.append(sequence, time.time_ns() if timestamp is None else timestamp, values)
        if self._waiting.dtypes:
            self._bytes += bytes_of(values)

    def take(self, room: int) -> Samples | None:
        """Return the oldest rows, at most `room`, or None."""
        waiting = self._waiting
        rows = min(room, waiting.rows)
        if rows <= 0:
            return None
        if rows == waiting.rows:
            self._waiting, self._bytes = Samples.none(waiting.columns, waiting.dtypes), 0
            return waiting
        taken = waiting.part(0, rows)
        waiting.drop(rows)
        self._bytes -= taken.bytes if taken.dtypes else 0
        return taken

    def forget_oldest(self) -> int:
        """Drop what is beyond the bound; return how many rows went."""
        surplus = max(0, self._waiting.rows - self._rows_max)
        if self._bytes > BYTES_MAX:
            surplus = max(surplus, self._waiting.rows // 2)
        self.take(surplus)
        return surplus
