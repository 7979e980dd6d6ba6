"""The short way through a pipeline of plain stages gives, refuses and blames exactly what the long one does."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from edge_agent import Filter, Frame, Input, Output, Parallel, Pipeline, Standardize, Window
from edge_agent.sdk.pass_through import PassThrough
from edge_agent.sdk.pipeline import StageError
from edge_agent.sdk.trace import watching

ROWS = np.arange(12.0).reshape(4, 3)
NAMES = ["a", "b", "c"]


class Call(Filter):
    """What a function makes of the rows."""

    def __init__(self, function: Any) -> None:
        super().__init__(function=function)

    def predict(self, x: Any) -> Any:
        return self.function(x)


class Framed(Filter):
    def predict(self, x: Any, *, frame: Frame) -> Any:
        return [[int(number), *frame.columns] for number in frame.sequences]


class Asked(Filter):
    async def predict(self, x: Any) -> Any:
        await asyncio.sleep(0)
        return x + 1


class Kept(Filter):
    """How many rows were seen since the stream began."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def reset(self) -> None:
        self.seen = 0

    def predict(self, x: Any) -> Any:
        self.seen += len(x)
        return np.full((len(x), 1), self.seen)


def pipeline(*stages: Any, columns: list[str] | None = None) -> Pipeline:
    made = Pipeline("p", list(stages), input=Input(NAMES), output=Output(columns or NAMES))
    made.initialize()
    return made


def fitted() -> Standardize:
    return Standardize().fit(ROWS)


CHAINS: dict[str, Callable[[], Pipeline]] = {
    "plain": lambda: pipeline(Call(lambda x: x * 2), Call(lambda x: x - 1)),
    "standardized first": lambda: pipeline(fitted(), Call(lambda x: x * 2)),
    "standardized last": lambda: pipeline(Call(lambda x: x * 2), fitted()),
    "one column": lambda: pipeline(Call(lambda x: x.sum(axis=1)), columns=["y"]),
    "lists": lambda: pipeline(Call(lambda x: x.tolist()), Call(lambda x: [row[:1] for row in x]), columns=["y"]),
    "texts": lambda: pipeline(Call(lambda x: np.array(["t"] * len(x))), columns=["y"]),
    "truth": lambda: pipeline(Call(lambda x: x > 5)),
    "no rows": lambda: pipeline(Call(lambda x: []), Call(lambda x: 1 / 0)),
    "no rows at all": lambda: pipeline(Call(lambda x: x[:0]), Call(lambda x: x)),
    "a frame out": lambda: pipeline(Call(lambda x: Frame.of(x[1:], start=7)), Framed(), columns=["n"]),
    "a frame in": lambda: pipeline(Call(lambda x: x + 1), Framed(), columns=["n", *NAMES]),
    "a window": lambda: pipeline(Call(lambda x: x + 1), Window(2), Call(lambda x: x.sum(axis=1))),
    "branches": lambda: pipeline(Parallel({"one": PassThrough(), "two": fitted()}, join="sum")),
    "async": lambda: pipeline(fitted(), Asked(), Call(lambda x: x * 2)),
    "a stream": lambda: pipeline(Kept(), columns=["n"]),
    "other numbers": lambda: pipeline(Call(lambda x: x.astype(np.float32))),
}


@pytest.mark.parametrize("case", CHAINS)
def test_both_ways_give_the_same(case: str) -> None:
    made = CHAINS[case]()
    long = made.predict(Frame.of(ROWS.copy(), columns=NAMES))
    for _ in range(2):
        short = made.predict(ROWS)
        assert type(short) is type(long)
        assert np.asarray(short).tolist() == np.asarray(long).tolist()
    assert ROWS.tolist() == np.arange(12.0).reshape(4, 3).tolist(), "the caller's array is the caller's"


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (lambda: Call(lambda x: 1 / 0), "stage 'bad': ZeroDivisionError"),
    "a number": (lambda: Call(lambda x: 1.0), "stage 'bad': TypeError: Call.predict returned a float for 4 rows"),
    "a single number": (lambda: Call(lambda x: np.array(1.0)), "stage 'bad': TypeError: Call.predict returned a ndar"),
    "nothing": (lambda: Call(lambda x: None), "stage 'bad': TypeError: Call.predict returned None"),
    "too few": (lambda: Call(lambda x: x[1:]), "stage 'bad': ValueError: Call.predict returned 3 rows for 4 rows"),
    "not fitted": (Standardize, "stage 'bad': RuntimeError: Standardize is not fitted yet"),
    "another width": (lambda: Standardize().fit(ROWS[:, :1]), "stage 'bad': ValueError: Standardize was fitted on 1"),
    "a stage inside": (lambda: Call(pipeline(("deep", Call(lambda x: 1 / 0))).predict), "stage 'deep': ZeroDivision"),
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("case", FAULTS)
def test_the_failing_stage_is_named(case: str, place: int) -> None:
    make, words = FAULTS[case]
    stages: list[Any] = [PassThrough(), Call(lambda x: x)]
    made = pipeline(*stages[:place], ("bad", make()), *stages[place:])
    for rows in (ROWS, Frame.of(ROWS.copy(), columns=NAMES)):
        with pytest.raises(StageError) as caught:
            made.predict(rows)
        assert str(caught.value).startswith(words)
        assert caught.value.__cause__ is not caught.value


