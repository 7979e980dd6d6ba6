"""One edition of a class or a pipeline, ready to be compared with another: from source, from a pack or from the record.

Decides nothing about differences. Bundles are analysed as they would be shipped, never run; a bundle that has no source
is known by its fingerprint alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.contract.bundle import PORTABLE_TAG, read_bundle
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import AuthorError, FieldcastError, UpdateRejected
from edge_agent.contract.manifest import Manifest, Stage, parse_manifest
from publisher.closure import collect
from publisher.comparison import subject
from publisher.comparison.unpacked import BLOBS, MANIFEST
from publisher.fingerprint import Analysis, analyse
from publisher.reference import find, is_reference

__all__ = ["Edition", "Part", "open_edition"]

_PACK_SECONDS_MAX = 300.0
Blobs = Callable[[BlobRef], bytes]


@dataclass(frozen=True, eq=False)
class Part:
    """The code of one class: its files at their import paths, and what they mean where there is source.

    `requires` of a bundle are requirements as shipped; `bundled` tells them from the bare names that source needs.
    """

    target: str
    fingerprint: str
    analysis: Analysis | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    bundled: bool = False


@dataclass(frozen=True, eq=False)
class Edition:
    """A class (one part under the empty name) or a pipeline (a part for each stage, and its manifest)."""

    label: str
    parts: Mapping[str, Part]
    manifest: Manifest | None = None
    blob: Blobs | None = None


def open_edition(
    text: str, *, root: Path | None = None, home: str | Path | None = None, channel: str | None = None
) -> Edition:
    """Open what `text` means: `[DIR::]TARGET`, or a reference to a release in the record.

    A pipeline TARGET is packed in a process of its own, so that two trees with modules of one name never meet. Raises
    `AuthorError`, `ConfigError`, or what the record raises.
    """
    directory, mark, target = text.rpartition("::")
    if mark:
        root = Path(directory or ".")
    elif is_reference(text):
        return _released(text, home, channel)
    if root is not None and not root.is_dir():
        raise AuthorError(f"{root} is not a directory: write DIR::TARGET with the project directory")
    if subject.is_pipeline(target, root=root):
        return _packed(text, target, root)
    analysis = analyse(target, root=root)
    return Edition(text, {"": _from_source(target, root, analysis)})


def _from_source(target: str, root: Path | None, analysis: Analysis) -> Part:
    closure = collect(target, root=root)
    return Part(
        target=f"{closure.entry}:{closure.attr}" if closure.attr else closure.entry,
        fingerprint=analysis.fingerprint.value,
        analysis=analysis,
        files={file.path: file.source for file in (*closure.files, *closure.data)},
        requires=closure.requires,
    )


def _released(text: str, home: str | Path | None, channel: str | None) -> Edition:
    found = find(text, home=home, channel=channel)
    manifest = parse_manifest(found.channel.manifest(found.info.digest))
    return _of_manifest(text, manifest, found.channel.record.get_blob)


def _packed(label: str, target: str, root: Path | None) -> Edition:
    with tempfile.TemporaryDirectory(prefix="fieldcast-diff-") as name:
        command = [sys.executable, "-P", "-m", "publisher", "pack", target, "--out", name, "--json"]
        command += ["--root", str(root)] if root is not None else []
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_PACK_SECONDS_MAX,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise AuthorError(f"{label} was not packed within {_PACK_SECONDS_MAX:.0f} s") from None
        if done.returncode:
            raise AuthorError(done.stderr.strip().removeprefix("publisher: ") or f"{label} cannot be packed")
        manifest = parse_manifest((Path(name) / MANIFEST).read_bytes())
        blobs = {Digest(f"sha256:{path.name}"): path.read_bytes() for path in (Path(name) / BLOBS).iterdir()}
    return _of_manifest(label, manifest, lambda ref: blobs[ref.digest])


def _of_manifest(label: str, manifest: Manifest, blob: Blobs) -> Edition:
    return Edition(label, {stage.name: _bundled(stage, blob) for stage in manifest.stages}, manifest, blob)


def _bundled(stage: Stage, blob: Blobs) -> Part:
    """Analyse a bundle as it was shipped, in a directory that holds nothing else."""
    if stage.bundle is None:
        return Part(stage.target, stage.fingerprint)
    try:
        bundle = read_bundle(blob(stage.bundle))
    except UpdateRejected as error:
        raise AuthorError(f"the bundle of stage {stage.name!r} cannot be read: {error}") from None
    analysis = None
    if bundle.tag == PORTABLE_TAG:
        with tempfile.TemporaryDirectory(prefix="fieldcast-bundle-") as name:
            for path, data in bundle.members.items():
                (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(name) / path).write_bytes(data)
            try:
                analysis = analyse(stage.target, root=Path(name))
            except FieldcastError:
                analysis = None
    return Part(stage.target, stage.fingerprint, analysis, dict(bundle.members), bundle.requires, bundled=True)
