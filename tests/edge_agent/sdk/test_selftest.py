"""Self-tests travel, compare within a tolerance, and leave no trace."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk import plain, selftest
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.pipeline import Input, Output, Pipeline, StageError
from edge_agent.sdk.window import Window

ROWS = np.arange(24.0).reshape(12, 2)


class Total(Filter):
    def __init__(self, factor=1.0, words=False):
        super().__init__(factor=factor, words=words)
        self.seen = 0

    def predict(self, x):
        self.seen += len(x)
        total = x.sum(axis=(1, 2)) * self.factor
        x[:] = -1  # a stage may work in place
        return [["much" if value > 50 else "little", value] for value in total] if self.words else total


def build(**parameters):
    columns = ["amount", "total"] if parameters.get("words") else ["total"]
    return Pipeline("p", [Window(4), Total(**parameters)], input=Input(["a", "b"]), output=Output(columns))


def test_the_same_pipeline_passes_in_words():
    assert selftest.check(build(), selftest.build(build(), ROWS)) == "12 rows in, 3 out, equal within 1e-04"
    assert selftest.check(build(words=True), selftest.build(build(words=True), ROWS)).startswith("12 rows in, 3 out")


def test_a_little_difference_is_within_tolerance():
    data = selftest.build(build(), ROWS)
    assert selftest.check(build(factor=1.00005), data)
    with pytest.raises(
        selftest.SelfTestFailed, match=r"row 0, column 'total': expected 28, got 28.028 \(tolerance 1e-04\)"
    ):
        selftest.check(build(factor=1.001), data)
    assert issubclass(selftest.SelfTestFailed, AssertionError)


def test_texts_must_be_equal():
    data = selftest.build(build(words=True), ROWS)
    with pytest.raises(selftest.SelfTestFailed, match="row 0, column 'amount': expected 'little', got 'much'"):
        selftest.check(build(words=True, factor=2.0), data)


def test_another_number_of_rows_fails():
    data = selftest.build(build(), ROWS)
    other = Pipeline("p", [Window(6), Total()], input=Input(["a", "b"]), output=Output(["total"]))
    with pytest.raises(selftest.SelfTestFailed, match="12 rows in, 2 out; on the author's machine 3 came out"):
        selftest.check(other, data)


def test_another_number_of_columns_fails():
    data = selftest.build(build(), ROWS)
    with pytest.raises(selftest.SelfTestFailed, match=r"row 0: expected \[28.0\], got \['little', 28.0\]"):
        selftest.check(build(words=True), data)


def test_a_check_leaves_no_trace():
    pipeline = build()
    data = selftest.build(pipeline, ROWS)
    pipeline.run(Frame.of(ROWS[:3]))
    pipeline["total"].seen = 7
    selftest.check(pipeline, data)
    assert pipeline["total"].seen == 7
    assert len(pipeline.run(Frame.of(ROWS[3:4], start=3))) == 1  # the window still held its three samples


def test_the_input_is_shipped_as_it_was():
    data = selftest.build(build(), Frame.of(ROWS, start=100))
    shipped = Frame.from_bytes(plain.decode(data)["input"])
    np.testing.assert_array_equal(shipped.values, ROWS)
    assert shipped.sequences[0] == 100


def test_without_expectation_it_is_enough_to_run():
    content = plain.decode(selftest.build(build(), ROWS))
    assert selftest.check(build(), plain.encode({**content, "expected": None})) == "12 rows in, 3 out"


@pytest.mark.parametrize("rows", [ROWS[:3], ROWS[:0]])
def test_a_test_that_shows_nothing_is_refused(rows):
    with pytest.raises(
        AuthorError, match=r"shows nothing: its 3 rows .*windows need 8 samples|has 0 rows: give it 1 to"
    ):
        selftest.build(build(), rows)


def test_a_failing_stage_is_named():
    with pytest.raises(StageError, match="stage 'total'"):
        selftest.build(build(factor="x"), ROWS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        plain.encode(1),
        plain.encode({"format": 2}),
        plain.encode({"format": 1}),
        plain.encode({"format": 1, "input": b"x"}),
    ],
)
def test_foreign_bytes_are_refused(data):
    with pytest.raises(ValueError):
        selftest.check(build(), data)


class Odd(Filter):
    def __init__(self, cell):
        super().__init__(cell=cell)

    def predict(self, x):
        return [[self.cell] for _ in x]


def test_a_result_that_the_output_does_not_declare_fails_here_and_there():
    narrow = Output(["total"], range={"total": (0, 100)})
    with pytest.raises(selftest.SelfTestFailed, match=r"of p are not what its output declares: total = "):
        selftest.build(Pipeline("p", [Window(4), Total()], input=Input(["a", "b"]), output=narrow), ROWS)
    data = selftest.build(build(), ROWS)
    with pytest.raises(selftest.SelfTestFailed, match="total"):
        selftest.check(Pipeline("p", [Window(4), Total()], input=Input(["a", "b"]), output=narrow), data)


@pytest.mark.parametrize(
    ("mine", "theirs", "fine"),
    [
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        (True, True, True),
        ([1, [2.0]], [1, [2.00001]], True),
        ([1, 2], [1], False),
        ({"a": 1.0}, {"a": 1.00001}, True),
        ({"a": 1.0}, {"b": 1.0}, False),
        (None, None, True),
        ("1", 1, False),
    ],
)
def test_equality_of_cells(mine, theirs, fine):
    data = selftest.build(Pipeline("p", [Odd(theirs)]), [[1.0]])  # nothing declared: anything may come out
    pipeline = Pipeline("p", [Odd(mine)])
    if fine:
        assert selftest.check(pipeline, data)
    else:
        with pytest.raises(selftest.SelfTestFailed, match="row 0, column "):
            selftest.check(pipeline, data)
