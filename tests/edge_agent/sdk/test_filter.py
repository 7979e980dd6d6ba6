"""Filters: parameters read back, conventions of the call, and friendly refusals."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk.filter import Filter, apply, construct, parameters_of
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.step import accepts, settle


class Passed(Filter):
    def __init__(self, threshold=0.5, *, names=("a",)):
        super().__init__(threshold=threshold, names=names)

    def predict(self, x):
        return x > self.threshold


class Sklearnish(Filter):
    def __init__(self, threshold=0.5):
        self.threshold = threshold

    def transform(self, x):
        return x * self.threshold


class Open(Filter):
    def __init__(self, size, **others):
        super().__init__(size=size, **others)


@dataclass
class Data(Filter):
    gain: float = 2.0

    def predict(self, x):
        return x * self.gain


class Bare(Filter):
    def predict(self, x):
        return x


@pytest.mark.parametrize(
    ("target", "parameters", "text"),
    [
        (Passed(0.7), {"threshold": 0.7, "names": ("a",)}, "Passed(threshold=0.7, names=('a',))"),
        (Sklearnish(3), {"threshold": 3}, "Sklearnish(threshold=3)"),
        (Open(2, gain=1, colour="red"), {"size": 2, "gain": 1, "colour": "red"}, "Open(size=2, gain=1, colour='red')"),
        (Bare(), {}, "Bare()"),
        (Bare(a=1), {"a": 1}, "Bare(a=1)"),
    ],
)
def test_parameters_are_read_back(target, parameters, text):
    assert parameters_of(target) == parameters
    assert repr(target) == text
    assert parameters_of(construct(type(target), parameters)) == parameters


def test_dataclass_filters_work():
    assert parameters_of(Data(3.0)) == {"gain": 3.0}
    assert apply(Data(3.0), Frame.of([[1.0]])).values.tolist() == [[3.0]]


def test_a_parameter_that_is_not_kept_is_named():
    class Forgetful(Filter):
        def __init__(self, threshold):
            pass

    with pytest.raises(AuthorError, match=r"Forgetful takes a parameter 'threshold' .*super\(\).__init__\(threshold="):
        parameters_of(Forgetful(1))
    assert repr(Forgetful(1)) == "Forgetful(…)"


@pytest.mark.parametrize("signature", ["self, *sizes", "self, size, /"])
def test_positional_only_parameters_are_refused(signature):
    space: dict = {"Filter": Filter}
    exec(f"class Odd(Filter):\n    def __init__({signature}):\n        self.size = 1", space)
    with pytest.raises(AuthorError, match="by position only"):
        parameters_of(space["Odd"](1))


def test_a_constructor_that_changes_its_parameter_is_refused():
    class Doubling(Filter):
        def __init__(self, size=1):
            self.size = size * 2

    with pytest.raises(AuthorError, match=r"Doubling.__init__ changes its parameter 'size' \(2 becomes 4\)"):
        construct(Doubling, parameters_of(Doubling()))


def test_a_constructor_that_fails_is_refused_with_its_error():
    class Strict(Filter):
        def __init__(self, size=1):
            self.size = None
            if size is None:
                raise ValueError("size needed")

    with pytest.raises(AuthorError, match=r"Strict cannot be constructed again .*\(size\): ValueError: size needed"):
        construct(Strict, parameters_of(Strict()))


def test_parameters_that_are_not_plain_are_left_to_the_encoder():
    marker = object()
    assert construct(Bare, {"thing": marker}).thing is marker


@pytest.mark.parametrize("name", ["predict", "fit", "health", "initialize"])
def test_a_parameter_must_not_hide_a_method(name):
    with pytest.raises(ValueError, match=f"cannot be called {name!r}, that is a method"):
        Bare(**{name: 1})


@pytest.mark.parametrize("name", ["requires", "data"])
def test_class_attributes_are_checked_when_the_class_is_written(name):
    with pytest.raises(TypeError, match=rf"Wrong.{name} must be a list: write {name} = \['scipy'\]"):
        type("Wrong", (Filter,), {name: "scipy"})
    with pytest.raises(TypeError, match="must be a list of strings"):
        type("Wrong", (Filter,), {name: ["scipy", 1]})
    assert type("Right", (Filter,), {name: ["scipy"]}).requires in ([], ["scipy"])


def test_defaults_do_nothing():
    bare = Bare()
    assert (bare.initialize(), bare.cleanup(), bare.reset(), bare.health(), bare.upgrade({}, "")) == (None,) * 5
    assert bare.fit([1]) is bare
    assert bare.files() == {}
    assert bare.warmup_rows == 0
    with pytest.raises(NotImplementedError, match="Filter defines neither"):
        Filter().predict([1])


# --- the call ---------------------------------------------------------------------------------------------------------


FRAME = Frame.of(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), columns=["a", "b"], start=5)


def answering(answer):
    class Smooth(Filter):
        def predict(self, x):
            return answer(x) if callable(answer) else answer

    return Smooth()


def test_predict_and_transform_are_both_called():
    assert apply(Sklearnish(2), FRAME).values.tolist() == [[2, 4], [6, 8], [10, 12]]
    assert apply(Passed(3), FRAME).values.tolist() == [[False, False], [False, True], [True, True]]


def test_predict_comes_before_transform():
    class Both(Filter):
        def predict(self, x):
            return x + 1

        def transform(self, x):
            raise AssertionError

    assert apply(Both(), FRAME).values[0].tolist() == [2, 3]


def test_the_frame_is_given_where_it_is_asked_for():
    class Timed(Filter):
        def predict(self, x, *, frame):
            assert x is frame.values
            return np.column_stack([frame.sequences, [frame.columns.index("b")] * len(frame)])

    assert apply(Timed(), FRAME).values.tolist() == [[5, 1], [6, 1], [7, 1]]


def test_equal_length_inherits_times():
    found = apply(answering(lambda x: x * 2), FRAME)
    assert found.sequences is FRAME.sequences
    assert found.columns == ("a", "b")
    assert apply(answering(lambda x: x[:, :1]), FRAME).columns == ()


@pytest.mark.parametrize("answer", [["x", "y", "z"], ("x", "y", "z")])
def test_lists_and_tuples_are_rows(answer):
    assert apply(answering(answer), FRAME).values == ["x", "y", "z"]


def test_array_likes_are_rows():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3)

    assert apply(answering(Tensor()), FRAME).values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("answer", [[], np.empty((0, 4))])
def test_nothing_yet_is_an_empty_frame(answer):
    found = apply(answering(answer), FRAME)
    assert len(found) == 0


def test_a_frame_may_have_any_length():
    found = apply(answering(lambda x: FRAME.take([2])), FRAME)
    assert found.sequences.tolist() == [7]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, TypeError, r"Smooth.predict returned None: .*is a `return` missing"),
        (np.zeros((2, 2)), ValueError, r"Smooth.predict returned 2 rows for 3 rows, .*frame.take\(kept\)"),
        ([1], ValueError, "Smooth.predict returned 1 row for 3 rows"),
        (4.2, TypeError, "Smooth.predict returned a float for 3 rows"),
        (np.float64(4.2), TypeError, "Smooth.predict returned a ndarray for 3 rows|returned a float64"),
        ("abc", TypeError, "returned a str for 3 rows"),
        ({"a": 1}, TypeError, "returned a dict for 3 rows"),
        ((value for value in [1, 2, 3]), TypeError, "returned a generator for 3 rows"),
    ],
)
def test_answers_that_mean_nothing_are_refused(answer, error, message):
    with pytest.raises(error, match=message):
        apply(answering(answer), FRAME)


def test_a_filter_without_a_call_is_refused():
    class Nothing(Filter):
        pass

    with pytest.raises(TypeError, match=r"Nothing has neither predict\(self, x\) nor transform"):
        apply(Nothing(), FRAME)


class Slow(Filter):
    async def predict(self, x, *, frame):
        await asyncio.sleep(0)
        return x + len(frame)


def test_async_predict_is_awaited():
    assert apply(Slow(), FRAME).values[0].tolist() == [4, 5]


def test_async_predict_is_awaited_within_a_running_loop():
    async def notebook():
        return apply(Slow(), FRAME)

    assert asyncio.run(notebook()).values[0].tolist() == [4, 5]


def test_async_failures_arrive():
    async def fails():
        raise KeyError("x")

    with pytest.raises(KeyError):
        settle(fails())
    assert settle(3) == 3


def test_accepts_knows_keywords_only():
    assert accepts(lambda x, *, frame: 0, "frame")
    assert accepts(lambda x, frame=None: 0, "frame")
    assert not accepts(lambda x, *frame: 0, "frame")
    assert not accepts(lambda x, **frame: 0, "frame")
    assert not accepts(dict.fromkeys, "frame")
    assert not accepts(int, "frame")
