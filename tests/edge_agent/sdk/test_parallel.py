"""Branches and nested pipelines: what they run, how they are fitted, named, started and ended."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.parallel import Parallel
from edge_agent.sdk.pipeline import Input, Output, Pipeline, StageError
from edge_agent.sdk.standardize import Standardize
from edge_agent.sdk.window import Window

XY = Input(["x", "y"], rate_hz=10)
ROWS = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


class Scale(Filter):
    def __init__(self, factor=2.0):
        super().__init__(factor=factor)

    def predict(self, x):
        return x * self.factor


class InPlace(Filter):
    def predict(self, x):
        x += 100
        return x


class Mean(Filter):
    def predict(self, x):
        return x.mean(axis=1)


class Recorder(Filter):
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

    def health(self):
        return "unwell" if self.fails == "health" else None


def columns_seen(log):
    class Look(Filter):
        def predict(self, x, *, frame):
            log.append(frame.columns)
            return x

    return Look()


# --- running ----------------------------------------------------------------------------------------------------------


def test_branches_stand_side_by_side_in_the_order_given():
    log = []
    pipeline = Pipeline("p", [Parallel({"raw": [], "double": Scale()}), columns_seen(log)], input=XY)
    assert pipeline.predict(ROWS)[0].tolist() == [1, 2, 2, 4]
    assert log == [("raw.x", "raw.y", "double.x", "double.y")]


def test_a_branch_cannot_disturb_another():
    pipeline = Pipeline("p", [Parallel({"loud": InPlace(), "quiet": [], "louder": [InPlace()]}, join="sum")], input=XY)
    assert pipeline.predict(ROWS).tolist() == (3 * ROWS + 200).tolist()
    rows = [[1.0, "a"], [2.0, "b"]]

    class Wipe(Filter):
        def predict(self, x):
            for row in x:
                row[0] = None
            return x

    wiped = Pipeline("p", [Parallel({"wiped": Wipe(), "kept": []}, join="dict")], output=Output(["wiped", "kept"]))
    assert wiped.predict(rows)[0] == [[None, "a"], [1.0, "a"]]


def test_windows_in_branches_meet_where_both_end():
    branches = {"long": [Window(4, hop=4), Mean()], "short": [Window(2, hop=2), Mean()]}
    pipeline = Pipeline("p", [Parallel(branches)], input=XY)
    x = Frame.of(np.arange(24.0).reshape(12, 2), columns=("x", "y"))
    whole = pipeline.run(x)
    assert whole.sequences.tolist() == [3, 7, 11]
    assert whole.firsts.tolist() == [0, 4, 8]
    assert whole.values[0].tolist() == [3, 4, 5, 6]
    pipeline.reset()
    parts = [pipeline.run(x.take(slice(at, at + 3))) for at in range(0, 12, 3)]
    assert np.concatenate([part.values for part in parts if len(part)]).tolist() == whole.values.tolist()


def test_history_is_enough_for_branches_before_and_behind_windows():
    def build():
        branches = {"long": [Window(6, hop=6), Mean()], "short": [Window(2, hop=3), Mean()]}
        stages = [Window(4, hop=3), Mean(), Parallel(branches), Window(2, hop=6), Mean()]
        return Pipeline("p", stages, input=XY)

    rows = Frame.of(np.random.default_rng(1).normal(size=(200, 2)))
    old, fresh = build(), build()
    assert old.history == 4 + 3 + (6 * 3 + 6) + 2 * 6 + 6
    old.run(rows.take(slice(0, 101)))
    fresh.run(rows.take(slice(101 - old.history, 101)))
    rest = rows.take(slice(101, None))
    one, other = old.run(rest), fresh.run(rest)
    assert len(one) > 10
    assert one.sequences.tolist() == other.sequences.tolist()
    np.testing.assert_array_equal(one.values, other.values)


def test_a_nested_pipeline_is_a_stage_and_names_its_columns():
    log = []
    inner = Pipeline("inner", [Scale(), Scale(10.0)], output=Output(["u", "v"]))
    pipeline = Pipeline("outer", [Scale(0.5), inner, columns_seen(log)], input=XY, output=Output(["a", "b"]))
    assert pipeline.predict(ROWS)[0].tolist() == [10, 20]
    assert log == [("u", "v")]
    assert [name for name, _ in pipeline.every_stage()] == ["scale", "inner", "scale-2", "scale-3", "look"]
    assert pipeline["scale-2"] is inner.stages[0][1]


def test_a_nested_pipeline_that_ends_early_ends_the_run():
    log = []
    inner = Pipeline("inner", [Window(5)], output=Output(["u"]))
    pipeline = Pipeline("outer", [inner, Recorder(log, "late")], input=XY, output=Output(["a", "b"]))
    assert pipeline.predict(ROWS).shape == (0, 2)
    assert log == ["late.initialize"]


def test_a_failure_names_the_innermost_stage():
    bad = Parallel({"a": [Scale()], "b": [("broken", Recorder([], "bad", "predict"))]})
    pipeline = Pipeline("p", [Pipeline("inner", [bad])], input=XY)
    with pytest.raises(StageError, match="stage 'broken': OSError: predict of bad") as caught:
        pipeline.predict(ROWS)
    assert caught.value.__cause__ is caught.value.original


def test_rows_that_cannot_be_joined_name_the_parallel():
    pipeline = Pipeline("p", [("both", Parallel({"a": [], "b": [Mean()]}, join="mean"))], input=XY)
    with pytest.raises(StageError, match=r"stage 'both': ValueError: branch 'b' gives shape \(3, 1\)"):
        pipeline.predict(ROWS)


# --- fitting ----------------------------------------------------------------------------------------------------------


def test_every_branch_is_fitted_on_what_arrives_there():
    first, second = Standardize(), Standardize()
    seen = []

    class Learner(Filter):
        def fit(self, x, y):
            seen.append((x.shape, list(y)))

        def predict(self, x):
            return x

    branches = {"a": [first], "b": [Scale(3.0), Pipeline("inner", [second])], "c": [Window(2), Mean(), Learner()]}
    pipeline = Pipeline("p", [Parallel(branches), Learner()], input=XY)
    x = np.arange(8.0).reshape(4, 2)
    assert pipeline.fit(x, ["n", "o", "p", "q"]) is pipeline
    assert first.mean.tolist() == [3, 4]
    assert second.mean.tolist() == [9, 12]
    assert seen == [((2, 2), ["o", "q"]), ((2, 6), ["o", "q"])]
    assert pipeline.predict(x).shape == (2, 6)


# --- life -------------------------------------------------------------------------------------------------------------


def branching(log, **fails):
    made = {name: Recorder(log, name, fails.get(name, "")) for name in "abcd"}
    inner = Pipeline("inner", [("d", made["d"])])
    return Pipeline("p", [("a", made["a"]), Parallel({"one": [("b", made["b"])], "two": [("c", made["c"]), inner]})])


def test_stages_live_and_end_once_each_in_order():
    log = []
    pipeline = branching(log)
    pipeline.initialize()
    pipeline.predict([[1.0]])
    pipeline.cleanup()
    pipeline.cleanup()
    assert [one for one in log if "predict" not in one] == [
        *("a.initialize", "b.initialize", "c.initialize", "d.initialize"),
        *("d.cleanup", "c.cleanup", "b.cleanup", "a.cleanup"),
    ]
    log.clear()
    pipeline.fit([[1.0]], [0])
    pipeline.cleanup()
    assert sorted(one for one in log if "predict" not in one) == sorted(
        f"{name}.{what}" for name in "abcd" for what in ("initialize", "cleanup")
    )


def test_a_failing_start_cleans_up_what_was_started():
    log = []
    with pytest.raises(StageError, match="stage 'd': OSError: initialize of d") as caught:
        branching(log, d="initialize").initialize()
    assert log[4:] == ["c.cleanup", "b.cleanup", "a.cleanup"]
    assert isinstance(caught.value.__cause__, OSError)


def test_every_stage_is_cleaned_up_even_if_one_fails():
    log = []
    pipeline = branching(log, c="cleanup")
    pipeline.initialize()
    with pytest.raises(StageError, match="stage 'c': OSError: cleanup of c"):
        pipeline.cleanup()
    assert log[4:] == ["d.cleanup", "c.cleanup", "b.cleanup", "a.cleanup"]


def test_a_veto_from_a_branch_names_its_stage():
    assert branching([], d="health").health() == "stage 'd': unwell"
    assert branching([]).health() is None


# --- names ------------------------------------------------------------------------------------------------------------


def test_unnamed_stages_give_way_to_names_that_are_taken():
    both = Parallel({"a": [Scale(), Scale()], "b": [Scale()]})
    assert [name for name, _ in both.every_stage()] == ["scale", "scale-2", "scale-3"]
    pipeline = Pipeline("p", [Scale(), both])
    assert [name for name, _ in pipeline.every_stage()] == ["scale", "parallel", "scale-2", "scale-3", "scale-4"]


BAD = {
    "name twice": (
        lambda: Pipeline("p", [("a", Scale()), Parallel({"x": [("a", Scale())]})]),
        "name 'a' is used twice",
    ),
    "name twice in branches": (lambda: Parallel({"x": [("a", Scale())], "y": [("a", Scale())]}), "'a' is used twice"),
    "no branch": (lambda: Parallel({}), "at least one branch"),
    "branch name": (lambda: Parallel({"a b": []}), "branch name 'a b' is not allowed"),
    "rule": (lambda: Parallel({"a": []}, join="avg"), "no rule 'avg' to join by: columns, first, mean"),
    "hops": (lambda: Parallel({"a": Window(2), "b": Window(3)}), None),
    "hops in pipeline": (lambda: Pipeline("p", [Parallel({"a": Window(2), "b": Window(3)})]), "every 2 and every 3"),
    "hop behind a window": (lambda: Pipeline("p", [Window(4), Parallel({"a": Window(6)})]), "hop=6 counts input"),
    "nested tunable": (
        lambda: Pipeline("p", [Scale(), Pipeline("q", [Scale()], tunable=["factor"])]),
        "tunable 'factor' could mean scale.factor or scale-2.factor",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant_is_refused(case):
    build, words = BAD[case]
    if words is None:
        build()  # only in a pipeline does it matter where rows meet
        return
    with pytest.raises(ValueError, match=words):
        build()


def test_one_filter_cannot_stand_in_two_places():
    one = Scale()
    for build in (
        lambda: Parallel({"a": one, "b": one}),
        lambda: Pipeline("p", [one, Parallel({"a": one})]),
        lambda: Pipeline("p", [Pipeline("q", [one]), one]),
    ):
        with pytest.raises(ValueError, match="mix up its state: make two"):
            build()


def test_only_stages_can_be_branches():
    with pytest.raises(TypeError, match="Parallel takes a dict"):
        Parallel([Scale()])
    with pytest.raises(TypeError, match="cannot be a stage"):
        Parallel({"a": print})


def test_a_nested_pipeline_is_complete():
    inner = Pipeline("inner", [Scale()])
    Pipeline("outer", [inner])
    with pytest.raises(ValueError, match="became a stage of another pipeline"):
        inner.add(Scale())


def test_tunables_reach_into_branches_and_nested_pipelines():
    inner = Pipeline("inner", [("gain", Scale())], tunable=["gain.factor"])
    pipeline = Pipeline("p", [inner, Parallel({"a": [("other", Scale())]})], tunable=["other.factor"])
    assert pipeline.tunable == ["other.factor", "gain.factor"]
    assert pipeline.tunables() == {"other.factor": ("other", "factor"), "gain.factor": ("gain", "factor")}


def test_repr_shows_branches():
    assert repr(Parallel({"a": [Scale()]})) == "<Parallel a: [Scale(factor=2.0)]; join columns>"
