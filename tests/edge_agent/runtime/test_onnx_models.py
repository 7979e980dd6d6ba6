"""Models of all kinds in a release, loaded by sandboxed workers without their author's files: the same numbers."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import AuthorError, UpdateRejected
from edge_agent.contract.manifest import encode_manifest, parse_manifest
from edge_agent.sdk.onnx_model import OnnxModel
from edge_agent.update.wholeness import intact
from tests.simulators.release import Releases
from tests.simulators.slot import ScriptedSource, Slot

WIDTH = 4
RNG = np.random.default_rng(5)
WEIGHTS = {"w": RNG.normal(size=(WIDTH, 8)).astype(np.float32), "v": RNG.normal(size=(8, 1)).astype(np.float32)}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def slot(releases: Releases) -> Iterator[Slot]:
    names = ("x", *(f"x{number}" for number in range(1, WIDTH)))
    with Slot(ScriptedSource(names)) as made:
        yield made


def net(where: dict[str, str]) -> onnx.ModelProto:
    """Return two dense layers; `where` names files for some of the weights."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("MatMul", ["t", "v"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(value, name) for name, value in WEIGHTS.items()],
    )
    for tensor in graph.initializer:
        if tensor.name in where:
            onnx.external_data_helper.set_external_data(tensor, where[tensor.name])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def split(directory: Path, where: dict[str, str]) -> Path:
    """Write the model and its weights as `where` says, and return the model's path."""
    directory.mkdir()
    for name in where.values():
        (directory / name).parent.mkdir(exist_ok=True)
    path = directory / "net.onnx"
    onnx.save(net(where), path)
    return path


