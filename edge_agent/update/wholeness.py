"""Whether a laid-out release still has every byte that it was laid out with. It looks, and mends nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import UpdateRejected
from edge_agent.contract.manifest import Manifest, parse_manifest
from edge_agent.update.layout import release_root

__all__ = ["intact"]


def intact(releases: Path, manifest_bytes: bytes, blob_path: Callable[[BlobRef], Path]) -> bool:
    """Tell whether a release is whole: a worker that fails may not be to blame for what the disk did to its files.

    A bundle is compared with its blob; where that is gone too, its files only have to be there.
    """
    root = release_root(releases, Digest.of(manifest_bytes))
    try:
        if (root / "manifest.json").read_bytes() != manifest_bytes:
            return False
        return all(_held(root, parse_manifest(manifest_bytes), blob_path))
    except OSError:
        return False


def _held(root: Path, manifest: Manifest, blob_path: Callable[[BlobRef], Path]) -> Iterator[bool]:
    for stage in manifest.every_stage():
        if stage.bundle is not None:
            yield _unpacked(root / "bundles" / stage.bundle.digest.hex, blob_path(stage.bundle))
        for model in stage.models.values():
            for path, ref in model.files():
                yield _has(root / "files" / model.folder / path, ref)
        if stage.state is not None:
            yield _has(root / "blobs" / stage.state.digest.hex, stage.state)
    if manifest.self_test is not None:
        yield _has(root / "blobs" / manifest.self_test.digest.hex, manifest.self_test)


def _unpacked(directory: Path, blob: Path) -> bool:
    try:
        members = read_bundle(blob.read_bytes()).members
    except (OSError, UpdateRejected):
        return any(directory.iterdir())
    return all((directory / name).read_bytes() == data for name, data in members.items())


def _has(path: Path, ref: BlobRef) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == ref.digest.hex
