"""The files of an input spool: synced before they count, torn and rotten ones lose what is torn and nothing else."""

from __future__ import annotations

import errno
import os
from array import array
from pathlib import Path

import pytest

from edge_agent.runtime import input_spool
from edge_agent.runtime.input_spool import Chunk, InputSpool
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.spool_clerk import obey
from edge_agent.runtime.spool_orders import Clear, Failed, Finish, Trim, Trimmed, Write

LAYOUT = bytes(32)
Rows = list[int]


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_spool, "FILE_BYTES", (1000, 1000))


def opened(directory: Path, *, layout: bytes = LAYOUT, after: tuple[int, int] | None = None) -> InputSpool:
    return InputSpool(directory / "s", layout, ("x", "name"), bytes_max=1_000_000, after=after)


def chunk(start: int, count: int = 5) -> Chunk:
    numbers = array("q", range(start, start + count))
    cells = [cell for number in numbers for cell in (float(number), f"n{number}")]
    times = array("q", [10 * number for number in numbers])
    return Chunk(start, Samples(("x", "name"), numbers, times, cells, ("float64", "str"), array("q", numbers)))


def fill(spool: InputSpool, count: int) -> None:
    for start in range(spool.end, spool.end + count, 5):
        spool.write([chunk(start)])


def left(spool: InputSpool) -> Rows:
    """Return the numbers of all rows that are to be given and can be read."""
    found: Rows = []
    number = spool.done
    while number < spool.end:
        chunks = spool.read(number)
        if not chunks:
            break
        for one in chunks:
            assert list(one.samples.sequences) == list(range(one.start, one.end)) == list(one.samples.marks)
            assert one.samples.values[1::2] == [f"n{row}" for row in range(one.start, one.end)]
            found += range(one.start, one.end)
        number = chunks[-1].end
    return found


def files(directory: Path) -> list[Path]:
    return sorted((directory / "s").glob("*.rows"))


def test_rows_come_back_in_order_after_a_kill(tmp_path: Path) -> None:
    fill(opened(tmp_path), 100)
    assert len(files(tmp_path)) > 3
    spool = opened(tmp_path)
    assert left(spool) == list(range(100))
    assert (spool.rows, spool.newest, spool.marks, spool.lost, spool.intact) == (100, 99, list(range(100)), 0, True)
    fill(spool, 20)
    assert left(opened(tmp_path)) == list(range(120))


@pytest.mark.parametrize("done", [1, 5, 33, 99])
def test_what_is_done_with_is_not_given_again_and_its_files_go(tmp_path: Path, done: int) -> None:
    spool = opened(tmp_path)
    fill(spool, 100)
    before = len(files(tmp_path))
    assert obey(spool, Finish(done)) == (done, spool.bytes)
    assert left(opened(tmp_path)) == list(range(done, 100))
    assert len(files(tmp_path)) < before or done < 33
    assert spool.bytes == sum(path.stat().st_size for path in files(tmp_path))


