"""Channels in the repository of record: publish, refresh, roll back, and compose the envelope (T1, T3, T7).

Every publication ends with the creation of the next numbered timestamp file: that is its commit point. Everything else
was kept before under its digest, so a publisher that is killed leaves nothing that another one could see or trip over,
and of two that publish at once one gets `Conflict` with nothing visible. Before signing, the record's newest state must
pass the device's own checks from the root that this workstation pinned, or whoever can write to the record could have
things signed; before committing, the new envelope must pass them too (T10). What the keys at hand cannot sign alone is
kept and waits for the others (`pending.py`). Talks to no broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.errors import AuthorError
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.messages import (
    ReleaseInfo,
    Rollout,
    release_path,
    rollout_path,
)
from edge_agent.contract.verification import Request
from publisher.record import Conflict, Record
from publisher.trust.keys import KeyStore
from publisher.trust.marks import NO_MARKS, Marks, require_above_floor
from publisher.trust.pending import PendingShelf
from publisher.trust.publication import Publication, Shelf
from publisher.trust.roles import (
    DELEGATED,
    ONLINE,
    ROLES,
    Roles,
    parse,
    sign,
)
from publisher.trust.rotation import affected, require_fresh
from publisher.trust.signatures import Hand, require_some, seats
from publisher.trust.signing import Proposal, Signing, completed, proposed
from publisher.trust.verification import verify
from publisher.trust.waiting import Waiting

__all__ = ["Channel", "Conflict", "Proposal", "Published", "Record", "Waiting"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A release as signed, and the envelope that announces it."""

    info: ReleaseInfo
    envelope: bytes


