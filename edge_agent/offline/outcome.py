"""What becomes of an import on each slot, seen from outside the agent: read from its store, never decided here."""

from __future__ import annotations

import time

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import UpdateRejected
from edge_agent.contract.messages import ReleaseInfo
from edge_agent.contract.verification import Verified
from edge_agent.update.deployment import UNDER_WAY, State
from edge_agent.update.store import Store

__all__ = ["Outcome", "offered", "outcomes"]

TURN_SECONDS = 0.2


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has become of a slot. `ending` is `committed`, `refused`, `rolled_back`, `unchanged` or `under_way`."""

    slot: str
    release: str
    ending: str
    words: str = ""


def offered(slot: str, verified: Verified) -> list[ReleaseInfo]:
    """Return a slot's candidate and stable release, in this order."""
    listed = {one.sequence: one for one in verified.releases if one.pipeline == slot}
    chosen = [(one.candidate, one.stable) for one in verified.rollouts if one.pipeline == slot]
    return [listed[sequence] for pair in chosen for sequence in pair if sequence is not None and sequence in listed]


def outcomes(
    store: Store,
    slots: list[str],
    verified: Verified,
    channel: str,
    *,
    envelope: bytes,
    before: int,
    since: float,
    deadline: float,
) -> list[Outcome]:
    """Wait until every slot has come to an end, at most until `deadline` (monotonic seconds), and say how.

    `before` is the newest deployment that was there before. Raises `UpdateRejected` when the agent refused `envelope`,
    `since` (seconds UTC).
    """
    while True:
        trust, refusal = store.trust(channel), store.refusal(channel)
        if refusal is not None and refusal.at >= since and refusal.digest == Digest.of(envelope):
            raise UpdateRejected(refusal.reasons)
        judged = trust is not None and trust.envelope == envelope
        found = [_outcome(store, slot, offered(slot, verified), before, judged) for slot in slots]
        if time.monotonic() > deadline or all(one.ending != "under_way" for one in found):
            return found
        time.sleep(TURN_SECONDS)


def _outcome(store: Store, slot: str, infos: list[ReleaseInfo], before: int, judged: bool) -> Outcome:
    """Say how things stand on a slot; deployments after `before` came of this import."""
    active, under_way = store.active(slot), store.under_way(slot)
    runs = active.release if active is not None else "nothing"
    if not judged:
        return Outcome(slot=slot, release=runs, ending="under_way", words="the agent has not judged the envelope yet")
    if under_way is not None:
        words = "; ".join(map(str, under_way.reasons))
        return Outcome(slot=slot, release=under_way.release, ending="under_way", words=words)
    digests = [one.digest for one in infos]
    if active is not None and digests and active.digest == digests[0]:
        return Outcome(slot=slot, release=runs, ending="committed")
    failed = [
        one
        for one in store.deployments(slot)
        if one.digest in digests and one.state not in {*UNDER_WAY, State.COMMITTED, State.SUPERSEDED}
        and (one.id > before or one.digest == digests[0])
    ]  # fmt: skip
    if failed:
        ending = "refused" if failed[0].state is State.REJECTED else "rolled_back"
        words = "; ".join(map(str, failed[0].reasons))
        return Outcome(slot=slot, release=failed[0].release, ending=ending, words=words)
    return Outcome(slot=slot, release=runs, ending="unchanged", words=f"goes on with {runs}")
