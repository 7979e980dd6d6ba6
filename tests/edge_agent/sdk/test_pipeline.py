"""Pipelines: order of life, names, misuse, and errors that name the stage."""

from __future__ import annotations

import asyncio
import pickle

import numpy as np
import pytest

from edge_agent.contract.manifest import HealthPolicy, InputSpec, OutputSpec
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.pipeline import Health, Input, Output, Pipeline, StageError
from edge_agent.sdk.standardize import Standardize
from edge_agent.sdk.window import Window

XY = Input(["x", "y"], unit="g", rate_hz=10)


class Mean(Filter):
    def predict(self, x):
        return x.mean(axis=1)


class Scale(Filter):
    def __init__(self, factor=2.0):
        super().__init__(factor=factor)

    def transform(self, x):
        return x * self.factor


class Nearest(Filter):
    """Learns one centre for each label, as scikit-learn's authors would write it."""

    def fit(self, x, y):
        self.labels = sorted(set(y))
        self.centres = np.array(
            [np.mean([row for row, one in zip(x, y, strict=True) if one == name], axis=0) for name in self.labels]
        )
        return self

    def predict(self, x):
        nearest = np.linalg.norm(x[:, None] - self.centres, axis=-1).argmin(axis=1)
        return [[self.labels[index]] for index in nearest]


class Recorder(Filter):
    """Writes down what happens to it."""

    def __init__(self, log, name, fails=""):
        self.log, self.name, self.fails = log, name, fails

    def _note(self, what):
        self.log.append(f"{self.name}.{what}")
        if what == self.fails:
            raise OSError(f"{what} of {self.name}")

    def initialize(self):
        self._note("initialize")

    def predict(self, x):
        self._note("predict")
        return x

    def cleanup(self):
        self._note("cleanup")

    def reset(self):
        self._note("reset")


def test_run_goes_through_all_stages_and_names_the_output():
    pipeline = Pipeline("p", [Scale(), Window(2), Mean()], input=XY, output=Output(["mx", "my"]))
    out = pipeline.run(Frame.of(np.arange(8.0).reshape(4, 2), start=10))
    assert out.values.tolist() == [[2, 4], [10, 12]]
    assert out.columns == ("mx", "my")
    assert out.sequences.tolist() == [11, 13]
    assert out.firsts.tolist() == [10, 12]


def test_an_empty_frame_ends_the_run_early():
    log = []
    pipeline = Pipeline("p", [Window(5), Recorder(log, "late")], input=XY, output=Output(["a", "b"]))
    out = pipeline.run(Frame.of(np.zeros((3, 2))))
    assert out.values.shape == (0, 2)
    assert out.columns == ("a", "b")
    assert "late.predict" not in log
    assert len(pipeline.run(Frame.of(np.zeros((0, 2))))) == 0


def test_windows_go_on_from_run_to_run_and_begin_afresh_with_predict():
    pipeline = Pipeline("p", [Window(4)], input=XY)
    assert len(pipeline.run(Frame.of(np.zeros((2, 2))))) == 0
    assert len(pipeline.run(Frame.of(np.zeros((2, 2)), start=2))) == 1
    for _ in range(2):
        assert pipeline.predict(np.zeros((6, 2))).shape == (1, 4, 2)


def test_a_single_column_may_be_flat():
    pipeline = Pipeline("p", [Scale()], input=Input(["x"]), output=Output(["y"]))
    assert pipeline.predict([1.0, 2.0]).tolist() == [[2.0], [4.0]]


def test_predict_takes_lists_and_frames():
    class Upper(Filter):
        def predict(self, x):
            return [text.upper() for text in x]

    assert Pipeline("p", [Upper()], output=Output(["text"])).predict(["a", "b"]) == [["A"], ["B"]]
    frame = Frame.of([[1.0, 2.0]], start=7)
    assert Pipeline("p", [Scale()], input=XY).predict(frame).tolist() == [[2.0, 4.0]]


