"""What differs between two editions is said in words, and shown."""

# ruff: noqa: E501 - the tables hold sources and edits
from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_agent.contract.errors import AuthorError, ConfigError
from edge_agent.sdk.filter import Filter
from publisher import founding
from publisher.comparison.difference import Difference, compare
from publisher.comparison.edition import Edition, open_edition
from publisher.config import Home
from publisher.packaging import Package, pack
from publisher.packing.project import find_pipeline
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.repository import Channel

FILES = {
    "acme/__init__.py": "",
    "acme/filters.py": '''\
"""Filters."""
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from edge_agent import Filter, Input, Output, Pipeline

from . import dsp
from .dsp import bandpass as shape

K = 3
TABLE = {}
TABLE["a"] = 1
WEIGHTS = (Path(__file__).parent / "weights.csv").read_text()


class Base(Filter):
    gain = 2

    def twice(self, x):
        return x * self.gain


class Detector(Base):
    """Detect."""

    limit_max = 10

    def __init__(self, limit=80.0):
        super().__init__(limit=limit)

    @property
    def level(self):
        return self.limit

    def fit(self, x, y=None):
        self.mean = x.mean(0)
        return self

    def predict(self, x):
        return shape(self.twice(x)) * K + TABLE["a"] + len(WEIGHTS) + dsp.C


class Other(Filter):
    def predict(self, x):
        return x


pipeline = Pipeline("det", [Detector(limit=80.0)], input=Input(["t"]), output=Output(["t"]), self_test=[[1.0], [2.0]])
''',
    "acme/dsp.py": "C = 5\n\n\ndef bandpass(x):\n    return far(x)\n\n\ndef lowpass(x):\n    return x\n\n\ndef far(x):\n    return x\n",
    "acme/weights.csv": "1,2\n",
}
F, D = "acme/filters.py", "acme/dsp.py"
Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    count = iter(range(99))

    def make(*edits: tuple[str, str, str]) -> Path:
        root = tmp_path / f"tree{next(count)}"
        for name, text in FILES.items():
            for file, old, new in edits:
                if file == name:
                    assert old in text, old
                    text = text.replace(old, new, 1)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root

    return make


def differ(a: Path, b: Path, target: str = "acme/filters.py:Detector") -> Difference:
    return compare(open_edition(f"{a}::{target}"), open_edition(f"{b}::{target}"))


WORDS = {
    "constant": ((F, "K = 3", "K = 4"), ["constant K: 3 -> 4"]),
    "constant elsewhere": ((D, "C = 5", "C = 6"), ["constant dsp.C: 5 -> 6"]),
    "helper": ((D, "return far(x)", "return -far(x)"), ["helper dsp.bandpass"]),
    "helper of a helper": ((D, "def far(x):\n    return x", "def far(x):\n    return -x"), ["helper dsp.far"]),
    "helper gone": (
        (D, "return far(x)", "return x"),
        ["helper dsp.bandpass", "helper dsp.far gone"],
    ),
    "method": ((F, "* K + TABLE", "* K - TABLE"), ["method Detector.predict"]),
    "property": ((F, "return self.limit", "return -self.limit"), ["property Detector.level"]),
    "method of a base": ((F, "x * self.gain", "x / self.gain"), ["method Base.twice"]),
    "attribute": ((F, "limit_max = 10", "limit_max = 11"), ["attribute Detector.limit_max: 10 -> 11"]),
    "attribute gone": ((F, "    limit_max = 10\n", ""), ["attribute Detector.limit_max gone"]),
    "method added": (
        (F, "    def fit(self", "    def more(self): return 1\n\n    def fit(self"),
        ["method Detector.more added"],
    ),
    "base": (
        (F, "class Base(Filter):\n    gain", "class Base(Filter, dict):\n    gain"),
        ["base classes of Base: Filter -> Filter, dict"],
    ),
    "decorator": ((F, "class Base", "@dataclass\nclass Base"), ["decorators of Base: none -> dataclass"]),
    "alias": (
        (F, "bandpass as shape", "lowpass as shape"),
        ["name shape in Detector: dsp.bandpass -> dsp.lowpass", "helper dsp.bandpass gone", "helper dsp.lowpass added"],
    ),
    "effect": ((F, 'TABLE["a"] = 1', 'TABLE["a"] = 2'), ["statements that run on import of module filters"]),
    "import": ((F, "import math\n", "import json\n"), ["imports of module filters: math -> json"]),
    "data": (("acme/weights.csv", "1,2", "1,3"), ["data acme/weights.csv"]),
    "requirement": ((F, "import math\n", "import math\n\nimport click\n"), ["requires: none -> click"]),
    "long constant": ((F, "K = 3", "K = " + "1 + " * 60 + "1"), ["constant K: 3 -> 1 + 1 + 1"]),
}


