"""A backup as a file: what it says of itself, and whether every byte in it is what it says.

Reads and checks; what goes into one is `safekeeping.py`'s, what becomes of it `restoration.py`'s.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from pathlib import Path

import msgspec

from edge_agent.contract.digest import Digest, decode_json
from edge_agent.contract.errors import ConfigError

__all__ = ["FORMAT", "INDEX", "INDEX_BYTES_MAX", "SEAL", "Index", "Member", "examine", "unpack"]

FORMAT = 1
INDEX, SEAL = "backup.json", "backup.json.sha256"
INDEX_BYTES_MAX = 64 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_PARTS = re.compile(r"(home|record)(/[^/\\\x00-\x1f]+)+")


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One file in a backup; `mode` is 0o600 for what only its owner could read."""

    digest: Digest
    size: int
    mode: int


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself. `channels` maps to the number of the newest publication in it."""

    format: int
    fleet: str
    channels: dict[str, int]
    keys: bool
    files: dict[str, Member]


def examine(file: Path) -> Index:
    """Return a backup's index after checking every member's name, size and digest. Raises `ConfigError`."""
    try:
        with tarfile.open(file, mode="r:") as archive:
            first = archive.next()
            if first is None or first.name != INDEX or not first.isreg() or first.size > INDEX_BYTES_MAX:
                raise ConfigError(f"{file} is no backup of a publisher: it does not begin with {INDEX}")
            contents, seal = _stream(archive, first).read(), archive.next()
            if (
                seal is None
                or seal.name != SEAL
                or _stream(archive, seal).read(100).decode().strip() != Digest.of(contents)
            ):
                raise ConfigError(f"{file}: {INDEX} is damaged: use another copy of this backup")
            index = decode_json(contents, Index)
            _check_index(file, index)
            for name in index.files:
                _check_member(file, archive, archive.next(), name, index)
            if archive.next() is not None:
                raise ConfigError(f"{file} holds files that its {INDEX} does not name: nothing was changed")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ConfigError(f"{file} cannot be read as a backup: {error}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{file}: {INDEX} cannot be read: {error}") from None
    return index


def _check_index(file: Path, index: Index) -> None:
    if index.format != FORMAT:
        raise ConfigError(f"{file} is a backup of format {index.format}, this program reads {FORMAT}: update it")
    for name in index.files:
        if not _PARTS.fullmatch(name) or {".", ".."} & set(name.split("/")):
            raise ConfigError(f"{file} names {name[:200]!r}, which leads out of the home: nothing was changed")
    if list(index.files) != sorted(index.files):
        raise ConfigError(f"{file}: the members are not in order: nothing was changed")


def _check_member(
    file: Path, archive: tarfile.TarFile, member: tarfile.TarInfo | None, name: str, index: Index
) -> None:
    wanted = index.files[name]
    if member is None or member.name != name or not member.isreg() or member.size != wanted.size:
        raise ConfigError(f"{file}: {name} is missing, or not the file that {INDEX} describes: use another copy")
    found, stream = hashlib.sha256(), _stream(archive, member)
    while piece := stream.read(_PIECE_BYTES):
        found.update(piece)
    if found.hexdigest() != wanted.digest.hex:
        raise ConfigError(f"{file}: {name} is damaged: use another copy of this backup")


def _stream(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.ExFileObject:
    stream = archive.extractfile(member)
    if not isinstance(stream, tarfile.ExFileObject):
        raise tarfile.TarError(f"{member.name} is no file")
    return stream


def unpack(file: Path, index: Index, building: Path) -> None:
    """Write the members below `building`, each checked once more: the file may have changed since.

    Raises `ConfigError`.
    """
    with tarfile.open(file, mode="r:") as archive:
        archive.next()
        archive.next()
        for name, wanted in index.files.items():
            member = archive.next()
            if member is None or member.name != name or member.size != wanted.size or not member.isreg():
                raise ConfigError(f"{file} changed while it was read: nothing was changed")
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            found, stream = hashlib.sha256(), _stream(archive, member)
            with path.open("xb") as out:
                os.fchmod(out.fileno(), 0o600 if wanted.mode & 0o077 == 0 else 0o644)
                while piece := stream.read(_PIECE_BYTES):
                    found.update(piece)
                    out.write(piece)
                out.flush()
                os.fsync(out.fileno())
            if found.hexdigest() != wanted.digest.hex:
                raise ConfigError(f"{file} changed while it was read: nothing was changed")
    (building / "home" / "keys").mkdir(parents=True, exist_ok=True)
    (building / "home" / "keys").chmod(0o700)
