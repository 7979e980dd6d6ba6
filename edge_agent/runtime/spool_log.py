"""Outputs on disk in the order they came, numbered without gaps: one SQLite file, safe when `append` returns.

It is used by one thread at a time. What a torn or foreign file holds is refused, not guessed at.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_agent.contract.errors import StoreError
from edge_agent.contract.messages import OutputMessage

__all__ = ["SpoolLog"]

# Numbers are left out only when all before them are done with, and the file was not told yet.
_FORGET_BEFORE_GAP = """
    DELETE FROM spool WHERE number < (
        SELECT max(number) FROM spool AS one
        WHERE NOT EXISTS (SELECT 1 FROM spool AS before WHERE before.number = one.number - 1)
    )
"""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(OutputMessage).decode


class SpoolLog:
    """The file at `path`. `first` is the number of its oldest entry, `rows` and `bytes` what it holds.

    Raises `StoreError` when it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA cache_size = -256")  # KiB: only its two ends are used
            self._database.execute("CREATE TABLE IF NOT EXISTS spool (number INTEGER PRIMARY KEY, data BLOB NOT NULL)")
            self._database.execute(_FORGET_BEFORE_GAP)
            found = self._database.execute(
                "SELECT coalesce(min(number), 0), count(*), coalesce(sum(length(data)), 0) FROM spool"
            ).fetchone()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the spool {path} cannot be used: {error}") from None
        self.first: int = found[0]
        self.rows: int = found[1]
        self.bytes: int = found[2]

    def append(self, number: int, messages: Sequence[OutputMessage]) -> None:
        """Write entries numbered from `number` on. Raises `sqlite3.Error`."""
        rows = [(number + place, _encode(message)) for place, message in enumerate(messages)]
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany("INSERT OR REPLACE INTO spool VALUES (?, ?)", rows)
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self.rows += len(rows)
        self.bytes += sum(len(data) for _, data in rows)

    def read(self, number: int, most: int) -> list[OutputMessage]:
        """Return entries from `number` on, at most `most`. Raises `sqlite3.Error` or `msgspec.MsgspecError`."""
        found = self._database.execute(
            "SELECT data FROM spool WHERE number >= ? ORDER BY number LIMIT ?", (number, most)
        )
        return [_decode(data) for (data,) in found]

    def drop(self, number: int) -> None:
        """Forget entries below `number`. Raises `sqlite3.Error`."""
        gone, size = self._database.execute(
            "SELECT count(*), coalesce(sum(length(data)), 0) FROM spool WHERE number < ?", (number,)
        ).fetchone()
        if gone:
            self._database.execute("DELETE FROM spool WHERE number < ?", (number,))
            self.rows -= gone
            self.bytes -= size

    def close(self) -> None:
        """Close the file."""
        self._database.close()
