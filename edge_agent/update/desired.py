"""Which release a slot should run, as a pure function of what is signed and what happened here (U4, §11).

It never looks at what is running. A device takes part in a rollout when the first 8 bytes of
`sha256(len‖rollout id‖device id)` fall below `percent · 2⁶⁴ / 100`, or when it took part before: lowering the percent
evicts nobody, only an abort or another rollout does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.contract.messages import ReleaseInfo, Rollout
from edge_agent.update.wishes import Pin

__all__ = ["Wanted", "below_floor", "desired", "takes_part"]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the slot should run. `release` is None when nothing signed applies; `member`: it is the candidate.

    `refused` is the candidate that this device would run, had it not condemned it before or were it not below the
    security floor. `stuck`: releases are permitted, and this device refuses every one. `aborted`: the rollout was.
    """

    release: ReleaseInfo | Pin | None
    refused: ReleaseInfo | None = None
    stuck: bool = False
    aborted: bool = False
    rollout_id: str = ""
    member: bool = False


def takes_part(rollout: Rollout, device: str) -> bool:
    """Tell whether `device` falls within `rollout.percent`."""
    name = rollout.rollout_id.encode()
    digest = hashlib.sha256(len(name).to_bytes(4, "big") + name + device.encode()).digest()
    return int.from_bytes(digest[:8], "big") < rollout.percent * 2**64 / 100


def below_floor(pipeline: str, releases: Sequence[ReleaseInfo], floor: int) -> dict[Digest, int]:
    """Return the manifests of `pipeline` that were first listed below the security floor, and under which sequence.

    `floor` is what this device remembers; a higher one that is listed holds. Signed again under a new sequence, the
    same bytes are no safer, unless they are those of the release at the floor: who set it meant them.
    """
    listed = [info for info in releases if info.pipeline == pipeline]
    floor = max([floor, *(info.security_floor for info in listed)])
    below = sorted((info for info in listed if info.sequence < floor), key=lambda info: -info.sequence)
    meant = {info.digest for info in listed if info.sequence == floor}
    return {info.digest: info.sequence for info in below if info.digest not in meant}


def desired(
    pipeline: str,
    releases: Sequence[ReleaseInfo],
    rollouts: Sequence[Rollout],
    *,
    device: str,
    memberships: Set[str],
    quarantined: Set[Digest],
    barred: Set[Digest] = frozenset(),
    pin: Pin | None = None,
) -> Wanted:
    """Return what the slot of `pipeline` should run on `device`.

    `memberships` are the rollout ids that this device has joined before, `quarantined` the manifests condemned here,
    `barred` those below the security floor. A `pin`, an operator's own word, wins over all that is signed, but not over
    what failed here.
    """
    if pin is not None:
        condemned = pin.digest in quarantined
        return Wanted(release=None if condemned else pin, stuck=condemned)
    rollout = next((one for one in rollouts if one.pipeline == pipeline), None)
    if rollout is None:
        return Wanted(release=None)
    by_sequence = {info.sequence: info for info in releases if info.pipeline == pipeline}
    candidate = by_sequence.get(rollout.candidate)
    stable = by_sequence.get(rollout.stable) if rollout.stable is not None else None
    joined = rollout.rollout_id in memberships
    member = not rollout.aborted and (joined or (not rollout.paused and takes_part(rollout, device)))
    refusing = quarantined | barred
    if candidate is not None and member and candidate.digest not in refusing:
        return Wanted(release=candidate, rollout_id=rollout.rollout_id, member=True)
    refused = candidate if member else None
    if stable is not None and stable.digest not in refusing:
        return Wanted(release=stable, refused=refused, rollout_id=rollout.rollout_id, aborted=rollout.aborted)
    stuck = refused is not None or stable is not None
    return Wanted(release=None, refused=refused, rollout_id=rollout.rollout_id, stuck=stuck, aborted=rollout.aborted)
