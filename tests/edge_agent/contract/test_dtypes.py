"""What one cell of input may be, on both sides."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.dtypes import (
    CELL_BYTES_MAX,
    DEPTH_MAX,
    DTYPES,
    CellTooLarge,
    as_cell,
    described,
    has_unit,
    is_scaled,
    parse_cell,
    stands_for,
)

LONG = "x" * (CELL_BYTES_MAX + 1)


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("dtype", "value", "cell"),
    [
        ("float64", 1, 1.0),
        ("float64", 2.5, 2.5),
        ("int64", 2**63 - 1, 2**63 - 1),
        ("int64", 7.0, 7),
        ("bool", False, False),
        ("string", "", ""),
        ("string", "ö" * (CELL_BYTES_MAX // 2), "ö" * (CELL_BYTES_MAX // 2)),
        ("vector", [1, 2.5], [1.0, 2.5]),
        ("vector", (), []),
        ("json", {"a": [None, True, 1, "x", 0.5]}, {"a": [None, True, 1, "x", 0.5]}),
        ("json", nested(DEPTH_MAX), nested(DEPTH_MAX)),
        ("json", 0, 0),
    ],
)
def test_a_value_that_fits_is_a_cell(dtype: str, value: Any, cell: Any) -> None:
    found = as_cell(dtype, value)
    assert found == cell
    assert type(found) is type(cell)


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        ("float64", True, "true is not a number"),
        ("float64", "1", "'1' is not a number"),
        ("float64", 10**400, "integer of 1329 bits is too large for a float"),
        ("int64", 1.5, "1.5 is not a whole number of 64 bits"),
        ("int64", 2**63, "an integer of 64 bits is not a whole number"),
        ("int64", float("nan"), "nan is not a whole"),
        ("int64", True, "true is not a whole"),
        ("bool", 1, "1 is not true or false"),
        ("string", 5, "5 is not a text"),
        ("string", None, "null is not a text"),
        ("vector", 5, "5 is not a list of numbers"),
        ("vector", [1, "x"], "'x' at place 1 is not a number"),
        ("vector", [1, [2]], "an array at place 1"),
        ("json", None, "null is not a value that JSON holds"),
        ("json", nested(DEPTH_MAX + 1), "nested more than 16 deep"),
        ("json", {1: 2}, "a key that is no text"),
        ("json", [{1}], "holds a set, which JSON does not"),
        ("json", [2**64], "an integer beyond 64 bits"),
        ("string", LONG[:60] * 2000, "120000 bytes are too large for one cell"),
    ],
)
def test_a_value_that_does_not_fit_is_named(dtype: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_cell(dtype, value)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("string", LONG),
        ("string", "ö" * (CELL_BYTES_MAX // 2 + 1)),
        ("vector", [0] * (CELL_BYTES_MAX // 9 + 1)),
        ("json", {"a": LONG}),
    ],
)
def test_a_cell_has_a_size(dtype: str, value: Any) -> None:
    with pytest.raises(CellTooLarge):
        as_cell(dtype, value)


@pytest.mark.parametrize(
    ("dtype", "text", "cell"),
    [
        ("float64", " 1e3", 1000.0),
        ("int64", "-5", -5),
        ("bool", "True", True),
        ("bool", " 0 ", False),
        ("string", " a ", " a "),
        ("vector", "[1, 2]", [1.0, 2.0]),
        ("json", '{"a": null}', {"a": None}),
    ],
)
def test_text_is_read(dtype: str, text: str, cell: Any) -> None:
    found = parse_cell(dtype, text)
    assert found == cell
    assert type(found) is type(cell)


@pytest.mark.parametrize(
    ("dtype", "text", "words"),
    [
        ("float64", "x", "'x' is not a number"),
        ("int64", "1.5", "'1.5' is not a whole number"),
        ("int64", "9" * 30, "is not a whole number"),
        ("bool", "yes", "'yes' is not true or false"),
        ("vector", "1,2", "is not JSON"),
        ("vector", "7", "7 is not a list of numbers"),
        ("json", "[" * 3000, "is not JSON"),
        ("json", "null", "null is not a value"),
    ],
)
def test_text_that_does_not_fit_is_named(dtype: str, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_cell(dtype, text)


def test_what_may_stand_for_what() -> None:
    pairs = {(one, other) for one in DTYPES for other in DTYPES if one != other and stands_for(one, other)}
    assert pairs == {("int64", "float64"), *((one, "json") for one in DTYPES if one != "json")}
    assert all(stands_for(one, one) for one in DTYPES)


def test_quantities_have_units_and_fractions_are_scaled() -> None:
    assert [one for one in DTYPES if has_unit(one)] == ["float64", "int64", "vector"]
    assert [one for one in DTYPES if is_scaled(one)] == ["float64", "vector"]
    assert all(described(one) for one in DTYPES)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(json_values, st.sampled_from(DTYPES))
def test_any_value_is_a_cell_or_refused_in_words(value: Any, dtype: str) -> None:
    with contextlib.suppress(ValueError):
        cell = as_cell(dtype, value)
        assert as_cell(dtype, cell) == cell == value
