"""The trail: what of a slot's samples a killed agent finds again, and what it refuses to believe."""

from __future__ import annotations

import os
import shutil
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.runtime import trail as room
from edge_agent.runtime.records import encode
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.trail import AREA_BYTES_MAX, Trail

LAYOUT, BOOT, OTHER = b"L" * 32, b"B" * 16, b"O" * 16
COLUMNS = ("x", "y")


def samples(start: int, rows: int = 1, *, marks: bool = False) -> Samples:
    numbers = range(start, start + rows)
    values = array("d", [float(value) for number in numbers for value in (number, -number)])
    found = Samples(COLUMNS, array("q", numbers), array("q", [number * 10 for number in numbers]), values)
    if marks:
        found.marks.extend(number << 16 | 7 for number in numbers)
    return found


def opened(path: Path, boot: bytes = BOOT) -> Trail:
    return Trail(path / "slot.trail", LAYOUT, boot)


def left(trail: Trail, columns: tuple[str, ...] = COLUMNS) -> tuple[list[int], list[int]]:
    done, again = trail.resume(columns)
    for piece in (*done, *again):
        assert list(piece.timestamps) == [10 * number for number in piece.sequences]
        assert list(piece.values) == [float(one) for number in piece.sequences for one in (number, -number)]
    return [n for piece in done for n in piece.sequences], [n for piece in again for n in piece.sequences]


def written(path: Path, count: int, *, confirmed: int = 0, wanted: int = 1000) -> Trail:
    trail = opened(path)
    for number in range(count):
        assert trail.append(samples(number, marks=True), wanted) == number + 1
    trail.confirm(confirmed)
    return trail


def test_what_was_written_before_a_kill_is_found_by_the_next_run(tmp_path: Path) -> None:
    written(tmp_path, 10, confirmed=6)  # never closed
    trail = opened(tmp_path)
    assert trail.continues
    assert trail.newest == 9
    assert trail.marks == [number << 16 | 7 for number in range(10)]
    assert left(trail) == ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9])
    assert left(trail) == ([], []), "once"
    trail.append(samples(10), 1000)
    assert left(opened(tmp_path)) == ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10])


def test_a_batch_that_is_confirmed_in_part_is_cut(tmp_path: Path) -> None:
    trail = opened(tmp_path)
    trail.append(samples(0, 8), 100)
    trail.confirm(3)
    assert left(opened(tmp_path)) == ([0, 1, 2], [3, 4, 5, 6, 7])