def test_nothing_is_left_after_clearing_and_numbers_go_on(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    fill(spool, 50)
    spool.clear()
    spool.clear()
    assert (files(tmp_path), spool.bytes) == ([], 0)
    again = opened(tmp_path)
    assert (again.rows, again.newest, again.end) == (0, None, 50)
    fill(again, 10)
    assert left(opened(tmp_path)) == list(range(50, 60))


@pytest.mark.parametrize(("after", "first"), [((42, 420), 43), ((99, 990), 100), ((42, 421), 0), ((500, 5000), 0)])
def test_rows_up_to_the_trails_newest_were_given(tmp_path: Path, after: tuple[int, int], first: int) -> None:
    fill(opened(tmp_path), 100)
    assert left(opened(tmp_path, after=after)) == list(range(first, 100))


@pytest.mark.parametrize("cut", [0, 3, 40, 56, 57, 90, 200])
def test_a_file_that_was_cut_off_gives_what_is_whole_and_the_rest_is_counted(tmp_path: Path, cut: int) -> None:
    fill(opened(tmp_path), 100)
    last = files(tmp_path)[-1]
    first_row = int(last.stem)
    os.truncate(last, cut)
    spool = opened(tmp_path)
    found = left(spool)
    assert found == list(range(len(found)))
    assert first_row <= len(found) < 100
    assert spool.intact is (cut in (0, 56))  # a file that ends between two records does not show that it was longer
    fill(spool, 10)
    assert left(opened(tmp_path)) == [*found, *range(spool.end - 10, spool.end)]


@pytest.mark.parametrize("at", [0, 10, 50, 60, 100, 300, 700])
@pytest.mark.parametrize("victim", [0, 2, -1])
def test_a_rotten_bit_costs_a_files_rest_and_never_the_start(tmp_path: Path, at: int, victim: int) -> None:
    fill(opened(tmp_path), 100)
    path = files(tmp_path)[victim]
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0x10
    path.write_bytes(data)
    spool = opened(tmp_path)
    found = left(spool)
    lost = sorted(set(range(100)) - set(found))
    assert found == sorted(set(found))
    assert 0 < len(lost) <= 25
    assert lost == list(range(lost[0], lost[-1] + 1))
    assert spool.lost if victim == -1 or at < 56 else not spool.lost


def test_files_of_other_columns_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(opened(tmp_path), 100)
    spool = opened(tmp_path, layout=b"o" * 32)
    assert (left(spool), spool.lost, spool.intact) == ([], 100, False)
    assert "other columns or units" in caplog.text
    assert not files(tmp_path)


def test_leftovers_of_a_kill_and_foreign_files_do_no_harm(tmp_path: Path) -> None:
    fill(opened(tmp_path), 10)
    (tmp_path / "s" / f"{10:020}.new").write_bytes(b"half")
    (tmp_path / "s" / "README").write_text("not ours")
    (tmp_path / "s" / "done").write_bytes(b"x" * 7)
    assert left(opened(tmp_path)) == list(range(10))
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [f"{0:020}.rows", "README", "done"]


def test_a_directory_that_is_none_gives_nothing_and_says_so_when_written(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    spool = opened(tmp_path)
    assert spool.rows == 0
    answer = obey(spool, Write([chunk(0)]))
    assert isinstance(answer, Failed)
    assert answer.words


def test_the_oldest_file_of_which_nothing_was_given_goes_and_never_the_one_being_written(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    fill(spool, 100)
    starts = [int(path.stem) for path in files(tmp_path)]
    gone = obey(spool, Trim(1))
    assert gone == Trimmed(starts[1], starts[2], spool.bytes)
    assert left(spool) == [row for row in range(100) if not starts[1] <= row < starts[2]]
    assert obey(spool, Trim(starts[-1])) == Trimmed(starts[-1], starts[-1], spool.bytes)
    assert left(opened(tmp_path)) == left(spool)


@pytest.mark.parametrize("call", ["pwrite", "fsync", "fdatasync", "open"])
@pytest.mark.parametrize("filled", [0, 5, 15])
def test_a_write_that_fails_leaves_nothing_of_it_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, filled: int
) -> None:
    spool = opened(tmp_path)
    fill(spool, filled)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        answer = obey(spool, Write([chunk(filled)]))
    if isinstance(answer, Failed):
        assert answer.words == "Input/output error"
        assert left(opened(tmp_path)) == list(range(filled))
        spool.write([chunk(filled)])
    assert left(opened(tmp_path)) == list(range(filled + 5))
    assert spool.bytes == sum(path.stat().st_size for path in files(tmp_path))


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_spool, "FREE_BYTES_MIN", 1 << 60)
    answer = obey(opened(tmp_path), Write([chunk(0)]))
    assert isinstance(answer, Failed)
    assert "would stay free" in answer.words


def test_what_could_not_be_cleared_is_cleared_before_others_are_written(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    fill(spool, 20)
    spool._close_file()
    spool.write([chunk(40)])  # rows 20 to 39 went without the disk meanwhile
    assert left(opened(tmp_path)) == list(range(40, 45))
    assert obey(spool, Clear()) == ()
    spool.close()
