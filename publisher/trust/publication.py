"""One publication of a channel: its roles, their exact files, and how it lies in the repository of record (T3, T7).

Reads and keeps whole publications and composes the envelope of one. Files lie under their digest, each named by the one
above it; only the first root and the timestamps have names of their own, and the timestamp is created last: a
publication without it does not exist. A later root is named by the timestamp and names the root before it, so that a
root whose publication was never finished is in nobody's way. Publications are numbered by themselves: the versions of
timestamps start again when their keys are rotated (T5). Signs nothing and trusts nothing it reads: `repository.py` has
the result verified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edge_agent.contract.digest import BlobRef, Digest, decode_json
from edge_agent.contract.errors import ConfigError, StoreError
from edge_agent.contract.manifest import MANIFEST_BYTES_MAX, check_name
from edge_agent.contract.messages import (
    ENVELOPE_BYTES_MAX,
    ENVELOPE_FORMAT,
    Envelope,
    ReleaseInfo,
    Rollout,
    encode_envelope,
    release_path,
)
from publisher.record import Conflict, Record
from publisher.trust.roles import DELEGATED, SUBJECT_FIELD, Roles, parse

__all__ = ["Publication", "Shelf", "link_previous", "link_roots"]

_METADATA_BYTES_MAX = ENVELOPE_BYTES_MAX
_ROOTS_MAX = 257
_NUMBERED = re.compile(r"([1-9][0-9]{0,9})\.json")


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Everything that one publication says.

    `number` is its place in the channel's history, from 1; `files` are the roles' exact bytes, root aside; `roots` all
    roots from the first; `documents` the rollout documents and the manifests they choose, by target path.
    """

    number: int

    roles: Roles
    files: Mapping[str, bytes]
    roots: tuple[bytes, ...]
    documents: Mapping[str, bytes]

    def current(self) -> dict[str, tuple[Rollout, ReleaseInfo]]:
        """Return each pipeline's rollout and the release it offers as candidate."""
        listed = {(info.pipeline, info.sequence): info for info in self.roles.releases()}
        rollouts = [decode_json(self.documents[path], Rollout) for path in self.roles.rollout.targets]
        return {one.pipeline: (one, listed[one.pipeline, one.candidate]) for one in rollouts}


