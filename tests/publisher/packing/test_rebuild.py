"""A manifest and its blobs give the pipeline back: bit for bit, beside other versions, and packable again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent import Input, Output, Pipeline, Window, rebuild
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import AuthorError, UpdateRejected, WorkerFailed
from publisher.packaging import pack
from publisher.packing.rebuild import from_manifest, load_class, to_manifest
from tests.simulators.workshop import Shelf, Workshop

HELD = """
    import collections, dataclasses, enum, functools
    import numpy as np
    from edge_agent import Filter
    from parts.helper import Tracker

    class Mode(enum.Enum):
        FAST = "fast"

    @dataclasses.dataclass(frozen=True)
    class Level:
        value: float
        mode: Mode

    Pair = collections.namedtuple("Pair", "low high")

    class Node:
        def __init__(self):
            self.next = self

    class Held(Filter):
        def __init__(self, gain=1.0):
            super().__init__(gain=gain)
            self.tracker = Tracker()

        def fit(self, x, y=None):
            self.level = Level(float(x.mean()), Mode.FAST)
            self.pair = Pair(x.min(), x.max())
            self.node = Node()
            self.shared = [self.node, self]
            self.plain = x.copy()
            self.tracker.see(x)
            self.scale = functools.partial(scale, by=self.gain)
            self.random = np.random.default_rng(3)  # what its pickle names is compiled by Cython
            self.cached = cached

        def predict(self, x):
            assert self.level.mode is Mode.FAST and self.node.next is self.node
            assert self.shared[0] is self.node and self.shared[1] is self
            assert self.cached is cached and self.random.bit_generator.state["bit_generator"] == "PCG64"
            return self.scale(x) + self.level.value + self.pair.low + self.tracker.count

    @functools.lru_cache
    def cached(x):
        return x

    def scale(x, by):
        return x * by
    """
ONE = "from edge_agent import Filter\nclass One(Filter):\n    def predict(self, x):\n        return x\n"
HELPER = "class Tracker:\n    count = 0\n    def see(self, x):\n        self.count = len(x)\n"


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    before = {name for name in sys.modules if name.startswith("_fieldcast_")}
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Workshop(root)
    yield made
    made.forget()
    rebuild.forget()
    assert {name for name in sys.modules if name.startswith("_fieldcast_")} <= before


@pytest.fixture
def away(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the author's source out of reach."""

    def leave() -> None:
        workshop.forget()
        sys.path.remove(str(workshop.root))

    monkeypatch.setattr(sys, "path", [*sys.path])
    return leave


def held(workshop: Workshop) -> tuple[Pipeline, dict[str, Any], Shelf]:
    workshop.write({"held.py": HELD, "parts/__init__.py": "", "parts/helper.py": HELPER})
    made = Pipeline("p", [Window(2), workshop.load("held").Held(0.1)], input=Input(["x"]), output=Output(["y"]))
    made.fit(np.linspace(0.1, 0.7, 8).reshape(-1, 1))
    shelf = Shelf()
    return made, to_manifest(made, keep=shelf.keep), shelf


def test_fitted_objects_of_the_authors_classes_come_back_bit_for_bit(workshop: Workshop, away: Any) -> None:
    made, manifest, shelf = held(workshop)
    x = np.random.default_rng(1).normal(size=(40, 1))
    expected = made.predict(x)
    away()
    again = from_manifest(json.dumps(manifest), shelf)
    assert np.array_equal(again.predict(x), expected)
    assert type(again["held"]) is not type(made["held"])
    assert type(again["held"].node).__module__.startswith("_fieldcast_")
    assert not any(b"_fieldcast_" in blob for blob in shelf.blobs.values())


def test_a_loaded_class_is_fitted_and_packed_again_without_its_source(workshop: Workshop, away: Any) -> None:
    _, manifest, shelf = held(workshop)
    away()
    again = from_manifest(manifest, shelf)
    first, second = manifest["stages"][1], to_manifest(again, keep=shelf.keep)["stages"][1]
    assert (second["bundle"], second["fingerprint"]) == (first["bundle"], first["fingerprint"])
    again.fit(np.ones((6, 1)))
    other = Shelf()
    third = to_manifest(again, keep=other.keep)
    assert (third["stages"][1]["bundle"], third["stages"][1]["fingerprint"]) == (first["bundle"], first["fingerprint"])
    assert third["stages"][1]["state"] != first["state"]
    assert not any(b"_fieldcast_" in blob for blob in other.blobs.values()), "logical names, both ways"
    assert np.array_equal(from_manifest(third, other).predict(np.ones((4, 1))), again.predict(np.ones((4, 1))))


def test_a_loaded_class_that_was_patched_is_refused(workshop: Workshop, away: Any) -> None:
    workshop.write({"one.py": ONE})
    shelf = Shelf()
    manifest = to_manifest(workshop.load("one").One(), keep=shelf.keep)
    away()
    again = from_manifest(manifest, shelf)
    type(again["one"]).predict = lambda self, x: x + 1  # type: ignore[attr-defined]
    with pytest.raises(AuthorError, match=r"One\.predict was changed after the class was loaded"):
        to_manifest(again)


