"""One open SQLite database (U1): transactions, reads, and the facts and notes that everything else shares.

Whatever is decided on this device survives a power cut or did not happen. How it is opened stands in `opening`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_agent.contract.errors import StoreError
from edge_agent.update.opening import StoreCorrupt, StoreUnwritable, copied, failure, opened

__all__ = ["Database", "StoreCorrupt"]


class Database:
    """One open database. Not shared between threads; other processes may open it too, SQLite's locks sort them out.

    `unwritable` says why nothing can be written, and is empty when it can.
    """

    def __init__(self, path: Path, *, create: bool = True, look: bool = False) -> None:
        """Open `path`; with `create=False` a missing file is a `StoreError`. Migrates an older schema.

        With `look`, it is a copy in memory of what was committed: the file is neither migrated nor written.
        """
        if (look or not create) and not path.exists():
            raise StoreError(f"{path} does not exist: has the agent run on this device yet?")
        self.path = path
        self.unwritable = "the store was opened to be looked at" if look else ""
        self._db = copied(path) if look else opened(path)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def check(self) -> None:
        """Read the whole file once. Raises `StoreCorrupt` with what SQLite found."""
        found = [str(value) for row in self._rows("pragma quick_check(5)") for value in row.values()]
        if found != ["ok"]:
            raise StoreCorrupt(f"the store {self.path} is damaged: {'; '.join(found)[:500]}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside durable together, or nothing. Raises `StoreError`, and `StoreUnwritable` at once."""
        if self.unwritable:
            raise StoreUnwritable(self.unwritable)
        try:
            with self._db.atomic():
                yield
        except sqlite3.Error as error:
            raise failure(error, "the store refuses to write") from error

    def _rows(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """Return the rows of a query. Raises `StoreError` when the disk refuses."""
        try:
            return list(self._db.query(sql, values))
        except sqlite3.Error as error:
            raise failure(error, "the store cannot be read") from error

    def _insert(self, table: str, row: dict[str, Any]) -> int:
        key = self._db.table(table).insert(row).last_pk
        assert isinstance(key, int)
        return key

    # --- facts and notes -----------------------------------------------------------------------------------------

    def fact(self, key: str, default: float = 0.0) -> float:
        """Return a remembered number: `clock` (floor clock, seconds UTC), `boot`, `report`."""
        for row in self._rows("select value from fact where key = ?", [key]):
            return float(row["value"])
        return default

    def raise_fact(self, key: str, value: float) -> None:
        """Remember a number that only ever grows."""
        self._db.execute(
            "insert into fact (key, value) values (?, ?) "
            "on conflict (key) do update set value = max(value, excluded.value)",
            [key, value],
        )

    def note(self, key: str) -> str:
        """Return a remembered word: `life` (the kernel's boot id while the agent runs, empty after a clean stop)."""
        for row in self._rows("select value from note where key = ?", [key]):
            return str(row["value"])
        return ""

    def write_note(self, key: str, value: str) -> None:
        """Remember a word in place of the one before."""
        self._db.table("note").upsert({"key": key, "value": value}, pk="key")
