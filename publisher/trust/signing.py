"""A change of a channel on its way to publication: signed as far as the keys at hand go, then published or kept.

Decides whether a proposal has all its signatures. If so, the online roles are signed over it, the result must pass the
device's own checks (T10), and it is committed; if not, it is kept with the signatures it has and waits (`pending.py`).
What is proposed, and whether it may be, is `repository.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_agent.contract.digest import Digest, decode_json
from edge_agent.contract.errors import AuthorError
from edge_agent.contract.messages import ENVELOPE_BYTES_MAX, Rollout
from edge_agent.contract.verification import Request
from publisher.trust.declaration import declared
from publisher.trust.pending import Change, Pending, PendingShelf, unsigned
from publisher.trust.publication import Publication, Shelf, link_previous, link_roots
from publisher.trust.roles import DELEGATED, ONLINE, ROLES, Roles, assembled, pin, sign
from publisher.trust.rotation import restarted
from publisher.trust.signatures import Hand, missing, payload, seats, valid
from publisher.trust.waiting import Waiting

__all__ = ["Proposal", "Signing", "completed", "proposed"]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Roles on their way to being published after `before`: `changed` ones have their next version in `after`.

    `documents` are new targets by path; `signatures` the valid ones so far, by role and key id; `words` say what would
    change, as read from the roles. `number` is that of the waiting change, 0 for one that was never kept.
    """

    before: Publication
    after: Roles
    changed: tuple[str, ...]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    signatures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    words: Sequence[str] = ()
    number: int = 0


def proposed(
    before: Publication,
    roles: Roles,
    changed: tuple[str, ...],
    now: float,
    documents: Mapping[str, bytes] | None = None,
) -> Proposal:
    """Return the proposal that `changed` ones of these roles get their next version, good from `now` (seconds UTC)."""
    after = roles.raised(changed, now)
    if "root" in changed:
        link_previous(after.root, before.roots[-1])
    return Proposal(before=before, after=after, changed=changed, documents=documents or {})


