"""Channels in the repository of record: create, publish, refresh, roll back, and compose the envelope (T1, T3, T7).

Every publication ends with the creation of the next numbered timestamp file: that is its commit point. Everything else
was kept before under its digest, so a publisher that is killed leaves nothing that another one could see or trip over,
and of two that publish at once one gets `Conflict` with nothing visible. Before signing, the record's newest state must
pass the device's own checks from the root that this workstation pinned, or whoever can write to the record could have
things signed; before committing, the new envelope must pass them too (T10). Talks to no broker.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.errors import AuthorError
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.messages import (
    ENVELOPE_BYTES_MAX,
    ReleaseInfo,
    Rollout,
    release_path,
    rollout_path,
)
from edge_agent.contract.verification import Request
from publisher.keys import KeyStore
from publisher.publication import Publication, Shelf
from publisher.record import Conflict, Record
from publisher.roles import DELEGATED, ONLINE, ROLES, Roles, first_root, key_name, parse, pin, sign
from publisher.verification import verify

__all__ = ["Channel", "Conflict", "Published", "Record", "create_channel"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A release as signed, and the envelope that announces it."""

    info: ReleaseInfo
    envelope: bytes


@dataclass(frozen=True, kw_only=True)
class _Hand:
    """Who signs, and when (seconds UTC)."""

    keys: KeyStore
    passphrase: str
    now: float


def create_channel(
    record: Record, keys: KeyStore, fleet: str, channel: str, passphrase: str, *, now: float | None = None
) -> Channel:
    """Create a channel with six new keys and no release; return it.

    An interrupted creation is taken up where it stopped. Raises `AuthorError` if the channel exists or the keys found
    do not open with `passphrase`, `Conflict` if another workstation creates it at the same time.
    """
    now = time.time() if now is None else now
    created = Channel(record, fleet, channel)
    if created.exists():
        raise AuthorError(f"channel {channel} of fleet {fleet} exists already in {record.location}")
    names = {role: key_name(channel, role) for role in ROLES}
    signers = {role: keys.signer(name, passphrase) for role, name in names.items() if keys.has(name)}
    missing = [role for role in ROLES if role not in signers]
    if missing:
        keys.create([names[role] for role in missing], passphrase)
        signers |= {role: keys.signer(names[role], passphrase) for role in missing}
    public = {role: signer.public_key for role, signer in signers.items()}
    pinned = keys.pinned(channel)
    begun = first_root(fleet, channel, public, now) if pinned is None else parse("root", pinned)
    roles = Roles.first(fleet, channel, public, now, begun)
    if begun.unrecognized_fields != roles.targets.unrecognized_fields:
        raise AuthorError(f"the keys in {keys.directory} belong to a channel of another fleet: use another directory")
    for role in ROLES:
        roles.require_authorised(role, signers[role], channel)
    root = keys.pin(channel, pinned if pinned is not None else sign(roles.root, signers["root"]))
    created._create(root, roles, signers)
    return created


