"""Plain data goes there and back exactly, and nothing else goes."""

from __future__ import annotations

import contextlib
import logging
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge_agent.sdk import plain

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
hashable = st.booleans() | st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
arrays = npst.arrays(
    st.sampled_from(["f8", ">f4", "i2", "?", "U3", "S2", "c16", "M8[ns]", "m8[s]"]),
    npst.array_shapes(min_dims=0, min_side=0),
)
values = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.frozensets(hashable, max_size=4)
    ),
    max_leaves=10,
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and (one == other or (one != one and other != other))
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    return bool(one == other)


@given(values)
def test_there_and_back(value):
    data = plain.encode(value)
    assert same(plain.decode(data), value)
    assert plain.encode(plain.decode(data)) == data


@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("é"), np.datetime64(5, "ns")])
def test_numpy_scalars_keep_their_type(value):
    found = plain.decode(plain.encode(value))
    assert type(found) is type(value)
    assert found == value


def test_arrays_come_back_writable_in_their_memory_order():
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    found = plain.decode(plain.encode(array))
    assert found.flags.f_contiguous
    assert not found.flags.c_contiguous
    found[0, 0] = 9
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])


def test_object_arrays_keep_lists_as_elements():
    array = np.empty((2, 1), object)
    array[0, 0], array[1, 0] = [1, 2], [3, 4]
    found = plain.decode(plain.encode(array))
    assert found.tolist() == [[[1, 2]], [[3, 4]]]
    assert found.dtype == object


def test_bytearray_stays_one():
    assert plain.decode(plain.encode({"a": bytearray(b"x")})) == {"a": bytearray(b"x")}
    assert type(plain.decode(plain.encode(bytearray(b"x")))) is bytearray


def test_sets_give_equal_bytes_under_every_hash_seed():
    code = "from edge_agent.sdk import plain; print(plain.encode({'alpha', 'beta', 'gamma', 7, b'x'}).hex())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, logging.getLogger("x")]}, r"state\['a'\]\[1\] is a logging.Logger, which is not plain data"),
        ((lambda: 0,), r"state\[0\] is a builtins.function"),
        ({1: object()}, r"state\[1\] is a builtins.object"),
        (np.array([object()]), r"state.flat\[0\] is a builtins.object"),
        (np.zeros(2, dtype=[("a", "f4")]), "state is an array of dtype"),
        (type("Text", (str,), {})("x"), "Text, which is not plain data"),
    ],
)
def test_refused_by_path(value, message):
    with pytest.raises(TypeError, match=message):
        plain.encode(value, "state")


def test_cycles_and_depth_are_refused():
    loop: list[Any] = []
    loop.append({"again": loop})
    with pytest.raises(TypeError, match=r"value\[0\]\['again'\] contains itself"):
        plain.encode(loop)
    deep: Any = 1
    for _ in range(plain.DEPTH_MAX + 1):
        deep = [deep]
    with pytest.raises(TypeError, match="nested more than"):
        plain.encode(deep)


def test_the_same_part_twice_is_no_cycle():
    part = [1]
    assert plain.decode(plain.encode([part, part])) == [[1], [1]]


@given(st.binary(max_size=60))
def test_foreign_bytes_only_raise_value_error(data):
    with contextlib.suppress(ValueError):
        plain.decode(data)


@pytest.mark.parametrize(
    ("code", "content"),
    [
        (99, 1),
        (5, ["O", [1], "C", b"12345678"]),
        (5, ["f8", [4], "C", b"short"]),
        (5, ["f8", [-1], "C", b"12345678"]),
        (5, 7),
        (4, [[[], 1]]),
        (7, ["nonsense", b""]),
        (6, [[3], [1]]),
    ],
)
def test_damaged_extensions_raise_value_error(code, content):
    import msgspec

    data = msgspec.msgpack.encode(msgspec.msgpack.Ext(code, msgspec.msgpack.encode(content)))
    with pytest.raises(ValueError):
        plain.decode(data)
