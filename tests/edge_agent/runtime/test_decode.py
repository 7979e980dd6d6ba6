"""Payloads to numbers: paths, units, sequences, and what is said about those that do not fit."""

from __future__ import annotations

import contextlib
import json
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Column, Timestamp
from edge_agent.runtime.cells import decode_cells, encode_cells
from edge_agent.runtime.decode import Layout, nanoseconds
from edge_agent.runtime.samples import BadPayload, Samples


def layout(*paths: str, **rest: Any) -> Layout:
    return Layout({f"c{place}": Column(path=path) for place, path in enumerate(paths)}, **rest)


@pytest.mark.parametrize(
    ("paths", "body", "values"),
    [
        (["x"], {"x": 1}, [1]),
        (["x", "y"], {"y": 2.5, "x": 1}, [1, 2.5]),
        (["a.x", "a.y"], {"a": {"x": 1, "y": 2}}, [1, 2]),
        (["a.x", "b"], {"a": {"x": 1}, "b": 2}, [1, 2]),
        (["v.1", "v.0"], {"v": [1, 2]}, [2, 1]),
        (["0", "2"], [1, 2, 3], [1, 3]),
        (["0.x", "1.x"], [{"x": 1}, {"x": 2}], [1, 2]),
        (["1"], {"1": 5}, [5]),  # digits are a key in an object
        ([], {"x": 1}, []),
    ],
)
def test_paths_lead_to_values(paths: list[str], body: Any, values: list[float]) -> None:
    assert list(layout(*paths).decode(json.dumps(body).encode())[2]) == values


@pytest.mark.parametrize(
    ("paths", "body", "kind", "words"),
    [
        (["v.2"], {"v": [1, 2]}, "missing column", "path 'v.2' is not in the payload; it has: v.0, v.1"),
        (["v.x"], {"v": [1, 2]}, "missing column", "it has: v.0, v.1"),
        (["a.b.c"], {"a": {"b": 1}}, "missing column", "it has: a.b"),
        (["a"], {}, "missing column", "it has: nothing"),
        (["a"], {f"k{n}": n for n in range(30)}, "missing column", "k10, k11, …"),
        (["a"], {"a": {"b": 1}}, "not a number", "an object at 'a' is not a number"),
        (["a"], {"a": [1]}, "not a number", "an array at 'a'"),
        (["a", "b"], {"a": 1, "b": "x" * 100}, "not a number", "xxx…"),
        (["0"], 5, "malformed payload", "payload is 5, not a JSON object or array"),
        (["0"], None, "malformed payload", "payload is null"),
    ],
)
def test_what_does_not_fit_is_named(paths: list[str], body: Any, kind: str, words: str) -> None:
    with pytest.raises(BadPayload) as caught:
        layout(*paths).decode(json.dumps(body).encode())
    assert caught.value.kind == kind
    assert words in str(caught.value)
    assert len(str(caught.value)) <= 400


@pytest.mark.parametrize("digits", [30, 400, 5000])
@pytest.mark.parametrize("path", ["x", "a.x"])
def test_integers_without_end_are_numbers_as_far_as_a_float_goes(digits: int, path: str) -> None:
    body = b'{"x": %b, "a": {"x": %b}, "y": 1}' % (b"7" * digits, b"7" * digits)
    two = layout(path, "y")
    if digits == 30:
        assert two.decode(body)[2][0] == 7.777777777777778e29
        return
    with pytest.raises(BadPayload) as caught:
        two.decode(body)
    assert caught.value.kind in ("not a number", "malformed payload")
    with pytest.raises(BadPayload):
        layout("y", timestamp=Timestamp(path="x"), sequence="x").decode(body)


def test_values_are_scaled_and_stay_finite() -> None:
    scaled = Layout({"x": Column(path="x", scale=10.0, offset=-1.0)})
    assert list(scaled.decode(b'{"x": 2}')[2]) == [19.0]
    with pytest.raises(BadPayload, match="once scaled"):
        scaled.decode(b'{"x": 1e308}')


def test_deep_nesting_is_malformed() -> None:
    with pytest.raises(BadPayload) as caught:
        layout("a").decode(b"[" * 100_000)
    assert caught.value.kind == "malformed payload"


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1_700_000_000, "s", 1_700_000_000 * 10**9),
        (1_700_000_000.25, "s", 1_700_000_000_250_000_000),
        (-0.5, "s", -500_000_000),
        (1_700_000_000_123, "ms", 1_700_000_000_123_000_000),
        (1.5, "us", 1500),
        (2**62, "ns", 2**62),
    ],
)
def test_times_become_nanoseconds(value: float, unit: str, expected: int) -> None:
    assert nanoseconds(value, unit) == expected


@pytest.mark.parametrize("value", ["1", None, True, float("inf"), float("nan"), 2**63, 1e300, [1]])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(BadPayload) as caught:
        nanoseconds(value, "s")
    assert caught.value.kind == "bad timestamp"


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (7.0, 7), (2**63 - 1, 2**63 - 1)])
def test_sequences_are_whole_numbers(value: Any, expected: int) -> None:
    found = layout("x", sequence="n").decode(json.dumps({"x": 1, "n": value}).encode())
    assert found[0] == expected


