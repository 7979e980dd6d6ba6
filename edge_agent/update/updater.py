"""Decides, from what is signed, which release each slot heads for, and hands the way there to the deployer.

It has envelopes verified, remembers what was accepted and refused, evaluates `desired` anew at every start and change,
and answers operators. Nothing here touches frames or downloads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import Digest, decode_json, encode_json
from edge_agent.contract.errors import Blame, Reason, ReasonCode, UpdateRejected
from edge_agent.contract.messages import ReleaseInfo, Rollout
from edge_agent.contract.verification import Floor, Request, Verified
from edge_agent.update.deployer import Deployer, Ports, SlotSetup
from edge_agent.update.deployment import ENDED, Deployment, Event, EventKind, State
from edge_agent.update.desired import Wanted, desired
from edge_agent.update.helper import Helper
from edge_agent.update.store import Refusal, Store, Trust

__all__ = ["Updater"]

log = logging.getLogger(__name__)
RETRY_SECONDS = 60.0
# A clock that was wrong, or a verifier that had no room: the same envelope may pass later.
_MAY_PASS_LATER = frozenset({ReasonCode.EXPIRED, ReasonCode.ENVIRONMENT})


class Updater:
    """Drives every slot towards what its channel wants, and never away from a release that works (U3)."""

    def __init__(
        self,
        *,
        device: str,
        fleet: str,
        slots: Mapping[str, SlotSetup],
        roots: Mapping[str, bytes],
        store: Store,
        releases: Path,
        profile: Profile,
        ports: Ports,
    ) -> None:
        self._device, self._fleet, self._slots, self._roots = device, fleet, slots, roots
        self._store, self._ports = store, ports
        self._verifying: dict[str, bytes] = {}
        self._again: dict[str, tuple[float, bytes]] = {}
        self._deployer = Deployer(
            slots=slots,
            store=store,
            releases=releases,
            profile=profile,
            ports=ports,
            fresh=self._fresh,
            ended=self._ended,
        )
        self._verifier = Helper("verify", ports.wake)  # of its own: an abort must not wait for a download
        self.happen = self._deployer.happen
        self.stopped_serving = self._deployer.stopped_serving

    def start(self, now: float) -> None:
        """Take up work where the store says it was, then look at what is wanted now."""
        self._deployer.start(now)
        for channel in {setup.channel for setup in self._slots.values()}:
            self._evaluate(channel, now)

    def stop(self, now: float) -> None:
        """Stop cleanly."""
        self._deployer.stop(now)
        self._verifier.stop()

    def tick(self, now: float) -> float:
        """Do what is due; return when to be called again at the latest (seconds UTC)."""
        for channel, (due, envelope) in list(self._again.items()):
            if due <= now:
                del self._again[channel]
                self.announced(channel, envelope, now)
        self._verifier.collect(now)
        self._take_requests(now)
        return min([self._deployer.tick(now), *(due for due, _ in self._again.values())])

    # --- trust ---------------------------------------------------------------------------------------------------

    def announced(self, channel: str, envelope: bytes, now: float) -> None:
        """An envelope arrived on a channel's topic: verify it, unless it is the one already accepted."""
        trust = self._store.trust(channel)
        if trust is not None and trust.envelope == envelope:
            self._evaluate(channel, now)
            return
        self._again.pop(channel, None)
        if self._verifying.get(channel) == envelope:
            return
        self._verifying[channel] = envelope
        floor_clock = self._store.fact("clock")
        request = Request(
            fleet=self._fleet,
            channel=channel,
            now=max(now, floor_clock),
            root=self._roots[channel],
            envelope=envelope,
            accepted=trust.envelope if trust is not None else None,
            floors=[Floor(role=role, keyset=keyset, version=v) for role, keyset, v in self._store.floors(channel)],
        )
        self._verifier.submit(self._verified, (channel, request), self._ports.verify, request)

    def _verified(self, channel: str, request: Request, result: Verified | Exception, now: float) -> None:
        envelope = request.envelope
        if self._verifying.get(channel) == envelope:
            del self._verifying[channel]
        trust = self._store.trust(channel)
        if trust is not None and trust.envelope != request.accepted:
            # Another envelope was accepted meanwhile, and this one was not compared with it: it may be older (T5).
            self.announced(channel, envelope, now)
            return
        if isinstance(result, Exception):
            self.refuse(channel, envelope, result, now)
            return
        with self._store.transaction():
            self._store.save_trust(
                Trust(
                    channel=channel,
                    envelope=envelope,
                    verified=encode_json({"releases": result.releases, "rollouts": result.rollouts}),
                    accepted=now,
                    expires=result.expires_at,
                ),
                {Digest(digest): data for digest, data in result.manifests.items()},
            )
            self._store.raise_floors(channel, [(one.role, one.keyset, one.version) for one in result.floors])
            self._store.raise_fact("clock", now)
        log.info("trust accepted channel=%s bytes=%d", channel, len(envelope))
        self._evaluate(channel, now)
        self._ports.changed()

    def refuse(self, channel: str, envelope: bytes, error: Exception, now: float) -> None:
        """Remember and report why an envelope was refused; what runs goes on."""
        if isinstance(error, UpdateRejected):
            reasons = error.reasons
        else:
            reasons = (Reason(code=ReasonCode.ENVIRONMENT, message=str(error), blame=Blame.ENVIRONMENT),)
        if {reason.code for reason in reasons} & _MAY_PASS_LATER:
            self._again[channel] = (now + RETRY_SECONDS, envelope)
        log.warning("trust refused channel=%s reasons=%s", channel, "; ".join(map(str, reasons)))
        with self._store.transaction():
            self._store.save_refusal(Refusal(channel=channel, at=now, digest=Digest.of(envelope), reasons=reasons))
        self._ports.changed()

    # --- what a slot should run ----------------------------------------------------------------------------------

    def _evaluate(self, channel: str, now: float) -> None:
        trust = self._store.trust(channel)
        if trust is None or not self._fresh(channel, now):
            return
        known = decode_json(trust.verified, _Known)
        for setup in self._slots.values():
            if setup.channel == channel:
                wanted = desired(
                    setup.name,
                    known.releases,
                    known.rollouts,
                    device=self._device,
                    memberships=self._store.memberships(setup.name),
                    quarantined={one.digest for one in self._deployer.quarantined(setup.name)},
                )
                self._head_for(setup, wanted, now)

    def _fresh(self, channel: str, now: float) -> bool:
        """Tell whether the accepted metadata has not expired; expiry blocks changes, nothing else (T6)."""
        trust = self._store.trust(channel)
        return trust is not None and max(now, self._store.fact("clock")) <= trust.expires

    def _head_for(self, setup: SlotSetup, wanted: Wanted, now: float) -> None:
        under_way = self._store.under_way(setup.name)
        active = self._store.active(setup.name)
        info = wanted.release
        if wanted.member:
            with self._store.transaction():
                self._store.join(setup.name, wanted.rollout_id)
        if under_way is not None and (info is None or info.digest != under_way.digest):
            reason = Reason(
                code=ReasonCode.WITHDRAWN,
                message="the channel wants another release here",
                blame=Blame.ENVIRONMENT,
            )
            self.happen(under_way.id, Event(kind=EventKind.WITHDRAWN, reasons=(reason,)), now)
            under_way = None
        if wanted.refused is not None and not self._ended_as(setup, wanted.refused):
            self._begin(setup, wanted.refused, now)  # admission says why not, and the fleet hears of it
        if info is None:
            return
        if under_way is not None or (active is not None and active.digest == info.digest):
            self._adopt(under_way or active, info.name, info.channel, now)
            return
        if not any(self._deployer.stands(one) for one in self._ended_as(setup, info)):
            self._begin(setup, info, now)

    def _begin(self, setup: SlotSetup, info: ReleaseInfo, now: float) -> None:
        self._deployer.begin(setup.name, info.channel, info.name, info.digest, now)

    def _ended_as(self, setup: SlotSetup, info: ReleaseInfo) -> list[Deployment]:
        """Return how the release ended here under this very name."""
        ended = [one for one in self._store.deployments(setup.name) if one.state in ENDED]
        return [one for one in ended if (one.release, one.digest) == (info.name, info.digest)]

    def _ended(self, deployment: Deployment, now: float) -> None:
        """A release failed here: perhaps another one is wanted now."""
        self._evaluate(deployment.channel, now)

    def _adopt(self, deployment: Deployment | None, name: str, channel: str, now: float) -> None:
        """The same bytes under another name: take the name, run on (U4)."""
        if deployment is None or (deployment.release, deployment.channel) == (name, channel):
            return
        renamed = msgspec.structs.replace(deployment, release=name, channel=channel)
        with self._store.transaction():
            self._store.save_deployment(renamed, event="adopted", before=deployment.state, now=now)
        self._ports.runtime.rename(deployment.slot, deployment.id, name)
        self._ports.changed()

    # --- operators -----------------------------------------------------------------------------------------------

    def _take_requests(self, now: float) -> None:
        """Answer what operators asked of the running agent (`edge-agent release rollback`)."""
        for number, kind, slot in self._store.requests():
            answer = self._rollback(number, slot, now) if kind == "rollback" else f"unknown request {kind!r}"
            if answer is not None:
                with self._store.transaction():
                    self._store.answer(number, answer)

    def _rollback(self, number: int, slot: str, now: float) -> str | None:
        """Return why not, or None when it is done and answered."""
        if slot not in self._slots:
            return f"refused: no slot {slot!r} in the configuration"
        target = self._store.under_way(slot) or self._store.active(slot)
        if target is None:
            return f"refused: nothing runs on {slot}"
        back = self._store.active(slot) if target.state is not State.COMMITTED else self._store.previous(slot, target)
        if target.state is State.COMMITTED and back is None:
            return f"refused: {target.release} has no earlier committed release on this device"
        words = f"{target.release} rolled back; {back.release if back is not None else 'nothing'} runs"
        reason = Reason(code=ReasonCode.OPERATOR, message="rolled back on the device", blame=Blame.OPERATOR)
        event = Event(kind=EventKind.OPERATOR, reasons=(reason,))
        # Answered in the same transaction: after a power cut it must not be taken for a second request.
        self.happen(target.id, event, now, also=lambda: self._store.answer(number, words))
        return None


class _Known(msgspec.Struct):
    """The verified part of a trust row."""

    releases: list[ReleaseInfo]
    rollouts: list[Rollout]