def test_versions_live_side_by_side_and_the_first_can_return(workshop: Workshop, away: Any) -> None:
    source = "import utils\n" + ONE.replace("One", "A").replace("return x", "return utils.f(x)")
    manifests, shelf = [], Shelf()
    for factor in (2, 3):
        workshop.write({"a.py": source, "utils.py": f"def f(x):\n    return x * {factor}\n"})
        manifests.append(to_manifest(workshop.load("a").A(), keep=shelf.keep))
    away()
    one, two, back = (from_manifest(manifests[place], shelf) for place in (0, 1, 0))
    assert [float(one_.predict([[1.0]])[0, 0]) for one_ in (one, two, back, one)] == [2.0, 3.0, 2.0, 2.0]
    assert type(one["a"]) is type(back["a"]) is not type(two["a"])
    assert manifests[0]["stages"][0]["fingerprint"] != manifests[1]["stages"][0]["fingerprint"]


def test_two_filters_of_one_pipeline_have_different_modules_of_one_name(
    workshop: Workshop, tmp_path: Path, away: Any
) -> None:
    stages = []
    for name, factor in (("a", 2), ("b", 5)):
        folder = Workshop(tmp_path / name)
        source = f"""
            from edge_agent import Filter
            import utils
            class {name.upper()}(Filter):
                def fit(self, x, y=None):
                    self.seen = utils.Seen()
                def predict(self, x):
                    from utils import f
                    assert type(self.seen) is utils.Seen
                    return f(x)
            """
        folder.write(
            {f"{name}.py": source, "utils.py": f"class Seen: pass\ndef f(x):\n    return x * {factor} + {factor}\n"}
        )
        sys.path.insert(0, str(folder.root))
        stages.append(getattr(folder.load(name), name.upper())())
        stages[-1].fit(None)
        shelf = Shelf()
        stages[-1] = from_manifest(to_manifest(stages[-1], keep=shelf.keep), shelf)[name]
        folder.forget()
        sys.path.remove(str(folder.root))
    away()
    shelf = Shelf()
    both = Pipeline("both", stages, input=Input(["x"]), output=Output(["y"]))
    again = from_manifest(to_manifest(both, keep=shelf.keep), shelf)
    assert again.predict([[1.0]]).tolist() == both.predict([[1.0]]).tolist() == [[25.0]]


def test_a_filter_alone_is_a_pipeline_too(workshop: Workshop) -> None:
    shelf = Shelf()
    manifest = to_manifest(Window(3), keep=shelf.keep)
    assert manifest["pipeline"] == "window"
    assert from_manifest(manifest, shelf).history == Pipeline("p", [Window(3)]).history


def test_load_class_gives_one_class_for_the_same_bytes(workshop: Workshop, away: Any) -> None:
    _, manifest, shelf = held(workshop)
    away()
    ref = next(ref for ref, data in shelf.blobs.items() if data.startswith(b"PK"))
    cls = load_class(shelf.blobs[ref], manifest["stages"][1]["fingerprint"])
    assert cls is load_class(shelf.blobs[ref], manifest["stages"][1]["fingerprint"])
    assert read_bundle(shelf.blobs[ref]).target.endswith(":Held")
    package = pack(Pipeline("p", [cls(2.0)], input=Input(["x"]), output=Output(["y"])))
    assert package.manifest.stages[0].bundle == ref
    assert package.manifest.stages[0].fingerprint == manifest["stages"][1]["fingerprint"]


DAMAGE = {
    "truncated": lambda data: data[:-1],
    "flipped": lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
    "swapped": lambda data: b"another blob",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_blob_is_refused_by_name_and_nothing_is_loaded(workshop: Workshop, damage: str) -> None:
    _, manifest, shelf = held(workshop)
    before = {name for name in sys.modules if name.startswith("_fieldcast_")}
    for ref in shelf.blobs:

        def fetch(wanted: BlobRef, ref: BlobRef = ref) -> bytes:
            return DAMAGE[damage](shelf(wanted)) if wanted == ref else shelf(wanted)

        with pytest.raises(UpdateRejected, match=str(ref.digest)):
            from_manifest(manifest, fetch)
    assert {name for name in sys.modules if name.startswith("_fieldcast_")} == before


def test_a_stage_that_does_not_load_leaves_nothing_and_keeps_others(workshop: Workshop, away: Any) -> None:
    workshop.write(
        {
            "good.py": ONE.replace("One", "Good"),
            "bad.py": "import sys\nfrom edge_agent import Filter\nif 'good' not in sys.modules: raise OSError('no')\n"
            "class Bad(Filter):\n    def predict(self, x):\n        return x\n",
        }
    )
    shelf = Shelf()
    good = workshop.load("good").Good()
    import bad  # type: ignore[import-not-found]

    alone, both = to_manifest(good, keep=shelf.keep), to_manifest(Pipeline("p", [good, bad.Bad()]), keep=shelf.keep)
    away()
    kept = from_manifest(alone, shelf)
    before = {name for name in sys.modules if name.startswith("_fieldcast_")}
    with pytest.raises(WorkerFailed, match="OSError: no"):
        from_manifest(both, shelf)
    assert {name for name in sys.modules if name.startswith("_fieldcast_")} == before
    assert kept.predict([[2.0]]).tolist() == [[2.0]]


def test_a_module_that_only_the_state_knows_is_refused_with_the_line_to_add(workshop: Workshop) -> None:
    workshop.write(
        {
            "one.py": ONE,
            "elsewhere.py": "class Foreign: pass\n",
        }
    )
    one = workshop.load("one").One()
    import elsewhere  # type: ignore[import-not-found]

    one.held = elsewhere.Foreign()
    with pytest.raises(AuthorError, match=r"stage 'one': its state holds something of module elsewhere.*imports = "):
        to_manifest(one)
