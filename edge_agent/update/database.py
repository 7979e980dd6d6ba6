"""One open SQLite database (U1): pragmas, migrations, transactions, and whose fault it is when it refuses.

Whatever is decided on this device survives a power cut or did not happen. A database of a newer program is refused and
not touched; one that SQLite cannot read is `StoreCorrupt`, which only a rebuild mends. Everything else that the disk
refuses is a `StoreError` and may pass.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_agent.contract.errors import StoreError


@contextlib.contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Hide modules from an import: sqlite_utils takes numpy and pandas along when it finds them (15 MiB, 200 ms)."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None makes an import fail, by definition
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _hidden("numpy", "pandas"):
    import sqlite_utils

    from edge_agent.update.migrations import MIGRATIONS

__all__ = ["Database", "StoreCorrupt"]

BUSY_SECONDS = 10.0
# https://sqlite.org/rescode.html
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


class StoreCorrupt(StoreError):
    """The database cannot be read as one any more: it has to be rebuilt."""


class Database:
    """One open database. Not shared between threads; other processes may open it too, SQLite's locks sort them out."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open `path`; with `create=False` a missing file is a `StoreError`. Migrates an older schema."""
        if not create and not path.exists():
            raise StoreError(f"{path} does not exist: has the agent run on this device yet?")
        self.path = path
        connection = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            self._db = sqlite_utils.Database(connection)
            self._refuse_newer(path)
            if any(True for _ in MIGRATIONS.pending(self._db)):
                MIGRATIONS.apply(self._db)
        except (sqlite3.Error, OSError) as error:
            if connection is not None:
                connection.close()
            raise failure(error, f"cannot open the store {path}") from error

    def _refuse_newer(self, path: Path) -> None:
        known = {migration.name for migration in MIGRATIONS.pending(self._db)}
        applied = {migration.name for migration in MIGRATIONS.applied(self._db)}
        registered = known | applied & _REGISTERED
        if applied - registered:
            self._db.close()
            raise StoreError(
                f"{path} was written by a newer edge-agent ({', '.join(sorted(applied - registered))}): "
                "update this program; nothing was touched"
            )

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
        """Make everything inside durable together, or nothing."""
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


def failure(error: Exception, what: str) -> StoreError:
    """Return the error to raise for what SQLite or the system said, with what to do about it."""
    code = getattr(error, "sqlite_errorcode", 0) or 0
    kind = StoreCorrupt if code & 0xFF in _CORRUPT else StoreError
    advice = ": free some space, or look whether the disk is read-only or failing" if code & 0xFF in _DISK else ""
    return kind(f"{what}: {error}{advice}")


_REGISTERED = {migration.name for migration in MIGRATIONS.pending(sqlite_utils.Database(memory=True))}
