"""Opens a database file: to be written, or as a copy in memory that nobody can harm; and says whose fault a refusal is.

A database of a newer program is refused and not touched. One that SQLite cannot read is `StoreCorrupt`. One that is
there and cannot be written (disk full, read-only, not ours) is `StoreUnwritable`: it may pass, and until then the copy
tells what was committed.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

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

__all__ = ["StoreCorrupt", "StoreLost", "StoreUnwritable", "blank", "copied", "failure", "opened"]

BUSY_SECONDS = 10.0
# Pages that SQLite keeps for itself; the system has them, too. By default it takes up to 2 MiB for a file of as much.
CACHE_KIB = 256
# https://sqlite.org/rescode.html
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


class StoreLost(StoreError):
    """What is open is not the store any more: it has to be opened anew."""


class StoreCorrupt(StoreLost):
    """The database cannot be read as one any more: it has to be rebuilt."""


class StoreUnwritable(StoreError):
    """The disk does not let the database be written now."""


def opened(path: Path) -> sqlite_utils.Database:
    """Open `path` to be written, made if need be, its schema brought up to this program's. Raises `StoreError`."""
    connection = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        return _migrated(connection, path)
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise failure(error, f"cannot open the store {path}") from error


def copied(path: Path) -> sqlite_utils.Database:
    """Return what is committed at `path` as a database in memory; nothing is written. Raises `StoreError`.

    A log beside the database belongs to it. SQLite reads it also where it may create no index for it, and only if even
    that is refused, what was last moved into the database itself has to do.
    """
    ways = ["mode=ro", "mode=ro&readonly_shm=1", "immutable=1"]
    if not path.with_name(path.name + "-wal").exists():
        ways = ["immutable=1"]  # anything else would have to create a log
    for number, way in enumerate(ways, 1):
        memory = sqlite3.connect(":memory:")
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?{way}", uri=True, timeout=2.0)) as source:
                source.backup(memory)
            return _migrated(memory, path)
        except sqlite3.Error as error:
            memory.close()
            if number == len(ways):
                raise failure(error, f"cannot read the store {path}") from error
    raise AssertionError("there is always a way")


def blank() -> sqlite_utils.Database:
    """Return an empty store in memory."""
    return _migrated(sqlite3.connect(":memory:"), Path(":memory:"))


def _migrated(connection: sqlite3.Connection, path: Path) -> sqlite_utils.Database:
    database = sqlite_utils.Database(connection)
    known = {migration.name for migration in MIGRATIONS.pending(database)}
    applied = {migration.name for migration in MIGRATIONS.applied(database)}
    newer = applied - known - _REGISTERED
    if newer:
        connection.close()
        raise StoreError(
            f"{path} was written by a newer edge-agent ({', '.join(sorted(newer))}): "
            "update this program; nothing was touched"
        )
    if known:
        MIGRATIONS.apply(database)
    return database


def failure(error: Exception, what: str) -> StoreError:
    """Return the error to raise for what SQLite or the system said, with what to do about it."""
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    disk = code in _DISK or isinstance(error, OSError)
    kind = StoreCorrupt if code in _CORRUPT else StoreUnwritable if disk else StoreError
    advice = ": free some space, or look whether the disk is read-only or failing" if code in _DISK else ""
    return kind(f"{what}: {error}{advice}")


_REGISTERED = {migration.name for migration in MIGRATIONS.pending(sqlite_utils.Database(memory=True))}
