"""Replays: what is read, at which pace, how often, and where it resumes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config import Column, CsvInput, Timestamp
from edge_agent.contract.errors import ConfigError
from edge_agent.runtime.cells import decode_cells, encode_cells
from edge_agent.runtime.csv_source import BYTES_PER_TAKE, CsvSource
from tests.simulators.pump import pump

TIME = Timestamp(path="t")


def write(directory: Path, text: str) -> Path:
    path = directory / "data.csv"
    path.write_text(text)
    return path


def rows_of(source: CsvSource, most: int = 10_000) -> list[tuple[int, int, list[float]]]:
    found: list[tuple[int, int, list[float]]] = []
    while not source.finished and len(found) < most:
        samples = source.take(min(7, most - len(found)))
        if samples is not None:
            width = len(samples.columns)
            found += [
                (samples.sequences[row], samples.timestamps[row], list(samples.values[row * width : (row + 1) * width]))
                for row in range(samples.rows)
            ]
    return found


def test_the_header_names_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "# measured on a Tuesday\nt, x ,y\n1,2,3\n\n1.5,4,5e-1\n")
    source = CsvSource(CsvInput(path=path, timestamp=TIME, speed=0))
    assert source.columns == ("x", "y")
    assert rows_of(source) == [(0, 10**9, [2.0, 3.0]), (1, 1_500_000_000, [4.0, 0.5])]
    assert source.finished
    assert source.take(10) is None
    assert source.interest() == (-1, 0, None)


def test_columns_are_chosen_named_and_scaled(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,n\n1,2,10\n3,4,11\n")
    columns = {"y": Column(path="b", scale=10, offset=1), "x": Column(path="a")}
    source = CsvSource(CsvInput(path=path, columns=columns, sequence="n", rate_hz=4, speed=0))
    assert source.columns == ("y", "x")
    assert rows_of(source) == [(10, 0, [21.0, 1.0]), (11, 250_000_000, [41.0, 3.0])]


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("", {}, "is empty"),
        ("# only a comment\n", {}, "is empty"),
        ("t\n1\n", {}, "no column besides"),
        ("t,accX\n1,2\n", {"columns": {"ax": Column(path="accx")}}, "did you mean 'accX'?"),
        ("t,accX\n1,2\n", {"columns": {"ax": Column(path="b")}}, "has no column 'b'; it has: accX, t"),
        ("x\n1\n", {}, "timestamp: "),
        ("t,x\n1,1\n", {"sequence": "n"}, "sequence: "),
    ],
)
def test_a_file_that_does_not_fit_is_refused_at_once(
    tmp_path: Path, text: str, changes: dict[str, object], words: str
) -> None:
    config = CsvInput(**{"path": write(tmp_path, text), "timestamp": TIME, **changes})  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        CsvSource(config)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="No such file"):
        CsvSource(CsvInput(path=tmp_path / "none.csv", rate_hz=1))


def test_rows_that_do_not_fit_are_counted_and_keep_their_number(tmp_path: Path) -> None:
    bad = "1,x\n1,\n1,nan\n1,1e999\nnoon,1\n1\n"
    path = write(tmp_path, "t,x\n1,1\n" + bad + "2,2\n")
    source = CsvSource(CsvInput(path=path, timestamp=TIME, speed=0))
    assert rows_of(source) == [(0, 10**9, [1.0]), (7, 2 * 10**9, [2.0])]
    assert dict(source.faults) == {"not a number": 4, "bad timestamp": 1, "missing column": 1}
    assert source.rejected == 6
    assert "row 5: column 'x': '1e999' is not a finite number" in source.faults.messages["not a number"]
    assert "has 1 cells, the header names 2" in source.faults.messages["missing column"]


def test_bad_sequences_and_broken_quotes_are_counted(tmp_path: Path) -> None:
    huge = '"' + "x" * 140_000 + '"'
    path = write(tmp_path, f"n,x\n-1,1\none,1\n{huge},1\n5,5\n")
    source = CsvSource(CsvInput(path=path, sequence="n", rate_hz=1, speed=0))
    assert [row[0] for row in rows_of(source)] == [5]
    assert dict(source.faults) == {"bad sequence": 2, "not a number": 1}


@pytest.mark.parametrize("numbered", [False, True])
def test_numbers_and_times_go_on_across_repeats(tmp_path: Path, numbered: bool) -> None:
    path = write(tmp_path, "t,n,x\n1,5,1\n2,6,2\n4,8,3\n")
    config = CsvInput(
        path=path, columns={"x": Column(path="x")}, timestamp=TIME, sequence="n" * numbered, speed=0, repeat=3
    )
    rows = rows_of(CsvSource(config))
    assert [row[0] for row in rows] == ([5, 6, 8, 9, 10, 12, 13, 14, 16] if numbered else list(range(9)))
    # A pass lasts 3 s and one mean interval (1.5 s).
    assert [row[1] / 1e9 for row in rows] == [1, 2, 4, 5.5, 6.5, 8.5, 10, 11, 13]
    forever = CsvSource(CsvInput(path=path, timestamp=TIME, speed=0, repeat=True))
    assert [row[0] for row in rows_of(forever, most=1000)] == list(range(1000))
    assert not forever.finished
    forever.close()
    assert forever.finished


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    bad=st.sets(st.integers(0, 8)),
    repeat=st.integers(1, 4),
    start=st.integers(0, 40),
    numbered=st.booleans(),
)
def test_a_replay_resumes_with_the_same_samples(
    tmp_path_factory: pytest.TempPathFactory, rows: int, bad: set[int], repeat: int, start: int, numbered: bool
) -> None:
    lines = [f"{row * 2},{row * 3 + 1},{'bad' if row in bad else row}" for row in range(rows)]
    path = write(tmp_path_factory.mktemp("csv"), "\n".join(["t,n,x", *lines]))
    config = CsvInput(
        path=path,
        columns={"x": Column(path="x")},
        timestamp=TIME,
        sequence="n" if numbered else "",
        speed=0,
        repeat=repeat,
    )
    whole = rows_of(CsvSource(config))
    resumed = CsvSource(config, start_sequence=start)
    assert rows_of(resumed) == [row for row in whole if row[0] >= start]


def test_the_pace_follows_the_timestamps(tmp_path: Path) -> None:
    path = write(tmp_path, "t,x\n100,0\n101,1\n102,2\n104,3\n")
    source = CsvSource(CsvInput(path=path, timestamp=TIME, speed=20))
    arrived: list[float] = []
    started = time.monotonic()

    def all_there() -> bool:
        samples = source.take(100)
        arrived.extend([time.monotonic() - started] * (samples.rows if samples else 0))
        return len(arrived) == 4

    pump(source, until=all_there)
    for at, due in zip(arrived, [0, 0.05, 0.1, 0.2], strict=True):
        assert due <= at + 0.001
        assert at < due + 0.1


def test_rows_that_nobody_takes_do_not_keep_the_loop_awake(tmp_path: Path) -> None:
    path = write(tmp_path, "t,x\n0,0\n1,1\n100,2\n")
    source = CsvSource(CsvInput(path=path, timestamp=TIME))
    _, _, due = source.interest()
    assert due is not None
    assert due <= time.monotonic()
    source.handle(0, time.monotonic())
    assert source.interest() == (-1, 0, None)
    assert source.take(1) is not None
    _, _, due = source.interest()
    assert due is not None
    assert due > time.monotonic()
    source.handle(0, time.monotonic())  # too early: it is still to be told
    assert source.interest()[2] == due


def test_a_repeated_file_without_a_good_row_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "t,x\n" + "1,bad\n" * 10_000)
    source = CsvSource(CsvInput(path=path, timestamp=TIME, repeat=True, speed=0))
    while not source.finished:
        assert source.interest()[2] == 0.0
        assert source.take(10) is None
    assert source.faults == {"not a number": 10_000, "unreadable file": 1}


def test_a_file_that_goes_away_between_passes_ends_the_replay(tmp_path: Path) -> None:
    path = write(tmp_path, "t,x\n1,1\n2,2\n")
    source = CsvSource(CsvInput(path=path, timestamp=TIME, repeat=True, speed=0))
    path.unlink()
    assert len(rows_of(source)) == 2
    assert "No such file" in source.faults.messages["unreadable file"]
    source.acknowledge(2)
    source.handle(0, 0.0)


KINDS: dict[str, Any] = {
    "name": Column(path="name", dtype="string"),
    "n": Column(path="n", dtype="int64"),
    "on": Column(path="on", dtype="bool"),
    "v": Column(path="v", dtype="vector", scale=2.0),
    "j": Column(path="j", dtype="json"),
    "x": Column(path="x", offset=1.0),
}


def test_cells_are_read_by_their_dtype(tmp_path: Path) -> None:
    text = 'name,n,on,v,j,x\n"a, ""b""",7,true,"[1, 2]","{""k"": [null]}",0.5\n'
    source = CsvSource(CsvInput(path=write(tmp_path, text), columns=KINDS, rate_hz=1, speed=0))
    samples = source.take(10)
    assert samples is not None
    assert samples.dtypes == ("string", "int64", "bool", "vector", "json", "float64")
    cells = decode_cells(memoryview(encode_cells(samples.values)), 6)
    assert cells == ['a, "b"', 7, True, [2.0, 4.0], {"k": [None]}, 1.5]


def test_a_cell_that_does_not_fit_costs_its_row_only(tmp_path: Path) -> None:
    rows = ["a,1", "b,x", "c,1.5", f"{'y' * 70_000},2", "d,3"]
    path = write(tmp_path, "name,n\n" + "\n".join(rows) + "\n")
    columns = {key: KINDS[key] for key in ("name", "n")}
    source = CsvSource(CsvInput(path=path, columns=columns, rate_hz=1, speed=0))
    assert [(number, values) for number, _, values in rows_of(source)] == [(0, ["a", 1]), (4, ["d", 3])]
    assert source.faults == {"wrong type": 2, "too large": 1}
    assert "row 3: column 'n': '1.5' is not a whole number" in source.faults.messages["wrong type"]


def test_large_cells_are_taken_in_small_pieces(tmp_path: Path) -> None:
    path = write(tmp_path, "name\n" + ("z" * 60_000 + "\n") * 40)
    columns = {"name": KINDS["name"]}
    source = CsvSource(CsvInput(path=path, columns=columns, rate_hz=1, speed=0))
    samples = source.take(1000)
    assert samples is not None
    assert samples.rows == -(-BYTES_PER_TAKE // 60_000)
    assert samples.rows + len(rows_of(source)) == 40
