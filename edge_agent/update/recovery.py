"""Opens the store with its mirror, also when the database was lost, emptied, damaged, or cannot be written (U1, U3).

A damaged database is set aside under another name and a new one begun; the mirror then gives back the floors, the
counters and, where its manifest is still there, laid out or as a blob, what each slot runs. Quarantine, journal and
memberships of a lost database are gone. It accepts nothing: what comes from the channel is verified against the floors
as ever.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import StoreError
from edge_agent.contract.manifest import MANIFEST_BYTES_MAX
from edge_agent.update.clock import BUILT_SECONDS
from edge_agent.update.layout import release_root
from edge_agent.update.mirror import Committed, Mirror
from edge_agent.update.mirrored import MirroredStore
from edge_agent.update.opening import StoreCorrupt

__all__ = ["open_store"]

log = logging.getLogger(__name__)


def open_store(path: Path, releases: Path, now: float) -> MirroredStore:
    """Return the store at `path`, with what its mirror beside it knows better. Raises `StoreError`.

    `releases` is the directory of laid-out releases, `now` seconds UTC.
    """
    mirror = Mirror(path.parent)
    try:
        store = _open(path, mirror)
    except StoreCorrupt as error:
        log.error("database damaged, set aside path=%s reason=%s", path, error)
        store = _anew(path, mirror)
    store.remember("clock", BUILT_SECONDS)  # with the last trusted time and the machine's clock: the floor clock
    _restore(store, mirror, releases, now)
    return store


def _open(path: Path, mirror: Mirror) -> MirroredStore:
    store = MirroredStore(path, mirror)
    try:
        store.check()  # now, and not in the middle of an update
    except StoreError:
        store.close()
        raise
    return store


def _anew(path: Path, mirror: Mirror) -> MirroredStore:
    """Begin a new database; where the disk does not even let the old one be moved, go on without a file."""
    try:
        _set_aside(path)
    except StoreError as error:
        return MirroredStore(path, mirror, lost=str(error))
    return _open(path, mirror)


def _set_aside(path: Path) -> None:
    """Keep the newest damaged database for people to look at."""
    try:
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.replace(path.with_name(f"{path.name}.damaged{suffix}"))
    except OSError as error:
        raise StoreError(f"the damaged store {path} cannot be set aside: {error}") from error


def _restore(store: MirroredStore, mirror: Mirror, releases: Path, now: float) -> None:
    """Give a slot that has no deployments at all back what the mirror says it runs, if its manifest is there."""
    for slot, committed in mirror.memory.committed.items():
        if store.deployments(slot, limit=1):
            continue
        manifest = _manifest(releases, committed)
        if manifest is None:
            log.error("not restored, its files are gone slot=%s release=%s", slot, committed.release)
            continue
        store.restore(slot, committed, manifest, now)
        log.warning("restored from the mirror slot=%s release=%s", slot, committed.release)


def _manifest(releases: Path, committed: Committed) -> bytes | None:
    digest = Digest(committed.digest)
    blobs = releases.parent / "blobs"
    for path in (release_root(releases, digest) / "manifest.json", blobs / digest.hex[:2] / digest.hex):
        try:
            with path.open("rb") as stream:
                data = stream.read(MANIFEST_BYTES_MAX + 1)
        except OSError:
            continue
        if Digest.of(data) == digest:
            return data
    return None