def test_after_the_kernel_started_anew_only_a_closed_trail_is_whole(tmp_path: Path) -> None:
    trail = written(tmp_path, 3)
    assert not opened(tmp_path, OTHER).continues
    assert not opened(tmp_path, OTHER).continues, "looking at it changes nothing"
    trail = opened(tmp_path, OTHER)
    trail.append(samples(3), 10)
    assert opened(tmp_path, OTHER).continues, "the numbers from here on are this run's"
    trail.close()
    trail.close()
    assert not opened(tmp_path, BOOT).continues, "that was another file by then"
    again = opened(tmp_path, OTHER)
    again.append(samples(4), 10)
    again.close()
    assert opened(tmp_path, BOOT).continues
    assert opened(tmp_path, BOOT).newest == 4


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_the_file_stays_bounded_and_keeps_what_is_wanted(tmp_path: Path, batch: int) -> None:
    trail, total = opened(tmp_path), 40_000
    for start in range(0, total, batch):
        trail.append(samples(start, batch), 500)
        trail.confirm(max(0, start + batch - 2))
    done, again = left(opened(tmp_path))
    end = -(-total // batch) * batch
    assert (done + again)[-1] == end - 1
    assert again == [end - 2, end - 1]
    assert len(done) >= 498
    assert done + again == list(range(done[0], end))
    assert (tmp_path / "slot.trail").stat().st_size <= 4096 + 2 * 16 * 500 * 64


def test_what_is_not_confirmed_is_kept_however_little_is_wanted_until_it_is_too_much(tmp_path: Path) -> None:
    trail, number = opened(tmp_path), 0
    while not trail.crowded:
        trail.append(samples(number, 1000), 1)
        number += 1000
        assert number * 32 < AREA_BYTES_MAX, "crowded in time"
    done, again = left(opened(tmp_path))
    assert done == []
    assert again == list(range(number))
    trail.confirm(number)
    assert not trail.crowded


def test_a_batch_too_large_for_any_trail_is_left_out_and_what_follows_is_kept(tmp_path: Path) -> None:
    trail = written(tmp_path, 3)
    assert trail.append(samples(3, AREA_BYTES_MAX // 30), 10) == 3 + AREA_BYTES_MAX // 30
    trail.append(samples(900_000), 10)
    assert left(opened(tmp_path))[1] == [900_000]


def test_texts_and_the_like_are_kept_as_they_are_held(tmp_path: Path) -> None:
    columns, dtypes = ("t", "j", "n"), ("string", "json", "int64")
    found = Samples.none(columns, dtypes)
    found.append(1, 10, ["über", b"\x93\x01\x02\x00", -5])
    found.append(2, 20, ["", b"\xc0", 2**63 - 1])
    opened(tmp_path).append(found, 10)
    (kept,) = opened(tmp_path).resume(columns)[1]
    assert (kept.values, kept.dtypes) == (found.values, dtypes)


def test_a_trail_of_another_input_is_not_believed(tmp_path: Path) -> None:
    written(tmp_path, 3)
    other = Trail(tmp_path / "slot.trail", b"M" * 32, BOOT)
    assert (other.newest, other.continues, other.total) == (None, False, 0)


def test_samples_of_other_columns_are_left_out_and_their_numbers_are_not(tmp_path: Path) -> None:
    written(tmp_path, 3)
    trail = opened(tmp_path)
    assert trail.newest == 2
    assert left(trail, ("x", "z")) == ([], [])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trail")
    written(path, 20, confirmed=10)
    return path / "slot.trail"


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 8191), bit=st.integers(0, 7))
def test_a_damaged_trail_gives_an_unbroken_beginning_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, at: int, bit: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.mkdir(exist_ok=True)
    data = bytearray(whole.read_bytes())
    data[at] ^= 1 << bit
    (path / "slot.trail").write_bytes(data)
    done, again = left(opened(path))
    assert done + again == list(range(len(done + again)))


@pytest.mark.parametrize("size", [0, 10, 4096, 70_000])
def test_a_cut_off_trail_gives_nothing(tmp_path: Path, whole: Path, size: int) -> None:
    shutil.copy(whole, tmp_path / "slot.trail")
    os.truncate(tmp_path / "slot.trail", size)
    assert left(opened(tmp_path)) == ([], [])


def test_a_record_lost_in_the_middle_does_not_come_back_when_others_fill_its_place(tmp_path: Path) -> None:
    written(tmp_path, 20)
    path = tmp_path / "slot.trail"
    data = bytearray(path.read_bytes())
    size = len(encode(samples(0, marks=True), 0))
    data[4096 + 10 * size + 40] ^= 1
    path.write_bytes(data)
    trail = opened(tmp_path)
    assert trail.newest == 9
    trail.append(samples(500, marks=True), 1000)
    assert left(opened(tmp_path)) == ([], [*range(10), 500])


def test_where_the_disk_refuses_a_larger_file_nothing_of_the_old_one_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = opened(tmp_path)

    def refuse(descriptor: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "_fill", refuse)
    for number in range(0, 5000, 100):
        trail.append(samples(number, 100), 10_000)
        trail.confirm(number)
    assert trail.lost
    assert not trail.crowded
    assert trail.total == 5000
    trail.close()
    monkeypatch.undo()
    assert opened(tmp_path).newest is None