class Signing:
    """Completes the proposals of one channel. `verify` asks what a device would say."""

    def __init__(self, shelf: Shelf, pendings: PendingShelf, verify: Callable[[Request], Any]) -> None:
        self._shelf, self._pendings, self._verify = shelf, pendings, verify

    def resumed(self, before: Publication, pending: Pending) -> Proposal:
        """Return a change that waits as a proposal, in words.

        Raises `AuthorError` if it was overtaken or does what there are no words for.
        """
        channel = self._shelf.channel
        if pending.overtaken(before):
            raise AuthorError(
                f"the change that waits in channel {channel} was overtaken: somebody published there since; drop it by "
                f"`publisher key sign {channel} --drop`, and have it made again"
            )
        after = pending.roles(before)
        signatures = {
            role: valid(after.named(role), pending.signatures.get(role, {}), seats(role, before.roles, after))
            for role in pending.change.roles
        }
        changed = tuple(role for role in ROLES if role in pending.change.roles)
        words = declared(channel, before.roles, after, *self._rollouts(before, after))
        return Proposal(
            before=before, after=after, changed=changed, signatures=signatures, words=words, number=pending.number
        )

    def finish(self, proposal: Proposal, hand: Hand, *, what: str, by: str = "") -> bytes:
        """Add the signatures of the keys here; publish if they suffice, keep the change and raise `Waiting` if not."""
        before, after = proposal.before, proposal.after
        signatures: dict[str, dict[str, Any]] = {}
        lacks = []
        for role in proposal.changed:
            places = seats(role, before.roles, after)
            given = dict(proposal.signatures.get(role, {}))
            for place in places:
                left = {keyid: key for keyid, key in place.keys.items() if keyid not in given}
                signers = hand.signers(self._shelf.channel, role, left)
                given |= {keyid: one.sign(payload(after.named(role))) for keyid, one in signers.items()}
            signatures[role] = given
            lacks.append(missing(self._shelf.channel, role, places, given))
        online = {role: hand.signers(self._shelf.channel, role, after.keys_of(role)) for role in ONLINE}
        lacks += [missing(self._shelf.channel, role, seats(role, before.roles, after), online[role]) for role in ONLINE]
        if any(lacks):
            raise self._kept(proposal, signatures, list(filter(None, lacks)), what, by, hand)
        return self._published(proposal, signatures, online, hand)

    def _kept(
        self,
        proposal: Proposal,
        signatures: Mapping[str, Mapping[str, Any]],
        lacks: list[str],
        what: str,
        by: str,
        hand: Hand,
    ) -> AuthorError:
        """Keep a change with the signatures that it has; return what to tell."""
        words = f"{'; '.join(lacks)}: whoever holds them runs `publisher key sign {self._shelf.channel}`"
        if not proposal.changed:
            return AuthorError(f"channel {self._shelf.channel} cannot be signed here, missing {words}")
        number = proposal.number
        if not number:
            self._require_none_waits(proposal.before)
            for data in proposal.documents.values():
                self._shelf.record.put_blob(data)
            files = {**proposal.before.files, "root": proposal.before.roots[-1]}
            base = {role: Digest.of(files[role]) for role in proposal.changed}
            texts = {role: unsigned(proposal.after.named(role)) for role in proposal.changed}
            number = self._pendings.open(Change(format=1, by=by, made=int(hand.now), base=base, roles=texts))
        for role, given in signatures.items():
            for keyid in given.keys() - proposal.signatures.get(role, {}).keys():
                self._pendings.sign(number, role, given[keyid])
        return Waiting(f"{what} waits in channel {self._shelf.channel}, nothing is published yet; missing {words}")

    def _require_none_waits(self, before: Publication) -> None:
        pending = self._pendings.newest()
        if pending is None:
            return
        if not pending.overtaken(before):
            channel, by = self._shelf.channel, pending.change.by or "someone unnamed"
            raise AuthorError(
                f"another change waits in channel {channel}, made by {by}: sign it first (`publisher key sign "
                f"{channel}`), or drop it (`publisher key sign {channel} --drop`)"
            )
        self._pendings.close(pending.number, "overtaken")

    def _published(
        self,
        proposal: Proposal,
        signatures: Mapping[str, Mapping[str, Any]],
        online: Mapping[str, Mapping[str, Any]],
        hand: Hand,
    ) -> bytes:
        """Sign the online roles, check the result as a device would, keep it, and commit it."""
        before = proposal.before
        roles = proposal.after.raised(ONLINE, hand.now)
        for role in restarted(before.roles, roles):
            roles.named(role).version = 1
        changed = {role: assembled(roles.named(role), signatures[role]) for role in proposal.changed}
        roots = (*before.roots, changed.pop("root")) if "root" in changed else before.roots
        files = completed(roles, {**before.files, **changed}, roots, online)
        chosen = self._shelf.chosen(roles, {**before.documents, **proposal.documents})
        after = Publication(number=before.number + 1, roles=roles, files=files, roots=roots, documents=chosen)
        envelope = self._shelf.envelope(after)
        if len(envelope) > ENVELOPE_BYTES_MAX:
            raise AuthorError(
                f"the envelope of channel {self._shelf.channel} would have {len(envelope)} bytes, {ENVELOPE_BYTES_MAX} "
                "are allowed: use shorter messages, smaller manifests, or spread the pipelines over more channels"
            )
        self._verify(
            Request(
                fleet=self._shelf.fleet,
                channel=self._shelf.channel,
                now=hand.now,
                root=before.roots[0],
                envelope=envelope,
                accepted=self._shelf.envelope(before),
            )
        )
        self._shelf.keep(after)
        if proposal.number:
            self._pendings.close(proposal.number, "published")
        return envelope

    def _rollouts(self, before: Publication, after: Roles) -> tuple[list[tuple[Rollout | None, Rollout]], list[str]]:
        """Return the changed rollouts, before and after, and the pipelines that have none any more."""
        old = {rollout.pipeline: rollout for rollout, _ in before.current().values()}
        documents = self._shelf.chosen(after, before.documents)
        new = [decode_json(documents[path], Rollout) for path in after.rollout.targets]
        gone = sorted(old.keys() - {one.pipeline for one in new})
        return [(old.get(one.pipeline), one) for one in new if old.get(one.pipeline) != one], gone


def completed(
    roles: Roles, files: dict[str, bytes], roots: tuple[bytes, ...], online: Mapping[str, Mapping[str, Any]]
) -> dict[str, bytes]:
    """Return all files, with snapshot and timestamp over these; both are updated in `roles` to name them."""
    for role in ("targets", *DELEGATED):
        roles.snapshot.meta[f"{role}.json"] = pin(roles.named(role).version, files[role])
    snapshot = sign(roles.snapshot, *online["snapshot"].values())
    roles.timestamp.snapshot_meta = pin(roles.snapshot.version, snapshot)
    link_roots(roles, roots)
    return {**files, "snapshot": snapshot, "timestamp": sign(roles.timestamp, *online["timestamp"].values())}
