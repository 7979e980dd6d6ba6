"""Laying out a release from verified blobs: what lies there, and what lies there after a failure (nothing)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from edge_agent.contract.bundle import build_bundle
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import Blame, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.manifest import InputSpec, Manifest, ModelRef, OutputSpec, Stage, encode_manifest
from edge_agent.update.layout import lay_out, release_root, remove_leftovers, retire

SOURCE = b"class Double:\n    pass\n"
BUNDLE = build_bundle(
    name="sample",
    version="1",
    target="pkg.sample:Double",
    files={"pkg/__init__.py": b"", "pkg/sample.py": SOURCE},
    data={"pkg/limits.csv": b"1,2\n"},
)


class Disk:
    """A directory of blobs and one of releases."""

    def __init__(self, root: Path) -> None:
        self.blobs, self.releases = root / "blobs", root / "releases"
        self.blobs.mkdir()
        self.read: list[Digest] = []

    def put(self, data: bytes) -> BlobRef:
        ref = BlobRef.of(data)
        self.path(ref).write_bytes(data)
        self.read.clear()
        return ref

    def path(self, ref: BlobRef) -> Path:
        self.read.append(ref.digest)
        return self.blobs / ref.digest.hex

    def manifest(self, **stage: object) -> bytes:
        fields: dict[str, object] = {
            "name": "double",
            "target": "pkg.sample:Double",
            "fingerprint": "f",
            "bundle": self.put(BUNDLE),
            "state": self.put(b"state"),
            "models": {"path": ModelRef(blob=self.put(b"model"), name="model.onnx")},
        }
        one = Stage(**{**fields, **stage})  # type: ignore[arg-type]
        return self.encode(one)

    def encode(self, *stages: Stage) -> bytes:
        return encode_manifest(
            Manifest(
                format=1,
                pipeline="activity",
                stages=list(stages),
                input=InputSpec(columns=["x"]),
                output=OutputSpec(columns=["y"]),
                self_test=self.put(b"self-test"),
            )
        )

    def lay_out(self, manifest: bytes) -> Path:
        return lay_out(self.releases, manifest, self.path)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.releases.iterdir()) if self.releases.exists() else []


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def hex_of(data: bytes) -> str:
    return Digest.of(data).hex


def test_everything_lies_where_the_loader_looks(disk: Disk) -> None:
    manifest = disk.manifest()
    root = disk.lay_out(manifest)
    assert root == release_root(disk.releases, Digest.of(manifest))
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert found == {
        "manifest.json": manifest,
        f"bundles/{hex_of(BUNDLE)}/pkg/__init__.py": b"",
        f"bundles/{hex_of(BUNDLE)}/pkg/sample.py": SOURCE,
        f"bundles/{hex_of(BUNDLE)}/pkg/limits.csv": b"1,2\n",
        f"files/{hex_of(b'model')}/model.onnx": b"model",
        f"blobs/{hex_of(b'state')}": b"state",
        f"blobs/{hex_of(b'self-test')}": b"self-test",
    }
    assert disk.left() == [root.name]


def test_the_second_time_is_free(disk: Disk) -> None:
    manifest = disk.manifest()
    root = disk.lay_out(manifest)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    disk.read.clear()
    assert disk.lay_out(manifest) == root
    assert disk.read == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_blobs_shared_by_stages_are_laid_out_once(disk: Disk) -> None:
    bundle, model = disk.put(BUNDLE), disk.put(b"model")
    stages = [
        Stage(
            name=name,
            target="pkg.sample:Double",
            fingerprint="f",
            bundle=bundle,
            models={"path": ModelRef(blob=model, name="model.onnx"), "again": ModelRef(blob=model, name="twin.onnx")},
        )
        for name in ("a", "b")
    ]
    root = disk.lay_out(disk.encode(*stages))
    assert sorted(path.name for path in (root / "files" / model.digest.hex).iterdir()) == ["model.onnx", "twin.onnx"]
    assert [path.name for path in (root / "bundles").iterdir()] == [bundle.digest.hex]


def test_a_disk_without_hard_links_gets_copies(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    root = disk.lay_out(disk.manifest())
    copy = root / "files" / hex_of(b"model") / "model.onnx"
    assert copy.read_bytes() == b"model"
    assert copy.stat().st_nlink == 1


@pytest.mark.parametrize("data", [BUNDLE, b"state", b"model", b"self-test"], ids=["bundle", "state", "model", "test"])
def test_a_flipped_byte_on_disk_is_found_and_is_not_the_release_s_fault(disk: Disk, data: bytes) -> None:
    manifest = disk.manifest()
    path = disk.blobs / hex_of(data)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UpdateRejected, match=hex_of(data)) as caught:
        disk.lay_out(manifest)
    assert [(one.code, one.blame) for one in caught.value.reasons] == [(ReasonCode.CONTENT, Blame.ENVIRONMENT)]
    assert disk.left() == []
    path.write_bytes(data)
    assert disk.lay_out(manifest).exists()


def test_a_bundle_that_carries_another_class_is_refused(disk: Disk) -> None:
    with pytest.raises(
        UpdateRejected, match=r"carries pkg\.sample:Double, the manifest names pkg\.sample:Other"
    ) as caught:
        disk.lay_out(disk.manifest(target="pkg.sample:Other"))
    assert caught.value.reasons[0].blame is Blame.RELEASE
    assert disk.left() == []


def test_a_second_stage_cannot_borrow_a_bundle_for_another_class(disk: Disk) -> None:
    bundle = disk.put(BUNDLE)
    stages = [
        Stage(name=name, target=f"pkg.sample:{name}", fingerprint="f", bundle=bundle) for name in ("Double", "Other")
    ]
    with pytest.raises(UpdateRejected, match=r"the manifest names pkg\.sample:Other"):
        disk.lay_out(disk.encode(*stages))


def test_a_bundle_that_is_no_wheel_is_refused(disk: Disk) -> None:
    with pytest.raises(UpdateRejected):
        disk.lay_out(disk.manifest(bundle=disk.put(b"not a zip")))
    assert disk.left() == []


@pytest.mark.parametrize(
    "name", ["../model.onnx", "../../manifest.json", "/etc/passwd", "..", ".", "", "a/b", "a\0b", "x" * 256]
)
def test_a_model_name_that_is_a_path_is_refused(disk: Disk, name: str) -> None:
    manifest = disk.manifest(models={"path": ModelRef(blob=disk.put(b"model"), name=name)})
    with pytest.raises(UpdateRejected, match="must name a file") as caught:
        disk.lay_out(manifest)
    assert caught.value.reasons[0].where == "$.stages[0].models.path.name"
    assert disk.left() == []


def test_a_blob_that_is_not_there_is_the_disk_s_error(disk: Disk) -> None:
    manifest = disk.manifest()
    (disk.blobs / hex_of(b"state")).unlink()
    with pytest.raises(StoreError, match="cannot lay out release"):
        disk.lay_out(manifest)
    assert disk.left() == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_refuses_leaves_nothing_half_made(disk: Disk, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = disk.manifest()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if call == "fsync" else (Path, "rename")), refuse)
        with pytest.raises(StoreError, match="No space left on device"):
            disk.lay_out(manifest)
    assert disk.left() == []
    assert (disk.lay_out(manifest) / "manifest.json").exists()


def test_a_directory_that_cannot_be_made_is_the_disk_s_error(disk: Disk) -> None:
    disk.releases.write_text("a file where a directory belongs")
    with pytest.raises(StoreError, match="cannot lay out release"):
        disk.lay_out(disk.manifest())


@pytest.mark.parametrize("half", ["building", "without its manifest", "with an empty manifest"])
def test_what_a_power_cut_left_half_made_is_made_anew(disk: Disk, half: str) -> None:
    manifest = disk.manifest()
    name = Digest.of(manifest).hex
    ruin = disk.releases / (f".{name}.new" if half == "building" else name)
    (ruin / "bundles" / hex_of(BUNDLE)).mkdir(parents=True)
    (ruin / "rubbish").write_text("x")
    if half == "with an empty manifest":
        (ruin / "manifest.json").touch()
    root = disk.lay_out(manifest)
    assert (root / "bundles" / hex_of(BUNDLE) / "pkg" / "sample.py").read_bytes() == SOURCE
    assert not (root / "rubbish").exists()
    assert disk.left() == [name]


def test_retired_releases_are_out_of_their_place_at_once(disk: Disk) -> None:
    kept, gone = disk.lay_out(disk.manifest()), disk.lay_out(disk.manifest(fingerprint="g"))
    (disk.releases / ".x.new").mkdir()
    (doomed,) = retire(disk.releases, {gone.name, "not there"})
    assert not gone.exists()
    assert (kept / "manifest.json").exists()
    assert doomed.name == f".{gone.name}.old"
    remove_leftovers(disk.releases)
    assert disk.left() == [kept.name]


def test_a_device_without_releases_has_nothing_to_retire(disk: Disk) -> None:
    assert retire(disk.releases, {"gone"}) == []
    remove_leftovers(disk.releases)
    assert not disk.releases.exists()


def test_what_this_process_has_hashed_is_not_read_again_and_all_else_is(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, hashed = disk.manifest(), []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(Path(file.name)) or digest(file, name))
    known = BlobRef.of(b"model")
    lay_out(disk.releases, manifest, disk.path, lambda ref, path: ref == known and path == disk.path(known))
    assert {path.name for path in hashed} == {hex_of(b"state"), hex_of(b"self-test")}
