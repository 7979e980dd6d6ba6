"""Built-in filters that work cell by cell: pass-through, arithmetic, text, map."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.sdk.arithmetic import Arithmetic
from edge_agent.sdk.filter import parameters_of
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.map import Map
from edge_agent.sdk.parameters import decode_parameters, encode_parameters
from edge_agent.sdk.pass_through import PassThrough
from edge_agent.sdk.pipeline import Output, Pipeline, StageError
from edge_agent.sdk.state import capture
from edge_agent.sdk.text import Text

NUMBERS = Frame.of([[1.0, 4.0], [-9.0, 2.0]], columns=("a", "b"))
MIXED = Frame.of([["Big Dog", 2], ["cat", 3]], columns=("name", "count"))


def run(member, frame):
    """Run a filter that went through its own parameters, as on a device."""
    assert capture(member) is None
    again = type(member)(**decode_parameters(encode_parameters(parameters_of(member))))
    return again.predict(frame.values, frame=frame)


def listed(frame):
    return frame.values.tolist() if isinstance(frame.values, np.ndarray) else frame.values


def test_pass_through_passes_anything():
    for rows in (NUMBERS.values, ["a", {"b": [1]}], [[1, "x"]]):
        assert PassThrough().predict(rows) is rows


ARITHMETIC = {
    "add a number": (Arithmetic("add", 1), [[2, 5], [-8, 3]]),
    "one operand a column": (Arithmetic("multiply", [2.0, 10.0]), [[2, 40], [-18, 20]]),
    "some columns": (Arithmetic("subtract", 1, columns=["b"]), [[1, 3], [-9, 1]]),
    "a column as operand": (Arithmetic("divide", "b", columns=["a"]), [[0.25, 4], [-4.5, 2]]),
    "power": (Arithmetic("power", 2), [[1, 16], [81, 4]]),
    "remainder": (Arithmetic("remainder", 4), [[1, 0], [3, 2]]),
    "minimum": (Arithmetic("minimum", 2), [[1, 2], [-9, 2]]),
    "maximum": (Arithmetic("maximum", 2), [[2, 4], [2, 2]]),
    "absolute": (Arithmetic("absolute"), [[1, 4], [9, 2]]),
    "negative": (Arithmetic("negative", columns=["a"]), [[-1, 4], [9, 2]]),
}


@pytest.mark.parametrize("case", ARITHMETIC)
def test_arithmetic(case):
    member, expected = ARITHMETIC[case]
    result = run(member, NUMBERS)
    assert listed(result) == expected
    assert result.columns == ("a", "b")
    assert NUMBERS.values.tolist() == [[1, 4], [-9, 2]]


def test_arithmetic_without_a_result_is_no_number():
    with np.errstate(all="raise"):
        assert np.isnan(run(Arithmetic("sqrt"), NUMBERS).values[1, 0])
        assert np.isinf(run(Arithmetic("divide", 0), NUMBERS).values).all()


def test_arithmetic_makes_fractions_of_whole_numbers():
    whole = Frame.of(np.array([[1, 2]]), columns=("a", "b"))
    assert listed(run(Arithmetic("divide", 2, columns=["a"]), whole)) == [[0.5, 2]]
    flat = Frame.of(np.array([1, 2]), columns=("a",))
    assert listed(run(Arithmetic("round"), flat)) == [1, 2]
    assert listed(run(Arithmetic("add", "a"), flat)) == [2, 4]


TEXT = {
    "upper": [["BIG DOG", 2], ["CAT", 3]],
    "lower": [["big dog", 2], ["cat", 3]],
    "length": [[7, 2], [3, 3]],
    "words": [[["Big", "Dog"], 2], [["cat"], 3]],
    "reverse": [["goD giB", 2], ["tac", 3]],
}


@pytest.mark.parametrize("operation", TEXT)
def test_text(operation):
    result = run(Text(operation, columns=["name"]), MIXED)
    assert listed(result) == TEXT[operation]
    assert result.columns == ("name", "count")


def test_text_in_every_form_of_row():
    assert listed(run(Text("upper"), Frame.of(["a", "b"]))) == ["A", "B"]
    assert listed(run(Text("upper"), Frame.of(np.array([["a"], ["b"]])))) == [["A"], ["B"]]
    assert listed(run(Text("length"), Frame.of(np.array(["a", "bcd"]), columns=("t",)))) == [1, 3]
    assert isinstance(run(Text("length"), Frame.of(["a"])).values, np.ndarray)
    assert listed(run(Text("reverse", columns=["t"]), Frame.of([{"t": "ab", "n": 1}]))) == [{"t": "ba", "n": 1}]
    assert listed(run(Text("words"), Frame.of(["a b", "c d"]))) == [["a", "b"], ["c", "d"]]
    assert listed(run(Text("upper"), Frame.of([]))) == []


def test_a_cell_that_becomes_a_list_or_dict_stays_one_cell_of_its_column():
    named = Frame.of(["a b", "c"], columns=("t",))
    assert listed(run(Text("words"), named)) == [[["a", "b"]], [["c"]]]
    assert listed(run(Map({"a b": {"k": 1}, "c": "d"}), named)) == [[{"k": 1}], ["d"]]
    assert Pipeline("p", [Text("words")], output=Output(["t"])).run(named).values == [[["a", "b"]], [["c"]]]


MAP = {
    "all cells": (Map({1.0: 10, 4.0: 40, -9.0: 90, 2.0: 20}), NUMBERS, [[10, 40], [90, 20]]),
    "whole numbers": (Map({1: "one", -9: "nine"}, columns=["a"]), NUMBERS, [["one", 4.0], ["nine", 2.0]]),
    "keep": (Map({"cat": "dog"}, unknown="keep"), MIXED, [["Big Dog", 2], ["dog", 3]]),
    "default": (Map({2: "two"}, ["count"], unknown="default", default="?"), MIXED, [["Big Dog", "two"], ["cat", "?"]]),
    "none": (Map({2: None}, ["count"], unknown="default"), MIXED, [["Big Dog", None], ["cat", None]]),
    "classes": (Map({0: "low", 1: "high"}), Frame.of(np.array([1, 0])), ["high", "low"]),
    "lists of numbers": (Map({"a": [1, 0], "b": [0, 1]}), Frame.of(["b", "a"]), [[0, 1], [1, 0]]),
}


@pytest.mark.parametrize("case", MAP)
def test_map(case):
    member, frame, expected = MAP[case]
    assert listed(run(member, frame)) == expected


MISUSE = {
    "operation": (lambda: Arithmetic("plus", 1), ValueError, "no operation 'plus': add, subtract"),
    "operand missing": (lambda: Arithmetic("add"), ValueError, "add takes an operand"),
    "operand too many": (lambda: Arithmetic("sqrt", 1), ValueError, "sqrt takes no operand"),
    "arithmetic columns": (lambda: Arithmetic("sqrt", columns="a"), TypeError, r"columns=\['a'\]"),
    "text operation": (lambda: Text("shout"), ValueError, "no operation 'shout': upper, lower"),
    "text columns": (lambda: Text("upper", "a"), TypeError, r"columns=\['a'\]"),
    "mapping": (lambda: Map([1, 2]), TypeError, "takes a dict"),
    "unknown": (lambda: Map({}, unknown="skip"), ValueError, "one of refuse, keep, default"),
    "map columns": (lambda: Map({}, "a"), TypeError, r"columns=\['a'\]"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_refused_at_once(case):
    build, error, words = MISUSE[case]
    with pytest.raises(error, match=words):
        build()


UNFIT = {
    "text of a number": (Text("upper"), MIXED, "2 is a int, not a text"),
    "arithmetic on text": (Arithmetic("sqrt"), MIXED, "needs rows of numbers"),
    "operands": (Arithmetic("add", [1, 2, 3]), NUMBERS, "3 operands for 2 columns"),
    "no such column": (Arithmetic("sqrt", columns=["c"]), NUMBERS, "no column 'c': the columns here are a, b"),
    "no names": (Text("upper", columns=["c"]), Frame.of([["a", "b"]]), "the rows here have no column names"),
    "unknown value": (Map({"cat": 1}, ["name"]), MIXED, "nothing is known for 'Big Dog'"),
    "no key": (Map({1: 2}), Frame.of([[[1], "x"]]), "cannot be looked up"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_rows_that_do_not_fit_name_the_stage(case):
    member, frame, words = UNFIT[case]
    with pytest.raises(StageError, match=words):
        Pipeline("p", [member]).run(frame)
