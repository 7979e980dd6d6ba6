"""Tensors become rows and results tensors; what does not fit is refused with tensor, place and advice."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import pytest

from edge_agent.config import Column
from edge_agent.contract.messages import OutputMessage
from edge_agent.interfaces.tensors import BadTensor, Tensor, input_metadata, rows_of, takes_matrix, tensors_of

NUMBERS = {"x": Column(path="x"), "y": Column(path="why", scale=2.0, offset=1.0)}
MIXED = {
    "n": Column(path="n", dtype="int64"),
    "b": Column(path="b", dtype="bool"),
    "s": Column(path="s", dtype="string"),
    "v": Column(path="v", dtype="vector"),
    "j": Column(path="j", dtype="json"),
    "f": Column(path="f"),
}


def tensor(name: str, data: Any, datatype: str = "FP64", shape: list[int] | None = None) -> Tensor:
    return Tensor(name=name, shape=[len(data)] if shape is None else shape, datatype=datatype, data=data)


def result(**values: Any) -> OutputMessage:
    return OutputMessage(timestamp=1, stream="s", sequence=1, first=1, release="act@1", probation=False, values=values)


def test_one_tensor_per_column_is_scaled_and_put_side_by_side() -> None:
    rows, cells = rows_of([tensor("why", [10, 20]), tensor("x", [1.5, 2], shape=[2, 1])], NUMBERS)
    assert (rows, cells) == (2, array("d", [1.5, 21.0, 2.0, 41.0]))


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]], ids=["flat", "nested"])
def test_all_columns_may_come_as_one_tensor(data: list[Any]) -> None:
    assert rows_of([tensor("input", data, shape=[2, 2])], NUMBERS) == (2, array("d", [1, 5, 3, 9]))


def test_a_column_named_like_the_matrix_is_that_column() -> None:
    columns = {"a": Column(path="input"), "b": Column(path="b")}
    assert not takes_matrix(columns)
    assert rows_of([tensor("input", [1]), tensor("b", [2])], columns) == (1, array("d", [1, 2]))


def test_every_dtype_has_its_datatype() -> None:
    rows, cells = rows_of(
        [
            tensor("n", [2**62, -1], "INT64"),
            tensor("b", [True, False], "BOOL"),
            tensor("s", ["ü", ""], "BYTES"),
            tensor("v", [1, 2, 3, 4], "FP32", [2, 2]),
            tensor("j", ['{"a": [null]}', "5"], "BYTES"),
            tensor("f", [1, 2], "UINT8"),
        ],
        MIXED,
    )
    assert rows == 2
    plain = [msgspec.msgpack.decode(cell) if type(cell) is bytes else cell for cell in cells]
    assert plain[:6] == [2**62, True, "ü", [1.0, 2.0], {"a": [None]}, 1.0]
    assert plain[6:] == [-1, False, "", [3.0, 4.0], 5, 2.0]
    assert [(one["name"], one["datatype"], one["shape"]) for one in input_metadata(MIXED)] == [
        ("n", "INT64", [-1]),
        ("b", "BOOL", [-1]),
        ("s", "BYTES", [-1]),
        ("v", "FP64", [-1, -1]),
        ("j", "BYTES", [-1]),
        ("f", "FP64", [-1]),
    ]


X, Y = tensor("x", [1.0]), tensor("why", [1.0])
BAD = {
    "missing": ([X], NUMBERS, "input 'why' is missing; the model takes: why, x"),
    "unknown": ([X, tensor("wy", [1])], NUMBERS, "there is no input 'wy'; did you mean 'why'?"),
    "twice": ([X, X, Y], NUMBERS, "input 'x' is there twice"),
    "matrix beside a column": ([X, tensor("input", [1, 2], shape=[1, 2])], NUMBERS, "send it alone"),
    "narrow matrix": ([tensor("input", [1, 2, 3], shape=[1, 3])], NUMBERS, "has shape [1, 3]: [n, 2] is needed"),
    "nothing": ([], NUMBERS, "input 'x' is missing"),
    "no shape": ([tensor("x", [1], shape=[]), Y], NUMBERS, "has shape []: [n] or [n, k]"),
    "negative shape": ([tensor("x", [1], shape=[-1]), Y], NUMBERS, "has shape [-1]"),
    "deep shape": ([tensor("x", [1], shape=[1, 1, 1]), Y], NUMBERS, "has shape [1, 1, 1]"),
    "wide column": ([tensor("x", [1, 2], shape=[1, 2]), Y], NUMBERS, "has shape [1, 2]: [n] or [n, 1] is needed"),
    "too few values": ([tensor("x", [1.0], shape=[2]), Y], NUMBERS, "has 1 values, its shape [2] says 2"),
    "ragged": ([tensor("input", [[1, 2], [3]], shape=[2, 2])], NUMBERS, "the rows of data are not of shape [2, 2]"),
    "no array": ([Tensor(name="x", shape=[1], datatype="FP64", data="AQ=="), Y], NUMBERS, "data is no array"),
    "other length": ([X, tensor("why", [1, 2])], NUMBERS, "has 2 rows, the first input has 1"),
    "datatype": ([tensor("x", ["a"], "BYTES"), Y], NUMBERS, "has datatype 'BYTES', float64 is needed"),
    "unknown datatype": ([tensor("x", [1], "FP6"), Y], NUMBERS, "did you mean 'FP64'?"),
    "text as number": ([tensor("x", ["1"]), Y], NUMBERS, '"1" at place 0 is not a number'),
    "null": ([tensor("x", [None]), Y], NUMBERS, "null at place 0 is not a number"),
    "truth as number": ([tensor("x", [True]), Y], NUMBERS, "true at place 0 is not a number"),
    "nested too deep": ([tensor("x", [[[1]]], shape=[1, 1]), Y], NUMBERS, "an array or object at place 0"),
    "not finite": ([tensor("x", [float("inf")]), Y], NUMBERS, "place 0 is not finite"),
    "huge": ([tensor("x", [10**400]), Y], NUMBERS, "too large for a float"),
    "overflown by its scale": ([X, tensor("why", [1e308])], NUMBERS, "too large once scaled"),
    "out of the datatype": ([tensor("x", [1, 300], "INT8"), tensor("why", [1, 1])], NUMBERS, "300 at place 1 is no"),
    "fraction in whole numbers": ([tensor("x", [1.5], "INT64"), Y], NUMBERS, "1.5 at place 0 is no INT64"),
    "fraction of a column": ([tensor("n", [1.5], "FP64")], {"n": MIXED["n"]}, "int64 is needed"),
    "number as text": ([tensor("s", [5], "BYTES")], {"s": MIXED["s"]}, "row 0: 5 is not a text"),
    "number as truth": ([tensor("b", [1], "BOOL")], {"b": MIXED["b"]}, "row 0: 1 is not true or false"),
    "no JSON": ([tensor("j", ["{"], "BYTES")], {"j": MIXED["j"]}, "row 0: '{' is not JSON"),
    "object as JSON": ([tensor("j", [{"a": 1}], "BYTES")], {"j": MIXED["j"]}, "no text that holds JSON"),
    "large text": ([tensor("s", ["x" * 70_000], "BYTES")], {"s": MIXED["s"]}, "too large for one cell"),
    "flat vector": ([tensor("v", [1, 2])], {"v": MIXED["v"]}, "has shape [2]: [n, k] is needed"),
    "text in a vector": ([tensor("v", [[1, "a"]], shape=[1, 2])], {"v": MIXED["v"]}, '"a" at place 1'),
    "binary": (
        [Tensor(name="x", shape=[1], datatype="FP64", data=[1], parameters={"binary_data_size": 8}), Y],
        NUMBERS,
        "binary tensors are not supported",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_in_words(case: str) -> None:
    tensors, columns, words = BAD[case]
    with pytest.raises(BadTensor) as refused:
        rows_of(tensors, columns)
    assert words in str(refused.value)


def test_results_get_the_datatype_of_what_they_are() -> None:
    results = [
        result(f=1.5, i=1, m=1, b=True, s="ü", v=[1, 2.5], r=[1], d={"a": None}, n=None),
        result(f=2.0, i=2, m=0.5, b=False, s="", v=[3.0, 4.0], r=[1, 2], d=[], n=1.0),
    ]
    told = {one["name"]: (one["datatype"], one["shape"], one["data"]) for one in tensors_of(results, list("fimbsvrdn"))}
    assert told == {
        "f": ("FP64", [2], [1.5, 2.0]),
        "i": ("INT64", [2], [1, 2]),
        "m": ("FP64", [2], [1, 0.5]),
        "b": ("BOOL", [2], [True, False]),
        "s": ("BYTES", [2], ["ü", ""]),
        "v": ("FP64", [2, 2], [1, 2.5, 3.0, 4.0]),
        "r": ("BYTES", [2], ["[1]", "[1,2]"]),
        "d": ("BYTES", [2], ['{"a":null}', "[]"]),
        "n": ("FP64", [2], [None, 1.0]),
    }


def test_a_number_that_is_none_is_null_and_does_not_make_its_column_text() -> None:
    alone = [result(f=None, v=[1.0, None], b=None)]
    assert [(one["datatype"], one["data"]) for one in tensors_of(alone, list("fvb"), {"b": "BYTES"})] == [
        ("FP64", [None]),
        ("FP64", [1.0, None]),
        ("BYTES", ["null"]),
    ]


def test_no_results_have_a_shape_too() -> None:
    assert tensors_of([], ["f", "s"], {"s": "BYTES"}) == [
        {"name": "f", "datatype": "FP64", "shape": [0], "data": []},
        {"name": "s", "datatype": "BYTES", "shape": [0], "data": []},
    ]
