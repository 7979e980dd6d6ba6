"""Frames: rows with times, and what they refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_agent.sdk.frame import Frame, as_values


def test_of_spaces_samples_evenly():
    frame = Frame.of([[1, 2], [3, 4], [5, 6]], columns=["a", "b"], rate_hz=10, start=7)
    assert len(frame) == 3
    assert isinstance(frame.values, np.ndarray)
    assert frame.sequences.tolist() == [7, 8, 9]
    assert frame.timestamps.tolist() == [700_000_000, 800_000_000, 900_000_000]
    assert frame.firsts is frame.sequences
    assert frame.columns == ("a", "b")
    assert repr(frame) == "<Frame of 3 rows, (3, 2) int64, sequences 7–9, columns ['a', 'b']>"
    assert repr(Frame.of(["x"])) == "<Frame of 1 rows, list, sequences 0–0, columns []>"


@pytest.mark.parametrize("given", [["a", "b"], [[1, "x"], [2, "y"]], [[1], [2, 3]], [{"a": 1}], [None, 1.0]])
def test_what_is_not_numbers_stays_a_list(given):
    assert as_values(given) == given


def test_a_frame_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Frame.of([1]).values = [2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((5.0, [1], [1]), TypeError, "array or a list of rows, not float"),
        ((np.float64(5) * np.ones(()), [1], [1]), TypeError, "a single number has no rows|not float64"),
        (([1, 2], [1], [1, 2]), ValueError, "a frame of 2 rows cannot have 1 timestamps"),
        (([1, 2], [1, 2], [1]), ValueError, "cannot have 1 sequences"),
        (([1, 2], [1, 2], [1, 2], [0]), ValueError, "cannot have 1 firsts"),
        (([1], [1.5], [1]), TypeError, "timestamps must be int64 .*multiply seconds by 1e9"),
        (([1], [1], [1.0]), TypeError, "sequences must be int64, not float64"),
        (([1], [[1]], [1]), TypeError, r"flat array of integers, not of shape \(1, 1\)"),
        (([1], [1], [1], None, "abc"), TypeError, r"write \['abc'\]"),
    ],
)
def test_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Frame(*arguments)


def test_of_refuses_a_rate_of_zero_and_values_without_rows():
    with pytest.raises(ValueError, match="rate_hz must be above 0"):
        Frame.of([1], rate_hz=0)
    with pytest.raises(TypeError, match="not dict"):
        Frame.of({"a": 1})


def test_with_values_inherits_times_and_fitting_names():
    frame = Frame.of(np.zeros((3, 2)), columns=["a", "b"], start=4)
    other = frame.with_values(np.ones((3, 2)))
    assert other.sequences is frame.sequences
    assert other.columns == ("a", "b")
    assert frame.with_values(np.ones((3, 5))).columns == ()
    assert frame.with_values(np.ones((3, 1)), columns=["c"]).columns == ("c",)
    assert frame.with_values(["x", "y", "z"]).columns == ()


def test_with_values_demands_equal_length():
    with pytest.raises(ValueError, match=r"2 rows of values for a frame of 3: choose rows with frame.take"):
        Frame.of(np.zeros((3, 2))).with_values(np.zeros((2, 2)))


@pytest.mark.parametrize("rows", [slice(1, None), [1, 2], np.array([False, True, True])])
def test_take_keeps_the_times_of_the_rows(rows):
    frame = Frame.of(np.arange(6).reshape(3, 2), columns=["a", "b"], start=10).take(rows)
    assert frame.values.tolist() == [[2, 3], [4, 5]]
    assert frame.sequences.tolist() == [11, 12]
    assert frame.columns == ("a", "b")
    assert Frame.of(["x", "y", "z"]).take(rows).values == ["y", "z"]
    assert Frame.of(["x", "y", "z"]).take(1).values == ["y"]


@pytest.mark.parametrize("values", [np.zeros((3, 2), np.float32), [["walk", 0.5], {"a": 1}, (None, True)]])
def test_bytes_there_and_back(values):
    frame = Frame(values, [1, 2, 3], [4, 5, 6], [1, 2, 6], ("a", "b"))
    again = Frame.from_bytes(frame.to_bytes())
    for name in ("timestamps", "sequences", "firsts"):
        assert getattr(again, name).tolist() == getattr(frame, name).tolist()
    assert again.columns == frame.columns
    if isinstance(values, list):
        assert again.values == values
    else:
        assert again.values.dtype == np.float32
        assert again.values.flags.writeable


def test_bytes_refuse_what_is_no_frame():
    with pytest.raises(TypeError, match=r"frame\['values'\]\[0\] is a builtins.object"):
        Frame.of([object()]).to_bytes()
    good = Frame.of([[1.0]]).to_bytes()
    for data in (b"", b"\x01", good[:-3], b"\x81\xa6format\x02", b"\x81\xa6format\x01"):
        with pytest.raises(ValueError):
            Frame.from_bytes(data)