def test_a_stage_may_work_in_place_without_harm():
    class InPlace(Filter):
        def predict(self, x):
            x += 1
            return x

    pipeline = Pipeline("p", [InPlace()], input=XY)
    given = np.zeros((1, 2))
    pipeline.predict(given)
    pipeline.predict(Frame.of(given))
    received = np.frombuffer(bytes(16)).reshape(1, 2)
    assert pipeline.run(Frame(received, [0], [0])).values.tolist() == [[1, 1]]
    assert given.tolist() == [[0, 0]]


def test_async_stages():
    class Slow(Filter):
        async def initialize(self):
            await asyncio.sleep(0)
            self.ready = True

        async def predict(self, x):
            assert self.ready
            return x + 1

    assert Pipeline("p", [Slow()]).predict([[1.0]]).tolist() == [[2.0]]


# --- names ------------------------------------------------------------------------------------------------------------


def test_stages_are_named_after_their_class():
    class _Hidden(Mean):
        pass

    pipeline = Pipeline("p", [Scale(), ("named", Scale()), Scale(), _Hidden()]).add(Scale()).add(Mean(), "last")
    assert [name for name, _ in pipeline.stages] == ["scale", "named", "scale-2", "hidden", "scale-3", "last"]
    assert isinstance(pipeline["last"], Mean)
    assert repr(Pipeline("p", [Scale()])) == "<Pipeline 'p': scale: Scale(factor=2.0)>"
    assert repr(Pipeline("p")) == "<Pipeline 'p': no stages>"
    with pytest.raises(KeyError, match="pipeline 'p' has no stage 'other': scale, named"):
        pipeline["other"]


