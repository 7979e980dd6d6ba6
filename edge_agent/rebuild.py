"""Rebuilds pipelines and classes in the present process, from a manifest and verified blobs.

This runs the code that the manifest names, bundles and pickles alike: do it with what you would run, a fleet's own
signed releases or your own registry, and never with bytes that a device sent (T9). Each bundle is loaded once per
process, under a namespace of its own (I5), so that versions live side by side; loaded classes remember their bundle and
can be packed again without their source.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import ReasonCode, UpdateRejected
from edge_agent.contract.manifest import parse_manifest
from edge_agent.runtime.loader import load_pipeline
from edge_agent.runtime.namespace import Mount
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.provenance import Provenance, is_remembered, remember
from edge_agent.update.layout import lay_out

__all__ = ["forget", "from_manifest", "load_class"]

Blobs = Callable[[BlobRef], bytes]
_lock = threading.RLock()
_mounts: dict[str, Mount] = {}
_counter = itertools.count(1)


def from_manifest(manifest: Mapping[str, Any] | str | bytes, blobs: Blobs) -> Pipeline:
    """Return the pipeline of a manifest (a dict, or JSON text), not initialized; `blobs` returns a blob's bytes.

    Every blob is checked against its digest and size. Runs the code that the manifest names. Raises `UpdateRejected`
    for a manifest or blob that is not what it should be, by name, and `WorkerFailed` naming a stage that does not load;
    then nothing of the attempt stays behind.
    """
    data = manifest.encode() if isinstance(manifest, str) else manifest
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    parsed = parse_manifest(data)
    with _lock, tempfile.TemporaryDirectory(prefix="fetched-", dir=_directory()) as name:
        fetched = Path(name)
        for ref in parsed.blobs():
            (fetched / ref.digest.hex).write_bytes(_verified(ref, blobs(ref)))
        root = lay_out(_directory() / "releases", data, lambda ref: fetched / ref.digest.hex)
        pipeline = load_pipeline(root, {}, shared=_mounts)
        for stage in parsed.every_stage():
            if stage.bundle is not None:
                contents = (fetched / stage.bundle.digest.hex).read_bytes()
                _note(_mounts[stage.bundle.digest.hex], stage.target, stage.fingerprint, stage.tag, contents)
    return pipeline


def load_class(data: bytes, fingerprint: str) -> type:
    """Return the class in a bundle; `fingerprint` is its identity, which the caller knows and has verified.

    The same bytes give the same class for as long as the process lives. Raises as `from_manifest` does.
    """
    bundle = read_bundle(data)
    key = Digest.of(data).hex
    with _lock:
        mount = _mounts.get(key)
        if mount is None:
            root = _directory() / "bundles" / key
            for path, content in bundle.members.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(content)
            mount = Mount(root, f"{key[:12]}_class{next(_counter)}")
            try:
                mount.load(bundle.target)
            except BaseException:
                mount.unmount()
                raise
            _mounts[key] = mount
        return _note(mount, bundle.target, fingerprint, bundle.tag, data)


def forget() -> None:
    """Unload every bundle that was loaded here. What is still in use keeps working, but can import nothing more."""
    with _lock:
        while _mounts:
            _mounts.popitem()[1].unmount()


def _note(mount: Mount, target: str, fingerprint: str, tag: str, data: bytes) -> type:
    cls = mount.load(target)
    if not is_remembered(cls):
        remember(cls, Provenance(target, fingerprint, tag, data, mount.name_of))
    return cls


def _verified(ref: BlobRef, data: bytes) -> bytes:
    if not ref.matches(data):
        words = f"blob {ref.digest} is not what its digest says: it was tampered with, truncated or swapped"
        raise UpdateRejected.one(ReasonCode.CONTENT, words)
    return data


@functools.cache
def _directory() -> Path:
    """Return where this process keeps what it unpacked: modules, data files and models are read from there."""
    made = Path(tempfile.mkdtemp(prefix="fieldcast-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
