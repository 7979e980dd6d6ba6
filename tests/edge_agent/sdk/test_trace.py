"""What every stage gave is written down, bounded, and compared within the self-test's own tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_agent import Filter, Input, Output, Parallel, Pipeline, Window
from edge_agent.sdk import plain, selftest, trace
from edge_agent.sdk.trace import Difference, Seen, decode, difference, encode, watching


class Add(Filter):
    def __init__(self, by: float = 1.0) -> None:
        super().__init__(by=by)

    def predict(self, x: Any) -> Any:
        return x + self.by


class InPlace(Filter):
    def predict(self, x: Any) -> Any:
        x *= 0
        return x


class Fails(Filter):
    def predict(self, x: Any) -> Any:
        raise ValueError("no")


class Gives(Filter):
    """Gives what it was made with."""

    def __init__(self, rows: Any) -> None:
        super().__init__(rows=rows)

    def predict(self, x: Any) -> Any:
        return self.rows


class Opens(Filter):
    live = 0

    def initialize(self) -> None:
        type(self).live += 1

    def cleanup(self) -> None:
        type(self).live -= 1

    def predict(self, x: Any) -> Any:
        return x


def pipeline(*stages: Any) -> Pipeline:
    return Pipeline("p", list(stages), input=Input(["x"]), output=Output(["y"]))


def checked(rows: int = 2, rtol: float = 1e-4) -> bytes:
    return selftest.build(pipeline(Add()), [[float(row)] for row in range(rows)], rtol=rtol)


def seen(*stages: Any, rows: int = 2) -> list[Seen]:
    return trace.trace(pipeline(*stages), checked(rows))


def values(one: Seen) -> Any:
    return plain.decode(one.values)


def test_every_stage_is_seen_inner_ones_before_what_contains_them() -> None:
    inner = Pipeline("inner", [("a", Add()), ("b", Add())])
    both = Parallel({"l": [("left", Add(1.0))], "r": [("right", Add(2.0))]})
    found = seen(inner, ("both", both), ("last", Gives([[1.0], [2.0]])))
    assert [one.stage for one in found] == ["a", "b", "inner", "left", "right", "both", "last"]
    assert values(found[5]).tolist() == [[3.0, 4.0], [4.0, 5.0]]
    assert decode(encode(found)) == found


def test_what_a_later_stage_does_in_place_does_not_change_what_was_seen() -> None:
    found = seen(Add(1.0), InPlace())
    assert values(found[0]).tolist() == [[1.0], [2.0]]
    assert values(found[1]).tolist() == [[0.0], [0.0]]


def test_it_ends_where_a_stage_fails_or_gives_nothing_yet() -> None:
    assert [one.stage for one in seen(Add(), Fails(), Add())] == ["add"]
    assert [(one.stage, one.rows) for one in seen(Window(5), Add())] == [("window", 0)]


def test_the_pipeline_is_left_as_it_was() -> None:
    made = pipeline(Opens(), Add())
    before = made._chain._steps
    assert made.predict([[1.0]])[0, 0] == 2.0
    trace.trace(made, checked())
    assert (Opens.live, made.live) == (1, True)
    made.cleanup()
    trace.trace(made, checked())
    assert Opens.live == 0
    assert made._chain._steps is before
    with pytest.raises(ValueError, match="not a self-test"):
        trace.trace(made, b"\x80")
    assert Opens.live == 0


def test_watching_ends_also_when_the_body_fails() -> None:
    made = pipeline(Add())
    before = made._chain._steps
    with pytest.raises(KeyError), watching(made):
        raise KeyError
    assert made._chain._steps is before


def test_it_is_bounded() -> None:
    rows = trace.CELLS_MAX // 100
    data = selftest.build(pipeline(Add()), [[0.0]] * 500)
    wide = trace.trace(pipeline(Gives(np.zeros((500, 10, 10))), Gives([[0.0]] * 500)), data)
    assert (wide[0].rows, len(values(wide[0]))) == (500, rows)
    huge = trace.trace(pipeline(Gives(["x" * 10_000] * 500), Gives([[0.0]] * 500)), data)
    assert (huge[0].rows, huge[0].values) == (500, b"")


CASES: dict[str, tuple[Any, Any, tuple[str, str, str] | None]] = {
    "equal": (np.zeros((2, 1)), np.zeros((2, 1)), None),
    "within the tolerance": ([[1.0], [2.0]], [[1.00001], [2.0]], None),
    "NaN with NaN": ([[np.nan], [1.0]], np.array([[np.nan], [1.0]]), None),
    "other cell": (np.zeros((2, 3)), np.array([[0, 0, 0], [0, 5.0, 0]]), ("row 1, column 1", "0", "5")),
    "cell in a window": (
        np.zeros((2, 2, 2)),
        np.eye(2)[None] * np.ones((2, 1, 1)),
        ("row 0, column 0, column 0", "0", "1"),
    ),
    "other text": (["a", "b"], ["a", "c"], ("row 1", "'b'", "'c'")),
    "sets are equal whatever their order": ([{"a", "b"}, {1}], [{"b", "a"}, {1}], None),
    "dicts are": ([{"a": 1, "b": 2}] * 2, [{"b": 2, "a": 1}] * 2, None),
    "arrays in rows": (
        [{"a": np.zeros(2)}] * 2,
        [{"a": np.ones(2)}] * 2,
        ("row 0", "{'a': [0.0, 0.0]}", "{'a': [1.0, 1.0]}"),
    ),
    "tuples": ([(1, 2)] * 2, [(1, 3)] * 2, ("row 0, column 1", "2", "3")),
    "other width": ([[1.0]] * 2, [[1.0, 2.0]] * 2, ("row 0", "[1.0]", "[1.0, 2.0]")),
    "what is not plain is not compared": ([object(), 1], [object(), 2], None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_cell_that_differs_is_named(case: str) -> None:
    one, other, expected = CASES[case]
    data = checked()
    runs = [trace.trace(pipeline(("gives", Gives(rows)), ("end", Gives([[0.0]] * 2))), data) for rows in (one, other)]
    found = difference(*runs, data)
    if expected is None:
        assert found is None
    else:
        assert found == Difference(stage="gives", place=expected[0], one=expected[1], other=expected[2])


def test_the_first_stage_that_differs_is_named() -> None:
    found = difference(
        seen(Add(0), ("b", Add(2.0)), ("c", Add())), seen(Add(0), ("b", Add(3.0)), ("c", Add())), checked()
    )
    assert found == Difference(stage="b", place="row 0, column 0", one="2", other="3")


def test_another_number_of_rows_and_an_early_end_are_differences() -> None:
    data = checked(4)
    few, many = seen(Window(2), Add(), rows=4), seen(Window(1), Add(), rows=4)
    found = difference(few, many, data)
    assert found == Difference(stage="window", place="its rows", one="2 rows", other="4 rows")
    whole, short = seen(Add(), ("b", Add())), seen(Add(), ("b", Fails()))
    assert difference(whole, short, data) == Difference(stage="b", place="its rows", one="2 rows", other="no answer")
    assert difference(short, whole, data) == Difference(stage="b", place="its rows", one="no answer", other="2 rows")
    assert difference(seen(("a", Add())), seen(("b", Add())), data) == Difference(
        stage="a", place="what runs", one="a runs", other="b runs"
    )


def test_the_tolerance_is_the_self_tests_own() -> None:
    loose = checked(rtol=0.5)
    runs = [trace.trace(pipeline(Gives([[by], [1.0]])), loose) for by in (1.0, 1.4)]
    assert difference(*runs, loose) is None
    assert difference(*runs, checked()) is not None


@pytest.mark.parametrize("data", [b"", b"\xc1", b"[]", encode([Seen("a", 1)])[:-1]])
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)
