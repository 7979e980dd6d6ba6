"""One file with everything that a lost workstation takes with it: the home, and the record of its channels.

    backup.json                 what is in the file: format, fleet, channels, and digest, size and mode of every member
    backup.json.sha256          its digest
    home/publisher.toml         the home as it is: configuration, pinned roots, encrypted keys, what devices need
    record/channel/…            every publication of every channel, and what waits for signatures
    record/authority/…, record/enrolled/…   the fleet's certificates
    record/blob/…               their metadata, and the manifests and blobs of the releases that are listed now

A tar archive whose bytes follow from its content alone. Open secrets (a broker's password or private key in clear) stay
behind and are named; private keys are in it only as they lie in the home, encrypted. It is checksummed, not signed:
whoever restores it trusts whoever kept it. Reading and restoring one is `restoration.py`'s.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.metadata import Metadata

from edge_agent.contract.digest import BlobRef, Digest, encode_json
from edge_agent.contract.errors import ConfigError, StoreError
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.messages import ENVELOPE_BYTES_MAX
from publisher.backup.backup_file import FORMAT, INDEX, SEAL, Index, Member, examine
from publisher.collection import waiting
from publisher.config import Home, load_home
from publisher.record import Record, blob_path
from publisher.trust.chronicle import trusted
from publisher.trust.publication import Shelf
from publisher.trust.repository import Channel

__all__ = ["BackedUp", "backup"]

FLEET_FOLDERS = ("authority", "enrolled")
FILE_BYTES_MAX = 64 * 1024 * 1024  # of one file of the home
_OBJECT_BYTES_MAX = 4 * ENVELOPE_BYTES_MAX
_PRIVATE, _SEALED = b"PRIVATE KEY-----", b"ENCRYPTED PRIVATE KEY-----"


class BackedUp(msgspec.Struct, frozen=True, kw_only=True):
    """What was written. `left_out` names files of the home that are not in it, and why."""

    file: str
    digest: Digest
    size: int
    channels: dict[str, int]
    keys: bool
    left_out: list[str]


@dataclass(frozen=True)
class _Source:
    """Where a member's bytes come from; they are read when they are written."""

    member: Member
    read: Callable[[], bytes]


def backup(file: str | Path, *, with_keys: bool = True, home: str | Path | None = None) -> BackedUp:
    """Write the home and its record into a new file, and read it back.

    Raises `ConfigError` if the file exists or cannot be written, `StoreError` for a damaged record, `UpdateRejected` if
    the record's newest state does not pass the device's checks.
    """
    place, target = load_home(home), Path(file).absolute()
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists: a backup is never overwritten, name another file")
    sources, left_out = _home(place, with_keys)
    channels = {}
    for name in place.channels:
        channels[name], found = _channel(Record(place.record_location), place, name)
        sources |= found
    for folder in FLEET_FOLDERS:
        sources |= _named(Record(place.record_location), f"{folder}/{place.fleet}")
    files = {name: sources[name].member for name in sorted(sources)}
    index = Index(format=FORMAT, fleet=place.fleet, channels=channels, keys=with_keys, files=files)
    temporary = _written(target, index, sources)
    try:
        if examine(temporary) != index:
            raise StoreError(f"{target} does not read back as it was written: check the disk")
        digest, size = _digest(temporary), temporary.stat().st_size
        os.link(temporary, target)  # unlike a rename, this never replaces what somebody else put there
    except FileExistsError:
        raise ConfigError(f"{target} exists: a backup is never overwritten, name another file") from None
    finally:
        temporary.unlink()
    return BackedUp(
        file=str(target), digest=digest, size=size, channels=channels, keys=with_keys, left_out=sorted(left_out)
    )


# --- the home --------------------------------------------------------------------------------------------------------


def _home(home: Home, with_keys: bool) -> tuple[dict[str, _Source], list[str]]:
    """Return the files of the home, its record aside, and which stay behind."""
    found, left_out = {}, []
    record = Path(os.path.normpath(home.record_location)) if "://" not in home.record else None
    for path in sorted(home.path.rglob("*")):
        name = path.relative_to(home.path).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if (record is not None and path.is_relative_to(record)) or path.name.startswith("."):
            continue
        why = _reason_to_leave(home, path, with_keys)
        if why:
            left_out.append(f"{name}: {why}")
            continue
        data = path.read_bytes()
        mode = 0o600 if path.stat().st_mode & 0o077 == 0 else 0o644
        found[f"home/{name}"] = _Source(_member(data, mode), functools.partial(bytes, data))
    return found, left_out