class Channel:
    """One channel of a fleet in the record. Methods that sign need the key store and its passphrase."""

    def __init__(self, record: Record, fleet: str, name: str) -> None:
        self.record = record
        self.fleet, self.name = fleet, name
        self._shelf = Shelf(record, fleet, name)

    # --- read ----------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Tell whether the channel was created, completely."""
        return bool(self._shelf.numbers())

    def root(self) -> bytes:
        """Return the first root, which devices are enrolled with."""
        return self._shelf.first_root()

    def envelope(self) -> bytes:
        """Return the envelope of the newest publication; the same record always gives the same bytes."""
        return self._shelf.envelope(self._shelf.newest())

    def releases(self) -> list[ReleaseInfo]:
        """Return the releases listed (the last 50 a pipeline), by pipeline and sequence."""
        return self._shelf.newest().roles.releases()

    def current(self) -> dict[str, tuple[Rollout, ReleaseInfo]]:
        """Return each pipeline's rollout and the release it offers as candidate."""
        return self._shelf.newest().current()

    def manifest(self, digest: Digest | str) -> bytes:
        """Return the manifest of a listed release. Raises `AuthorError` if no listed release has this digest."""
        head = self._shelf.newest()
        for path, target in head.roles.release.targets.items():
            if target.hashes["sha256"] == Digest(digest).hex:
                return self._shelf.document(path, target)
        raise AuthorError(f"no release listed in channel {self.name} has manifest {digest}")

    def expiries(self) -> dict[str, float]:
        """Return when each role expires, seconds UTC."""
        roles = self._shelf.newest().roles
        return {role: roles.named(role).expires.timestamp() for role in ROLES}

    # --- sign ----------------------------------------------------------------------------------------------------

    def publish(
        self,
        manifest: bytes,
        *,
        pipeline: str,
        keys: KeyStore,
        passphrase: str,
        tag: str = "",
        message: str = "",
        commit: str = "",
        dirty: bool = False,
        signer: str = "",
        now: float | None = None,
    ) -> Published:
        """Sign a manifest as the pipeline's next release and offer it to every device; commit it to the record.

        Stable becomes what was offered before, unless that was aborted or not yet offered to all. Raises `Conflict`
        (retry), `AuthorError` (keys, texts), `UpdateRejected` (a device would refuse it, with its reasons).
        """
        if parse_manifest(manifest).pipeline != pipeline:
            raise AuthorError(f"the manifest is not of pipeline {pipeline}: pack that pipeline")
        hand = _Hand(keys=keys, passphrase=passphrase, now=time.time() if now is None else now)
        before = self._trusted(keys)
        stable = _stable(before.current().get(pipeline))
        texts = {"tag": tag, "message": message, "commit": commit, "signer": signer}
        return self._offer(before, manifest, pipeline, stable, hand, dirty=dirty, **texts)

    def republish(
        self,
        sequence: int,
        *,
        pipeline: str,
        keys: KeyStore,
        passphrase: str,
        message: str = "",
        signer: str = "",
        now: float | None = None,
    ) -> Published:
        """Roll back: offer an older release's manifest under a new sequence, with the older one as stable.

        Raises as `publish` does, and `AuthorError` if the release is not listed any more.
        """
        hand = _Hand(keys=keys, passphrase=passphrase, now=time.time() if now is None else now)
        before = self._trusted(keys)
        path = release_path(pipeline, sequence)
        if path not in before.roles.release.targets:
            raise AuthorError(f"{pipeline}@{sequence} is not among the releases listed in channel {self.name}")
        old = next(one for one in before.roles.releases() if (one.pipeline, one.sequence) == (pipeline, sequence))
        manifest = self._shelf.document(path, before.roles.release.targets[path])
        texts = {"message": message or f"back to {old.name}", "commit": old.commit, "signer": signer}
        return self._offer(before, manifest, pipeline, sequence, hand, dirty=old.dirty, **texts)

    def refresh(self, *, keys: KeyStore, passphrase: str, now: float | None = None) -> bytes:
        """Sign timestamp and snapshot anew, with new expiry, and return the envelope; needs only those two keys."""
        hand = _Hand(keys=keys, passphrase=passphrase, now=time.time() if now is None else now)
        before = self._trusted(keys)
        return self._commit(before, before.roles, {}, (), hand)

    def _offer(
        self,
        before: Publication,
        manifest: bytes,
        pipeline: str,
        stable: int | None,
        hand: _Hand,
        *,
        dirty: bool,
        **texts: str,
    ) -> Published:
        """Sign a manifest under the next sequence, with a rollout to all that has it as candidate."""
        sequence = 1 + max((one.sequence for one in before.roles.releases() if one.pipeline == pipeline), default=0)
        info = ReleaseInfo(
            fleet=self.fleet,
            channel=self.name,
            pipeline=pipeline,
            sequence=sequence,
            digest=Digest.of(manifest),
            published=int(hand.now),
            dirty=dirty,
            **{name: _text(name, text) for name, text in texts.items()},
        )
        rollout = Rollout(
            fleet=self.fleet,
            channel=self.name,
            pipeline=pipeline,
            rollout_id=f"{self.name}/{info.name}",
            candidate=sequence,
            stable=stable,
        )
        documents = {release_path(pipeline, sequence): manifest, rollout_path(pipeline): encode_json(rollout)}
        roles = before.roles.with_release(info, manifest, rollout)
        return Published(info=info, envelope=self._commit(before, roles, documents, DELEGATED, hand))

    # --- commit --------------------------------------------------------------------------------------------------

    def _commit(
        self,
        before: Publication,
        roles: Roles,
        documents: dict[str, bytes],
        changed: tuple[str, ...],
        hand: _Hand,
    ) -> bytes:
        """Sign the changed roles, check the result as a device would, keep it, and commit it."""
        signers = {role: hand.keys.signer(key_name(self.name, role), hand.passphrase) for role in (*changed, *ONLINE)}
        for role, signer in signers.items():
            before.roles.require_authorised(role, signer, self.name)
        roles = roles.raised(signers, hand.now)
        files = {**before.files, **_signed(roles, changed, signers)}
        known = {**before.documents, **documents}
        after = Publication(roles=roles, files=files, roots=before.roots, documents=self._shelf.chosen(roles, known))
        envelope = self._shelf.envelope(after)
        if len(envelope) > ENVELOPE_BYTES_MAX:
            raise AuthorError(
                f"the envelope of channel {self.name} would have {len(envelope)} bytes, {ENVELOPE_BYTES_MAX} are "
                "allowed: use shorter messages, smaller manifests, or spread the pipelines over more channels"
            )
        verify(
            Request(
                fleet=self.fleet,
                channel=self.name,
                now=hand.now,
                root=before.roots[0],
                envelope=envelope,
                accepted=self._shelf.envelope(before),
            )
        )
        self._shelf.keep(after)
        return envelope

    def _create(self, root: bytes, roles: Roles, signers: Mapping[str, Any]) -> None:
        """Commit the first publication. A root left by an interrupted creation is taken up if it is ours."""
        if not self._shelf.keep_root(1, root):
            raise AuthorError(
                f"channel {self.name} of fleet {self.fleet} is being created with other keys in "
                f"{self.record.location}: use the key directory it was begun with"
            )
        files = _signed(roles, ("targets", *DELEGATED), signers)
        self._shelf.keep(Publication(roles=roles, files=files, roots=(root,), documents={}))

    def _trusted(self, keys: KeyStore) -> Publication:
        """Return the newest state after the device's checks from the pinned root, expiry aside."""
        root = keys.pinned(self.name)
        if root is None:
            raise AuthorError(
                f"{keys.directory} does not hold {self.name}.root.json, by which this workstation knows channel "
                f"{self.name}: copy it, with the keys, from the workstation that created the channel"
            )
        newest = self._shelf.newest()
        verify(Request(fleet=self.fleet, channel=self.name, now=0.0, root=root, envelope=self._shelf.envelope(newest)))
        return newest


def _signed(roles: Roles, changed: tuple[str, ...], signers: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of the changed roles, of snapshot and of timestamp; both are updated in `roles` to name them."""
    files = {}
    for role in changed:
        files[role] = sign(roles.named(role), signers[role])
        roles.snapshot.meta[f"{role}.json"] = pin(roles.named(role).version, files[role])
    files["snapshot"] = sign(roles.snapshot, signers["snapshot"])
    roles.timestamp.snapshot_meta = pin(roles.snapshot.version, files["snapshot"])
    files["timestamp"] = sign(roles.timestamp, signers["timestamp"])
    return files


def _stable(before: tuple[Rollout, ReleaseInfo] | None) -> int | None:
    """What devices outside the new rollout shall run: the last release that was offered to all and not aborted."""
    if before is None:
        return None
    rollout, _ = before
    return rollout.stable if rollout.aborted or rollout.percent < 100 else rollout.candidate


def _text(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise AuthorError(f"{name} {text!r} is not valid Unicode: type it again") from None
    return text
