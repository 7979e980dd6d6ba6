"""The TUF roles of a channel as data: how they are made, raised to the next version, signed and read back (T1, T2).

Pure: takes keys and times, returns bytes. It decides expiry, delegation shape and which releases stay listed. Where
bytes are kept is `repository.py`'s, which keys are in force `rotation.py`'s, who has signed `signatures.py`'s.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from tuf.api.metadata import (  # type: ignore[attr-defined]
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.errors import AuthorError, StoreError
from edge_agent.contract.messages import ReleaseInfo, Rollout, release_path, rollout_path
from publisher.trust.signers import Key, Signature, Signer

__all__ = [
    "DELEGATED",
    "KEYS_MAX",
    "ONLINE",
    "RELEASES_LISTED",
    "ROLES",
    "SUBJECT_FIELD",
    "TOP",
    "Roles",
    "assembled",
    "expiry",
    "first_root",
    "key_name",
    "name_of",
    "named",
    "parse",
    "pin",
    "sign",
]

DELEGATED = ("release", "rollout")
TOP = ("root", "timestamp", "snapshot", "targets")
ROLES = (*TOP, *DELEGATED)
ONLINE = ("timestamp", "snapshot")
KEYS_MAX = 32  # of a role
SUBJECT_FIELD = "x-fieldcast"
_NAME_FIELD = "x-fieldcast-name"
RELEASES_LISTED = 50
_TIMESTAMP_DAYS, _DAYS = 14, 365


def key_name(channel: str, role: str, number: int = 1) -> str:
    """Return the key store's name for a role's key: `staging-release`, `staging-release-2`, …"""
    return f"{channel}-{role}" if number == 1 else f"{channel}-{role}-{number}"


def named(key: Key, name: str) -> Key:
    """Return a public key that carries its key store's name, by which its holder finds the private half."""
    fresh = copy.deepcopy(key)
    fresh.unrecognized_fields[_NAME_FIELD] = name
    return fresh


def name_of(key: Key, otherwise: str) -> str:
    """Return the name that a public key carries; `otherwise` for keys of channels that carry none."""
    found = key.unrecognized_fields.get(_NAME_FIELD)
    return found if isinstance(found, str) and found else otherwise


def expiry(role: str, now: float) -> datetime:
    """Return when a role signed at `now` (seconds UTC) expires: timestamp after 14 days, the others after a year."""
    days = _TIMESTAMP_DAYS if role == "timestamp" else _DAYS
    return (datetime.fromtimestamp(now, UTC) + timedelta(days=days)).replace(microsecond=0)


def pin(version: int, data: bytes) -> MetaFile:
    """Return the entry by which one role names another's exact bytes."""
    return MetaFile(version, len(data), {"sha256": Digest.of(data).hex})


def sign(signed: Root | Timestamp | Snapshot | Targets, *signers: Signer) -> bytes:
    """Return a role's file. The same role and keys give the same bytes."""
    metadata: Metadata[Any] = Metadata(signed)
    payload = metadata.signed_bytes
    return assembled(signed, {signer.public_key.keyid: signer.sign(payload) for signer in signers})


def assembled(signed: Root | Timestamp | Snapshot | Targets, signatures: Mapping[str, Signature]) -> bytes:
    """Return a role's file with these signatures, by key id; in whatever order they came, the bytes are the same."""
    metadata: Metadata[Any] = Metadata(copy.deepcopy(signed), dict(sorted(signatures.items())))
    return metadata.to_bytes(JSONSerializer(compact=True))


def parse(role: str, data: bytes) -> Any:
    """Return the role in a file of the record, unverified. Raises `StoreError`."""
    try:
        signed = Metadata.from_bytes(data).signed
    except DeserializationError as error:
        raise StoreError(
            f"{role} metadata in the repository of record is damaged ({error}): restore a backup"
        ) from None
    if signed.type != (role if role not in DELEGATED else "targets"):
        raise StoreError(
            f"the repository of record holds {signed.type} metadata where {role} belongs: restore a backup"
        )
    return signed


def _subject(fleet: str, channel: str) -> dict[str, Any]:
    """Return the signed field by which root and targets name their channel (T1)."""
    return {SUBJECT_FIELD: {"fleet": fleet, "channel": channel}}