class Channel:
    """One channel of a fleet in the record. Methods that sign need the key store and its passphrase."""

    def __init__(self, record: Record, fleet: str, name: str) -> None:
        self.record = record
        self.fleet, self.name = fleet, name
        self._shelf = Shelf(record, fleet, name)
        self._pendings = PendingShelf(record, fleet, name)
        # Looked up when it is called, not now: tests put another verifier in place.
        self._signing = Signing(self._shelf, self._pendings, lambda request: verify(request))

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

    def roles(self) -> Roles:
        """Return the roles of the newest publication, unverified."""
        return self._shelf.newest().roles

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
        marks: Marks = NO_MARKS,
        now: float | None = None,
    ) -> Published:
        """Sign a manifest as the pipeline's next release and offer it to every device; commit it to the record.

        Stable becomes what was offered before, unless that was aborted or not yet offered to all. Raises `Conflict`
        (retry), `AuthorError` (keys, texts), `UpdateRejected` (a device would refuse it, with its reasons).
        """
        if parse_manifest(manifest).pipeline != pipeline:
            raise AuthorError(f"the manifest is not of pipeline {pipeline}: pack that pipeline")
        hand = Hand(keys=keys, passphrase=passphrase, now=time.time() if now is None else now)
        before = self._trusted(keys)
        stable = _stable(before.current().get(pipeline))
        texts = {"tag": tag, "message": message, "commit": commit, "signer": signer}
        return self._offer(before, manifest, pipeline, stable, hand, dirty=dirty, marks=marks, **texts)

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
        hand = Hand(keys=keys, passphrase=passphrase, now=time.time() if now is None else now)
        before = self._trusted(keys)
        path = release_path(pipeline, sequence)
        if path not in before.roles.release.targets:
            raise AuthorError(f"{pipeline}@{sequence} is not among the releases listed in channel {self.name}")
        listed = [one for one in before.roles.releases() if one.pipeline == pipeline]
        old = next(one for one in listed if one.sequence == sequence)
        require_above_floor(listed, old)
        manifest = self._shelf.document(path, before.roles.release.targets[path])
        back = message or f"back to {old.name}"
        texts: dict[str, Any] = {"message": back, "commit": old.commit, "signer": signer}
        return self._offer(before, manifest, pipeline, sequence, hand, dirty=old.dirty, marks=NO_MARKS, **texts)

    def refresh(self, *, keys: KeyStore, passphrase: str, now: float | None = None) -> bytes:
        """Sign timestamp and snapshot anew, with new expiry, and return the envelope; needs only those two keys."""
        hand = Hand(keys=keys, passphrase=passphrase, now=time.time() if now is None else now)
        before = self._trusted(keys)
        return self._commit(before, before.roles, {}, (), hand)

    def unlock(self, keys: KeyStore, passphrase: str, role: str = "release") -> None:
        """Raise `AuthorError` unless a key in force for `role` is here and opens."""
        Hand(keys=keys, passphrase=passphrase, now=0.0).require(self.name, role, self.roles())

    def _offer(
        self,
        before: Publication,
        manifest: bytes,
        pipeline: str,
        stable: int | None,
        hand: Hand,
        *,
        dirty: bool,
        marks: Marks = NO_MARKS,
        **texts: str,
    ) -> Published:
        """Sign a manifest under the next sequence, with a rollout to all that has it as candidate."""
        listed = [one for one in before.roles.releases() if one.pipeline == pipeline]
        sequence = 1 + max((one.sequence for one in listed), default=0)
        words: dict[str, Any] = {name: _text(name, text) for name, text in texts.items()}
        info = ReleaseInfo(
            fleet=self.fleet,
            channel=self.name,
            pipeline=pipeline,
            sequence=sequence,
            digest=Digest.of(manifest),
            published=int(hand.now),
            dirty=dirty,
            **words,
            **marks.of(listed, sequence),
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
        what = f"{info.name} by {info.signer}" if info.signer else info.name
        envelope = self._commit(before, roles, documents, DELEGATED, hand, what=what, by=info.signer)
        return Published(info=info, envelope=envelope)

    # --- change what is in force, and sign for others -------------------------------------------------------------

    def alter(
        self,
        change: Callable[[Roles], Roles],
        *,
        keys: KeyStore,
        passphrase: str,
        renewed: tuple[str, ...] = (),
        by: str = "",
        now: float | None = None,
    ) -> bytes:
        """Publish what `change` makes of the roles, and `renewed` ones with a new expiry; return the envelope.

        Raises `Waiting` when the keys here do not suffice (the change is kept), `AuthorError` when none of them may
        sign it, `Conflict`, `UpdateRejected`.
        """
        hand = Hand(keys=keys, passphrase=passphrase, now=time.time() if now is None else now)
        before = self._trusted(keys)
        after = change(before.roles)
        require_fresh([parse("root", data) for data in before.roots], before.roles, after)
        found = {*renewed, *affected(before.files, before.roles, after)}
        changed = tuple(role for role in ROLES if role in found)
        if not changed:
            raise AuthorError(f"nothing would change in channel {self.name}")
        proposal = proposed(before, after, changed, hand.now)
        places = seats(changed[0], before.roles, proposal.after)
        here = any(hand.signers(self.name, changed[0], place.keys) for place in places)
        require_some(here, self.name, changed[0], places)
        return self._signing.finish(proposal, hand, what="the change", by=by)

    def waiting(self, keys: KeyStore) -> Proposal | None:
        """Return the change that waits for signatures, in words, or None.

        Raises `AuthorError` if it was overtaken or does what there are no words for.
        """
        pending = self._pendings.newest()
        return None if pending is None else self._signing.resumed(self._trusted(keys), pending)

    def sign(self, proposal: Proposal, *, keys: KeyStore, passphrase: str, now: float | None = None) -> bytes:
        """Add the signatures of the keys here to a waiting change; publish it if that completes it.

        Returns the envelope. Raises `Waiting` while signatures are missing, otherwise as `alter` does.
        """
        hand = Hand(keys=keys, passphrase=passphrase, now=time.time() if now is None else now)
        return self._signing.finish(proposal, hand, what="the change")

    def drop(self) -> bool:
        """Drop the change that waits; tell whether there was one."""
        return bool(self._pendings.drop())

    # --- commit --------------------------------------------------------------------------------------------------

    def _commit(
        self,
        before: Publication,
        roles: Roles,
        documents: dict[str, bytes],
        changed: tuple[str, ...],
        hand: Hand,
        *,
        what: str = "",
        by: str = "",
    ) -> bytes:
        """Sign and publish what happens every day: all of it must have a key here."""
        for role in (*changed, *ONLINE):
            hand.require(self.name, role, roles)
        proposal = proposed(before, roles, changed, hand.now, documents)
        return self._signing.finish(proposal, hand, what=what, by=by)

    def create(self, root: bytes, roles: Roles, signers: Mapping[str, Sequence[Any]]) -> None:
        """Commit the first publication, signed by these signers. A root left by an interruption is taken up if ours.

        Raises `AuthorError` for another root that is there already.
        """
        if not self._shelf.keep_first_root(root):
            raise AuthorError(
                f"channel {self.name} of fleet {self.fleet} is being created with other keys in "
                f"{self.record.location}: use the key directory it was begun with"
            )
        files = {role: sign(roles.named(role), *signers[role]) for role in ("targets", *DELEGATED)}
        online = {role: {one.public_key.keyid: one for one in signers[role]} for role in ONLINE}
        files = completed(roles, files, (root,), online)
        self._shelf.keep(Publication(number=1, roles=roles, files=files, roots=(root,), documents={}))

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
