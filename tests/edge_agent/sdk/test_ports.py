"""Input and Output check the author's spelling at once."""

from __future__ import annotations

import pytest

from edge_agent.contract.manifest import InputSpec, OutputSpec
from edge_agent.sdk.ports import Input, Output


def test_forms_of_unit_and_range():
    assert Input(["a", "b"], unit="g", rate_hz=10).spec() == InputSpec(
        columns=["a", "b"], units={"a": "g", "b": "g"}, rate_hz=10.0
    )
    assert Input(("a", "b"), unit={"b": "K"}).spec() == InputSpec(columns=["a", "b"], units={"b": "K"})
    assert Output(["a", "b"], range=(0, 1)).spec() == OutputSpec(columns=["a", "b"], ranges={"a": (0, 1), "b": (0, 1)})
    assert Output(["a", "b"], unit="g", range={"b": [0, 2.5]}).spec() == OutputSpec(
        columns=["a", "b"], units={"a": "g", "b": "g"}, ranges={"b": (0.0, 2.5)}
    )
    assert Output(["a"]).spec() == OutputSpec(columns=["a"])


def test_dtypes_are_told_where_they_are_not_float64():
    assert Input(["a", "b"], dtype="float64").spec() == Input(["a", "b"]).spec() == InputSpec(columns=["a", "b"])
    mixed = Input(["a", "b"], unit={"b": "K"}, dtype={"a": "string", "b": "float64"}).spec()
    assert mixed == InputSpec(columns=["a", "b"], units={"b": "K"}, dtypes={"a": "string"})
    assert (mixed.typed, mixed.dtype_of("a"), mixed.dtype_of("b")) == (True, "string", "float64")
    assert Input(["a", "b"], dtype="json").spec().dtypes == {"a": "json", "b": "json"}
    assert not InputSpec(columns=["a"], dtypes={"a": "float64"}).typed


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        (Input, {"columns": "ax"}, TypeError, r"Input: columns must be a list of names: write \['ax'\]"),
        (Input, {"columns": []}, ValueError, "at least one column"),
        (Input, {"columns": ["a", "a"]}, ValueError, "'a' is named twice"),
        (Input, {"columns": [1]}, TypeError, "must be a text, not 1"),
        (Input, {"columns": ["a"], "unit": 3}, TypeError, "unit must be a text"),
        (Input, {"columns": ["a"], "unit": {"b": "g"}}, ValueError, "unit for 'b', but the columns are a"),
        (Input, {"columns": ["a"], "rate_hz": -1}, ValueError, "rate_hz must be 0"),
        (Input, {"columns": ["a"], "rate_hz": float("nan")}, ValueError, "rate_hz must be 0"),
        (Input, {"columns": ["a"], "rate_hz": "10"}, TypeError, "rate_hz must be a number"),
        (Input, {"columns": ["a"], "dtype": str}, TypeError, "dtype must be a text"),
        (Input, {"columns": ["a"], "dtype": "str"}, ValueError, "the dtype of 'a' must be one of float64, int64, bool"),
        (Input, {"columns": ["a"], "dtype": {"b": "json"}}, ValueError, "dtype for 'b', but the columns are a"),
        (Input, {"columns": ["a"], "dtype": "bool", "unit": "g"}, ValueError, "'a' is bool, which has no unit"),
        (Output, {"columns": ["a"], "range": {"b": (0, 1)}}, ValueError, "range for 'b', but the columns are a"),
        (Output, {"columns": ["a"], "range": (1, 0)}, ValueError, "ends before it starts"),
        (Output, {"columns": ["a"], "range": (float("nan"), 0)}, ValueError, "or has NaN"),
        (Output, {"columns": ["a"], "range": 5}, TypeError, r"range of 'a' must be \(low, high\), not 5"),
        (Output, {"columns": ["a"], "range": (1, 2, 3)}, TypeError, r"must be \(low, high\)"),
    ],
)
def test_refused(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(**arguments)
