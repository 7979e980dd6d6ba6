"""Outputs as rows of one SQLite table, each (stream, sequence) once, written by a thread of its own.

A commit waits for the disk, so the supervisor's thread only hands rows over and is told through an eventfd when they
are safe. Everything that waits goes into one transaction. A row that is there already is left as it is: replays repeat
nothing. A full or failing disk stops confirmations, not the agent; writing is tried again until it works.
"""

from __future__ import annotations

import contextlib
import os
import select
import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from edge_agent.config import SqliteOutput
from edge_agent.contract.errors import StoreError
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.output_table import OutputTable
from edge_agent.runtime.samples import Faults

__all__ = ["OUTPUTS_MAX", "SqliteSink", "last_sequence"]

OUTPUTS_MAX = 10_000
ROWS_PER_TRANSACTION_MAX = 5_000
RETRY_SECONDS = (0.1, 10.0)
CLOSE_SECONDS = 5.0


class SqliteSink:
    """The sink of one slot. `confirmed` counts outputs committed to disk, `repeats` those that were there already."""

    def __init__(self, config: SqliteOutput, *, outputs_max: int = OUTPUTS_MAX) -> None:
        self.confirmed = 0
        self.repeats = 0
        self.problem = ""
        self.faults = Faults()
        self._path = config.path
        self._table = config.table
        self._outputs_max = outputs_max
        self._written = 0
        self._committed = 0  # by the writer; becomes `confirmed` in `handle`
        self._waiting: deque[OutputMessage] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._writer = threading.Thread(target=self._run, name=f"writer {config.path.name}", daemon=True)
        self._writer.start()

    @property
    def room(self) -> int:
        """How many outputs may be written now."""
        return self._outputs_max - (self._written - self.confirmed)

    def interest(self) -> Interest:
        """Return the descriptor that tells of commits; see `edge_agent.runtime.sinks.Sink`."""
        return self._event, select.POLLIN, None

    def handle(self, events: int, now: float) -> None:
        """Count what was committed."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        self.confirmed = self._committed

    def write(self, messages: Sequence[OutputMessage]) -> None:
        """Hand outputs to the writer, in order. `ValueError` for more than `room`."""
        if len(messages) > self.room:
            raise ValueError(f"{len(messages)} outputs do not fit: there is room for {self.room}")
        self._written += len(messages)
        with self._change:
            self._waiting.extend(messages)
            self._change.notify()

    def close(self) -> None:
        """Write what waits, for some seconds at most, and end the writer."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._writer.join(CLOSE_SECONDS)
        self.confirmed = self._committed
        if not self._writer.is_alive():  # else it still owns the descriptor: better one leaked than a wrong one written
            os.close(self._event)

    # --- the writer's thread

    def _run(self) -> None:
        wait = RETRY_SECONDS[0]
        table: OutputTable | None = None
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                batch = list(islice(self._waiting, ROWS_PER_TRANSACTION_MAX))
            if not batch:
                break
            try:
                table = table or OutputTable(self._path, self._table)
                repeats = table.insert(batch)
            except (StoreError, sqlite3.Error, OSError) as error:
                if table is not None:
                    table.close()
                table = None
                self.problem = f"{self._path}: {error}"
                if self._rest(wait):
                    break
                wait = min(RETRY_SECONDS[1], wait * 2)
                continue
            wait = RETRY_SECONDS[0]
            self.problem = ""
            self.repeats += repeats
            with self._change:
                for _ in batch:
                    self._waiting.popleft()
            self._committed += len(batch)
            os.eventfd_write(self._event, 1)
        if table is not None:
            table.close()

    def _rest(self, seconds: float) -> bool:
        """Wait before trying again; True when the sink is closed meanwhile."""
        with self._change:
            return self._change.wait_for(lambda: self._closing, seconds)


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
