"""The SQLite table that outputs go to: its columns, how values are stored, and what makes a row unique.

Columns are `timestamp, stream, sequence, first, release, probation` and one per output value; a release with a new
output adds a column. It refuses a table that something else made, since without the key nothing would be unique.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.errors import StoreError
from edge_agent.contract.messages import OutputMessage

__all__ = ["FIXED_COLUMNS", "OutputTable"]

FIXED_COLUMNS = ("timestamp", "stream", "sequence", "first", "release", "probation")
VALUE_COLUMNS_MAX = 500
BUSY_SECONDS = 5.0
INT64 = range(-(2**63), 2**63)
_DECLARED = (
    '"timestamp" INTEGER NOT NULL, "stream" TEXT NOT NULL, "sequence" INTEGER NOT NULL, "first" INTEGER NOT NULL, '
    '"release" TEXT NOT NULL, "probation" INTEGER NOT NULL, PRIMARY KEY ("stream", "sequence")'
)


class OutputTable:
    """An open table. Belongs to the thread that opened it. Raises `StoreError`, `sqlite3.Error` and `OSError`."""

    def __init__(self, path: Path, table: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._table = table
        self._database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")  # confirmed means: survives a power cut
            self._database.execute("PRAGMA cache_size = -256")  # KiB: only the ends of a table and its key are used
            self._database.execute(f'CREATE TABLE IF NOT EXISTS "{table}" ({_DECLARED})')
            self._columns = self._check()
        except BaseException:
            self._database.close()
            raise

    def insert(self, messages: Sequence[OutputMessage]) -> int:
        """Write all of `messages` in one transaction; return how many were there already."""
        before = self._database.total_changes
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for names, group in groupby(messages, lambda message: tuple(message.values)):
                rows = [_row(message) for message in group]
                self._database.executemany(self._statement(names), rows)
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._columns = self._check()
            raise
        return len(messages) - (self._database.total_changes - before)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _check(self) -> dict[str, str]:
        """Return the columns there are, by their name in small letters; refuse a foreign table."""
        found = self._database.execute(f'PRAGMA table_info("{self._table}")').fetchall()
        key = [name for _, name, _, _, _, place in sorted(found, key=lambda row: row[5]) if place]
        columns = {name.lower(): name for _, name, *_ in found}
        if key != ["stream", "sequence"] or not columns.keys() >= set(FIXED_COLUMNS):
            raise StoreError(f"table {self._table!r} was not made for outputs: choose another name or remove it")
        return columns

    def _statement(self, names: tuple[str, ...]) -> str:
        columns = [*FIXED_COLUMNS, *self._value_columns(names)]
        quoted = ", ".join(_quote(name) for name in columns)
        return f"INSERT OR IGNORE INTO {_quote(self._table)} ({quoted}) VALUES ({', '.join('?' * len(columns))})"

    def _value_columns(self, names: tuple[str, ...]) -> list[str]:
        """Return a column for each value, made if it is missing. SQLite's column names know no case."""
        chosen: list[str] = []
        for name in names:
            column = name
            while column.lower() in FIXED_COLUMNS or column.lower() in {one.lower() for one in chosen}:
                column += "_value"
            if column.lower() not in self._columns:
                if len(self._columns) >= VALUE_COLUMNS_MAX:
                    raise StoreError(f"table {self._table!r} has {VALUE_COLUMNS_MAX} columns: no more are added")
                self._database.execute(f"ALTER TABLE {_quote(self._table)} ADD COLUMN {_quote(column)}")
                self._columns[column.lower()] = column
            chosen.append(column)
        return chosen


def _row(message: OutputMessage) -> tuple[Any, ...]:
    head = (message.timestamp, message.stream, message.sequence, message.first, message.release, message.probation)
    return (*head, *map(_cell, message.values.values()))


def _cell(value: Any) -> Any:
    """Numbers and text as they are, everything else as JSON; a NaN becomes NULL, as SQLite has none."""
    if value is None or isinstance(value, (float, str)) or (isinstance(value, int) and value in INT64):
        return value
    return msgspec.json.encode(value).decode()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
