"""Metrics agree with scikit-learn's, and say what they cannot judge."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.sdk.filter import Filter
from edge_agent.sdk.metrics import METRICS, score
from edge_agent.sdk.pipeline import Input, Output, Pipeline
from edge_agent.sdk.window import Window

RNG = np.random.default_rng(11)
CLASSES = [
    (["a", "b", "b", "c"], ["a", "b", "c", "c"]),
    (["a", "a"], ["b", "b"]),
    ([1, 0, 1, 1, 0], [1, 1, 1, 0, 0]),
    ([True, False], [True, True]),
    (RNG.integers(0, 5, 200), RNG.integers(0, 6, 200)),
]
MEASURED = [
    (RNG.normal(size=50), RNG.normal(size=50)),
    (RNG.normal(size=(50, 3)), RNG.normal(size=(50, 3))),
    (np.full(4, 2.5), np.full(4, 2.5)),
    (np.full(4, 2.5), np.arange(4.0)),
    (np.column_stack([np.ones(4), np.arange(4.0)]), np.column_stack([np.ones(4), np.arange(4.0) ** 2])),
]


@pytest.mark.parametrize(("truth", "given"), CLASSES)
def test_classes_agree_with_scikit_learn(truth, given):
    peer = pytest.importorskip("sklearn.metrics")
    options = {"average": "macro", "zero_division": 0}
    assert score(truth, given) == pytest.approx(
        {
            "accuracy": peer.accuracy_score(truth, given),
            "precision": peer.precision_score(truth, given, **options),
            "recall": peer.recall_score(truth, given, **options),
            "f1": peer.f1_score(truth, given, **options),
        }
    )


@pytest.mark.parametrize(("truth", "given"), MEASURED)
def test_measurements_agree_with_scikit_learn(truth, given):
    peer = pytest.importorskip("sklearn.metrics")
    assert score(truth, given) == pytest.approx(
        {
            "mae": peer.mean_absolute_error(truth, given),
            "mse": peer.mean_squared_error(truth, given),
            "rmse": np.mean(np.sqrt(peer.mean_squared_error(truth, given, multioutput="raw_values"))),
            "r2": peer.r2_score(truth, given),
        }
    )


def test_one_column_is_no_matrix():
    assert score([1.0, 2.0], np.array([[1.0], [4.0]]), ["mae"]) == {"mae": 1.0}
    assert score(["a", "b"], [["a"], ["c"]], ["accuracy"]) == {"accuracy": 0.5}


def test_labels_of_mixed_kinds_stay_what_they_are():
    assert score([["a"], [1]], [["a"], ["1"]], ["accuracy", "recall"]) == {
        "accuracy": 0.5,
        "recall": pytest.approx(1 / 3),
    }


def test_rows_of_several_columns_are_right_as_a_whole():
    assert score([[1, 2], [3, 4]], [[1, 2], [3, 5]], ["accuracy"]) == {"accuracy": 0.5}


def test_own_functions_and_own_names():
    def worst(truth, given):
        return np.abs(truth - given).max()

    assert score([0.0, 1.0], [0.0, 3.0], [worst, "mae"]) == {"worst": 2.0, "mae": 1.0}
    assert score([0.0, 1.0], [0.0, 3.0], {"peak": worst, "mean": "mae"}) == {"peak": 2.0, "mean": 1.0}
    assert set(METRICS) == {"accuracy", "precision", "recall", "f1", "mae", "mse", "rmse", "r2"}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([1], [1], ["f2"]), ValueError, "there is no metric 'f2': accuracy, precision"),
        (([1], [1], "f1"), TypeError, r"write metrics=\['f1'\]"),
        (([1, 2], [1]), ValueError, "2 labels for 1 rows of output"),
        (([], []), ValueError, "no rows to evaluate"),
        ((["a"], ["a"], ["mae"]), TypeError, "measurements need numbers"),
        (([1.0], [1.0], ["r2"]), ValueError, "at least two rows"),
        (([[1, 2]], [[1, 2]], ["f1"]), ValueError, "classes need one column"),
        (([1.0, 2.0], np.zeros((2, 3)), ["mae"]), ValueError, r"shape \(2,\) for output of shape \(2, 3\)"),
    ],
)
def test_what_cannot_be_judged_is_said(arguments, error, words):
    with pytest.raises(error, match=words):
        score(*arguments)


class Loud(Filter):
    def predict(self, x):
        return np.where(x.reshape(len(x), -1).max(axis=1) > 1, "loud", "quiet")


def test_a_pipeline_is_evaluated_on_the_newest_label_of_each_window():
    x = np.array([[0.0], [2.0], [0.0], [0.0], [0.0], [0.0]])
    labels = ["-", "loud", "-", "quiet", "-", "loud"]
    pipeline = Pipeline("p", [Window(2), Loud()], input=Input(["x"]), output=Output(["label"]))
    expected = {"accuracy": pytest.approx(2 / 3), "recall": pytest.approx(0.75)}
    assert pipeline.evaluate(x, labels, metrics=["accuracy", "recall"]) == expected
    assert pipeline.evaluate(x, ["loud", "quiet", "loud"], metrics=["accuracy", "recall"]) == expected
    assert pipeline.evaluate(x, ["a", "b"], ["a", "c"], metrics=["accuracy"]) == {"accuracy": 0.5}
    with pytest.raises(ValueError, match="5 labels for 3 rows here and 6 at the start"):
        pipeline.evaluate(x, labels[:5])
