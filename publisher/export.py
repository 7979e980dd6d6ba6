"""A channel's newest state as a directory, for devices without a network (`edge-agent import`) and as a mirror.

What is written has passed the device's own checks at this very time, and is read back before it is called done. A new
export appears under its name only when it is whole. One that is there already is brought up to date in an order that
leaves it usable wherever it is interrupted: new blobs first, then the envelope that needs them, then obsolete blobs go.
A directory with anything else in it is left alone. It signs nothing and talks to no broker.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge_agent.contract.digest import BlobRef, Digest, encode_json
from edge_agent.contract.errors import AuthorError, ConfigError, StoreError
from edge_agent.contract.export import (
    BLOBS,
    EXPORT_FORMAT,
    INDEX,
    INDEX_BYTES_MAX,
    TRUST,
    Index,
    blob_place,
    decode_index,
)
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.verification import Verified
from edge_agent.transport import envelope as envelopes
from publisher.config import load_home
from publisher.record import Record
from publisher.trust.chronicle import trusted
from publisher.trust.repository import Channel

__all__ = ["Exported", "export"]

SPACE_RESERVE_BYTES = 1024 * 1024
# What a freshly formatted medium, or a desktop that looked at it, leaves in its top directory.
_TOLERATED = ("lost+found", "System Volume Information", "$RECYCLE.BIN", f"{INDEX}.new")
_OURS = re.compile(r"[0-9a-f]{64}(\.new)?")
_READ_BYTES = 1024 * 1024


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in the directory now. `bytes` is all of it, `written_bytes` what this run added or replaced.

    `expires` is when its metadata ends, seconds UTC; after that devices start nothing new from it.
    """

    directory: str
    fleet: str
    channel: str
    releases: list[str]
    pipelines: list[str]
    blobs: int
    bytes: int
    written: int
    written_bytes: int
    removed: int
    expires: float


def export(
    channel: str,
    directory: str | Path,
    *,
    pipelines: Iterable[str] = (),
    home: str | Path | None = None,
    now: float | None = None,
) -> Exported:
    """Write the newest state of `channel` into `directory`, with the blobs of all `pipelines` or of those named.

    Raises `ConfigError` for a directory with something else in it, `AuthorError` for a pipeline that is not offered,
    `UpdateRejected` when a device would refuse the envelope (expired: refresh first), `StoreError` when a blob is
    missing in the record or the medium refuses.
    """
    place, target = load_home(home), Path(directory).absolute()
    store = Channel(Record(place.record_location), place.fleet, place.require_channel(channel))
    if not store.exists():
        raise AuthorError(f"channel {channel} is not in the record {store.record.location}: push to it first")
    _require_ours(target, place.fleet, channel)
    made = time.time() if now is None else now
    envelope = store.envelope()
    verified = trusted(store, place, envelope, now=made)
    releases, named = _chosen(verified, list(pipelines), channel)
    blobs = _blobs(verified, releases)
    message = envelopes.pack(envelope)
    index = Index(
        format=EXPORT_FORMAT,
        fleet=place.fleet,
        channel=channel,
        made=int(made),
        expires=verified.expires_at,
        trust=Digest.of(message),
        trust_bytes=len(message),
        pipelines=named,
        releases=[name for name, _ in releases],
        blobs={ref.digest: ref.size for ref in blobs},
    )
    try:
        written, removed = _write(target, index, message, store.record)
    except OSError as error:
        raise StoreError(
            f"{error.filename or target} cannot be written ({error.strerror}): the export is not complete, run it again"
        ) from None
    return Exported(
        directory=str(target),
        fleet=place.fleet,
        channel=channel,
        releases=index.releases,
        pipelines=named,
        blobs=len(blobs),
        bytes=sum(ref.size for ref in blobs) + len(message),
        written=len(written),
        written_bytes=sum(ref.size for ref in written),
        removed=removed,
        expires=verified.expires_at,
    )


# --- what goes in ----------------------------------------------------------------------------------------------------


def _chosen(verified: Verified, wanted: list[str], channel: str) -> tuple[list[tuple[str, Digest]], list[str]]:
    """Return the offered releases (name and manifest) of the pipelines that are wanted, and those pipelines."""
    offered = sorted(one.pipeline for one in verified.rollouts)
    unknown = sorted(set(wanted) - set(offered))
    if unknown:
        known = ", ".join(offered) or "nothing"
        raise AuthorError(f"channel {channel} offers no pipeline {', '.join(unknown)}: it offers {known}")
    named = sorted(set(wanted)) or offered
    listed = {(one.pipeline, one.sequence): one for one in verified.releases}
    found = [
        listed[one.pipeline, sequence]
        for one in verified.rollouts
        for sequence in (one.candidate, one.stable)
        if one.pipeline in named and sequence is not None and (one.pipeline, sequence) in listed
    ]
    return [(info.name, info.digest) for info in found], named


