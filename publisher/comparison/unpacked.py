"""A package on disk, to look at, to compare and to keep: its manifest, its blobs, and its bundles under wheel names.

Writes the same files with the same bytes for the same package. Replaces what an earlier pack left in the directory,
which it knows by the names, and leaves all else alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import AuthorError
from publisher.packaging import Package

__all__ = ["BLOBS", "MANIFEST", "Written", "write"]

MANIFEST, BLOBS = "manifest.json", "blobs"
_BLOB_NAME = re.compile(r"[0-9a-f]{64}")


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a package: what it is for, its path below the directory, and what its bytes are."""

    what: str
    file: str
    digest: Digest
    size: int


def write(package: Package, directory: Path) -> list[Written]:
    """Write a package into `directory` and return what lies where, the manifest first.

    Bundles lie there twice: under their digest, like every blob, and as wheels that packaging tools can open. Raises
    `AuthorError` when the directory cannot be written.
    """
    try:
        (directory / BLOBS).mkdir(parents=True, exist_ok=True)
        _clear(directory)
        (directory / MANIFEST).write_bytes(package.data)
        for digest, data in package.blobs.items():
            (directory / BLOBS / digest.hex).write_bytes(data)
        return [
            Written(what="manifest", file=MANIFEST, digest=Digest.of(package.data), size=len(package.data)),
            *_named(package, directory),
        ]
    except OSError as error:
        raise AuthorError(f"{error.filename or directory} cannot be written: {error.strerror}") from None


def _named(package: Package, directory: Path) -> list[Written]:
    found: list[Written] = []
    for stage in package.manifest.stages:
        if stage.bundle is not None:
            data = package.blobs[stage.bundle.digest]
            wheel = read_bundle(data).filename
            (directory / wheel).write_bytes(data)
            found.append(_written(f"bundle of stage {stage.name}", wheel, stage.bundle))
        if stage.state is not None:
            found.append(_written(f"state of stage {stage.name}", _blob(stage.state), stage.state))
        for key, model in sorted(stage.models.items()):
            for path, ref in model.files():
                found.append(_written(f"{key} of stage {stage.name} ({path})", _blob(ref), ref))
    if package.manifest.self_test is not None:
        found.append(_written("self-test", _blob(package.manifest.self_test), package.manifest.self_test))
    return found


def _written(what: str, file: str, ref: BlobRef) -> Written:
    return Written(what=what, file=file, digest=ref.digest, size=ref.size)


def _blob(ref: BlobRef) -> str:
    return f"{BLOBS}/{ref.digest.hex}"


def _clear(directory: Path) -> None:
    for path in (directory / BLOBS).iterdir():
        if _BLOB_NAME.fullmatch(path.name):
            path.unlink()
    for path in directory.glob("fieldcast_*.whl"):
        path.unlink()
