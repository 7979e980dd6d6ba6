"""A CSV file as rows of values: which header belongs to which column, and what a cell means.

The header names the columns; lines that start with `#` and empty lines are skipped. It reads on, row by row, and holds
one row at a time. A missing column is `ConfigError` at once; a cell that does not fit is `BadPayload` for its row only.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from edge_agent.config import Column, CsvInput
from edge_agent.config.tables import hint, listing
from edge_agent.contract.dtypes import parse_cell
from edge_agent.contract.errors import ConfigError
from edge_agent.runtime.cells import held_cell
from edge_agent.runtime.decode import (
    BAD_SEQUENCE,
    BAD_TIMESTAMP,
    INT64_MAX,
    MISSING,
    NOT_A_NUMBER,
    dtypes_of,
    nanoseconds,
)
from edge_agent.runtime.samples import BadPayload

__all__ = ["CsvTable", "Row"]

Row = tuple[int, int, list[Any]]  # sequence, timestamp in nanoseconds, one value per column


class CsvTable:
    """The file that `config` names. Raises `ConfigError` when it cannot be read or lacks a column.

    `columns` are the logical names, `dtypes` theirs as `Samples` has them; `numbered` tells whether rows bring their
    sequence.
    """

    def __init__(self, config: CsvInput) -> None:
        self.path = config.path
        self.numbered = bool(config.sequence)
        self._config = config
        with self._open() as file:
            header = self._header(csv.reader(_lines(file)))
        special = {config.sequence, config.timestamp.path if config.timestamp else ""}
        chosen = config.columns or {name: Column(path=name) for name in header if name and name not in special}
        if not chosen:
            raise ConfigError(f"{self.path}: the header names no column besides timestamp and sequence")
        self.columns = tuple(chosen)
        self.dtypes = dtypes_of(chosen)
        self._places = [
            (self._place(header, f"column '{name}'", column.path), name, column) for name, column in chosen.items()
        ]
        self._time_place = self._place(header, "timestamp", config.timestamp.path) if config.timestamp else -1
        self._sequence_place = self._place(header, "sequence", config.sequence) if config.sequence else -1
        self._width = len(header)

    def rows(self) -> Iterator[Row | BadPayload]:
        """Yield every row of the file from the top. Raises `ConfigError` when it cannot be read any more."""
        with self._open() as file:
            reader = csv.reader(_lines(file))
            self._header(reader)
            number = 0
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except (csv.Error, OSError) as error:
                    if isinstance(error, OSError):
                        raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from None
                    yield BadPayload(NOT_A_NUMBER, f"row {number + 1}: {error}")
                    number += 1
                    continue
                if cells:
                    yield self._row(number, cells)
                    number += 1

    def _row(self, number: int, cells: Sequence[str]) -> Row | BadPayload:
        """One row; without a sequence column its place in the file is its number."""
        try:
            if len(cells) < self._width:
                raise BadPayload(MISSING, f"has {len(cells)} cells, the header names {self._width}")
            read = self._cell if self.dtypes else self._number
            values = [read(cells[place], name, column) for place, name, column in self._places]
            sequence = self._sequence(cells[self._sequence_place]) if self.numbered else number
            return sequence, self._time(number, cells), values
        except BadPayload as bad:
            return BadPayload(bad.kind, f"row {number + 1}: {bad}")

    def _cell(self, cell: str, name: str, column: Column) -> Any:
        try:
            return held_cell(column, parse_cell, cell)
        except BadPayload as bad:
            raise BadPayload(bad.kind, f"column '{name}': {bad}") from None

    def _number(self, cell: str, name: str, column: Column) -> float:
        try:
            value = float(cell) * column.scale + column.offset
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise BadPayload(NOT_A_NUMBER, f"column '{name}': {cell[:40]!r} is not a finite number")
        return value

    def _sequence(self, cell: str) -> int:
        try:
            sequence = int(cell)
        except ValueError:
            sequence = -1
        if not 0 <= sequence <= INT64_MAX:
            raise BadPayload(BAD_SEQUENCE, f"sequence: {cell[:40]!r} is not a whole number from 0 to 2^63 - 1")
        return sequence

    def _time(self, number: int, cells: Sequence[str]) -> int:
        timestamp = self._config.timestamp
        if timestamp is None:
            return round(number * 1e9 / self._config.rate_hz)
        cell = cells[self._time_place].strip()
        try:
            value = int(cell) if cell.lstrip("+-").isdigit() else float(cell)
        except ValueError:
            raise BadPayload(BAD_TIMESTAMP, f"timestamp: {cell[:40]!r} is not a number") from None
        return nanoseconds(value, timestamp.unit)

    def _open(self) -> TextIO:
        try:
            return self.path.open(encoding="utf-8-sig", errors="replace", newline="")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from None

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            for cells in reader:
                if cells:
                    return [cell.strip() for cell in cells]
        except (csv.Error, OSError) as error:
            raise ConfigError(f"{self.path}: cannot be read: {error}") from None
        raise ConfigError(f"{self.path}: is empty; the first line must name the columns")

    def _place(self, header: list[str], what: str, name: str) -> int:
        if name not in header:
            raise ConfigError(
                f"{what}: {self.path} has no column '{name}'; it has: {listing(header)}{hint(name, header)}"
            )
        return header.index(name)


def _lines(file: TextIO) -> Iterator[str]:
    return (line for line in file if not line.startswith("#"))