SHARED = Scale()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Pipeline("a/b", [Scale()]), ValueError, "pipeline name 'a/b' is not allowed"),
        (lambda: Pipeline("p", Scale()), TypeError, r"stages must be a list of filters: write \[Scale"),
        (lambda: Pipeline("p", 5), TypeError, "stages must be a list"),
        (lambda: Pipeline("p", [Scale]), TypeError, r"stage Scale is a class: write Scale\(…\)"),
        (lambda: Pipeline("p", [len]), TypeError, "a builtin_function_or_method cannot be a stage: subclass"),
        (lambda: Pipeline("p", [("a", Scale(), 1)]), TypeError, r"a filter or a pair \(name, filter\)"),
        (lambda: Pipeline("p", [("a", Scale()), ("a", Mean())]), ValueError, "stage name 'a' is used twice"),
        (lambda: Pipeline("p", [("a b", Scale())]), ValueError, "stage name 'a b' is not allowed"),
        (lambda: Pipeline("p", [SHARED, SHARED]), ValueError, "stands in the pipeline twice .*make two"),
        (lambda: Pipeline("p", [Filter()]), TypeError, "Filter has neither predict"),
        (lambda: Pipeline("p", [], input=["x"]), TypeError, r"input must be Input\(columns"),
        (lambda: Pipeline("p", [], output="x"), TypeError, r"output must be Output\(columns"),
        (lambda: Pipeline("p", [Scale()], tunable="factor"), TypeError, r"write tunable=\['factor'\]"),
        (lambda: Pipeline("p", [Scale()], tunable=["facter"]), ValueError, "did you mean 'factor'"),
        (lambda: Pipeline("p", [Scale(), Scale()], tunable=["factor"]), ValueError, "scale.factor or scale-2.factor"),
        (lambda: Pipeline("p", [Window(10, hop=5), Mean(), Window(4)]), ValueError, "every 5 .*hop=20 for every 4"),
        (lambda: Pipeline("p").run(Frame.of([1])), ValueError, "pipeline 'p' has no stages"),
    ],
)  # fmt: skip
def test_misuse(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_specs_and_tunables_are_kept_for_the_manifest():
    pipeline = Pipeline(
        "p", [Scale(), Window(3)], input=XY, output=Output(["a", "b"], range=(0, 1)), tunable=["factor", "window.hop"]
    )
    assert pipeline.input == InputSpec(columns=["x", "y"], units={"x": "g", "y": "g"}, rate_hz=10)
    assert pipeline.output == OutputSpec(columns=["a", "b"], ranges={"a": (0, 1), "b": (0, 1)})
    assert pipeline.tunables() == {"factor": ("scale", "factor"), "window.hop": ("window", "hop")}
    assert pipeline.health_policy == HealthPolicy()
    again = Pipeline("p", pipeline.stages, input=pipeline.input, output=pipeline.output, health=Health(shadow_frames=3))
    assert again.input is pipeline.input
    assert again.health_policy.shadow_frames == 3


def test_history_counts_input_samples():
    class Remembering(Scale):
        warmup_rows = 7

    assert Pipeline("p", [Scale()]).history == 0
    assert Pipeline("p", [Window(10, hop=5)]).history == 15
    assert Pipeline("p", [Remembering(), Window(10, hop=5), Mean(), Window(4, hop=5), Remembering()]).history == (
        7 + 15 + 4 * 5 + 5 + 7 * 5
    )


def test_history_is_enough_for_chained_windows():
    def build():
        return Pipeline("p", [Window(6, hop=3), Mean(), Window(4, hop=6), Mean()], input=XY)

    rows = Frame.of(np.random.default_rng(1).normal(size=(200, 2)))
    old, fresh = build(), build()
    old.run(rows.take(slice(0, 101)))
    fresh.run(rows.take(slice(101 - old.history, 101)))
    rest = rows.take(slice(101, None))
    one, other = old.run(rest), fresh.run(rest)
    assert len(one) == 17
    assert one.sequences.tolist() == other.sequences.tolist()
    np.testing.assert_array_equal(one.values, other.values)


# --- life -------------------------------------------------------------------------------------------------------------


def test_initialize_and_cleanup_once_each_and_in_order():
    log = []
    pipeline = Pipeline("p", [("a", Recorder(log, "a")), ("b", Recorder(log, "b"))])
    pipeline.initialize()
    pipeline.initialize()
    pipeline.run(Frame.of([[1.0]]))
    pipeline.cleanup()
    pipeline.cleanup()
    assert log == ["a.initialize", "b.initialize", "a.predict", "b.predict", "b.cleanup", "a.cleanup"]


def test_a_stage_added_later_is_initialized_too():
    log = []
    pipeline = Pipeline("p", [("a", Recorder(log, "a"))])
    pipeline.run(Frame.of([[1.0]]))
    pipeline.add(Recorder(log, "b")).run(Frame.of([[1.0]]))
    assert log == ["a.initialize", "a.predict", "b.initialize", "a.predict", "b.predict"]


def test_a_failing_initialize_cleans_up_what_was_initialized():
    log = []
    pipeline = Pipeline("p", [("a", Recorder(log, "a", "cleanup")), ("b", Recorder(log, "b", "initialize"))])
    with pytest.raises(StageError, match="stage 'b': OSError: initialize of b"):
        pipeline.initialize()
    assert log == ["a.initialize", "b.initialize", "a.cleanup"]


def test_every_stage_is_cleaned_up_even_if_one_fails():
    log = []
    pipeline = Pipeline("p", [("a", Recorder(log, "a")), ("b", Recorder(log, "b", "cleanup"))])
    pipeline.initialize()
    with pytest.raises(StageError, match="stage 'b': OSError: cleanup of b"):
        pipeline.cleanup()
    assert log[-2:] == ["b.cleanup", "a.cleanup"]


def test_a_failing_stage_is_named_with_its_own_error():
    pipeline = Pipeline("p", [Scale(), ("bad", Recorder([], "bad", "predict"))])
    with pytest.raises(StageError, match="stage 'bad': OSError: predict of bad") as caught:
        pipeline.run(Frame.of([[1.0]]))
    assert caught.value.stage == "bad"
    assert isinstance(caught.value.original, OSError)
    assert caught.value.__cause__ is caught.value.original
    assert pickle.loads(pickle.dumps(caught.value)).stage == "bad"


def test_a_wrong_number_of_rows_names_filter_and_counts():
    class Thin(Filter):
        def predict(self, x):
            return x[::2]

    with pytest.raises(StageError, match=r"stage 'thin': ValueError: Thin.predict returned 2 rows for 4 rows"):
        Pipeline("p", [Thin()], input=XY).predict(np.zeros((4, 2)))


def test_an_output_without_its_columns_names_the_last_stage():
    class Dicts(Filter):
        def predict(self, x):
            return [{"b": 1} for _ in x]

    with pytest.raises(StageError, match="stage 'dicts': ValueError: a row has no 'a': its keys are b"):
        Pipeline("p", [Scale(), Dicts()], output=Output(["a"])).predict(np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (None, None),
        (True, None),
        ("", None),
        (False, "stage 'judged': health() returned False"),
        ("drifting", "stage 'judged': drifting"),
        (KeyError("x"), "stage 'judged': health() raised KeyError: 'x'"),
    ],
)
def test_health_is_the_first_veto(verdict, words):
    class Judged(Scale):
        def health(self):
            if isinstance(verdict, Exception):
                raise verdict
            return verdict

    assert Pipeline("p", [Scale(), Judged()]).health() == words


