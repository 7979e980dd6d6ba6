"""Samples replayed from a CSV file at the pace of its timestamps: once, several times, or for ever.

The file alone decides what a sample's number and time are, so a replay that resumes gives the same samples again: a
row's number is its place in the file (or its `sequence` column), and every further pass goes on where the last one
ended. Rows that do not fit are counted and skipped, and keep their number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

from edge_agent.config import CsvInput
from edge_agent.config.plugs import JsonlInput
from edge_agent.contract.errors import ConfigError
from edge_agent.runtime.csv_table import CsvTable, Row
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.samples import BadPayload, Faults, Samples, bytes_of

__all__ = ["CsvSource"]

ROWS_PER_TAKE_MAX = 4096  # rows looked at in one call, good or bad: some 5 ms
BYTES_PER_TAKE = 1 << 20  # of texts and the like; the row that goes beyond is the last one
UNREADABLE = "unreadable file"


class Table(Protocol):
    """A file as rows, by the rules of `CsvTable`."""

    path: Path
    columns: tuple[str, ...]
    dtypes: tuple[str, ...]
    numbered: bool

    def rows(self) -> Iterator[Row | BadPayload]:
        """Yield every row from the top."""
        ...


class _Pass:
    """What one pass over the file shows: by how much, in numbers and nanoseconds, the next one is shifted."""

    def __init__(self, numbered: bool) -> None:
        self._numbered = numbered
        self._rows = self._good = 0
        self._first: Row | None = None
        self._last: Row | None = None

    def add(self, row: Row | BadPayload) -> None:
        self._rows += 1
        if not isinstance(row, BadPayload):
            self._good += 1
            self._first = self._first or row
            self._last = row

    @property
    def empty(self) -> bool:
        return self._good == 0

    @property
    def first(self) -> int:
        return self._first[0] if self._first and self._numbered else 0

    @property
    def span(self) -> int:
        if not self._numbered or self._first is None or self._last is None:
            return self._rows
        return max(1, self._last[0] - self._first[0] + 1)

    @property
    def period(self) -> int:
        """From the first row of a pass to the first of the next: one mean interval after the last row."""
        if self._first is None or self._last is None:
            return 0
        length = max(0, self._last[1] - self._first[1])
        return length + (max(1, length // (self._good - 1)) if self._good > 1 else 10**9)


class CsvSource:
    """The replay of one slot. `start_sequence` is the first sample wanted; earlier ones are skipped.

    Raises `ConfigError` when the file cannot be read, lacks a column, or has no row that fits. Nothing needs to be
    acknowledged: the file stays where it is.
    """

    problem = ""

    def __init__(self, config: CsvInput | JsonlInput, *, start_sequence: int = 0, table: Table | None = None) -> None:
        self._table = table or CsvTable(config)  # type: ignore[arg-type]
        self.columns = self._table.columns
        self.faults = Faults()
        self.finished = False
        self._passes = math.inf if config.repeat is True else max(1, int(config.repeat))
        self._speed = config.speed
        self._start_sequence = start_sequence
        self._rows = self._replay()
        self._next: Row | None = None
        self._told = False
        self._origin: tuple[float, int] | None = None  # when the first row was due, and its timestamp
        self._advance(ROWS_PER_TAKE_MAX)

    @property
    def rejected(self) -> int:
        """How many rows became no sample."""
        return self.faults.total()

    def interest(self) -> Interest:
        """Return no descriptor, and the time at which the next row is due.

        Told once: whoever cannot take yet is not woken again and again for rows that are due already.
        """
        if self.finished or self._told:
            return -1, 0, None
        return -1, 0, self._due(self._next, time.monotonic()) if self._next else 0.0

    def handle(self, events: int, now: float) -> None:
        """Note that it is known that rows are due: they are read when they are taken."""
        self._told = self._next is None or self._due(self._next, now) <= now

    def take(self, room: int) -> Samples | None:
        """Return up to `room` rows that are due now, or None."""
        now = time.monotonic()
        self._told = False
        taken, size = Samples.none(self.columns, self._table.dtypes), 0
        budget = ROWS_PER_TAKE_MAX
        while budget > 0 and taken.rows < room and size < BYTES_PER_TAKE and not self.finished:
            if self._next is not None:
                if self._due(self._next, now) > now:
                    break
                taken.append(*self._next)
                size += bytes_of(self._next[2]) if taken.dtypes else 0
            budget -= self._advance(budget)
        return taken if taken.rows else None

    def acknowledge(self, rows: int) -> None:
        """Do nothing: a replay can be resumed by number."""

    def close(self) -> None:
        """Close the file."""
        self._rows.close()
        self.finished = True

    def _due(self, row: Row, now: float) -> float:
        if not self._speed:
            return 0.0
        if self._origin is None:
            self._origin = (now, row[1])
        started, first = self._origin
        return started + (row[1] - first) / 1e9 / self._speed

    def _advance(self, budget: int) -> int:
        """Fetch the next good row, looking at `budget` rows at most; return how many were looked at."""
        self._next = None
        for looked_at in range(1, budget + 1):
            row = next(self._rows, None)
            if row is None:
                self.finished = True
                return looked_at
            if isinstance(row, BadPayload):
                self.faults.note(row.kind, f"{self._table.path}: {row}")
            elif row[0] >= self._start_sequence:
                self._next = row
                return looked_at
        return budget

    def _replay(self) -> Generator[Row | BadPayload, None, None]:
        """Yield all passes, from the one that holds `start_sequence` on."""
        number, seen = 0, self._measure() if self._start_sequence > 0 else None
        if seen is not None and not seen.empty:
            number = max(0, (self._start_sequence - seen.first) // seen.span)
        while number < self._passes:
            shown = seen or _Pass(self._table.numbered)
            by, later = number * shown.span, number * shown.period
            try:
                for row in self._table.rows():
                    if seen is None:
                        shown.add(row)
                    yield row if isinstance(row, BadPayload) else (row[0] + by, row[1] + later, row[2])
            except ConfigError as error:
                self.faults.note(UNREADABLE, str(error))
                return
            if shown.empty:
                self.faults.note(UNREADABLE, f"{self._table.path}: has no row that fits")
                return
            number, seen = number + 1, shown

    def _measure(self) -> _Pass:
        seen = _Pass(self._table.numbered)
        for row in self._table.rows():
            seen.add(row)
        return seen