class Shelf:
    """Where the publications of one channel lie in the record."""

    def __init__(self, record: Record, fleet: str, channel: str) -> None:
        self.record = record
        self.fleet, self.channel = check_name("fleet", fleet), check_name("channel", channel)
        self._folder = f"channel/{fleet}/{channel}"

    def numbers(self) -> list[int]:
        """Return the numbers of all publications, the newest last."""
        names = (_NUMBERED.fullmatch(name) for name in self.record.names(f"{self._folder}/timestamp"))
        return sorted(int(name.group(1)) for name in names if name is not None)

    def first_root(self) -> bytes:
        """Return the first root. Raises `ConfigError` if there is no such channel."""
        data = self._first_root()
        if data is None:
            raise self._absent()
        return data

    def newest(self) -> Publication:
        """Read the newest publication, every file by the digest that the one above it names."""
        numbers = self.numbers()
        if not numbers:
            raise self._absent()
        data = self.timestamp(numbers[-1])
        files = {"timestamp": data}
        roles: dict[str, Any] = {"timestamp": parse("timestamp", data)}
        files["snapshot"] = self._named("snapshot", roles["timestamp"].snapshot_meta)
        roles["snapshot"] = parse("snapshot", files["snapshot"])
        for role in ("targets", *DELEGATED):
            files[role] = self._named(role, roles["snapshot"].meta.get(f"{role}.json"))
            roles[role] = parse(role, files[role])
        roots = self._roots(roles["timestamp"])
        complete = Roles(root=parse("root", roots[-1]), **roles)
        documents = self.chosen(complete, {})
        return Publication(number=numbers[-1], roles=complete, files=files, roots=roots, documents=documents)

    def timestamp(self, number: int) -> bytes:
        """Return the timestamp file of a publication, empty if there is none."""
        return self.record.read(f"{self._folder}/timestamp/{number}.json", _METADATA_BYTES_MAX) or b""

    @property
    def folder(self) -> str:
        """Where everything lies that has a name of its own: timestamps, the first root, waiting changes."""
        return self._folder

    def chosen(self, roles: Roles, known: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return all rollout documents and the manifests they choose; what is not `known` is read from the record."""
        found: dict[str, bytes] = {}

        def take(path: str, target: Any) -> bytes:
            data = known.get(path)
            if data is None or Digest.of(data).hex != target.hashes.get("sha256"):
                data = self.document(path, target)
            found[path] = data
            return data

        for path, target in roles.rollout.targets.items():
            rollout = decode_json(take(path, target), Rollout)
            for sequence in (rollout.candidate, rollout.stable):
                chosen = release_path(rollout.pipeline, sequence) if sequence is not None else ""
                if chosen in roles.release.targets:
                    take(chosen, roles.release.targets[chosen])
        return found

    def document(self, path: str, target: Any) -> bytes:
        """Return a target's bytes, verified by size and sha256."""
        if target.length > MANIFEST_BYTES_MAX or "sha256" not in target.hashes:
            raise self._damaged(f"{path} claims {target.length} bytes or has no sha256")
        return self.record.get_blob(BlobRef(digest=Digest(f"sha256:{target.hashes['sha256']}"), size=target.length))

    def keep_first_root(self, data: bytes) -> bool:
        """Create the first root's file; return False if there is another one."""
        try:
            self.record.create(self._first_root_path(), data)
        except Conflict:
            return self._first_root() == data
        return True

    def keep(self, publication: Publication) -> None:
        """Keep everything, then commit by creating the timestamp. Raises `Conflict` if its number is taken."""
        files = {role: data for role, data in publication.files.items() if role != "timestamp"}
        for data in (*publication.roots[1:], *publication.documents.values(), *files.values()):
            self.record.put_blob(data)
        self.record.create(f"{self._folder}/timestamp/{publication.number}.json", publication.files["timestamp"])

    def envelope(self, publication: Publication) -> bytes:
        """Return the envelope of a publication; the same one always gives the same bytes."""
        metadata = {f"{number}.root.json": data for number, data in enumerate(publication.roots, 1)}
        for role, data in publication.files.items():
            version = publication.roles.named(role).version
            metadata["timestamp.json" if role == "timestamp" else f"{version}.{role}.json"] = data
        return encode_envelope(
            Envelope(
                format=ENVELOPE_FORMAT,
                fleet=self.fleet,
                channel=self.channel,
                metadata=metadata,
                targets=dict(publication.documents),
            )
        )

    def _roots(self, timestamp: Any) -> tuple[bytes, ...]:
        """Return all roots, the newest from where the timestamp says, each other from where the one after it says."""
        first = self.first_root()
        found: list[bytes] = []
        ref = _link(timestamp, "root")
        while ref is not None and ref.digest != Digest.of(first):
            if len(found) >= _ROOTS_MAX - 1:
                raise self._damaged(f"the chain of roots has more than {_ROOTS_MAX} links")
            found.append(self.record.get_blob(ref))
            ref = _link(parse("root", found[-1]), "previous")
        return (first, *reversed(found))

    def _first_root(self) -> bytes | None:
        return self.record.read(self._first_root_path(), _METADATA_BYTES_MAX)

    def _first_root_path(self) -> str:
        return f"{self._folder}/root/1.json"

    def _named(self, role: str, meta: Any) -> bytes:
        digest = (meta.hashes or {}).get("sha256") if meta is not None else None
        if digest is None or meta.length is None or meta.length > _METADATA_BYTES_MAX:
            raise self._damaged(f"{role} is not named by size and sha256")
        return self.record.get_blob(BlobRef(digest=Digest(f"sha256:{digest}"), size=meta.length))

    def _damaged(self, what: str) -> StoreError:
        return StoreError(f"repository of record {self.record.location}: {what}; restore a backup")

    def _absent(self) -> ConfigError:
        return ConfigError(
            f"channel {self.channel} of fleet {self.fleet} is not in {self.record.location}: check both names, or "
            "create it with `publisher init`"
        )


def link_roots(roles: Roles, roots: tuple[bytes, ...]) -> None:
    """Let the timestamp name the newest root, so that both are published in one step; the first needs no naming."""
    if len(roots) > 1:
        subject = roles.timestamp.unrecognized_fields.setdefault(SUBJECT_FIELD, {})
        subject["root"] = msgspec.to_builtins(BlobRef.of(roots[-1]), enc_hook=str)


def link_previous(root: Any, previous: bytes) -> None:
    """Let a root that is not signed yet name the one before it."""
    root.unrecognized_fields[SUBJECT_FIELD]["previous"] = msgspec.to_builtins(BlobRef.of(previous), enc_hook=str)


def _link(signed: Any, name: str) -> BlobRef | None:
    """Return the reference that a role carries in our own field. Raises `StoreError` if it is none."""
    found = (signed.unrecognized_fields.get(SUBJECT_FIELD) or {}).get(name)
    if found is None:
        return None
    try:
        ref = msgspec.convert(found, BlobRef, dec_hook=lambda _kind, value: Digest(value))
    except (msgspec.ValidationError, ValueError) as error:
        raise StoreError(
            f"{signed.type} metadata in the repository of record is damaged ({error}): restore a backup"
        ) from None
    if ref.size > _METADATA_BYTES_MAX:
        raise StoreError(f"a root of {ref.size} bytes is named in the repository of record: restore a backup")
    return ref
