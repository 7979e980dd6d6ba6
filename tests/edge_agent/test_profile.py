"""The profile is what a worker would see, gathered without loading what workers load."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edge_agent import profile
from edge_agent.contract.compatibility import Profile
from edge_agent.runtime import onnx_probe

ROOT = Path(__file__).parents[2]
CHILD = """
import sys, msgspec
from edge_agent.profile import collect
first = collect()
assert collect() == first
heavy = {"numpy", "onnxruntime"} & set(sys.modules)
assert not heavy, heavy
sys.stdout.buffer.write(msgspec.json.encode(first))
"""


def test_it_says_what_this_interpreter_is_without_importing_anything_heavy(tmp_path: Path) -> None:
    mine = tmp_path / "mine-9.9.dist-info"
    mine.mkdir()
    (mine / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 9.9\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    answer = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, check=True).stdout
    found = msgspec.json.decode(answer, type=Profile)
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.machine == os.uname().machine
    assert "py3-none-any" in found.tags
    assert f"cp3{sys.version_info[1]}-none-any" in found.tags
    assert found.distributions["msgspec"] == importlib.metadata.version("msgspec")
    assert "mine" not in found.distributions  # an isolated worker does not see PYTHONPATH
    assert found.environment["sys_platform"] == "linux"
    assert found.memory_bytes > 2**20


def test_onnxruntime_is_asked_what_it_loads() -> None:
    runtime = pytest.importorskip("onnxruntime")
    found = profile.collect()
    assert "CPUExecutionProvider" in found.providers
    assert found.opsets["ai.onnx.ml"] >= 3
    newest = found.opsets[""]
    assert newest >= 15
    runtime.InferenceSession(onnx_probe._model("", newest), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="Opset"):
        runtime.InferenceSession(onnx_probe._model("", newest + 1), providers=["CPUExecutionProvider"])


def test_the_probe_prints_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    onnx_probe.main()
    assert msgspec.json.decode(capsys.readouterr().out)["opsets"][""] >= 15


def test_without_onnxruntime_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_distributions", lambda: {"msgspec": "1"})
    found = profile.collect()
    assert (found.providers, found.opsets) == ([], {})


def test_an_onnxruntime_that_does_not_start_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_distributions", lambda: {"onnxruntime": "0.0.broken"})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert profile.collect().opsets == {}