def _blobs(verified: Verified, releases: list[tuple[str, Digest]]) -> list[BlobRef]:
    """Return the blobs of these releases, each once."""
    manifests = [parse_manifest(verified.manifests[digest]) for _, digest in releases]
    return list({ref.digest: ref for one in manifests for ref in one.blobs()}.values())


# --- the directory ---------------------------------------------------------------------------------------------------


def _require_ours(target: Path, fleet: str, channel: str) -> None:
    """Raise `ConfigError` unless the directory is new, empty, or an export of this channel."""
    try:
        names = sorted(path.name for path in target.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{target} cannot be used ({error.strerror}): name a directory") from None
    if not [name for name in names if name not in _TOLERATED and not name.startswith(".")]:
        return
    index = _index(target)
    if index is None or any(path.is_symlink() for path in (target / BLOBS, *target.glob(f"{BLOBS}/*"))):
        raise ConfigError(f"{target} is no export and not empty: name an empty directory or a new one")
    if (index.fleet, index.channel) != (fleet, channel):
        raise ConfigError(
            f"{target} is an export of channel {index.channel} of fleet {index.fleet}: name another directory"
        )


def _index(target: Path) -> Index | None:
    path = target / INDEX
    if path.is_symlink() or not path.is_file() or path.stat().st_size > INDEX_BYTES_MAX:
        return None
    return decode_index(path.read_bytes())


def _write(target: Path, index: Index, message: bytes, record: Record) -> tuple[list[BlobRef], int]:
    """Write all of it into a new directory, or bring the old one up to date; return what was written and removed."""
    if target.exists():
        return _fill(target, index, message, record)
    temporary = target.with_name(f".{target.name}.new-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        written = _fill(temporary, index, message, record)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(target.parent)
    return written


def _fill(directory: Path, index: Index, message: bytes, record: Record) -> tuple[list[BlobRef], int]:
    refs = [BlobRef(digest=digest, size=size) for digest, size in index.blobs.items()]
    lacking = [ref for ref in refs if not _is_whole(directory, ref)]
    _require_room(directory, lacking)
    _put(directory / INDEX, encode_json(index))  # first: it says whose directory this is, should we be interrupted
    for ref in lacking:
        path = directory.joinpath(*blob_place(ref))
        path.parent.mkdir(parents=True, exist_ok=True)
        _put(path, record.get_blob(ref))
    _sync(directory)
    _require_read_back([directory.joinpath(*blob_place(ref)) for ref in lacking if not _is_whole(directory, ref)])
    _put(directory / TRUST, message)
    _require_read_back([directory / TRUST] if _read(directory / TRUST) != message else [])
    return lacking, _remove_obsolete(directory, index.blobs)


def _put(path: Path, data: bytes) -> None:
    """Write a file, durably; it has its name only when it is whole."""
    # No mode is set and no link is made: FAT refuses both.
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_obsolete(directory: Path, needed: Mapping[Digest, int]) -> int:
    """Remove blobs that nothing here needs any more, and what an interrupted run left; return how many blobs."""
    removed = 0
    names = {digest.hex for digest in needed}
    for path in sorted((directory / BLOBS).glob("[0-9a-f][0-9a-f]/*")):
        if path.name not in names and _OURS.fullmatch(path.name):
            path.unlink()
            removed += not path.name.endswith(".new")
    for path in (directory / BLOBS).glob("[0-9a-f][0-9a-f]"):
        if not any(path.iterdir()):
            path.rmdir()
    return removed


def _require_room(directory: Path, lacking: list[BlobRef]) -> None:
    needed, free = sum(ref.size for ref in lacking), shutil.disk_usage(directory).free
    if needed + SPACE_RESERVE_BYTES > free:
        raise StoreError(f"{directory} has {free:,} bytes free, the export needs {needed:,}: free some space")


def _require_read_back(wrong: list[Path]) -> None:
    """Raise `StoreError` unless what was written is what can be read: the bytes that were verified."""
    if wrong:
        raise StoreError(f"{', '.join(map(str, wrong[:3]))}: not read back as written: use another medium")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        _forget(file)
        return file.read()


def _forget(file: BinaryIO) -> None:
    """Have the medium asked, not the memory of having written to it."""
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _is_whole(directory: Path, ref: BlobRef) -> bool:
    path = directory.joinpath(*blob_place(ref))
    if path.is_symlink() or not path.is_file() or path.stat().st_size != ref.size:
        return False
    found = hashlib.sha256()
    with path.open("rb") as file:
        _forget(file)
        while piece := file.read(_READ_BYTES):
            found.update(piece)
    return found.hexdigest() == ref.digest.hex
