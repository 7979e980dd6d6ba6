"""Branches and nested pipelines are packed, laid out and rebuilt on a device as the author made them."""

from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.contract.errors import AuthorError, WorkerFailed
from edge_agent.contract.manifest import CONTAINERS, encode_manifest, parse_manifest
from edge_agent.runtime.loader import load_pipeline
from edge_agent.runtime.namespace import Mount
from edge_agent.sdk import selftest
from edge_agent.sdk.code import Code
from edge_agent.sdk.parallel import Parallel
from edge_agent.sdk.pipeline import Input, Output, Pipeline
from edge_agent.sdk.standardize import Standardize
from edge_agent.update.layout import lay_out
from publisher.packaging import Package, pack

SOURCE = """
from edge_agent import Filter, Input, Output, Parallel, Pipeline, Standardize


class Shift(Filter):
    def __init__(self, by=1.0):
        super().__init__(by=by)

    def fit(self, x, y=None):
        self.low = x.min(axis=0)

    def predict(self, x):
        return x - self.low + self.by


inner = Pipeline("inner", [Shift(), Standardize()], output=Output(["u", "v"]), tunable=["shift.by"])
pipeline = Pipeline(
    "branching",
    [Parallel({"right": inner, "left": [Shift(2.0)], "asis": []}), ("last", Shift(0.5))],
    input=Input(["x", "y"]),
    output=Output(["u", "v", "lx", "ly", "x", "y"]),
    self_test=[[1.0, 2.0], [2.0, 3.0]],
)
"""
ROWS = np.random.default_rng(3).normal(size=(20, 2))


@pytest.fixture
def author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    root = tmp_path / "project"
    root.mkdir()
    (root / "branching_author.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module("branching_author")
    del sys.modules["branching_author"]


@pytest.fixture
def package(author: Any) -> Package:
    author.pipeline.fit(ROWS)
    return pack(author.pipeline)


def rebuilt(package: Package, directory: Path, tunables: dict[str, Any] | None = None) -> Pipeline:
    """Lay the package out as a device does, and load it."""
    for digest, blob in package.blobs.items():
        (directory / digest.hex).write_bytes(blob)
    root = lay_out(directory / "releases", package.data, lambda ref: directory / ref.digest.hex)
    mounts: list[Mount] = []
    try:
        return load_pipeline(root, tunables, mounts=mounts)
    finally:
        for mount in mounts:
            mount.unmount()


def test_a_tree_of_stages_is_rebuilt_as_it_was(author, package, tmp_path):
    assert parse_manifest(package.data) == package.manifest
    both, last = package.manifest.stages
    assert (both.target, list(both.branches)) == (CONTAINERS[0], ["right", "left", "asis"])
    assert both.branches["right"][0].target == CONTAINERS[1]
    assert last.bundle == both.branches["left"][0].bundle
    again = rebuilt(package, tmp_path)
    assert [name for name, _ in again.every_stage()] == [name for name, _ in author.pipeline.every_stage()]
    assert isinstance(again["parallel"], Parallel)
    assert list(again["parallel"].branches) == ["right", "left", "asis"]
    np.testing.assert_array_equal(again.predict(ROWS), author.pipeline.predict(ROWS))
    assert package.manifest.self_test is not None
    assert "equal" in selftest.check(again, package.blobs[package.manifest.self_test.digest])
    assert pack(author.pipeline).data == package.data


def test_a_device_may_set_a_tunable_inside(package, author, tmp_path):
    (name,) = package.manifest.tunable
    assert name == "shift.by"
    again = rebuilt(package, tmp_path, {"shift.by": 7})
    assert author.pipeline.tunables()["shift.by"][0] == "shift"
    assert [getattr(one, "by", None) for _, one in again.every_stage()] == [None, None, 7.0, None, 2.0, 0.5]


def test_an_order_that_is_none_of_the_branches_is_refused(package, tmp_path):
    data = package.data.replace(b'"order":["right",', b'"order":["wrong",')
    assert data != package.data
    with pytest.raises(WorkerFailed, match="does not name each of asis, left, right once"):
        rebuilt(Package(package.manifest, data, package.blobs, []), tmp_path)


ENUM = """
import enum
from edge_agent import Filter, Input, Output, Pipeline


class Mode(enum.Flag):
    ADD = 1
    DOUBLE = 2


class Moded(Filter):
    def __init__(self, mode):
        super().__init__(mode=mode)

    def predict(self, x):
        x = x * 2 if Mode.DOUBLE in self.mode else x
        return x + 1 if Mode.ADD in self.mode else x


pipeline = Pipeline("moded", [Moded(Mode.ADD | Mode.DOUBLE)], input=Input(["x"]), output=Output(["y"]))
"""


def test_an_enum_of_the_authors_becomes_the_bundles_own(tmp_path, monkeypatch):
    (tmp_path / "moded_author.py").write_text(ENUM)
    monkeypatch.syspath_prepend(str(tmp_path))
    author = importlib.import_module("moded_author")
    try:
        package = pack(author.pipeline)
    finally:
        del sys.modules["moded_author"]
    assert package.manifest.stages[0].parameters == {"mode": {"$enum": "moded_author:Mode:ADD|DOUBLE"}}
    (tmp_path / "device").mkdir()
    again = rebuilt(package, tmp_path / "device")
    assert type(again["moded"].mode) is not author.Mode
    assert again.predict([[3.0]]).tolist() == [[7.0]]


def test_what_a_snippet_imports_is_required():
    pipeline = Pipeline(
        "snippet",
        [Code("math.pi * np.sqrt(a)", imports=["math", "numpy as np", "msgspec.json"])],
        input=Input(["a"]),
        output=Output(["b"]),
    )
    assert pack(pipeline).manifest.requires == ["msgspec", "numpy"]
    pipeline = Pipeline("p", [Code("a", imports=["my_own"])], input=Input(["a"]), output=Output(["b"]))
    with pytest.raises(AuthorError, match="stage 'code': my_own belongs to no installed distribution"):
        pack(pipeline)


def test_what_cannot_travel_is_refused_before_anything_is_packed():
    stages = [("one", Standardize()), Parallel({"a": [("two", Standardize())]})]
    for _, member in Pipeline("p", stages).every_stage():
        member.lock = threading.Lock()
    pipeline = Pipeline("q", stages[:1], input=Input(["a"]), output=Output(["b"]))
    pipeline.add(Parallel({"b": [("three", stages[0][1].__class__())]}))
    pipeline["three"].call = lambda: 0
    with pytest.raises(
        AuthorError, match=r"stage 'one': Standardize.lock is a lock.*; stage 'three': .*call is a lamb"
    ):
        pack(pipeline)


def test_a_container_whose_parameters_mean_nothing_is_refused(package, tmp_path):
    data = encode_manifest(package.manifest).replace(b'"join":"columns"', b'"join":"sideways"')
    with pytest.raises(WorkerFailed, match="no rule 'sideways'"):
        rebuilt(Package(package.manifest, data, package.blobs, []), tmp_path)
