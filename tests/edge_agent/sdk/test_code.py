"""Snippets: what they see, what they give, what they may not do."""

from __future__ import annotations

import traceback

import numpy as np
import pytest

from edge_agent.sdk.code import Code
from edge_agent.sdk.filter import Filter, parameters_of
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.parameters import decode_parameters, encode_parameters
from edge_agent.sdk.pipeline import Input, Output, Pipeline, StageError
from edge_agent.sdk.state import capture

FRAME = Frame.of(np.arange(6.0).reshape(3, 2), columns=("a", "b"))
BODY = """
    total = 0
    for one in (a, b):
        total = total + one
    return total
"""


def run(*arguments, frame=FRAME, **more):
    return Pipeline("p", [Code(*arguments, **more)], input=Input(["a", "b"])).run(frame)


RESULTS = {
    "expression": (("a + b * 2",), {}, [[2], [8], [14]]),
    "lines of an expression": (("\n  (a\n + b)\n",), {}, [[1], [5], [9]]),
    "body": ((BODY,), {}, [[1], [5], [9]]),
    "columns side by side": (("a, b - a, 7",), {}, [[0, 1, 7], [2, 1, 7], [4, 1, 7]]),
    "one value for all": (("values.max()",), {}, [[5], [5], [5]]),
    "text for all": (("'on'",), {}, [["on"], ["on"], ["on"]]),
    "whole batch": (("values[:, ::-1]",), {}, [[1, 0], [3, 2], [5, 4]]),
    "frame": (("frame.sequences * 10",), {}, [[0], [10], [20]]),
    "comprehension": (("[x * y for x, y in zip(a, b)]",), {}, [[0], [6], [20]]),
    "alias": (("np.hypot(a, b) > 3",), {"imports": ["numpy as np"]}, [[False], [True], [True]]),
    "module": (("[math.floor(x / 2) for x in b]",), {"imports": ["math"]}, [[0], [1], [2]]),
    "dotted module": (("[os.path.basename('x/y') for _ in a]",), {"imports": ["os.path"]}, [["y"]] * 3),
    "import in body": (("from math import pi\nreturn a * 0 + round(pi)",), {"imports": ["math"]}, [[3]] * 3),
    "a frame of fewer rows": (("frame.take(a > 1)",), {}, [[2, 3], [4, 5]]),
    "nothing yet": (("[]",), {}, []),
    "nested function": (("def half(x):\n    return x / 2\nreturn half(a)",), {}, [[0], [1], [2]]),
    "text beside numbers": (("{'v': a, 'kind': ['p', 'q', 'r']}",), {}, [[0, "p"], [2, "q"], [4, "r"]]),
}


@pytest.mark.parametrize("case", RESULTS)
def test_results(case):
    arguments, more, expected = RESULTS[case]
    values = run(*arguments, **more).values
    assert (values.tolist() if isinstance(values, np.ndarray) else values) == expected


def test_results_are_named():
    class Look(Filter):
        def predict(self, x, *, frame):
            seen.append(frame.columns)
            return x

    seen: list[tuple[str, ...]] = []
    for code in (Code("{'s': a + b, 'd': a - b}"), Code("a, b", columns=["u", "v"]), Code("a, b")):
        Pipeline("p", [code, Look(), Code("values")]).run(FRAME)
    assert seen == [("s", "d"), ("u", "v"), ()]


def test_columns_of_lists_dicts_and_bare_values():
    mixed = Frame.of([[1.0, "x"], [2.0, "y"]], columns=("a", "b"))
    assert run("a * 2, [t.upper() for t in b]", frame=mixed).values == [[2.0, "X"], [4.0, "Y"]]
    dicts = Frame.of([{"a": 1, "frame": 2}, {"a": 3, "frame": 4}])
    assert run("a + frame", frame=dicts).values.tolist() == [[3], [7]]
    words = Frame.of(["one", "two words"], columns=("text",))
    assert run("[len(t.split()) for t in text]", frame=words).values.tolist() == [[1], [2]]
    windows = Frame.of(np.arange(12.0).reshape(2, 3, 2), columns=("a", "b"))
    assert run("(a + b).sum(axis=1)", frame=windows).values.tolist() == [[15], [51]]