@pytest.mark.parametrize("name", WORDS)
def test_difference_of_classes_in_words_and_source(name: str, build: Build) -> None:
    edit, words = WORDS[name]
    found = differ(build(), build(edit))
    assert not found.equal
    for expected in words:
        assert any(line.startswith(expected) for line in found.words()), (expected, found.words())
    assert f"--- a/{edit[0]}\n+++ b/{edit[0]}\n" in found.source
    changed = [line[1:] for line in found.source.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert any((line.strip() and line.strip() in edit[1] + edit[2]) or edit[1].strip() in line for line in changed)


EQUAL = {
    "nothing": None,
    "comment": (F, "K = 3", "K = 3  # why"),
    "docstring": (F, '"""Detect."""', '"""Find."""'),
    "unused helper": (D, "def lowpass(x):\n    return x", "def lowpass(x):\n    return -x"),
    "another class": (F, "class Other(Filter):\n", "class Other(Filter):\n    k = 1\n"),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_in_meaning(name: str, build: Build) -> None:
    edit = EQUAL[name]
    found = differ(build(), build(edit) if edit else build())
    assert found.equal
    assert found.words() == []
    assert found.source == ""
    assert list(found.reworded) == ([edit[0]] if edit else [])


def test_moved_and_renamed_class(build: Build) -> None:
    root = build((F, "class Detector(Base)", "class Finder(Base)"), (F, "[Detector(", "[Finder("))
    found = compare(open_edition(f"{build()}::{F}:Detector"), open_edition(f"{root}::{F}:Finder"))
    assert "target: acme.filters:Detector -> acme.filters:Finder" in found.words()
    assert not [line for line in found.words() if "Detector gone" in line]
    shutil.move(root / F, root / "acme" / "other.py")
    moved = compare(open_edition(f"{build()}::{F}:Detector"), open_edition(f"{root}::acme/other.py:Finder"))
    assert "target: acme.filters:Detector -> acme.other:Finder" in moved.words()
    assert not [line for line in moved.words() if line.startswith("constant K")]


def test_module_added_and_gone(build: Build) -> None:
    root = build((F, "from . import dsp\n", "from . import dsp, more\n"), (F, "+ dsp.C", "+ dsp.C + more.M"))
    (root / "acme" / "more.py").write_text("M = 1\n")
    found = differ(build(), root)
    assert {"module more added", "constant more.M added"} <= set(found.words())
    assert "--- /dev/null\n+++ b/acme/more.py" in found.source
    back = differ(root, build())
    assert {"module more gone", "constant more.M gone"} <= set(back.words())


def test_binary_data_and_other_encodings(build: Build) -> None:
    one, two = build(), build((F, "K = 3", "K = 4"))
    (one / "acme" / "weights.csv").write_bytes(b"\xff\x00")
    (two / "acme" / "weights.csv").write_bytes(b"\xff\x01\x02")
    for root in (one, two):
        (root / D).write_bytes(b"# coding: latin-1\n# \xe9\r\n" + FILES[D].replace("\n", "\r\n").encode())
    (two / D).write_bytes((two / D).read_bytes().replace(b"C = 5", b"C = '\xe9'"))
    found = differ(one, two)
    assert "Binary files a/acme/weights.csv and b/acme/weights.csv differ (2 bytes and 3 bytes)" in found.source
    assert "-C = 5\n+C = 'é'\n" in found.source


# --- pipelines -----------------------------------------------------------------------------------------------------

PIPELINES = {
    "parameter": (
        (F, "[Detector(limit=80.0)]", "[Detector(limit=75.0)]"),
        "stage detector: parameter limit: 80.0 -> 75.0",
    ),
    "code": ((F, "K = 3", "K = 4"), "stage detector: constant K: 3 -> 4"),
    "stage": (
        (F, "[Detector(limit=80.0)]", "[Detector(limit=80.0), Other()]"),
        "stage other (acme.filters:Other) added",
    ),
    "self-test": ((F, "[[1.0], [2.0]]", "[[1.0], [3.0]]"), "self-test: "),
    "column": ((F, 'Input(["t"])', 'Input(["u"])'), 'input columns: ["t"] -> ["u"]'),
    "range": ((F, 'Output(["t"])', 'Output(["t"], range=(0, 9999))'), 'output ranges: none -> {"t": [0.0, 9999.0]}'),
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Edition:
    """The pipeline as it stands, packed once."""
    root = tmp_path_factory.mktemp("packed")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return open_edition(f"{root}::acme/filters.py:pipeline")


@pytest.mark.parametrize("name", PIPELINES)
def test_difference_of_pipelines(name: str, build: Build, packed: Edition) -> None:
    edit, words = PIPELINES[name]
    found = compare(packed, open_edition(f"{build(edit)}::acme/filters.py:pipeline"))
    assert any(line.startswith(words) for line in found.words()), found.words()


def test_equal_pipelines_in_two_trees(build: Build, packed: Edition) -> None:
    found = compare(packed, open_edition(f"{build((F, 'K = 3', 'K = 3  # why'))}::acme.filters:pipeline"))
    assert found.equal
    assert found.reworded == ("acme/filters.py",)


def test_class_against_the_stage_that_it_is(build: Build, packed: Edition) -> None:
    two = build((F, "K = 3", "K = 4"))
    found = compare(packed, open_edition(f"{two}::{F}:Detector"))
    assert found.words() == ["constant K: 3 -> 4"]
    with pytest.raises(AuthorError, match=r"no stage acme\.filters:Other"):
        compare(packed, open_edition(f"{two}::{F}:Other"))


def test_pipeline_that_does_not_pack_says_why(build: Build) -> None:
    root = build((F, ', input=Input(["t"])', ""))
    with pytest.raises(AuthorError, match="does not say which input"):
        open_edition(f"{root}::{F}:pipeline")
    with pytest.raises(AuthorError, match="not a directory"):
        open_edition(f"{root / 'gone'}::{F}:Detector")


# --- releases ------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return founding.init("fleet", "mqtt://127.0.0.1:1", passphrase="secret", home=tmp_path / "home")


def publish(home: Home, package: Package, channel: str = "staging", **words: str) -> None:
    record = Record(home.record_location)
    for data in package.blobs.values():
        record.put_blob(data)
    Channel(record, home.fleet, channel).publish(
        package.data, pipeline=package.manifest.pipeline, keys=KeyStore(home.keys), passphrase="secret", **words
    )


def test_releases_are_compared_by_their_bundles(build: Build, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    pipeline = find_pipeline("acme.filters:pipeline", directory=build())
    one = pack(pipeline)
    member: Filter = pipeline.stages[0][1]
    member.fit(np.ones((3, 1)))
    two = pack(pipeline)
    member.mean = np.zeros(1)
    three = pack(pipeline)
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        monkeypatch.delitem(sys.modules, name)
    publish(home, one)
    publish(home, two, tag="v2")
    publish(home, three)

    def against(a: str, b: str) -> Difference:
        return compare(open_edition(a, home=home.path), open_edition(b, home=home.path))

    assert against("det@1", "det@1").equal
    assert against("det@3", "det@staging").equal
    assert any(line.startswith("stage detector: state") for line in against("det@1", "det@v2").words())
    tree = build((D, "C = 5", "C = 6"))
    assert against("det@1", f"{build()}::{F}:Detector").equal, "a bundle is what its source was"
    assert against("det@1", f"{tree}::{F}:Detector").words() == ["constant dsp.C: 5 -> 6"]
    with pytest.raises(ConfigError, match="det has det@3"):
        against("det@1", "det@7")
    assert against("det@2", "det@3").words() == ["stage detector: state: mean differs"]