# --- fit --------------------------------------------------------------------------------------------------------------


def labelled():
    rng = np.random.default_rng(0)
    y = np.repeat(["low", "high", "low", "high"], 20)
    return np.where(y == "low", 0.0, 9.0)[:, None] + rng.normal(size=(80, 2)), y


@pytest.mark.parametrize("kind", [np.array, list])
def test_fit_goes_through_the_stages_and_windows_take_the_newest_label(kind):
    x, y = labelled()
    pipeline = Pipeline("p", [Standardize(), Window(5), Mean(), Nearest()], input=XY, output=Output(["label"]))
    assert pipeline.fit(x, kind(y)) is pipeline
    assert pipeline["nearest"].labels == ["high", "low"]
    np.testing.assert_allclose(pipeline["standardize"].mean, x.mean(axis=0))
    assert pipeline.predict(x) == [[label] for label in y[4::5]]


def test_labels_may_already_be_one_for_each_window():
    x, y = labelled()
    pipeline = Pipeline("p", [Window(5), Mean(), Nearest()], input=XY)
    assert pipeline.fit(x, y[4::5]).predict(x) == [[label] for label in y[4::5]]


def test_fit_may_take_the_frame_and_no_labels():
    class Timed(Scale):
        def fit(self, x, *, frame):
            self.first = frame.sequences[0]

    pipeline = Pipeline("p", [Scale(), Timed()], input=XY).fit(np.zeros((3, 2)))
    assert pipeline["timed"].first == 0


def test_fit_begins_anew_each_time():
    log = []
    pipeline = Pipeline("p", [("a", Recorder(log, "a"))])
    pipeline.fit([[1.0]])
    pipeline.fit([[1.0]])
    assert log == ["a.reset", "a.initialize", "a.reset", "a.cleanup", "a.reset", "a.initialize", "a.reset"]


@pytest.mark.parametrize(
    ("stages", "arguments", "error", "message"),
    [
        ([Nearest()], (np.zeros((4, 2)), [1, 2]), StageError, "2 labels for 4 rows here and 4 at the start"),
        (
            [Window(9), Nearest()],
            (np.zeros((4, 2)), [1] * 4),
            StageError,
            "stage 'nearest': ValueError: no rows arrive here",
        ),
        ([Nearest()], (np.zeros((4, 2)), 1), TypeError, "y must hold one label for each row, not be a int"),
        ([Standardize()], (np.full((4, 2), np.nan),), StageError, "stage 'standardize': ValueError: .*NaN"),
        ([Recorder([], "r", "initialize")], (np.zeros((4, 2)),), StageError, "stage 'recorder': OSError"),
    ],
)
def test_fit_refuses(stages, arguments, error, message):
    with pytest.raises(error, match=message):
        Pipeline("p", stages, input=XY).fit(*arguments)
