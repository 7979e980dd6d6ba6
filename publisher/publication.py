"""One publication of a channel: its roles, their exact files, and how it lies in the repository of record (T3, T7).

Reads and keeps whole publications and composes the envelope of one. Files lie under their digest, each named by the one
above it; only roots and timestamps are numbered, and the timestamp is created last: a publication without it does not
exist. Signs nothing and trusts nothing it reads: `repository.py` has the result verified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from publisher.roles import DELEGATED, Roles, parse

__all__ = ["Publication", "Shelf"]

_METADATA_BYTES_MAX = ENVELOPE_BYTES_MAX
_ROOTS_MAX = 257
_NUMBERED = re.compile(r"([1-9][0-9]{0,9})\.json")


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Everything that one publication says.

    `files` are the roles' exact bytes, root aside; `roots` all roots from the first; `documents` the rollout documents
    and the manifests they choose, by target path.
    """

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
        data = self._root(1)
        if data is None:
            raise self._absent()
        return data

    def newest(self) -> Publication:
        """Read the newest publication, every file by the digest that the one above it names."""
        numbers = self.numbers()
        if not numbers:
            raise self._absent()
        data = self.record.read(f"{self._folder}/timestamp/{numbers[-1]}.json", _METADATA_BYTES_MAX) or b""
        files = {"timestamp": data}
        roles: dict[str, Any] = {"timestamp": parse("timestamp", data)}
        files["snapshot"] = self._named("snapshot", roles["timestamp"].snapshot_meta)
        roles["snapshot"] = parse("snapshot", files["snapshot"])
        for role in ("targets", *DELEGATED):
            files[role] = self._named(role, roles["snapshot"].meta.get(f"{role}.json"))
            roles[role] = parse(role, files[role])
        roots = self._roots()
        complete = Roles(root=parse("root", roots[-1]), **roles)
        return Publication(roles=complete, files=files, roots=roots, documents=self.chosen(complete, {}))

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

    def keep_root(self, version: int, data: bytes) -> bool:
        """Create a root file; return False if another one has its number."""
        try:
            self.record.create(self._root_path(version), data)
        except Conflict:
            return self._root(version) == data
        return True

    def keep(self, publication: Publication) -> None:
        """Keep everything, then commit by creating the timestamp. Raises `Conflict` if its number is taken."""
        files = {role: data for role, data in publication.files.items() if role != "timestamp"}
        for data in (*publication.documents.values(), *files.values()):
            self.record.put_blob(data)
        number = publication.roles.timestamp.version
        self.record.create(f"{self._folder}/timestamp/{number}.json", publication.files["timestamp"])

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

    def _roots(self) -> tuple[bytes, ...]:
        found = [self.first_root()]
        while len(found) < _ROOTS_MAX:
            data = self._root(len(found) + 1)
            if data is None:
                break
            found.append(data)
        return tuple(found)

    def _root(self, version: int) -> bytes | None:
        return self.record.read(self._root_path(version), _METADATA_BYTES_MAX)

    def _root_path(self, version: int) -> str:
        return f"{self._folder}/root/{version}.json"

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
