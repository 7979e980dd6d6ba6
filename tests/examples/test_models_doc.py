"""What docs/MODELS.md shows is code that runs: its blocks are taken from the page, packed, and tried as a device would.

torch is not installed for tests: its block is read, and the same mechanism runs with an .npz file.
"""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="numpy is not installed")

from publisher.comparison.subject import load  # noqa: E402
from publisher.packaging import Package, pack  # noqa: E402 - needs numpy
from publisher.preflight import preflight  # noqa: E402

PAGE = Path(__file__).resolve().parents[2] / "docs" / "MODELS.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
LAYERS = [np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([0.5, 0.0]), np.array([[1.0, -2.0]]), np.array([0.25])]


def block(*words: str) -> str:
    """Return the one block of the page in which all `words` stand."""
    (found,) = [one for one in BLOCKS if all(word in one for word in words)]
    return found


@pytest.fixture(autouse=True)
def leave_no_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what the test imported: the next one has other files of the same names."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in {"network", "release", "comfort"} - before:
        sys.modules.pop(name, None)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "network.py").write_text(block("class Network", "np.load"))
    (tmp_path / "release.py").write_text(block("import Network"))
    names = ("weight0", "bias0", "weight1", "bias1")
    np.savez(tmp_path / "weights.npz", **dict(zip(names, LAYERS, strict=True)))
    return tmp_path


def members(package: Package) -> list[str]:
    """Return what the bundles of a package hold, without their metadata."""
    refs = [stage.bundle for stage in package.manifest.every_stage() if stage.bundle is not None]
    names = [name for ref in refs for name in zipfile.ZipFile(io.BytesIO(package.blobs[ref.digest])).namelist()]
    return [name for name in names if ".dist-info/" not in name]


def expected(rows: Any) -> Any:
    first, bias, second, shift = LAYERS
    return np.maximum(np.asarray(rows) @ first.T + bias, 0) @ second.T + shift


def test_every_block_is_python() -> None:
    assert len(BLOCKS) >= 6
    for one in BLOCKS:
        ast.parse(one)


def test_weights_travel_as_a_blob_and_the_class_without_them(desk: Path) -> None:
    package = pack(load(str(desk / "release.py"), root=desk), root=desk)
    (stage,) = package.manifest.stages
    model = stage.models["weights"]
    assert model.name == "weights.npz"
    assert package.blobs[model.blob.digest] == (desk / "weights.npz").read_bytes()
    assert members(package) == ["network.py"]
    assert stage.state is None, "what initialize() sets is no state"
    assert "weights" not in stage.parameters


def test_a_clean_process_computes_what_the_author_computed(desk: Path) -> None:
    pipeline = load(str(desk / "release.py"), root=desk)
    rows = [[0.0, 1.0], [2.0, -1.0], [3.0, 3.0]]
    np.testing.assert_allclose(pipeline.predict(rows), expected(rows))
    package = pack(pipeline, root=desk)
    for name in ("network.py", "release.py", "weights.npz"):
        (desk / name).unlink()  # the device has none of them
    found = preflight(package, pipeline=pipeline)
    assert not found.refused
    assert "2 rows in, 2 out" in found.words


def test_a_file_that_is_not_there_is_refused_by_its_parameter(desk: Path) -> None:
    (desk / "release.py").write_text(block("import Network").replace("self_test=[[0.0, 1.0], [2.0, -1.0]],", ""))
    (desk / "weights.npz").unlink()
    pipeline = load(str(desk / "release.py"), root=desk)
    with pytest.raises(Exception, match=r"weights = .*weights\.npz"):
        pack(pipeline, root=desk)


def test_the_torch_class_is_the_same_mechanism() -> None:
    tree = ast.parse(block("class Network", "torch.load"))
    (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = {node.name for node in cls.body if isinstance(node, ast.FunctionDef)}
    assert {"files", "initialize", "cleanup", "predict"} <= methods
    assert "weights_only=True" in block("torch.load")


def test_an_estimator_is_fitted_and_pins_its_version(tmp_path: Path) -> None:
    sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    (tmp_path / "comfort.py").write_text(block("LogisticRegression"))
    pipeline = load(str(tmp_path / "comfort.py"), root=tmp_path)
    package = pack(pipeline, root=tmp_path)
    assert f"scikit-learn=={sklearn.__version__}" in package.manifest.requires
    assert any("ONNX" in warning for warning in package.warnings)
    assert not preflight(package, pipeline=pipeline).refused


def test_the_command_line_takes_the_page_too(desk: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "publisher", "closure", "release.py"],
        cwd=desk,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PAGE.parents[1]), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "network.py" in done.stdout
    assert "numpy" in done.stdout
