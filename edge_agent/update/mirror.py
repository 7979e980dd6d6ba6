"""What must outlive the database, in two files that are written in turn (U1, T4).

Floors, the floor clock, counters and what each slot last committed are copied here before a transaction that raises
them is made durable. A lost, emptied or restored database then cannot lower them: at start the higher of both counts.
Each file carries a checksum and a generation; the newest valid one is believed, so one of them may be torn. Nothing
here is ever lowered, and nothing here says what to run: a mirror that is ahead of the database only refuses more.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.errors import StoreError
from edge_agent.update.opening import StoreUnwritable

__all__ = ["MIRROR_BYTES_MAX", "Committed", "Memory", "Mirror", "merged"]

MIRROR_BYTES_MAX = 1024 * 1024
_FORMAT = 1
_NAMES = ("trust.0", "trust.1")
_DIGEST_CHARACTERS = 64


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What a slot committed last."""

    channel: str
    release: str
    digest: str


class Memory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is mirrored: floors by channel, role and key set, facts that only grow, and what runs, by slot."""

    floors: dict[str, dict[str, dict[str, int]]] = {}
    facts: dict[str, float] = {}
    committed: dict[str, Committed] = {}

    def rows(self) -> list[tuple[str, str, str, int]]:
        """Return the floors as (channel, role, key set, version)."""
        return [
            (channel, role, keyset, version)
            for channel, roles in self.floors.items()
            for role, keysets in roles.items()
            for keyset, version in keysets.items()
        ]


class _File(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    generation: int
    memory: Memory


def merged(one: Memory, other: Memory) -> Memory:
    """Return the higher of every floor and fact; what was committed is `other`'s where it knows the slot."""
    floors: dict[str, dict[str, dict[str, int]]] = {}
    for channel, role, keyset, version in [*one.rows(), *other.rows()]:
        keysets = floors.setdefault(channel, {}).setdefault(role, {})
        keysets[keyset] = max(version, keysets.get(keyset, 0))
    return Memory(
        floors=floors,
        facts=_higher(one.facts, other.facts),
        committed={**one.committed, **other.committed},
    )


def _higher(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {key: max(one.get(key, 0.0), other.get(key, 0.0)) for key in sorted({*one, *other})}


class Mirror:
    """The two files in `directory`. Used by one process at a time, the one that has the state directory's lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._generation, self.memory = self._newest()

    def _newest(self) -> tuple[int, Memory]:
        found = [file for name in _NAMES if (file := _read(self._directory / name)) is not None]
        if not found:
            return 0, Memory()
        newest = max(found, key=lambda file: file.generation)
        return newest.generation, newest.memory

    def write(self, memory: Memory) -> None:
        """Make `memory` durable in the older file; the other one keeps what was. Raises `StoreError`."""
        if memory == self.memory:
            return
        generation = self._generation + 1
        body = encode_json(_File(format=_FORMAT, generation=generation, memory=memory))
        data = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        if len(data) > MIRROR_BYTES_MAX:
            raise StoreError(f"the mirror of trust would have {len(data)} bytes, {MIRROR_BYTES_MAX} are allowed")
        path = self._directory / _NAMES[generation % 2]
        try:
            _write(path, data)
        except OSError as error:
            words = f"the mirror of trust {path} cannot be written: {error}; nothing was accepted"
            raise StoreUnwritable(words) from error
        self._generation, self.memory = generation, memory


def _read(path: Path) -> _File | None:
    """Return a file's content, or None if it is not there, torn, or of a format that this program does not know."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MIRROR_BYTES_MAX + 1)
    except OSError:
        return None
    digest, _, body = data.partition(b"\n")
    if len(digest) != _DIGEST_CHARACTERS or hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    try:
        file = decode_json(body, _File)
    except (msgspec.DecodeError, ValueError):
        return None
    return file if file.format == _FORMAT else None


def _write(path: Path, data: bytes) -> None:
    """Overwrite in place: on a full disk the blocks are there already. The directory is synced for a new file."""
    new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