def first_root(fleet: str, channel: str, keys: Mapping[str, Sequence[Key]], now: float, threshold: int = 1) -> Root:
    """Return the first root of a channel; `threshold` is that of the root keys, the others have 1."""
    root = Root(expires=expiry("root", now), unrecognized_fields=_subject(fleet, channel))
    for role in TOP:
        for key in keys[role]:
            root.add_key(key, role)
    root.roles["root"].threshold = threshold
    return root


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The roles of one publication, as TUF's own data. Methods return changed copies and leave this one as it is."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    release: Targets
    rollout: Targets

    @classmethod
    def first(
        cls,
        fleet: str,
        channel: str,
        keys: Mapping[str, Sequence[Key]],
        now: float,
        root: Root,
        threshold: int = 1,
    ) -> Roles:
        """Return version 1 of everything below `root`, no release yet; `threshold` is that of `release`."""
        delegated = {
            role: DelegatedRole(
                role,
                [key.keyid for key in keys[role]],
                threshold if role == "release" else 1,
                terminating=True,
                paths=[f"{role}/*"],
            )
            for role in DELEGATED
        }
        delegations = Delegations({key.keyid: key for role in DELEGATED for key in keys[role]}, delegated)
        return cls(
            root=root,
            timestamp=Timestamp(expires=expiry("timestamp", now)),
            snapshot=Snapshot(expires=expiry("snapshot", now)),
            targets=Targets(
                expires=expiry("targets", now),
                delegations=delegations,
                unrecognized_fields=_subject(fleet, channel),
            ),
            release=Targets(expires=expiry("release", now)),
            rollout=Targets(expires=expiry("rollout", now)),
        )

    def named(self, role: str) -> Any:
        """Return a role by name."""
        return getattr(self, role)

    def raised(self, roles: Iterable[str], now: float) -> Roles:
        """Return a copy in which `roles` have the next version and a new expiry."""
        fresh = copy.deepcopy(self)
        for role in roles:
            signed = fresh.named(role)
            signed.version += 1
            signed.expires = expiry(role, now)
        return fresh

    def replaced(self, **roles: Any) -> Roles:
        """Return a copy with these roles in place of its own."""
        return replace(copy.deepcopy(self), **roles)

    def authorised(self, role: str) -> Role:
        """Return the keys and threshold in force for a role."""
        delegations = self.targets.delegations
        if role in DELEGATED and delegations is not None and delegations.roles is not None:
            return delegations.roles[role]
        return self.root.roles[role]

    def keys_of(self, role: str) -> dict[str, Key]:
        """Return the public keys in force for a role, by key id, in the order in which they are listed."""
        delegations = self.targets.delegations
        known = delegations.keys if role in DELEGATED and delegations is not None else self.root.keys
        return {keyid: known[keyid] for keyid in self.authorised(role).keyids if keyid in known}

    def require_authorised(self, role: str, signer: Signer, name: str, channel: str) -> None:
        """Raise `AuthorError` unless the signer's key, of the key store's `name`, is in force for the role."""
        if signer.public_key.keyid not in self.authorised(role).keyids:
            raise AuthorError(
                f"key {name} is not (or no longer) in force for role {role} of channel {channel}: "
                "use the key directory that belongs to this channel, or have the key added"
            )

    # --- releases and rollouts ---------------------------------------------------------------------------------------

    def releases(self) -> list[ReleaseInfo]:
        """Return all releases listed, by pipeline and sequence. Raises `StoreError` if one is not readable."""
        try:
            found = [
                msgspec.convert(target.custom, ReleaseInfo, dec_hook=lambda _kind, value: Digest(value))
                for target in self.release.targets.values()
            ]
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            raise StoreError(
                f"the repository of record lists an unreadable release ({error}): restore a backup"
            ) from None
        return sorted(found, key=lambda info: (info.pipeline, info.sequence))

    def with_release(self, info: ReleaseInfo, manifest: bytes, rollout: Rollout) -> Roles:
        """Return a copy that lists a release and its pipeline's rollout, and forgets releases beyond the last 50.

        A release that the rollout chooses is never forgotten. Versions stay; see `raised`.
        """
        fresh = copy.deepcopy(self)
        target = TargetFile.from_data(release_path(info.pipeline, info.sequence), manifest, ["sha256"])
        target.unrecognized_fields["custom"] = msgspec.to_builtins(info, enc_hook=str)
        fresh.release.targets[target.path] = target
        chosen = TargetFile.from_data(rollout_path(info.pipeline), encode_json(rollout), ["sha256"])
        fresh.rollout.targets[chosen.path] = chosen
        listed = [one.sequence for one in fresh.releases() if one.pipeline == info.pipeline]
        for sequence in set(listed[:-RELEASES_LISTED]) - {rollout.candidate, rollout.stable}:
            del fresh.release.targets[release_path(info.pipeline, sequence)]
        return fresh
