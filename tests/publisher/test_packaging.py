"""A pipeline is packed into bytes that are the same everywhere and that a device rebuilds."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import AuthorError, Blame, ReasonCode, UpdateRejected, WorkerFailed
from edge_agent.contract.manifest import parse_manifest
from edge_agent.runtime.loader import load_pipeline
from edge_agent.runtime.namespace import Mount
from edge_agent.sdk import selftest
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.update.layout import lay_out
from publisher.packaging import Package, pack

_COUNTER = itertools.count()


class Workshop:
    """An author's project directory whose modules can be imported and forgotten again."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, files: dict[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())

    def load(self, module: str) -> Any:
        self.forget()
        importlib.invalidate_caches()
        return importlib.import_module(module)

    def forget(self) -> None:
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and Path(file).is_relative_to(self.root):
                del sys.modules[name]


def mounted() -> set[str]:
    """Modules of bundles in this process; earlier tests of other files may have left some."""
    return {name for name in sys.modules if name.startswith("_fieldcast_")}


MOUNTED_BEFORE: list[set[str]] = [set()]


@pytest.fixture(autouse=True)
def _before() -> None:
    MOUNTED_BEFORE[0] = mounted()


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Workshop(root)
    yield made
    made.forget()


@pytest.fixture
def rebuild(tmp_path: Path, workshop: Workshop) -> Iterator[Callable[..., Pipeline]]:
    """Lays a package out as a device does and loads it while the author's modules are out of reach."""
    mounts: list[Mount] = []

    def make(package: Package, tunables: dict[str, Any] | None = None) -> Pipeline:
        device = tmp_path / f"device{next(_COUNTER)}"
        device.mkdir()
        for digest, blob in package.blobs.items():
            (device / digest.hex).write_bytes(blob)
        root = lay_out(device / "releases", package.data, lambda ref: device / ref.digest.hex)
        workshop.forget()
        sys.path.remove(str(workshop.root))
        try:
            return load_pipeline(root, tunables or {}, mounts=mounts)
        finally:
            sys.path.insert(0, str(workshop.root))

    yield make
    for mount in mounts:
        mount.unmount()
    assert mounted() <= MOUNTED_BEFORE[0]


def add_model(bias: float = 1.0, *, opset: int = 17) -> bytes:
    """A model of one input that adds `bias`."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "bias"], ["y"])],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor("bias", TensorProto.FLOAT, [1], [bias])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


SOURCE = '''
"""An author's whole project in one file, the pipeline beside its filters."""
from edge_agent import Filter, Input, OnnxModel, Output, Pipeline
import numpy as np
from tools.scaling import FACTOR
import utils


class Scale(Filter):
    requires = ["numpy>=1.26"]

    def __init__(self, gain=2.0, offset=(0.0, 1.0)):
        super().__init__(gain=gain, offset=offset)
        self.mean = None

    def fit(self, x, y=None):
        self.mean = np.asarray(x).mean(axis=0)
        return self

    def predict(self, x):
        from utils import bump
        mean = 0.0 if self.mean is None else self.mean
        return bump((x - mean) * self.gain * FACTOR + self.offset[1])