def _reason_to_leave(home: Home, path: Path, with_keys: bool) -> str:
    if path.is_symlink() or not path.is_file():
        return "is no ordinary file"
    if path.stat().st_size > FILE_BYTES_MAX:
        return f"has over {FILE_BYTES_MAX} bytes"
    if home.broker.password_file and path == home.path / home.broker.password_file:
        return "holds a password in clear: keep it with your passwords"
    data = path.read_bytes()
    if _PRIVATE in data and _SEALED not in data:
        return "holds a private key in clear: keep it with your passwords"
    return "private keys were not asked for" if _SEALED in data and not with_keys else ""


# --- the record ------------------------------------------------------------------------------------------------------


def _channel(record: Record, home: Home, name: str) -> tuple[int, dict[str, _Source]]:
    """Return the number of a channel's newest publication, and all that the record holds of it."""
    channel = Channel(record, home.fleet, name)
    shelf = Shelf(record, home.fleet, name)
    trusted(channel, home)
    numbers = shelf.numbers()  # before anything is read: what was published by now is complete
    later = f"/timestamp/{numbers[-1] + 1}.json"
    found = {name: one for name, one in _named(record, shelf.folder).items() if not name.endswith(later)}
    refs = {BlobRef.of(data) for data in waiting(record, channel)}
    refs |= {ref for data in waiting(record, channel) for ref in parse_manifest(data).blobs() if record.has_blob(ref)}
    for number in numbers:
        refs |= set(_references(record, shelf.timestamp(number), manifests=number == numbers[-1]))
    for ref in refs:
        member = Member(digest=ref.digest, size=ref.size, mode=0o644)
        found[f"record/{blob_path(ref)}"] = _Source(member, functools.partial(record.get_blob, ref))
    return numbers[-1], found


def _named(record: Record, folder: str) -> dict[str, _Source]:
    """Return the objects in a folder, which have names of their own and are small."""
    found = {}
    for path in record.walk(folder):
        data = record.read(path, _OBJECT_BYTES_MAX) or b""
        found[f"record/{path}"] = _Source(_member(data), functools.partial(bytes, data))
    return found


def _references(record: Record, timestamp: bytes, *, manifests: bool) -> Iterator[BlobRef]:
    """Yield what a publication is made of; with `manifests`, also the releases that it lists and their blobs."""
    signed: Any = Metadata.from_bytes(timestamp).signed
    yield from _roots(record, signed)
    snapshot = _meta(signed.snapshot_meta)
    yield snapshot
    named: Any = Metadata.from_bytes(record.get_blob(snapshot)).signed
    for name, meta in named.meta.items():
        yield _meta(meta)
        if name == "rollout.json" or (name == "release.json" and manifests):
            targets: Any = Metadata.from_bytes(record.get_blob(_meta(meta))).signed
            for ref in map(_target, targets.targets.values()):
                yield ref
                if name == "release.json":
                    yield from parse_manifest(record.get_blob(ref)).blobs()


def _roots(record: Record, signed: Any) -> Iterator[BlobRef]:
    """Yield the roots after the first, each of which names the one before it."""
    link = (signed.unrecognized_fields.get("x-fieldcast") or {}).get("root")
    while link is not None:
        ref = BlobRef(digest=Digest(link["digest"]), size=link["size"])
        try:
            root: Any = Metadata.from_bytes(record.get_blob(ref)).signed
        except StoreError:
            return  # the first one lies under its own name
        yield ref
        link = (root.unrecognized_fields.get("x-fieldcast") or {}).get("previous")


def _meta(meta: Any) -> BlobRef:
    return BlobRef(digest=Digest(f"sha256:{meta.hashes['sha256']}"), size=meta.length)


def _target(target: Any) -> BlobRef:
    return BlobRef(digest=Digest(f"sha256:{target.hashes['sha256']}"), size=target.length)


# --- the file --------------------------------------------------------------------------------------------------------


def _written(target: Path, index: Index, sources: dict[str, _Source]) -> Path:
    """Write the archive beside its place, durably, for its owner only; return where."""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
                contents = encode_json(index)
                _add(archive, INDEX, contents, 0o644)
                _add(archive, SEAL, f"{Digest.of(contents)}\n".encode(), 0o644)
                for path in index.files:
                    _add(archive, path, sources[path].read(), index.files[path].mode)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException as error:
        Path(name).unlink()
        if isinstance(error, OSError):
            raise ConfigError(f"{target} cannot be written: {error.strerror}") from None
        raise
    return Path(name)


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))


def _member(data: bytes, mode: int = 0o644) -> Member:
    return Member(digest=Digest.of(data), size=len(data), mode=mode)


def _digest(path: Path) -> Digest:
    with path.open("rb") as stream:
        return Digest(f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}")