@pytest.mark.parametrize("value", [-1, 1.5, "1", None, True, 2**63])
def test_other_sequences_are_refused(value: Any) -> None:
    with pytest.raises(BadPayload) as caught:
        layout("x", sequence="n").decode(json.dumps({"x": 1, "n": value}).encode())
    assert caught.value.kind == "bad sequence"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5), st.integers(0, 3))
def test_every_number_survives(values: list[float], depth: int) -> None:
    body: Any = {f"k{place}": value for place, value in enumerate(values)}
    for _ in range(depth):
        body = {"in": body}
    paths = ["in." * depth + f"k{place}" for place in range(len(values))]
    assert list(layout(*paths).decode(json.dumps(body).encode())[2]) == values


@given(st.binary(max_size=200))
def test_any_bytes_are_a_sample_or_a_bad_payload(data: bytes) -> None:
    with contextlib.suppress(BadPayload):
        assert layout("a", timestamp=Timestamp(path="t")).decode(data)[1] is not None


def test_samples_can_be_cut_and_reordered() -> None:
    samples = Samples(("x", "y"), array("q", [1, 2]), array("q", [10, 20]), array("d", [1, 2, 3, 4]))
    part = samples.part(1, 2)
    assert (part.rows, list(part.sequences), list(part.values)) == (1, [2], [3, 4])
    assert list(samples.select(["y", "x"])) == [2, 1, 4, 3]
    assert list(samples.select(["y"])) == [2, 4]
    assert samples.select(("x", "y")) is samples.values
    with pytest.raises(KeyError, match="z"):
        samples.select(["z"])


TYPED = {
    "text": Column(path="m.text", dtype="string"),
    "n": Column(path="m.n", dtype="int64"),
    "on": Column(path="m.on", dtype="bool"),
    "spectrum": Column(path="v", dtype="vector", scale=2.0),
    "event": Column(path="m", dtype="json"),
    "x": Column(path="x", scale=0.5),
}


def test_cells_are_decoded_by_their_dtype() -> None:
    found = Layout(TYPED, sequence="id")
    body = {"m": {"text": "é", "n": 2**62, "on": False}, "v": [1, 2.5], "x": 3, "id": 9}
    sequence, _, cells = found.decode(json.dumps(body).encode())
    assert sequence == 9
    assert found.dtypes == ("string", "int64", "bool", "vector", "json", "float64")
    assert decode_cells(memoryview(encode_cells(cells)), 6) == ["é", 2**62, False, [2.0, 5.0], body["m"], 1.5]


@pytest.mark.parametrize(
    ("column", "body", "kind", "words"),
    [
        (Column(path="x", dtype="string"), {"x": 5}, "wrong type", "column 'c', path 'x': 5 is not a text"),
        (Column(path="x", dtype="string"), {}, "missing column", "column 'c': path 'x' is not in the payload"),
        (Column(path="x", dtype="json"), {"x": None}, "wrong type", "null is not a value that JSON holds"),
        (Column(path="x", dtype="json"), {"x": ["y" * 65_536]}, "too large", "65542 bytes are too large for one cell"),
        (Column(path="x", dtype="vector"), {"x": [1, "y"]}, "wrong type", "'y' at place 1 is not a number"),
        (Column(path="0", dtype="string"), "text", "malformed payload", 'payload is "text", not a JSON object'),
    ],
)
def test_cells_that_do_not_fit_are_named(column: Column, body: Any, kind: str, words: str) -> None:
    with pytest.raises(BadPayload) as caught:
        Layout({"c": column}).decode(json.dumps(body).encode())
    assert caught.value.kind == kind
    assert words in str(caught.value)
    assert len(str(caught.value)) <= 400


def test_a_number_beside_a_text_is_judged_as_ever() -> None:
    two = Layout({"t": Column(path="t", dtype="string"), "x": Column(path="x")})
    with pytest.raises(BadPayload) as caught:
        two.decode(b'{"t": "a", "x": "5"}')
    assert caught.value.kind == "not a number"


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps({"a": text}).encode()))
def test_any_bytes_are_cells_or_a_bad_payload(data: bytes) -> None:
    with contextlib.suppress(BadPayload):
        (cell,) = Layout({"a": Column(path="a", dtype="string")}).decode(data)[2]
        assert isinstance(cell, str)


def test_samples_of_cells_can_be_cut_and_chosen() -> None:
    dtypes = ("string", "float64", "json")
    samples = Samples.none(("t", "x", "j"), dtypes)
    samples.append(1, 10, ["a", 1.5, b"\x01"])
    samples.append(2, 20, ["bcd", 2.5, b"\x02\x03"])
    assert (samples.rows, samples.bytes) == (2, 1 + 3 + 2 * 8 + 1 + 2)
    part = samples.part(1, 2)
    assert (part.values, part.dtypes, list(part.timestamps)) == (["bcd", 2.5, b"\x02\x03"], dtypes, [20])
    assert samples.select(["j", "t"]) == [b"\x01", "a", b"\x02\x03", "bcd"]
    assert samples.select(("t", "x", "j")) is samples.values
    assert samples.select(["x"]) == array("d", [1.5, 2.5])  # nothing but numbers goes as numbers go
    samples.drop(1)
    assert samples.select(["t"]) == ["bcd"]
