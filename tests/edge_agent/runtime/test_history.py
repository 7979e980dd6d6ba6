"""The last samples, in pieces and joined."""

from __future__ import annotations

from array import array

import pytest

from edge_agent.runtime.history import BYTES_MAX, History
from edge_agent.runtime.samples import Samples


def samples(*numbers: int) -> Samples:
    values = array("d", [float(value) for number in numbers for value in (number, -number)])
    return Samples(("x", "y"), array("q", numbers), array("q", [number * 10 for number in numbers]), values)


def kept(history: History, rows_max: int = 1000, batches_max: int = 16) -> list[list[int]]:
    return [list(piece.sequences) for piece in history.batches(rows_max, batches_max)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(1, [6]), (2, [4, 5, 6]), (3, [4, 5, 6]), (4, [1, 2, 3, 4, 5, 6]), (99, [1, 2, 3, 4, 5, 6])],
)
def test_keeps_at_least_what_is_wanted_in_whole_pieces(wanted: int, expected: list[int]) -> None:
    history = History()
    for piece in ((1, 2, 3), (4, 5), (6,)):
        history.add(samples(*piece), wanted)
    assert kept(history) == [expected]


def test_pieces_are_joined_cut_and_enlarged_where_there_would_be_too_many() -> None:
    history = History()
    for start in range(0, 10, 2):
        history.add(samples(start, start + 1), 10)
    assert kept(history, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert kept(history, 1, 2) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    (whole,) = history.batches(100, 16)
    assert list(whole.values) == [float(sign * number) for number in range(10) for sign in (1, -1)]
    assert list(whole.timestamps) == [number * 10 for number in range(10)]


def test_joining_leaves_the_kept_pieces_alone() -> None:
    history, first = History(), samples(1)
    history.add(first, 10)
    history.add(samples(2), 10)
    assert kept(history) == kept(history) == [[1, 2]]
    assert list(first.sequences) == [1]


def test_forgets_everything() -> None:
    history = History()
    assert kept(history) == []
    history.add(samples(1, 2), 10)
    history.clear()
    assert kept(history) == []
    history.add(samples(3), 1)
    assert kept(history) == [[3]]


def texts(*numbers: int, size: int = 1) -> Samples:
    found = Samples.none(("t", "n"), ("string", "int64"))
    for number in numbers:
        found.append(number, number * 10, ["x" * size, number])
    return found


def test_cells_are_joined_and_cut_too() -> None:
    history = History()
    history.add(texts(1, 2), 10)
    history.add(texts(3), 10)
    (whole,) = history.batches(100, 16)
    assert (whole.values, whole.dtypes) == (["x", 1, "x", 2, "x", 3], ("string", "int64"))
    assert [piece.values for piece in history.batches(2, 16)] == [["x", 1, "x", 2], ["x", 3]]


def test_large_cells_are_kept_as_far_as_they_fit() -> None:
    history, large = History(), BYTES_MAX // 3
    for number in range(6):
        history.add(texts(number, size=large), 100)
    assert kept(history) == [[4, 5]]
    history.add(texts(7, size=BYTES_MAX), 100)
    assert kept(history) == []
    history.add(texts(8), 100)
    assert kept(history) == [[8]]