pipeline = Pipeline(
    "shaping",
    [Scale(), OnnxModel("model.onnx")],
    input=Input(["a", "b"], unit="g", rate_hz=10),
    output=Output(["a", "b"], range=(-1000, 1000)),
    tunable=["gain"],
    self_test="test.csv",
)
'''
PROJECT: dict[str, str | bytes] = {
    "shaping.py": SOURCE,
    "tools/__init__.py": "",
    "tools/scaling.py": "FACTOR = 3.0\n",
    "utils.py": "def bump(x): return x + 1\n",
    "model.onnx": add_model(),
    "test.csv": "a,b\n1,2\n3,4\n",
    "pyproject.toml": '[project]\nname = "shaping"\nversion = "1"\nrequires-python = ">=3.11"\n',
}
X = np.array([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]])


def test_a_pipeline_in_one_file_is_rebuilt_without_its_source(workshop: Workshop, rebuild: Any) -> None:
    workshop.write(PROJECT)
    pipeline = workshop.load("shaping").pipeline
    pipeline.fit(X)
    expected = pipeline.predict(X)
    package = pack(pipeline)
    rebuilt = rebuild(package)

    assert type(rebuilt["scale"]).__module__.startswith("_fieldcast_")
    np.testing.assert_array_equal(rebuilt.predict(X), expected)
    np.testing.assert_array_equal(rebuilt["scale"].mean, X.mean(axis=0))
    assert rebuilt["scale"].offset == (0.0, 1.0)
    assert package.manifest.self_test is not None
    assert "equal within" in selftest.check(rebuilt, package.blobs[package.manifest.self_test.digest])
    assert rebuilt.history == pipeline.history


def test_the_manifest_says_all_that_admission_judges_by(workshop: Workshop) -> None:
    workshop.write(PROJECT)
    package = pack(workshop.load("shaping").pipeline)
    manifest = parse_manifest(package.data)
    scale, model = manifest.stages

    assert manifest == package.manifest
    assert {ref.digest for ref in manifest.blobs()} == set(package.blobs)
    assert all(ref.matches(package.blobs[ref.digest]) for ref in manifest.blobs())
    assert (scale.target, scale.tag, scale.state, scale.models) == ("shaping:Scale", "py3-none-any", None, {})
    assert len(scale.fingerprint) == 64
    assert scale.parameters == {"gain": 2.0, "offset": {"$tuple": [0.0, 1.0]}}
    assert model.target == "edge_agent.sdk.onnx_model:OnnxModel"
    assert model.fingerprint == f"builtin:{model.target}"
    assert model.bundle is None
    assert "path" not in model.parameters
    assert (model.models["path"].name, model.models["path"].opsets) == ("model.onnx", {"": 17})
    assert model.providers == ["CPUExecutionProvider"]
    assert manifest.requires == ["numpy>=1.26", "onnxruntime"]
    assert manifest.requires_python == ">=3.11"
    assert manifest.tunable == ["gain"]
    assert manifest.input.units == {"a": "g", "b": "g"}
    assert package.warnings == []


def test_a_bundle_holds_the_closure_at_its_import_paths(workshop: Workshop) -> None:
    workshop.write(PROJECT)
    package = pack(workshop.load("shaping").pipeline)
    ref = package.manifest.stages[0].bundle
    assert ref is not None
    bundle = read_bundle(package.blobs[ref.digest])
    assert sorted(bundle.members) == ["shaping.py", "tools/__init__.py", "tools/scaling.py", "utils.py"]
    assert (bundle.target, bundle.requires, bundle.requires_python) == ("shaping:Scale", ("numpy>=1.26",), ">=3.11")
    assert bundle.name == "fieldcast-shaping-scale"


def test_packing_again_and_elsewhere_gives_the_same_bytes(workshop: Workshop, tmp_path: Path) -> None:
    workshop.write(PROJECT)
    first = pack(workshop.load("shaping").pipeline)
    assert pack(workshop.load("shaping").pipeline).data == first.data

    other = Workshop(tmp_path / "elsewhere" / "deeper")
    other.write(PROJECT)
    workshop.forget()
    sys.path.insert(0, str(other.root))
    try:
        second = pack(other.load("shaping").pipeline)
    finally:
        sys.path.remove(str(other.root))
        other.forget()
    assert (second.data, second.blobs) == (first.data, first.blobs)


def test_packing_leaves_the_live_pipeline_as_it_was(workshop: Workshop) -> None:
    workshop.write(PROJECT)
    pipeline = workshop.load("shaping").pipeline
    pack(pipeline)
    assert pipeline["onnxmodel"]._session is None, "what was not initialized is not left initialized"
    pipeline.initialize()
    session = pipeline["onnxmodel"]._session
    pack(pipeline)
    assert pipeline["onnxmodel"]._session is session


def test_a_changed_helper_changes_bundle_and_fingerprint_only(workshop: Workshop) -> None:
    workshop.write(PROJECT)
    before = pack(workshop.load("shaping").pipeline).manifest
    workshop.write({"utils.py": "def bump(x): return x + 20\n"})
    after = pack(workshop.load("shaping").pipeline).manifest
    assert before.stages[0].fingerprint != after.stages[0].fingerprint
    assert before.stages[0].bundle != after.stages[0].bundle
    assert before.stages[1] == after.stages[1]


def test_two_stages_whose_bundles_have_modules_of_the_same_name(workshop: Workshop, rebuild: Any) -> None:
    stage = (
        "from edge_agent import Filter\nfrom .utils import K\n"
        + "class {0}(Filter):\n    def predict(self, x): return x + K\n"
    )
    workshop.write(
        {
            "one/__init__.py": "",
            "one/stage.py": stage.format("One"),
            "one/utils.py": "K = 1",
            "two/__init__.py": "",
            "two/stage.py": stage.format("Two").replace("from .utils", "from two.utils"),
            "two/utils.py": "K = 10",
            "main.py": "from edge_agent import *\nfrom one.stage import One\nfrom two.stage import Two\n"
            "pipeline = Pipeline('p', [One(), Two()], input=Input(['a']), output=Output(['a']))\n",
        }
    )
    rebuilt = rebuild(pack(workshop.load("main").pipeline))
    np.testing.assert_array_equal(rebuilt.predict(np.zeros((2, 1))), np.full((2, 1), 11.0))


def test_a_device_sets_tunables_and_nothing_else(workshop: Workshop, rebuild: Any) -> None:
    workshop.write(PROJECT)
    package = pack(workshop.load("shaping").pipeline)
    tuned = rebuild(package, {"gain": 5})["scale"]
    assert (tuned.gain, type(tuned.gain)) == (5.0, float)
    with pytest.raises(WorkerFailed, match=r"'offset' is not offered by this release.*gain") as caught:
        rebuild(package, {"offset": 1})
    assert caught.value.reason.code is ReasonCode.PARAMETERS
    assert caught.value.reason.blame is Blame.RELEASE


# --- requirements --------------------------------------------------------------------------------------------------

NEEDS_NUMPY = """
from edge_agent import Filter, Pipeline, Input, Output
import numpy
class F(Filter):
    {declared}
    def predict(self, x): return numpy.abs(x)
pipeline = Pipeline("p", [F()], input=Input(["a"]), output=Output(["a"]), self_test=[[1.0]])
"""
PYPROJECT = (
    '[project]\nname = "x"\nversion = "1"\nrequires-python = ">=3.12,<4"\ndependencies = ["NumPy >= 2.0", "scipy"]\n'
)


def test_ranges_come_from_the_project_and_the_class_goes_first(workshop: Workshop) -> None:
    workshop.write({"main.py": NEEDS_NUMPY.format(declared="pass"), "pyproject.toml": PYPROJECT})
    package = pack(workshop.load("main").pipeline)
    assert (package.manifest.requires, package.manifest.requires_python) == (["NumPy>=2.0"], "<4,>=3.12")
    assert package.warnings == []
    workshop.write({"main.py": NEEDS_NUMPY.format(declared='requires = ["numpy>=1.25"]')})
    assert pack(workshop.load("main").pipeline).manifest.requires == ["numpy>=1.25"]


def test_an_undeclared_distribution_is_required_by_name_with_the_line_to_add(workshop: Workshop) -> None:
    workshop.write({"main.py": NEEDS_NUMPY.format(declared="pass"), "pyproject.toml": '[project]\nname = "x"\n'})
    package = pack(workshop.load("main").pipeline)
    assert package.manifest.requires == ["numpy"]
    assert package.manifest.requires_python == ">=3.11"
    (warning,) = package.warnings
    assert f'add "numpy>={".".join(np.__version__.split(".")[:2])}" to dependencies in' in warning


def test_a_pipeline_without_self_test_is_packed_with_a_warning(workshop: Workshop) -> None:
    source = NEEDS_NUMPY.format(declared='requires = ["numpy>=1"]').replace(", self_test=[[1.0]]", "")
    workshop.write({"main.py": source})
    package = pack(workshop.load("main").pipeline)
    assert package.manifest.self_test is None
    assert "add self_test=" in package.warnings[0]


# --- what cannot be shipped ----------------------------------------------------------------------------------------

SIMPLE = """
from edge_agent import Filter, Pipeline, Input, Output, OnnxModel
class F(Filter):
    def __init__(self, p=None): super().__init__(p=p)
    def predict(self, x): return x
def make(*stages, **options):
    return Pipeline("p", list(stages), **{"input": Input(["a"]), "output": Output(["a"]), **options})
"""
REFUSED = {
    "no stages": ("make()", "has no stages"),
    "no input": ("make(F(), input=None)", "which input columns it has: add input=Input"),
    "no output": ("make(F(), output=None)", "which output columns it has: add output=Output"),
    "parameter": ("make(F(p=lambda: 1))", "stage 'f': parameter p is a function"),
    "state": ("(lambda f: (setattr(f, 'handle', open(__file__)), make(f))[1])(F())", "stage 'f': F.handle"),
    "not a model": ("make(OnnxModel('bad.onnx'))", "bad.onnx: not an ONNX model"),
    "weights elsewhere": ("make(OnnxModel('split.onnx'))", "its weights lie in gone.bin, which cannot be read"),
    "closure": ("make(__import__('refused').R())", "refused.py:3"),
    "requirement": ("make(__import__('odd').R())", "R.requires: 'not a >< thing'"),
    "requirement by address": ("make(__import__('url').R())", "give a version range instead"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_shipped_is_refused_with_the_way_out(workshop: Workshop, case: str) -> None:
    expression, words = REFUSED[case]
    split = onnx.load_from_string(add_model())
    split.graph.initializer[0].data_location = TensorProto.EXTERNAL
    split.graph.initializer[0].external_data.add(key="location", value="gone.bin")
    base = "from edge_agent import Filter\n{0}class R(Filter):\n    {1}\n    def predict(self, x): return x\n"
    workshop.write(
        {
            "main.py": f"{SIMPLE}\ndef case(): return {expression}\n",
            "bad.onnx": b"not a model",
            "split.onnx": split.SerializeToString(),
            "refused.py": base.format(
                "import importlib, os\nimportlib.import_module(os.environ['X'])\n", "pass"
            ).replace("os.environ['X']", "os.environ.get('X', 'json')"),
            "odd.py": base.format("", 'requires = ["not a >< thing"]'),
            "url.py": base.format("", 'requires = ["numpy @ https://example.org/numpy.whl"]'),
        }
    )
    module = workshop.load("main")
    with pytest.raises(AuthorError) as caught:
        pack(module.case())
    assert words in str(caught.value)


def test_a_model_that_went_away_is_named(workshop: Workshop) -> None:
    workshop.write(PROJECT)
    pipeline = workshop.load("shaping").pipeline
    (workshop.root / "model.onnx").unlink()
    with pytest.raises(AuthorError, match=r"stage 'onnxmodel'.*there is no file .*model.onnx"):
        pack(pipeline)


def test_a_model_whose_name_no_device_could_keep_is_refused(workshop: Workshop) -> None:
    workshop.write(
        {**PROJECT, "mo\ndel.onnx": add_model(), "shaping.py": SOURCE.replace('"model.onnx"', '"mo\\ndel.onnx"')}
    )
    with pytest.raises(AuthorError, match="cannot be shipped: rename it"):
        pack(workshop.load("shaping").pipeline)


def test_a_manifest_that_devices_would_refuse_is_not_packed(workshop: Workshop) -> None:
    workshop.write({"main.py": f"{SIMPLE}\nbig = make(F(p='x' * 300_000))\n"})
    with pytest.raises(AuthorError, match="pipeline p: devices would refuse it: size: manifest of"):
        pack(workshop.load("main").big)


def test_a_module_that_would_shadow_the_library_of_another_python_is_refused(workshop: Workshop) -> None:
    body = "from edge_agent import Filter\nclass R(Filter):\n    def predict(self, x): return x\n"
    workshop.write({"main.py": SIMPLE, "annotationlib.py": body})
    if "annotationlib" in sys.stdlib_module_names:
        pytest.skip("this Python has an annotationlib of its own")
    module = workshop.load("main")
    with pytest.raises(AuthorError, match=r"'annotationlib'.* standard library.*: rename"):
        pack(module.make(workshop.load("annotationlib").R()))


# --- what cannot be loaded -----------------------------------------------------------------------------------------


def changed(package: Package, **changes: Any) -> Package:
    """The package with fields of its first stage changed in the manifest."""
    content = json.loads(package.data)
    content["stages"][0].update(changes)
    return Package(package.manifest, json.dumps(content).encode(), package.blobs, [])


BAD_STAGES: dict[str, tuple[dict[str, Any], str]] = {
    "pinned tag": ({"tag": "cp311-none-any"}, "is cp311-none-any, it is not"),
    "unknown parameter": ({"parameters": {"nonsense": 1}}, "unexpected keyword argument 'nonsense'"),
    "damaged parameter": ({"parameters": {"gain": {"$new": 1}}}, "parameter 'gain' cannot be read"),
}


@pytest.mark.parametrize("case", BAD_STAGES)
def test_a_stage_that_cannot_be_constructed_is_named(workshop: Workshop, rebuild: Any, case: str) -> None:
    changes, words = BAD_STAGES[case]
    workshop.write(PROJECT)
    package = pack(workshop.load("shaping").pipeline)
    with pytest.raises(WorkerFailed) as caught:
        rebuild(changed(package, **changes))
    assert words in str(caught.value)
    assert caught.value.reason.where == "scale"
    assert mounted() <= MOUNTED_BEFORE[0]


def test_a_built_in_filter_that_this_agent_lacks_is_named(workshop: Workshop, rebuild: Any) -> None:
    workshop.write({"main.py": f"{SIMPLE}\npipeline = make(OnnxModel('m.onnx'))\n", "m.onnx": add_model()})
    package = pack(workshop.load("main").pipeline)
    with pytest.raises(WorkerFailed, match="update fieldcast on the device"):
        rebuild(changed(package, target="edge_agent.sdk.onnx_model:Newer"))


def test_code_that_fails_on_the_device_is_named_with_its_line_and_leaves_nothing(
    workshop: Workshop, rebuild: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import sys\nif hasattr(sys, 'on_device'):\n    raise OSError('no such sensor')\n"
    workshop.write({**PROJECT, "utils.py": source + "def bump(x): return x\n"})
    package = pack(workshop.load("shaping").pipeline)
    monkeypatch.setattr(sys, "on_device", True, raising=False)
    with pytest.raises(WorkerFailed, match=r"shaping:Scale: OSError: no such sensor \(utils.py:3\)") as caught:
        rebuild(package)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.reason.code is ReasonCode.START
    assert mounted() <= MOUNTED_BEFORE[0]


def test_a_manifest_that_contradicts_its_pipeline_is_refused(workshop: Workshop, rebuild: Any) -> None:
    workshop.write(PROJECT)
    package = pack(workshop.load("shaping").pipeline)
    content = json.loads(package.data)
    content["tunable"] = ["nothing"]
    with pytest.raises(WorkerFailed, match="tunable 'nothing' is no parameter"):
        rebuild(Package(package.manifest, json.dumps(content).encode(), package.blobs, []))
    with pytest.raises(WorkerFailed, match="tunable 'nothing' is no parameter"):
        rebuild(Package(package.manifest, json.dumps(content).encode(), package.blobs, []), {"nothing": 1})


def test_one_release_is_loaded_twice_and_beside_another(workshop: Workshop, rebuild: Any) -> None:
    workshop.write(PROJECT)
    first = pack(workshop.load("shaping").pipeline)
    workshop.write({"utils.py": "def bump(x): return x + 100\n"})
    second = pack(workshop.load("shaping").pipeline)
    old, new, again = rebuild(first), rebuild(second), rebuild(first)
    np.testing.assert_array_equal(new.predict(X) - old.predict(X), np.full(X.shape, 99.0))
    np.testing.assert_array_equal(old.predict(X), again.predict(X))
    assert type(old["scale"]) is not type(again["scale"])


def test_a_bundle_of_another_class_is_refused_when_laid_out(workshop: Workshop, rebuild: Any) -> None:
    workshop.write(PROJECT)
    package = pack(workshop.load("shaping").pipeline)
    with pytest.raises(UpdateRejected, match="carries shaping:Scale"):
        rebuild(changed(package, target="shaping:Other"))
    assert Digest.of(package.data) not in package.blobs
