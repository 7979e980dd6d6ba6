"""Cells in the agent's process and on the socket: packed once, read back the same, scaled or refused in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Column
from edge_agent.contract.dtypes import as_cell, parse_cell
from edge_agent.runtime.cells import decode_cells, encode_cells, held_cell
from edge_agent.runtime.samples import BadPayload, bytes_of


def held(dtype: Any, value: Any, **fields: Any) -> Any:
    return held_cell(Column(path="x", dtype=dtype, **fields), as_cell, value)


def travelled(*cells: Any) -> list[Any]:
    return decode_cells(memoryview(encode_cells(cells)), len(cells))


def test_simple_cells_are_held_as_they_are_and_others_as_their_bytes() -> None:
    assert [held("string", "a"), held("bool", True), held("int64", 5), held("float64", 5)] == ["a", True, 5, 5.0]
    assert held("json", {"a": None}) == msgspec.msgpack.encode({"a": None})
    assert held("vector", [1, 2]) == msgspec.msgpack.encode([1.0, 2.0])
    assert bytes_of([held("json", ["abc"]), "four", 1.0]) == 5 + 4 + 8


def test_numbers_are_scaled_alone_and_in_a_vector() -> None:
    assert held("float64", 2, scale=10.0, offset=-1.0) == 19.0
    assert travelled(held("vector", [1, 2], scale=10.0)) == [[10.0, 20.0]]


@pytest.mark.parametrize(
    ("dtype", "value", "kind"),
    [
        ("float64", "x", "not a number"),
        ("string", 1, "wrong type"),
        ("json", None, "wrong type"),
        ("string", "x" * 65_537, "too large"),
        ("vector", [1e308], "not a number"),
        ("float64", 1e308, "not a number"),
    ],
)
def test_what_does_not_fit_is_a_bad_payload_of_a_kind(dtype: str, value: Any, kind: str) -> None:
    with pytest.raises(BadPayload) as caught:
        held(dtype, value, **({"scale": 10.0} if kind == "not a number" else {}))
    assert caught.value.kind == kind


def test_text_is_packed_the_same() -> None:
    assert held_cell(Column(path="x", dtype="json"), parse_cell, '{"a": 1}') == held("json", {"a": 1})


values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(values, max_size=5))
def test_every_cell_survives_the_socket(cells: list[Any]) -> None:
    assert travelled(*(held("json", cell) for cell in cells)) == cells


@pytest.mark.parametrize("data", [b"", b"\x05", b"\x92\x01", b"\x91\x01", b"\x91" * 5000])
def test_other_bytes_are_no_cells(data: bytes) -> None:
    with pytest.raises(ValueError, match="cells"):
        decode_cells(memoryview(data), 2)