@pytest.mark.parametrize("rows", [ROWS[:, :2], ROWS[0], ROWS[np.newaxis, :, :2]], ids=lambda rows: str(rows.shape))
def test_wrong_shapes_are_refused_with_the_columns(rows: Any) -> None:
    with pytest.raises(ValueError, match=r"columns \(a, b, c\)"):
        pipeline(fitted()).predict(rows)


def test_nan_passes_and_is_for_validity_to_count() -> None:
    rows = ROWS.copy()
    rows[1, 1] = np.nan
    assert np.isnan(pipeline(fitted()).predict(rows)).sum() == 1


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_, ">f8"])
def test_other_numbers_come_out_as_before(kind: Any) -> None:
    rows = ROWS.astype(kind)
    expected = (rows.astype(np.float64) - ROWS.mean(axis=0)) / ROWS.std(axis=0)
    assert np.array_equal(pipeline(fitted()).predict(rows), expected)


def spoil(x: Any) -> Any:
    x *= 0
    return x


def test_a_stage_that_works_in_place_spoils_nobodys_array() -> None:
    rows = ROWS.copy()
    frozen = ROWS.copy()
    frozen.flags.writeable = False
    for stages in ((Call(spoil),), (fitted(), Call(spoil)), (PassThrough(), Call(spoil))):
        made = pipeline(*stages)
        assert not made.predict(rows).any()
        assert not made.run(Frame.of(frozen, columns=NAMES)).values.any()
        assert np.array_equal(rows, ROWS)


class Careless(Standardize):
    """Standardizes in the array that it is given."""

    def predict(self, x: Any) -> Any:
        x -= self.mean
        x /= self.scale
        return x


def test_a_subclass_does_not_inherit_the_promise_to_leave_its_input() -> None:
    made = pipeline(Careless().fit(ROWS))
    rows = ROWS.copy()
    assert np.array_equal(made.predict(rows), pipeline(fitted()).predict(rows))
    assert np.array_equal(rows, ROWS)


def test_what_was_made_ready_is_made_ready_again_after_every_change() -> None:
    made = pipeline(("scale", fitted()))
    first = made.predict(ROWS)
    scaler = made["scale"]
    assert isinstance(scaler, Standardize)
    scaler.fit(ROWS * 2)
    assert np.array_equal(made.predict(ROWS * 2), first), "fitted anew"
    made.add(Call(lambda x: x + 1))
    assert np.array_equal(made.predict(ROWS * 2), first + 1), "longer"
    made.cleanup()
    assert np.array_equal(made.predict(ROWS * 2), first + 1), "begun again"
    with watching(made) as seen:
        made.predict(ROWS)
    assert [one.stage for one in seen] == ["scale", "call"]
    assert np.array_equal(made.predict(ROWS * 2), first + 1)
    made.fit(ROWS)
    assert np.array_equal(made.predict(ROWS), first + 1), "fitted as a whole"


def test_a_scaler_fitted_to_fewer_columns_in_the_meantime_refuses() -> None:
    made = pipeline(("scale", fitted()))
    made.predict(ROWS)
    made["scale"].fit(ROWS[:, :1])  # type: ignore[union-attr]
    with pytest.raises(StageError, match="was fitted on 1 columns, got 3"):
        made.predict(ROWS)


def test_frames_made_inside_are_as_frozen_as_others_and_can_be_copied() -> None:
    out = pipeline(fitted()).run(Frame.of(ROWS, columns=NAMES))
    for frame in (out, Frame.of(ROWS, columns=NAMES), pickle.loads(pickle.dumps(out)), copy.deepcopy(out)):
        assert type(frame) is Frame
        assert (len(frame), frame.columns) == (4, tuple(NAMES))
        with pytest.raises(FrozenInstanceError):
            frame.values = ROWS  # type: ignore[misc]
        assert not hasattr(frame, "__dict__")
