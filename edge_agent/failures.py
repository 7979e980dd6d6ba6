"""Releases that fail on this device: has an incident kept of each, and asks the release before it for its opinion.

It joins the data path's news with the store's knowledge of releases; what becomes of them the updater decides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import edge_agent
from edge_agent.config import Config
from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.errors import Blame, Reason, ReasonCode, StoreError
from edge_agent.incidents import Incident, Incidents, frames_of
from edge_agent.runtime.crew import Notice, NoticeKind
from edge_agent.update.deployment import Deployment, State
from edge_agent.update.layout import release_root
from edge_agent.update.store import Store

__all__ = ["Failures"]

log = logging.getLogger(__name__)
_LIBRARIES = ("numpy", "onnxruntime")


class Compares(Protocol):
    """What is asked of the runtime here."""

    def compare(self, slot: str, key: int, root: Path, release: str) -> None:
        """Let the release before the active one compute along."""


class Failures:
    """One device's failures. All calls come from the agent's main loop; `now` is seconds UTC.

    Set `stale` when a release may have ended.
    """

    def __init__(self, config: Config, store: Store, profile: Profile) -> None:
        self._limits, self._state, self._store = config.incidents, config.device.state, store
        self._slots = list(config.slot)
        self._incidents = Incidents(self._state, self._limits.keep)
        self._profile = Digest.of(encode_json(profile)).hex
        libraries = {name: profile.distributions[name] for name in _LIBRARIES if name in profile.distributions}
        self._versions = {"agent": edge_agent.__version__, "python": profile.python, **libraries}
        self._known = {one.id for name in self._slots if (one := store.last_ended(name)) is not None}
        self.newest = self._incidents.newest
        self.stale = False

    def heard(self, notice: Notice, now: float) -> None:
        """Keep an incident of what a notice says, if it is of a failure."""
        if notice.kind not in (NoticeKind.FAILED, NoticeKind.STOPPED_SERVING) or notice.reason is None:
            return
        self._known.add(notice.key)
        try:
            deployment = self._store.deployment(notice.key)
        except KeyError:
            return  # called off meanwhile
        state = State.REVERTED if notice.kind is NoticeKind.STOPPED_SERVING else State.ROLLED_BACK
        if notice.failed_by_environment:
            state = State.DEFERRED
        limits = self._limits
        frames = frames_of(notice.frames, count=limits.frames, kilobytes=limits.kilobytes, redact=limits.redact)
        self._keep(
            Incident(
                time=round(now, 3),
                slot=notice.slot,
                release=deployment.release,
                digest=str(deployment.digest),
                state=state.value,
                reason=notice.reason,
                traceback=notice.traceback,
                versions=self._versions,
                profile=self._profile,
                evidence=notice.evidence,
                stages=notice.stages,
                frames=frames,
                redacted=list(limits.redact),
            )
        )

    def look(self, now: float) -> None:
        """Keep an incident of what was given up without a word of its own: attempts that ended the agent."""
        if not self.stale:
            return
        self.stale = False
        for slot in self._slots:
            ended = self._store.last_ended(slot)
            if ended is None or ended.id in self._known:
                continue
            self._known.add(ended.id)
            if ended.state in (State.ROLLED_BACK, State.REVERTED) and (reason := _fault(ended.reasons)) is not None:
                self._keep(self._bare(ended, reason, now))

    def second_opinion(self, notice: Notice, runtime: Compares) -> None:
        """Have the release before a doubted one compute along, if there is one."""
        active = self._store.active(notice.slot)
        if active is None or active.id != notice.key:
            return
        previous = self._store.previous(notice.slot, active, self._store.security_floors(notice.slot))
        if previous is None:
            log.warning("nothing to go back to slot=%s release=%s", notice.slot, active.release)
            return
        root = release_root(self._state / "releases", previous.digest)
        runtime.compare(notice.slot, previous.id, root, previous.release)

    def _bare(self, ended: Deployment, reason: Reason, now: float) -> Incident:
        return Incident(
            time=round(now, 3),
            slot=ended.slot,
            release=ended.release,
            digest=str(ended.digest),
            state=ended.state.value,
            reason=reason,
            versions=self._versions,
            profile=self._profile,
            evidence={"attempts": ended.attempts, "reboots": ended.reboots},
        )

    def _keep(self, incident: Incident) -> None:
        try:
            number = self._incidents.add(incident)
        except StoreError as error:  # what failed is rolled back all the same
            log.error("no incident slot=%s release=%s reason=%s", incident.slot, incident.release, error)
            return
        log.info("incident number=%d slot=%s release=%s", number, incident.slot, incident.release)


def _fault(reasons: Sequence[Reason]) -> Reason | None:
    """Return the first reason that is no operator's and no publisher's wish."""
    wishes = (ReasonCode.OPERATOR, ReasonCode.WITHDRAWN, ReasonCode.PINNED)
    return next((one for one in reasons if one.code not in wishes and one.blame is not Blame.OPERATOR), None)
