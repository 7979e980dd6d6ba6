"""Rows in a real database: once each, durable when confirmed, and patient with a disk that refuses."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import SqliteOutput
from edge_agent.contract.errors import StoreError
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime import output_table
from edge_agent.runtime.sqlite_sink import SqliteSink, last_sequence
from tests.simulators.pump import pump


def output(sequence: int, release: str = "p@1", **values: Any) -> OutputMessage:
    return OutputMessage(
        timestamp=10**18 + sequence,
        stream="dev/slot",
        sequence=sequence,
        first=max(0, sequence - 9),
        release=release,
        probation=sequence % 2 == 1,
        values=values or {"label": sequence, "confidence": 0.5},
    )


def rows(path: Path, columns: str = "*", table: str = "output") -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as database:
        return database.execute(f"SELECT {columns} FROM {table} ORDER BY stream, sequence").fetchall()


def filled(path: Path, *batches: list[OutputMessage], table: str = "output") -> SqliteSink:
    sink = SqliteSink(SqliteOutput(path=path, table=table))
    total = 0
    for batch in batches:
        sink.write(batch)
        total += len(batch)
    pump(sink, until=lambda: sink.confirmed == total)
    return sink


def test_outputs_become_rows(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.db"
    sink = filled(path, [output(0), output(1)], [output(2)], table="activity")
    with sqlite3.connect(path) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(activity)")]
    assert columns == ["timestamp", "stream", "sequence", "first", "release", "probation", "label", "confidence"]
    assert rows(path, table="activity")[1] == (10**18 + 1, "dev/slot", 1, 0, "p@1", 1, 1, 0.5)
    assert sink.room == 10_000
    sink.close()


def test_repeats_do_not_double_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    filled(path, [output(number) for number in range(10)]).close()
    again = filled(path, [output(number, release="p@2") for number in range(5, 15)])
    assert again.repeats == 5
    again.close()
    found = rows(path, "sequence, release")
    assert [row[0] for row in found] == list(range(15))
    assert [row[1] for row in found] == ["p@1"] * 10 + ["p@2"] * 5


def test_a_new_output_adds_a_column(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    filled(path, [output(0, a=1)]).close()
    filled(path, [output(1, a=2, b="x"), output(2, b="y"), output(3, A=5)]).close()
    assert rows(path, "sequence, a, b") == [(0, 1, None), (1, 2, "x"), (2, None, "y"), (3, 5, None)]


def test_awkward_values_and_names_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    awkward = {
        "stream": 1,
        "x": float("nan"),
        "X": 2,
        'say "hi"; DROP TABLE output': [1, {"a": None}],
        "big": 2**63,
        "no": None,
        "yes": True,
        "text": "é",
    }
    filled(path, [output(0, **awkward)]).close()
    columns = 'stream_value, x, x_value, "say ""hi""; DROP TABLE output", big, no, yes, text'
    assert rows(path, columns) == [(1, None, 2, '[1,{"a":null}]', "9223372036854775808", None, 1, "é")]


def test_room_is_bounded(tmp_path: Path) -> None:
    sink = SqliteSink(SqliteOutput(path=tmp_path / "out.db"), outputs_max=5)
    sink.write([output(number) for number in range(5)])
    assert sink.room == 0
    with pytest.raises(ValueError, match="do not fit"):
        sink.write([output(5)])
    pump(sink, until=lambda: sink.room == 5)
    sink.close()


def test_a_locked_database_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_table, "BUSY_SECONDS", 1.0)
    path = tmp_path / "out.db"
    filled(path, [output(0)]).close()
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    sink = SqliteSink(SqliteOutput(path=path))
    started = time.monotonic()
    sink.write([output(1), output(2)])
    assert time.monotonic() - started < 1.0  # the caller never waits for the disk
    pump(sink, until=lambda: "locked" in sink.problem)
    assert sink.confirmed == 0
    blocker.execute("ROLLBACK")
    blocker.close()
    pump(sink, until=lambda: sink.confirmed == 2)
    assert sink.problem == ""
    sink.close()
    assert len(rows(path)) == 3


def test_a_full_disk_stops_confirmations_until_there_is_space(tmp_path: Path) -> None:
    """A page limit on the database file stands for the disk: SQLite reports both as SQLITE_FULL."""
    path = tmp_path / "out.db"
    sink = filled(path, [output(0, text="")])
    sink.close()
    sink = SqliteSink(SqliteOutput(path=path))
    real = sqlite3.connect

    class Small(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if sql.startswith("BEGIN"):
                super().execute("PRAGMA max_page_count = 8")
            return super().execute(sql, *rest)

    output_table.sqlite3.connect = lambda *a, **k: real(*a, **{**k, "factory": Small})  # type: ignore[assignment]
    try:
        sink.write([output(1, text="x" * 100_000)])
        pump(sink, until=lambda: "full" in sink.problem)
        assert (sink.confirmed, len(rows(path))) == (0, 1)
    finally:
        output_table.sqlite3.connect = real
    pump(sink, until=lambda: sink.confirmed == 1)
    sink.close()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: path.write_text("this is no database, " * 100), "not a database"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE output (sequence)"), "was not made for outputs"),
        (lambda path: path.mkdir(), "unable to open"),
    ],
)
def test_what_is_no_output_table_is_named_and_left_alone(tmp_path: Path, prepare: Any, words: str) -> None:
    path = tmp_path / "out.db"
    prepare(path)
    sink = SqliteSink(SqliteOutput(path=path))
    sink.write([output(0)])
    pump(sink, until=lambda: words in sink.problem)
    assert sink.confirmed == 0
    started = time.monotonic()
    sink.close()
    assert time.monotonic() - started < 30


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    sink = SqliteSink(SqliteOutput(path=path))
    sink.write([output(number) for number in range(9_000)])
    sink.close()
    assert sink.confirmed == 9_000
    assert len(rows(path)) == 9_000


def test_columns_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_table, "VALUE_COLUMNS_MAX", 8)
    sink = SqliteSink(SqliteOutput(path=tmp_path / "out.db"))
    sink.write([output(0, a=1, b=2, c=3)])
    pump(sink, until=lambda: "no more are added" in sink.problem)
    sink.close()


def test_the_last_sequence_tells_where_to_resume(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    assert last_sequence(path, "output", "dev/slot") is None
    filled(path, [output(3), output(41)]).close()
    assert last_sequence(path, "output", "dev/slot") == 41
    assert last_sequence(path, "output", "other") is None
    assert last_sequence(path, "elsewhere", "dev/slot") is None
    (tmp_path / "text").write_text("no database at all, " * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        last_sequence(tmp_path / "text", "output", "dev/slot")
