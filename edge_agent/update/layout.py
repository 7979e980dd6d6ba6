"""Lays a release's files out for its worker, from verified blobs only.

    <releases>/<manifest hex>/manifest.json
                              bundles/<hex>/…       an unpacked bundle
                              files/<hex>/<name>    a model under its own name (hard link where the disk allows)
                              blobs/<hex>           state and self-test

A directory is built beside its place and renamed into it, so a worker never sees half a release. Laying out the same
release again is free.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import Blame, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.manifest import Manifest, parse_manifest

__all__ = ["keep_manifest", "lay_out", "release_root", "remove_leftovers", "retire"]

BlobPath = Callable[[BlobRef], Path]
Proven = Callable[[BlobRef, Path], bool]


def _nothing_proven(ref: BlobRef, path: Path) -> bool:
    return False


def release_root(releases: Path, digest: Digest) -> Path:
    """Return where the release with manifest `digest` lies, laid out or not."""
    return releases / digest.hex


def lay_out(releases: Path, manifest_bytes: bytes, blob_path: BlobPath, proven: Proven = _nothing_proven) -> Path:
    """Lay the release out below `releases` and return its root.

    `blob_path` returns the path of a blob that is there. Every blob is checked once more against its reference, since
    a disk may lie, save files that `proven(ref, path)` says this process has hashed and nobody has touched; a mismatch
    or a bad bundle raises `UpdateRejected`, a disk that refuses `StoreError`.
    """
    digest = Digest.of(manifest_bytes)
    root = release_root(releases, digest)
    if _laid_out(root, manifest_bytes):
        return root
    manifest = parse_manifest(manifest_bytes)
    building = releases / f".{digest.hex}.new"
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        _fill(building, manifest, blob_path, proven)
        (building / "manifest.json").write_bytes(manifest_bytes)
        _make_durable(building)
        shutil.rmtree(root, ignore_errors=True)  # without its own manifest it is half a release, whoever left it
        building.rename(root)
        _sync_directory(releases)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise StoreError(f"cannot lay out release {digest.short} below {releases}: {error}") from error
    except UpdateRejected:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return root


def keep_manifest(path: Path, manifest_bytes: bytes) -> None:
    """Keep a manifest as the blob `path`, so that it outlives the database and the laid-out release together.

    Raises `StoreError` when the disk refuses.
    """
    if path.exists():
        return
    building = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        building.write_bytes(manifest_bytes)
        _sync_file(building)
        building.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        building.unlink(missing_ok=True)
        raise StoreError(f"cannot keep the manifest {path.name[:12]}: {error}") from error


def retire(releases: Path, doomed: Collection[str]) -> list[Path]:
    """Take the releases with these manifest hexes out of their places; return what is to be deleted.

    A power cut in the middle of a deletion must not leave what looks like a release. Only what is named goes: another
    slot's release may be laid out at the same time.
    """
    found = [path for name in sorted(doomed) if (path := releases / name).exists()]
    return [path.rename(path.with_name(f".{path.name}.old")) for path in found]


def remove_leftovers(releases: Path) -> None:
    """Remove what a power cut left half built or half deleted. Nothing else may be at work below `releases`."""
    for path in releases.glob(".*"):
        shutil.rmtree(path, ignore_errors=True)


def _laid_out(root: Path, manifest_bytes: bytes) -> bool:
    """Tell whether the release is there: its manifest is written last, and a power cut may leave it empty."""
    try:
        return (root / "manifest.json").read_bytes() == manifest_bytes
    except OSError:  # not there, or not to be read: laying it out says what is wrong with the disk
        return False


def _fill(building: Path, manifest: Manifest, blob_path: BlobPath, proven: Proven) -> None:
    for stage in manifest.every_stage():
        if stage.bundle is not None:
            _unpack(building / "bundles" / stage.bundle.digest.hex, stage.bundle, stage.target, blob_path)
        for model in stage.models.values():
            for path, ref in model.files():
                _place(building / "files" / model.folder / path, ref, blob_path, proven)
        if stage.state is not None:
            _place(building / "blobs" / stage.state.digest.hex, stage.state, blob_path, proven)
    if manifest.self_test is not None:
        _place(building / "blobs" / manifest.self_test.digest.hex, manifest.self_test, blob_path, proven)


def _unpack(directory: Path, ref: BlobRef, target: str, blob_path: BlobPath) -> None:
    bundle = read_bundle(_verified(ref, blob_path))
    if bundle.target != target:
        raise UpdateRejected.one(
            ReasonCode.CONTENT, f"bundle {ref.digest.short} carries {bundle.target}, the manifest names {target}"
        )
    if directory.exists():
        return
    for name, data in bundle.members.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _place(path: Path, ref: BlobRef, blob_path: BlobPath, proven: Proven) -> None:
    if path.exists():
        return
    blob = blob_path(ref)
    if not proven(ref, blob):
        _require_intact(ref, blob)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(blob, path)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(blob, path)


def _verified(ref: BlobRef, blob_path: BlobPath) -> bytes:
    data = blob_path(ref).read_bytes()
    if not ref.matches(data):
        raise _damaged(ref)
    return data


def _require_intact(ref: BlobRef, path: Path) -> None:
    """Check a file without holding it in memory: a model may be larger than all else the agent has."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno()).st_size == ref.size and hashlib.file_digest(file, "sha256").hexdigest()
    if found != ref.digest.hex:
        raise _damaged(ref)


def _damaged(ref: BlobRef) -> UpdateRejected:
    # The disk's fault, not the release's: it was right when it was fetched, and will be when fetched again.
    words = f"stored blob {ref.digest} is not what its digest says"
    return UpdateRejected.one(ReasonCode.CONTENT, words, blame=Blame.ENVIRONMENT)


def _make_durable(directory: Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        if path.is_dir():
            _sync_directory(path)
        elif path.stat().st_nlink == 1:  # what is linked was durable as a blob
            _sync_file(path)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
