"""Outputs as rows of one SQLite table, each (stream, sequence) once, written by a thread of its own.

A commit waits for the disk, so the supervisor's thread only hands rows over and is told through an eventfd when they
are safe. Everything that waits goes into one transaction. A row that is there already is left as it is: replays repeat
nothing. A full or failing disk stops confirmations, not the agent; writing is tried again until it works.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from edge_agent.config import SqliteOutput
from edge_agent.contract.errors import StoreError
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.output_table import OutputTable
from edge_agent.runtime.samples import Faults
from edge_agent.runtime.writer_sink import OUTPUTS_MAX, Undelivered, WriterSink

__all__ = ["SqliteSink", "last_sequence"]


class SqliteSink(WriterSink):
    """The sink of one slot. `confirmed` counts outputs committed to disk, `repeats` those that were there already."""

    def __init__(self, config: SqliteOutput, *, outputs_max: int = OUTPUTS_MAX) -> None:
        self._rows = _Rows(config.path, config.table)
        super().__init__(str(config.path), self._rows, outputs_max=outputs_max)

    @property
    def repeats(self) -> int:
        """How many outputs were in the table before."""
        return self._rows.repeats


class _Rows:
    """The table as the thread fills it; opened anew after every failure."""

    batch_max = 5_000

    def __init__(self, path: Path, table: str) -> None:
        self.repeats = 0
        self._path, self._name = path, table
        self._table: OutputTable | None = None

    def deliver(self, batch: Sequence[OutputMessage], faults: Faults) -> None:
        """Commit all of `batch` in one transaction. Raises `Undelivered`."""
        try:
            self._table = self._table or OutputTable(self._path, self._name)
            self.repeats += self._table.insert(batch)
        except (StoreError, sqlite3.Error, OSError) as error:
            self.close()
            raise Undelivered(str(error)) from error

    def close(self) -> None:
        """Close the database."""
        if self._table is not None:
            self._table.close()
        self._table = None


def last_sequence(path: Path, table: str, stream: str) -> int | None:
    """Return the newest sequence of `stream` in the table, or None without any: where a replay may resume.

    Raises `StoreError` when the file is there and cannot be read.
    """
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            found = database.execute(f'SELECT max(sequence) FROM "{table}" WHERE stream = ?', (stream,)).fetchone()
    except sqlite3.Error as error:
        if "no such table" in str(error):
            return None
        raise StoreError(f"{path}: cannot be read: {error}") from None
    return None if found is None else found[0]
