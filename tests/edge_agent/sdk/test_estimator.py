"""Fitted scikit-learn estimators are stages as they are; what they learned pins the version they learned it with."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent import Input, Output, Pipeline, Window, rebuild
from edge_agent.contract.errors import AuthorError
from edge_agent.sdk.estimator import Estimator, as_stage
from publisher.packaging import Package, pack
from publisher.packing.rebuild import from_manifest, to_manifest
from tests.simulators.workshop import Shelf


class Counter:
    """Follows the conventions without scikit-learn."""

    def __init__(self) -> None:
        self.rows = 0

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {}

    def fit(self, x: Any) -> None:
        self.rows = len(x)

    def transform(self, x: Any) -> Any:
        return x + self.rows


def test_anything_of_the_conventions_is_wrapped_and_named_after_its_class() -> None:
    made = Pipeline("p", [Counter(), Counter()])
    assert [name for name, _ in made.stages] == ["counter", "counter-2"]
    made.fit([[1.0], [2.0]])
    assert made.predict([[1.0]]).tolist() == [[5.0]]
    assert "Counter" in repr(made)


def test_windows_come_flat() -> None:
    stage = Estimator.of(Counter())
    assert stage.predict(np.zeros((2, 3, 4))).shape == (2, 12)
    assert stage.predict(np.zeros((2, 3))).shape == (2, 3)


REFUSED = {
    "no estimator": (lambda: Estimator.of(object()), "get_params"),
    "no such method": (lambda: Estimator.of(Counter(), "predict_proba"), "no method 'predict_proba'"),
    "in a pipeline": (lambda: Pipeline("p", [object()]), "cannot be a stage"),  # type: ignore[list-item]
    "class": (lambda: Pipeline("p", [Counter]), "is a class"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_estimator_is_refused(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(TypeError, match=words):
        make()


def test_an_empty_stage_says_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"Estimator\.of"):
        Estimator().predict(np.zeros((1, 1)))


def test_a_filter_stays_a_filter() -> None:
    window = Window(2)
    assert as_stage(window) is window


# --- with scikit-learn ---------------------------------------------------------------------------------------------


@pytest.fixture
def fitted() -> tuple[Pipeline, Any]:
    preprocessing = pytest.importorskip("sklearn.preprocessing", reason="needs scikit-learn (the dev extra)")
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(0, 1, (60, 1)), rng.normal(4, 1, (60, 1))])
    y = np.repeat([0, 1], 60)
    stages = [Window(4), preprocessing.StandardScaler(), LogisticRegression()]
    made = Pipeline("p", stages, input=Input(["x"]), output=Output(["label"]), self_test=x[50:70])
    return made.fit(x, y), x


def test_a_fitted_pipeline_comes_back_bit_for_bit(fitted: tuple[Pipeline, Any]) -> None:
    made, x = fitted
    shelf = Shelf()
    again = from_manifest(to_manifest(made, keep=shelf.keep), shelf)
    assert np.array_equal(again.predict(x), made.predict(x))
    assert {0.0, 1.0} == set(made.predict(x).ravel().tolist())
    model = again["logisticregression"].estimator
    assert np.array_equal(model.coef_, made["logisticregression"].estimator.coef_)


def test_the_version_is_pinned_and_the_way_out_named(fitted: tuple[Pipeline, Any]) -> None:
    import sklearn

    package = pack(fitted[0])
    assert f"scikit-learn=={sklearn.__version__}" in package.manifest.requires
    words = [text for text in package.warnings if "scikit-learn" in text]
    assert len(words) == 2
    assert all("skl2onnx" in text for text in words)
    assert package.manifest.stages[1].bundle is None
    assert package.manifest.stages[1].target == "edge_agent.sdk.estimator:Estimator"


def test_a_worker_runs_it(fitted: tuple[Pipeline, Any], tmp_path: Path) -> None:
    _lay(pack(fitted[0]), tmp_path)
    command = [sys.executable, "-I", "-m", "edge_agent.rehearsal", str(tmp_path)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    answer = json.loads(done.stdout)
    assert answer["ok"], answer
    assert "5 out" in answer["words"]


def test_probabilities_are_asked_for_by_name(fitted: tuple[Pipeline, Any]) -> None:
    made, x = fitted
    model = made["logisticregression"].estimator
    stages = [Window(4), made["standardscaler"].estimator, Estimator.of(model, "predict_proba")]
    shelf = Shelf()
    again = from_manifest(to_manifest(Pipeline("q", stages), keep=shelf.keep), shelf)
    assert np.allclose(again.predict(x).sum(axis=1), 1)


def _lay(package: Package, directory: Path) -> None:
    (directory / "blobs").mkdir()
    (directory / "manifest.json").write_bytes(package.data)
    for digest, blob in package.blobs.items():
        (directory / "blobs" / digest.hex).write_bytes(blob)


OWN = """
from sklearn.base import BaseEstimator, TransformerMixin
import helpers

class Center(TransformerMixin, BaseEstimator):
    def __init__(self, weight=1.0):
        self.weight = weight

    def fit(self, x, y=None):
        self.mean_ = helpers.Mean(x.mean(axis=0))
        return self

    def transform(self, x):
        return (x - self.mean_.value) * self.weight
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("sklearn", reason="needs scikit-learn (the dev extra)")
    (tmp_path / "center_.py").write_text(OWN)
    (tmp_path / "helpers.py").write_text("class Mean:\n    def __init__(self, value):\n        self.value = value\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("center_").Center
    for name in ("center_", "helpers"):
        sys.modules.pop(name, None)
    rebuild.forget()


def test_an_authors_own_estimator_travels_as_source(own: Any) -> None:
    made = Pipeline("p", [own(2.0)]).fit([[1.0], [3.0]])
    shelf = Shelf()
    manifest = to_manifest(made, keep=shelf.keep)
    (stage,) = manifest["stages"]
    assert (stage["target"], stage["parameters"], stage["name"]) == ("center_:Center", {"weight": 2.0}, "center")
    again = from_manifest(manifest, shelf)
    assert again.predict([[1.0], [4.0]]).tolist() == made.predict([[1.0], [4.0]]).tolist() == [[-2.0], [4.0]]
    assert type(again["center"].estimator) is not own  # type: ignore[union-attr]
    assert to_manifest(again)["stages"][0]["bundle"] == stage["bundle"]


def test_an_authors_own_part_of_an_installed_estimator_is_refused_with_the_way_out(own: Any) -> None:
    from sklearn.pipeline import make_pipeline

    with pytest.raises(AuthorError, match=r"module center_.*write a Filter that holds the estimator"):
        to_manifest(Pipeline("p", [make_pipeline(own())]))


def test_another_method_of_an_own_estimator_needs_a_filter(own: Any) -> None:
    with pytest.raises(AuthorError, match="fit_transform of Center cannot be asked for"):
        to_manifest(Estimator.of(own(), "fit_transform"))
