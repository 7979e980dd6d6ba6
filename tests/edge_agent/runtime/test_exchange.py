"""What passes between the wire and a pipeline: which values travel raw, and whose memory a frame is."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from edge_agent.contract.manifest import InputSpec, OutputSpec
from edge_agent.runtime.exchange import Exchange
from edge_agent.runtime.wire import Flag, Header, Kind
from edge_agent.sdk.frame import Frame


def sent(values: Any) -> tuple[int, int, bytes]:
    """Return flags, columns and bytes of these values as a result."""
    flags, columns, _, data = Exchange.parts(Frame(values, np.arange(len(values)), np.arange(len(values))))
    return flags, columns, bytes(memoryview(data).cast("B")) if len(data) else b""


@pytest.mark.parametrize(
    ("values", "flag", "columns", "data"),
    [
        (np.array([[1, 2]], np.int32), Flag.RAW, 2, array("d", [1, 2]).tobytes()),
        (np.array([True, False]), Flag.RAW, 1, array("d", [1, 0]).tobytes()),
        (np.empty((0, 3)), Flag.RAW, 0, b""),
        (np.array(["a", "b"]), Flag.NONE, 1, b'[["a"],["b"]]'),
        ([["a", np.float32(1.5)], ("b", np.array([1, 2]))], Flag.NONE, 2, b'[["a",1.5],["b",[1,2]]]'),
        (["a"], Flag.NONE, 1, b'[["a"]]'),
    ],
)
def test_values_travel_raw_where_they_are_numbers(values: Any, flag: int, columns: int, data: bytes) -> None:
    assert sent(values) == (flag, columns, data)


def test_whole_numbers_beyond_a_floats_come_out_exactly() -> None:
    exact = np.array([[2**60 + 1, 1]])
    assert sent(exact) == (Flag.NONE, 2, b"[[1152921504606846977,1]]")
    assert sent(np.array([[2**53]]))[0] == Flag.RAW


def test_numpy_values_deep_in_a_result_come_out() -> None:
    rows = [[{"a": [np.float32(1.5)], "b": np.array([1])}]]
    assert sent(rows) == (Flag.NONE, 1, b'[[{"a":[1.5],"b":[1]}]]')


def test_numbers_and_times_travel_before_the_values_also_those_that_are_every_other_of_others() -> None:
    every, other = np.arange(8), np.arange(100, 108)
    heads = Exchange.parts(Frame(np.ones((4, 1)), other[::2], every[::2], every[1::2]))[2]
    assert list(array("q", bytes(heads))) == [0, 2, 4, 6, 1, 3, 5, 7, 100, 102, 104, 106]


def test_a_frame_is_the_filters_own_to_keep_and_write_to() -> None:
    payload = bytearray(array("q", [7, 9]).tobytes() + array("d", [1.5, 2.5]).tobytes())
    exchange = Exchange(InputSpec(columns=["x", "y"]), OutputSpec(columns=[]))
    frame = exchange.frame(Header(Kind.FRAME, Flag.NONE, 1, 1, 2), memoryview(payload))
    payload[:] = bytes(len(payload))
    frame.values[0, 0] += 1
    assert (frame.sequences.tolist(), frame.timestamps.tolist(), frame.values.tolist()) == ([7], [9], [[2.5, 2.5]])
    assert frame.columns == ("x", "y")
