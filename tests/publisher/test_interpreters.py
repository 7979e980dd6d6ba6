"""One class, several real interpreters: source runs on all of them, a class by value on its own minor version only.

`$FIELDCAST_PYTHONS` names the others (separated as in `$PATH`), each with fieldcast and what workers need installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.simulators.workshop import PACKING, Workshop, pythons

pytestmark = pytest.mark.skipif(not pythons(), reason="needs other interpreters: set FIELDCAST_PYTHONS")

CLASS = """
import numpy as np
from edge_agent import Filter, Input, OnnxModel, Output, Pipeline
from dsp.gain import amplify
from dsp import levels

class Scale(Filter):
    def __init__(self, gain=2.0):
        super().__init__(gain=gain)

    def fit(self, x, y=None):
        self.level_ = levels.Level(float(np.mean(x)), levels.Kind.HIGH)

    def predict(self, x):
        from dsp import levels
        assert self.level_.kind is levels.Kind.HIGH
        return np.asarray([v for v in amplify(x, self.gain)]) + self.level_.value
"""
PIPELINE = """
pipeline = Pipeline(
    "meter", [Scale(), OnnxModel("model.onnx")], input=Input(["x"]), output=Output(["y"]), self_test=[[1.0], [2.0]]
)
"""
FIT = "pipeline.fit([[1.0], [3.0]])\n"  # not in the module: a device imports that
FILES = {
    "dsp/__init__.py": "",
    "dsp/gain.py": "from .levels import ONE\ndef amplify(x, by):\n    return x * by * ONE\n",
    "dsp/levels.py": """
        import dataclasses, enum
        ONE = 1.0
        class Kind(enum.Enum):
            HIGH = "high"
        @dataclasses.dataclass
        class Level:
            value: float
            kind: Kind
        """,
}


def _workshop(root: Path) -> Workshop:
    root.mkdir()
    made = Workshop(root)
    made.write(FILES)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(root / "model.onnx"))
    return made


def _version(python: str) -> str:
    return subprocess.check_output(
        [python, "-c", "import sys; print(*sys.version_info[:2], sep='')"], text=True
    ).strip()


def _rehearse(python: str, out: Path) -> dict[str, Any]:
    command = [python, "-I", "-m", "edge_agent.rehearsal", str(out)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("writer", pythons())
def test_a_class_in_a_module_runs_on_every_interpreter_and_is_the_same_everywhere(writer: str, tmp_path: Path) -> None:
    workshop = _workshop(tmp_path / "project")
    workshop.write({"meter.py": CLASS + PIPELINE, "push.py": "from meter import pipeline\n" + FIT + PACKING})
    said = json.loads(workshop.run("push.py", str(tmp_path / "out"), python=writer))
    here = json.loads(workshop.run("push.py", str(tmp_path / "here")))
    assert said["stages"] == here["stages"], "fingerprint and bundle do not depend on the interpreter"
    assert said["stages"][0][2] == "py3-none-any"
    for reader in (sys.executable, *pythons()):
        answer = _rehearse(reader, tmp_path / "out")
        assert answer["ok"], (reader, answer)
        assert answer["words"].endswith("2 rows in, 2 out, equal within 1e-04")


@pytest.mark.parametrize("writer", pythons())
def test_the_same_class_in_main_runs_on_its_own_minor_version_and_is_refused_elsewhere(
    writer: str, tmp_path: Path
) -> None:
    workshop = _workshop(tmp_path / "project")
    workshop.write({"meter.py": CLASS + PIPELINE + FIT + PACKING})
    said = json.loads(workshop.run("meter.py", str(tmp_path / "out"), python=writer))
    mine = _version(writer)
    assert said["stages"][0][2] == f"cp{mine}-none-any"
    for reader in {sys.executable, *pythons()}:
        answer = _rehearse(reader, tmp_path / "out")
        if _version(reader) == mine:
            assert answer["ok"], answer
        else:
            assert not answer["ok"]
            assert f"cp{mine}" in answer["reasons"][0]["message"]
            assert f"this is cp{_version(reader)}" in answer["reasons"][0]["message"]


def test_a_bundle_that_lies_about_its_interpreter_does_not_crash_the_reader(tmp_path: Path) -> None:
    """The manifest claims the reader's version; only the member's first line stands between it and a crash."""
    writer = next((one for one in pythons() if _version(one) != _version(sys.executable)), None)
    if writer is None:
        pytest.skip("needs an interpreter of another minor version in FIELDCAST_PYTHONS")
    workshop = _workshop(tmp_path / "project")
    workshop.write({"meter.py": CLASS + PIPELINE + FIT + PACKING})
    workshop.run("meter.py", str(tmp_path / "out"), python=writer)
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace(f"cp{_version(writer)}-none", f"cp{_version(sys.executable)}-none"))
    answer = _rehearse(sys.executable, tmp_path / "out")
    assert not answer["ok"]
    assert f"pinned to cp{_version(writer)}" in answer["reasons"][0]["message"]


NEWER = """
import sys
from edge_agent import Filter, Input, Output, Pipeline
if sys.version_info >= (3, 13):
    import newest
{head}
class Same(Filter):
    def predict(self, x):
        return {value}

pipeline = Pipeline("same", [Same()], input=Input(["x"]), output=Output(["y"]), self_test=[[1.0]])
"""
GRAMMAR = {
    "any": ("", "x", ">=3.11"),
    "type parameters": ("def kept[T](x: T) -> T: return x", "kept(x)", ">=3.12"),
    "a type alias of a helper": ("from helper import Row", "x", ">=3.12"),
    "an f-string in its own quotes": ("K = {}", "x if f'{K.get('a')}' else x", ">=3.12"),
    "an f-string in other quotes": ("K = {}", "x if f'{K.get(\"a\")}' else x", ">=3.11"),
    "a long f-string": ("K = {}", "x if f'''{K.get('a')}\\n''' else x", ">=3.11"),
}


def minor_of(python: str) -> int:
    asked = subprocess.run([python, "-c", "import sys; print(sys.version_info.minor)"], capture_output=True, check=True)
    return int(asked.stdout)


def test_a_bundle_asks_for_a_python_that_parses_what_is_surely_imported(tmp_path: Path) -> None:
    newer = next((one for one in pythons() if minor_of(one) == 12), None)
    if newer is None:
        pytest.skip("needs Python 3.12")
    for number, (head, value, _) in enumerate(GRAMMAR.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "m.py").write_text(NEWER.format(head=head, value=value).replace("\\'", "'"))
        (folder / "helper.py").write_text("type Row = list[float]\n")
        (folder / "newest.py").write_text("type Newest = int\n")
    script = (
        "import importlib.util, sys\nfrom publisher.closure import collect\n"
        "from publisher.packing.requirements import Needs\n"
        "for path in sys.argv[1:]:\n"
        "    print(Needs([], '>=3.11', []).for_syntax(collect(path + '/m.py:Same').oldest_minor).python)\n"
    )
    folders = [str(tmp_path / str(number)) for number in range(len(GRAMMAR))]
    done = subprocess.run([newer, "-c", script, *folders], capture_output=True, text=True, check=True, timeout=120)
    assert dict(zip(GRAMMAR, done.stdout.split(), strict=True)) == {name: want for name, (*_, want) in GRAMMAR.items()}