def test_a_column_goes_before_what_is_built_in():
    frame = Frame.of(np.ones((2, 2)), columns=("values", "frame"))
    assert run("values + frame", frame=frame).values.tolist() == [[2], [2]]


def test_other_columns_are_another_function():
    code = Code("values.sum(axis=1)")
    code.initialize()
    assert Pipeline("p", [code]).run(FRAME).values.tolist() == [[1], [5], [9]]
    twin = Pipeline("q", [Code("b")])
    assert twin.run(FRAME).values.tolist() == [[1], [3], [5]]
    assert twin.run(Frame.of(np.zeros((1, 2)), columns=("b", "a"))).values.tolist() == [[0]]


REFUSED = {
    "no syntax": ("a +", {}, "line 1: invalid syntax: a \\+"),
    "line": ("x = 1\nreturn x +\n", {}, "line 2: invalid syntax"),
    "no return": ("x = a", {}, "needs a `return`"),
    "return of another": ("def f():\n    return 1", {}, "needs a `return`"),
    "break": ("break\nreturn a", {}, "line 1: 'break' outside loop"),
    "import": ("import os\nreturn a", {}, "line 1: imports os, which imports"),
    "from": ("x = 1\nfrom os import path\nreturn a", {"imports": ["math"]}, "line 2: imports os"),
    "relative": ("from . import x\nreturn a", {"imports": ["math"]}, "imports \\., which"),
    "dunder": ("__import__('os').getpid()", {}, "instead of __import__"),
    "generator": ("yield a\nreturn a", {}, "neither yield nor await"),
    "no module": ("a", {"imports": ["import os"]}, "'import os' is no import"),
    "too long": ("a" * 70_000, {}, "over 65536 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_at_once(case):
    source, more, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        Code(source, **more)


def test_misuse_of_the_constructor():
    with pytest.raises(TypeError, match=r"write imports=\['math'\]"):
        Code("a", imports="math")
    with pytest.raises(TypeError, match="source as text, not a function"):
        Code(run)


def test_unknown_names_say_what_there_is():
    with pytest.raises(StageError, match="name 'c' is not defined: the columns are a, b, imports: math"):
        run("c + 1", imports=["math"])
    with pytest.raises(StageError, match="name 'open' is not defined: the rows have no column names, imports: none"):
        run("open('/etc/passwd')", frame=Frame.of(np.zeros((1, 3))))
    with pytest.raises(StageError, match="ModuleNotFoundError: No module named 'nowhere'"):
        run("a", imports=["nowhere"])
    with pytest.raises(StageError, match="a row has no 'a'"):
        run("a", frame=Frame.of([{"a": 1}, {"b": 1}]))


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(StageError, match="column 1 has 2 values for 3 rows"):
        run("a, b[:2]")


def test_a_traceback_shows_the_line():
    with pytest.raises(StageError) as caught:
        run("fine = a\nreturn fine / int('zero')")
    text = "".join(traceback.format_exception(caught.value.original))
    assert "line 2, in code\n    return fine / int('zero')" in text


def test_it_travels_as_parameters_alone():
    code = Code("np.abs(a)", imports=["numpy as np"], columns=["size"])
    code.initialize()
    Pipeline("p", [code]).run(FRAME)
    assert capture(code) is None
    again = Code(**decode_parameters(encode_parameters(parameters_of(code))))
    assert Pipeline("p", [again], output=Output(["size"])).run(FRAME).values.tolist() == [[0], [2], [4]]
    code.cleanup()
    assert Pipeline("p", [code]).run(FRAME).values.tolist() == [[0], [2], [4]]