def quantized(directory: Path) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Samples(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.left = iter([{"x": np.full((1, WIDTH), number, np.float32)} for number in range(10)])

        def get_next(self) -> Any:
            return next(self.left, None)

    whole = split(directory, {})
    quantize_static(whole, directory / "int8.onnx", Samples(), quant_format=QuantFormat.QOperator)
    kinds = {node.op_type for node in onnx.load(directory / "int8.onnx").graph.node}
    assert "QLinearMatMul" in kinds, kinds
    whole.unlink()
    return directory / "int8.onnx"


MODELS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "int8": (quantized, []),
    "one file of weights": (lambda path: split(path, {"w": "net.bin", "v": "net.bin"}), ["net.bin"]),
    "two, one below": (lambda path: split(path, {"w": "w.bin", "v": "deep/v.bin"}), ["deep/v.bin", "w.bin"]),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_gives_the_same_numbers_in_a_worker_without_its_authors_files(
    slot: Slot, releases: Releases, tmp_path: Path, case: str
) -> None:
    make, beside = MODELS[case]
    stage = OnnxModel(make(tmp_path / "author"))
    stage.initialize()
    rows = np.repeat(np.arange(10.0)[:, np.newaxis], WIDTH, axis=1)
    expected = [row[0] for row in np.asarray(stage._session.run(None, {"x": rows.astype(np.float32)})[0]).tolist()]
    plan = releases.stages(1, [stage], columns=WIDTH, self_test=rows[:3])
    model = parse_manifest((plan.root / "manifest.json").read_bytes()).stages[0].models["path"]
    assert sorted(model.beside) == beside
    stage.cleanup()
    shutil.rmtree(tmp_path / "author")
    slot.run(plan)
    slot.feed(10)
    slot.wait_for_done()
    assert [message.values["y"] for message in slot.sink.messages] == expected
    assert slot.lane.counters["errors"] == 0


def test_equal_graphs_with_other_weights_do_not_share_them(releases: Releases, tmp_path: Path) -> None:
    path = split(tmp_path / "one", {"w": "net.bin", "v": "net.bin"})
    shutil.copytree(path.parent, tmp_path / "two")
    weights = array("f", (path.parent / "net.bin").read_bytes())
    (tmp_path / "two" / "net.bin").write_bytes(array("f", [value * 2 for value in weights]).tobytes())
    stages = [OnnxModel(path), OnnxModel(tmp_path / "two" / path.name)]
    package = releases.pack([releases.module.Sum()])
    found = []
    for stage in stages:
        package = releases.pack([stage], columns=WIDTH)
        root = releases.lay_out(package)
        model = package.manifest.stages[0].models["path"]
        assert (root / "files" / model.folder / "net.bin").read_bytes() == (
            Path(stage.path).parent / "net.bin"
        ).read_bytes()
        found.append((model.blob, model.folder))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_damage_to_a_file_of_weights_is_seen(releases: Releases, tmp_path: Path) -> None:
    package = releases.pack([OnnxModel(split(tmp_path / "author", {"w": "net.bin"}))], columns=WIDTH)
    root = releases.lay_out(package)
    there = intact(root.parent, package.data, lambda ref: tmp_path / ref.digest.hex)
    path = root / "files" / package.manifest.stages[0].models["path"].folder / "net.bin"
    path.unlink()
    path.write_bytes(b"rotten")
    assert (there, intact(root.parent, package.data, lambda ref: tmp_path / ref.digest.hex)) == (True, False)


def refusal(releases: Releases, path: Path) -> str:
    with pytest.raises(AuthorError) as caught:
        releases.pack([OnnxModel(path)], columns=WIDTH)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_are_not_beside_their_model_are_named(releases: Releases, tmp_path: Path) -> None:
    path = split(tmp_path / "author", {"w": "net.bin"})
    (path.parent / "net.bin").unlink()
    assert "its weights lie in net.bin, which cannot be read from its directory (No such file" in refusal(
        releases, path
    )


@pytest.mark.parametrize("location", ["../net.bin", "/etc/passwd"])
def test_weights_outside_their_models_directory_are_refused(releases: Releases, tmp_path: Path, location: str) -> None:
    path = split(tmp_path / "author", {"w": "net.bin"})
    shutil.copy(path.parent / "net.bin", tmp_path / "net.bin")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    assert f"keeps its weights (w) in '{location}': that must be a file in its own directory" in refusal(releases, path)


def test_a_link_out_of_the_directory_is_refused(releases: Releases, tmp_path: Path) -> None:
    path = split(tmp_path / "author", {"w": "net.bin"})
    (path.parent / "net.bin").rename(tmp_path / "net.bin")
    (path.parent / "net.bin").symlink_to(tmp_path / "net.bin")
    assert "a link out of its directory" in refusal(releases, path)


def test_weights_in_the_model_file_itself_are_refused(releases: Releases, tmp_path: Path) -> None:
    path = split(tmp_path / "author", {"w": "net.bin"})
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "net.onnx"
    path.write_bytes(model.SerializeToString())
    assert "says that its weights lie in itself" in refusal(releases, path)


@pytest.mark.parametrize("name", ["../up.bin", "/root.bin", "a/../b", "net.onnx", "net.onnx/w", "w.bin/below", ""])
def test_a_manifest_that_would_put_weights_elsewhere_is_refused(releases: Releases, tmp_path: Path, name: str) -> None:
    package = releases.pack([OnnxModel(split(tmp_path / "author", {"w": "w.bin"}))], columns=WIDTH)
    manifest = package.manifest
    manifest.stages[0].models["path"].beside[name] = manifest.stages[0].models["path"].blob
    with pytest.raises(UpdateRejected, match=r"\$.stages\[0\].models.path.beside"):
        parse_manifest(encode_manifest(manifest))


def test_every_file_of_weights_is_among_what_a_device_fetches(releases: Releases, tmp_path: Path) -> None:
    path = split(tmp_path / "author", {"w": "w.bin", "v": "v.bin"})
    wanted = [Digest.of((path.parent / name).read_bytes()) for name in ("net.onnx", "v.bin", "w.bin")]
    package = releases.pack([OnnxModel(path)], columns=WIDTH)
    assert [ref.digest for ref in package.manifest.blobs()] == wanted
    assert set(wanted) <= set(package.blobs)


def test_sessions_take_the_named_providers_one_thread_and_do_not_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    made: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, **others: Any) -> Any:
        made.append((options, others))
        return real(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    stage = OnnxModel(split(tmp_path / "author", {}), providers=["TPUExecutionProvider", "CPUExecutionProvider"])
    stage.initialize()
    ((options, others),) = made
    assert others == {"providers": ["CPUExecutionProvider"]}, "those that are there, in the order that was named"
    assert stage._session.get_providers() == ["CPUExecutionProvider"]
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    for pool in ("intra", "inter"):
        assert options.get_session_config_entry(f"session.{pool}_op.allow_spinning") == "0"


def test_a_provider_that_is_not_here_is_refused_with_those_that_are(tmp_path: Path) -> None:
    stage = OnnxModel(split(tmp_path / "author", {}), providers=["CPUExcutionProvider"])
    with pytest.raises(
        RuntimeError, match=r"net\.onnx wants one of CPUExcutionProvider; here are .*CPUExecutionProvider"
    ):
        stage.initialize()
