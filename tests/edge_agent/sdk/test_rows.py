"""What leaves a pipeline is rows of cells that a sink can write."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.sdk.frame import Frame
from edge_agent.sdk.rows import to_rows


def rows_of(frame, columns):
    return to_rows(frame.values, frame, columns)


@pytest.mark.parametrize(
    ("values", "columns", "rows"),
    [
        (np.array([1, 2]), ("a",), [[1], [2]]),
        (["x", "y"], ("a",), [["x"], ["y"]]),
        (np.array(["x", "y"]), ("a",), [["x"], ["y"]]),
        ([("x", np.float32(0.5))], ("a", "b"), [["x", 0.5]]),
        ([np.array([1.0, 2.0])], ("a", "b"), [[1.0, 2.0]]),
        ([["x", np.arange(2)]], ("a", "b"), [["x", [0, 1]]]),
        ([{"b": 1, "a": "x", "c": 0}], ("a", "b"), [["x", 1]]),
        ([{"b": 1}], (), [[{"b": 1}]]),
        (np.array([["x", 1]], dtype=object), ("a", "b"), [["x", 1]]),
    ],
)
def test_rows(values, columns, rows):
    frame = rows_of(Frame(values, [*range(len(values))], [*range(len(values))]), columns)
    found = frame.values if isinstance(frame.values, list) else frame.values.tolist()
    assert found == rows
    assert frame.columns == columns
    assert all(not isinstance(cell, np.generic) for row in found for cell in row)


def test_what_does_not_fit_leaves_unnamed():
    assert rows_of(Frame.of(np.zeros((2, 3))), ("a",)).columns == ()
    assert rows_of(Frame.of([["a"], ["a", "b"]]), ("a",)).columns == ()
    assert rows_of(Frame.of(np.zeros((2, 3)), columns=["x", "y", "z"]), ("a",)).columns == ("x", "y", "z")


@pytest.mark.parametrize("values", [[], np.empty((0, 7)), np.empty(0, dtype="U1")])
def test_nothing_has_the_declared_columns(values):
    frame = rows_of(Frame(values, [], []), ("a", "b"))
    assert frame.values.shape == (0, 2)
    assert frame.columns == ("a", "b")


def test_a_dict_without_a_column_is_refused():
    with pytest.raises(ValueError, match="a row has no 'a': its keys are b, c"):
        rows_of(Frame.of([{"b": 1, "c": 2}]), ("a",))
