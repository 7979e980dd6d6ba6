"""Decides, from what is signed, which release each slot heads for, and hands the way there to the deployer.

It has envelopes taken in (`intake`), evaluates `desired` anew at every start and change,
and answers operators. Nothing here touches frames or downloads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Blame, Reason, ReasonCode, StoreError
from edge_agent.contract.messages import ReleaseInfo
from edge_agent.update.collection import Retention
from edge_agent.update.deployer import Deployer, Ports, SlotSetup
from edge_agent.update.deployment import Deployment, Event, EventKind, State
from edge_agent.update.desired import Wanted, desired
from edge_agent.update.helper import Helper
from edge_agent.update.imports import IMPORT, Imports
from edge_agent.update.intake import Intake
from edge_agent.update.orders import ORDERS, carry_out
from edge_agent.update.store import EVERY_SLOT, STUCK, Known, Pin, Store, Wish

__all__ = ["Updater"]

log = logging.getLogger(__name__)


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
        retention: Retention | None = None,
    ) -> None:
        self._device, self._fleet, self._slots, self._roots = device, fleet, slots, roots
        self._store, self._ports = store, ports
        self._deployer = Deployer(
            slots=slots,
            store=store,
            releases=releases,
            profile=profile,
            ports=ports,
            fresh=self._fresh,
            ended=self._ended,
            retention=retention,
        )
        self._verifier = Helper("verify", ports.wake)  # of its own: an abort must not wait for a download
        self._intake = Intake(
            fleet=fleet,
            root=lambda channel: self._roots[channel],
            store=store,
            verify=ports.verify,
            helper=self._verifier,
            accepted=self._evaluate,
            changed=ports.changed,
        )
        self.announced, self.refuse = self._intake.announced, self._intake.refuse
        self._imports = Imports(store, self._intake.announced)
        self.happen = self._deployer.happen
        self.stopped_serving = self._deployer.stopped_serving
        self.mended = self._deployer.mended

    def start(self, now: float) -> None:
        """Take up work where the store says it was, then look at what is wanted now."""
        self._deployer.start(now)
        for channel in {setup.channel for setup in self._slots.values()}:
            try:
                self._evaluate(channel, now)
            except StoreError as error:  # evaluated again when the envelope comes by; what is committed runs
                log.error("not evaluated at start channel=%s reason=%s", channel, error)

    def stop(self, now: float) -> None:
        """Stop cleanly. Raises `StoreError` when that cannot be written; everything has been ended all the same."""
        try:
            self._deployer.stop(now)
        finally:
            self._verifier.stop()

    def tick(self, now: float) -> float:
        """Do what is due; return when to be called again at the latest (seconds UTC)."""
        self._verifier.collect(now)
        due = self._intake.tick(now)
        self._take_requests(now)
        return min(self._deployer.tick(now), due)

    # --- what a slot should run ----------------------------------------------------------------------------------

    def _evaluate(self, channel: str, now: float) -> None:
        trust = self._store.trust(channel)
        known = trust.known if trust is not None and self._fresh(channel, now) else None
        if known is not None:
            self._raise_security_floors(known)
        for setup in self._slots.values():
            pin = self._store.pin(setup.name)
            if setup.channel != channel or (known is None and pin is None):
                continue
            releases, rollouts = (known.releases, known.rollouts) if known is not None else ([], [])
            wanted = desired(
                setup.name,
                releases,
                rollouts,
                device=self._device,
                memberships=self._store.joined(setup.name, [one.rollout_id for one in rollouts]),
                quarantined=self._condemned(setup.name, releases, pin),
                barred=self._barred(setup),
                pin=pin,
            )
            self._head_for(setup, wanted, now)

    def _condemned(self, slot: str, releases: Sequence[ReleaseInfo], pin: Pin | None) -> set[Digest]:
        """Return which of these are condemned here, but for those that `release` lets be tried anew everywhere (U6)."""
        generations: dict[Digest, int] = {}
        for info in releases:
            generations[info.digest] = max(info.retry_generation, generations.get(info.digest, 0))
        found = self._deployer.quarantined(slot, {*generations, *([pin.digest] if pin is not None else [])})
        return {one.digest for one in found if one.generation >= generations.get(one.digest, 0)}

    def _barred(self, setup: SlotSetup) -> set[Digest]:
        """Return the manifests below the security floor, but for the one that runs: who stays does not go back."""
        active = self._store.active(setup.name)
        return set(self._store.barred(setup.name, setup.channel)) - ({active.digest} if active is not None else set())

    def _raise_security_floors(self, known: Known) -> None:
        higher = [
            info
            for info in known.releases
            if info.security_floor > self._store.security_floors(info.pipeline).get(info.channel, 0)
        ]
        if higher:
            with self._store.transaction():
                self._store.raise_security_floors(higher)

    def _fresh(self, channel: str, now: float) -> bool:
        """Tell whether the accepted metadata has not expired; expiry blocks changes, nothing else (T6)."""
        trust = self._store.trust(channel)
        return trust is not None and max(now, self._store.fact("clock")) <= trust.expires

    def _head_for(self, setup: SlotSetup, wanted: Wanted, now: float) -> None:
        under_way = self._store.under_way(setup.name)
        active = self._store.active(setup.name)
        info = wanted.release
        if wanted.member and not self._store.joined(setup.name, [wanted.rollout_id]):
            with self._store.transaction():
                self._store.join(setup.name, wanted.rollout_id)
        self._note_stuck(setup.name, wanted.stuck)
        if under_way is not None and (info is None or info.digest != under_way.digest):
            self.happen(under_way.id, _given_up(wanted), now)
            under_way = None
        if wanted.refused is not None and not self._ended_as(setup, wanted.refused):
            self._deployer.begin(setup.name, wanted.refused, now)  # admission says why not, and the fleet hears of it
        if info is None:
            return
        if under_way is not None or (active is not None and active.digest == info.digest):
            self._adopt(under_way or active, info.name, info.channel, now)
            return
        if not any(self._deployer.stands(one, info.retry_generation) for one in self._ended_as(setup, info)):
            self._deployer.begin(setup.name, info, now)

    def _note_stuck(self, slot: str, stuck: bool) -> None:
        key, word = f"{STUCK}{slot}", "stuck" if stuck else ""
        if self._store.note(key) != word:
            with self._store.transaction():
                self._store.write_note(key, word)
            self._ports.changed()

    def _ended_as(self, setup: SlotSetup, info: ReleaseInfo | Pin) -> list[Deployment]:
        """Return how the release ended here under this very name."""
        return self._store.ended(setup.name, info.name, info.digest)

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
        """Answer what operators asked of the running agent (`edge-agent release rollback`, `hold`, …)."""
        for wish in self._store.requests():
            answer = self._carry_out(wish, now)
            if answer is not None:
                with self._store.transaction():
                    self._store.answer(wish.number, answer)

    def _carry_out(self, wish: Wish, now: float) -> str | None:
        """Return the answer, or None when it is done and answered."""
        if wish.kind == "gc":
            waste = self._deployer.collector.collect(everything=wish.argument == "all")
            return f"removed {len(waste.releases)} releases and {len(waste.blobs)} blobs of {waste.blob_bytes} bytes"
        if wish.kind == IMPORT:
            return self._import(wish, now)
        if wish.slot not in self._slots and not (wish.kind == "hold" and wish.slot == EVERY_SLOT):
            return f"refused: no slot {wish.slot!r} in the configuration"
        if wish.kind == "rollback":
            return self._rollback(wish.number, wish.slot, now)
        if wish.kind not in ORDERS:
            return f"unknown request {wish.kind!r}"
        with self._store.transaction():  # answered with it: after a power cut it must not be carried out twice
            words = carry_out(self._store, wish.kind, wish.slot, wish.argument, now)
            self._store.answer(wish.number, words)
        self._wishes_changed(wish.slot, now)
        return None

    def _import(self, wish: Wish, now: float) -> str | None:
        """Judge what `edge-agent import` brought; what was postponed for lack of its blobs is taken up at once."""
        if wish.slot not in self._roots:
            return f"refused: no channel {wish.slot!r} in the configuration"
        answer = self._imports.look(wish, now)
        for setup in self._slots.values() if answer is not None else ():
            if setup.channel == wish.slot:
                self._deployer.effects.look_again(setup.name, now)
        return answer

    def _wishes_changed(self, slot: str, now: float) -> None:
        """Look anew at what is wanted and permitted."""
        for setup in self._slots.values():
            if slot in (setup.name, EVERY_SLOT):
                self._deployer.effects.look_again(setup.name, now)
                self._evaluate(setup.channel, now)
        self._ports.changed()

    def _rollback(self, number: int, slot: str, now: float) -> str | None:
        """Return why not, or None when it is done and answered."""
        target = self._store.under_way(slot) or self._store.active(slot)
        if target is None:
            return f"refused: nothing runs on {slot}"
        pin = self._store.pin(slot)
        if pin is not None and pin.digest == target.digest:
            return f"refused: {slot} is pinned to {pin.release}: `edge-agent release unpin` first"
        committed = target.state is State.COMMITTED
        back = self._deployer.previous(slot, target) if committed else self._store.active(slot)
        if committed and back is None:
            return f"refused: {target.release} has no earlier committed release on this device"
        words = f"{target.release} rolled back; {back.release if back is not None else 'nothing'} runs"
        reason = Reason(code=ReasonCode.OPERATOR, message="rolled back on the device", blame=Blame.OPERATOR)
        event = Event(kind=EventKind.OPERATOR, reasons=(reason,))
        # Answered in the same transaction: after a power cut it must not be taken for a second request.
        self.happen(target.id, event, now, also=lambda: self._store.answer(number, words))
        return None


def _given_up(wanted: Wanted) -> Event:
    """Say why a release under way is no longer wanted."""
    if isinstance(wanted.release, Pin):
        kind, code, words = EventKind.WITHDRAWN, ReasonCode.PINNED, f"the slot is pinned to {wanted.release.name}"
    elif wanted.aborted:
        kind, code, words = EventKind.ABORTED, ReasonCode.WITHDRAWN, "its rollout was aborted"
    elif wanted.release is not None:
        kind, code, words = EventKind.NEWER, ReasonCode.WITHDRAWN, f"the channel wants {wanted.release.name} here"
    else:
        kind, code, words = EventKind.WITHDRAWN, ReasonCode.WITHDRAWN, "the channel wants nothing here"
    return Event(kind=kind, reasons=(Reason(code=code, message=words, blame=Blame.ENVIRONMENT),))
