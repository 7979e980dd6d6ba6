"""Carries deployments through the machine: decide, write down in one transaction, then act (U2).

One deployer serves all slots, on one thread; each slot goes its own way. What a transition asks for is done in
`effects`; the runtime's answers come in as events. Which release should run is decided elsewhere.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.errors import Reason, StoreError
from edge_agent.contract.messages import ReleaseInfo
from edge_agent.update.collection import Retention
from edge_agent.update.collector import Collector
from edge_agent.update.deployment import (
    RESTART,
    UNDER_WAY,
    Deployment,
    Effect,
    Event,
    EventKind,
    State,
    Write,
    step,
)
from edge_agent.update.effects import Effects
from edge_agent.update.helper import Helper
from edge_agent.update.layout import remove_leftovers, retire
from edge_agent.update.ports import Ports, Runtime, SlotSetup
from edge_agent.update.store import Pin, Quarantined, Store
from edge_agent.update.wholeness import intact

__all__ = ["Deployer", "Ports", "Runtime", "SlotSetup"]

log = logging.getLogger(__name__)
LIFE = "life"
"""The note that holds the kernel's boot id while the agent runs."""


class Deployer:
    """Every deployment on this device.

    `fresh(channel, now)` tells whether a channel's metadata allows changes, `ended(deployment, now)` is told when a
    deployment rolled back or reverted.
    """

    def __init__(
        self,
        *,
        slots: Mapping[str, SlotSetup],
        store: Store,
        releases: Path,
        profile: Profile,
        ports: Ports,
        fresh: Callable[[str, float], bool],
        ended: Callable[[Deployment, float], None],
        retention: Retention | None = None,
    ) -> None:
        self._slots, self._store, self._releases, self._ports = slots, store, releases, ports
        self._ended = ended
        self._profile_digest = Digest.of(encode_json(profile)).hex
        self._remover = Helper("remove", ports.wake)
        self.collector = Collector(store, releases, ports.blobs, retention or Retention(), self._remove)
        self.effects = Effects(
            slots=slots,
            store=store,
            releases=releases,
            profile=profile,
            ports=ports,
            collector=self.collector,
            fresh=fresh,
            condemned=self.quarantined,
            happen=self.happen,
        )
        self._rejected: set[int] = set()
        self._not_resumed: dict[str, EventKind | None] = {}
        self._life = ""  # what is still to be written of this life

    @property
    def helpers(self) -> list[Helper]:
        """Every helper thread."""
        return [*self.effects.helpers, self._remover]

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Bring every slot back to where the store says it was: committed releases first, then what is under way.

        A disk that refuses to write delays the second part, never the first.
        """
        remove_leftovers(self._releases)
        before, boot = self._store.note(LIFE), self._ports.boot_id()
        for slot in self._slots:
            active = self._store.active(slot)
            if active is not None:
                self._tolerate(self.effects.perform, Effect.RESTORE, active, now)
        rebooted = before not in ("", boot)
        for slot in self._slots:
            if before and self._store.active(slot) is not None:
                self.effects.settle(slot, now)
            self._not_resumed[slot] = EventKind.REBOOTED if rebooted else EventKind.CRASHED
        self._life = boot
        self._tolerate(self._write_life, boot)
        self._tolerate(self._resume, now)

    def stop(self, now: float) -> None:
        """Stop cleanly: attempts under way are refunded, downloads keep what they have.

        Raises `StoreError` when that cannot be written; what runs has been ended all the same.
        """
        self.effects.refuse_more()
        try:
            for slot in self._slots:
                found = self._store.under_way(slot)
                if found is not None:
                    self.happen(found.id, Event(kind=EventKind.STOPPED), now)
            self._write_life("")
        finally:
            self.effects.stop()
            self._remover.stop()

    def tick(self, now: float) -> float:
        """Take in finished work and due postponements; return when to be called again at the latest (seconds UTC)."""
        if self._life:
            self._write_life(self._life)
        if self._not_resumed:
            self._resume(now)
        self._remover.collect(now)
        self.effects.collect(now)
        return self.effects.due(now)

    def _write_life(self, boot: str) -> None:
        with self._store.transaction():
            self._store.write_note(LIFE, boot)
        self._life = ""

    def _resume(self, now: float) -> None:
        """Feed each slot what its end means; what cannot be written now is fed at the next tick."""
        for slot, kind in list(self._not_resumed.items()):
            found = self._store.under_way(slot) or self._store.last_ended(slot)
            if found is not None:
                meaning = RESTART[found.state]
                fed = meaning.rebooted if kind is EventKind.REBOOTED else meaning.killed
                if fed is not None:
                    settled = self.effects.settle(slot, now) if self._store.active(slot) is not None else 0.0
                    self.happen(found.id, Event(kind=fed, until=settled), now)
                for effect in meaning.effects:
                    self.effects.perform(effect, found, now)
            del self._not_resumed[slot]

    def _tolerate(self, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except StoreError as error:
            log.error("not written at start, what is committed runs all the same reason=%s", error)

    def _remove(self, work: Callable[[], Any]) -> None:
        self._remover.submit(_nothing, (), work)

    # --- what others ask -----------------------------------------------------------------------------------------

    def begin(self, slot: str, release: ReleaseInfo | Pin, now: float) -> Deployment:
        """Take up a release that the slot should run."""
        with self._store.transaction():
            deployment = self._store.add_deployment(
                slot=slot,
                channel=release.channel,
                release=release.name,
                digest=release.digest,
                now=now,
                generation=release.retry_generation,
            )
        log.info("announced slot=%s release=%s digest=%s", slot, release.name, release.digest.short)
        self.effects.perform(Effect.ADMIT, deployment, now)
        return deployment

    def stands(self, ended: Deployment, generation: int = 0) -> bool:
        """Tell whether an end stands: a rollback until it is lifted, a rejection until the agent starts anew."""
        if ended.lifted or generation > ended.generation:
            return False
        return ended.state in (State.ROLLED_BACK, State.REVERTED) or ended.id in self._rejected

    def quarantined(self, slot: str, among: Collection[Digest] | None = None) -> list[Quarantined]:
        """Return what (of these) is condemned on a slot under its present configuration and this image profile (U6)."""
        config = self._slots[slot].config_digest
        return self._store.quarantined(slot, config=config, profile=self._profile_digest, among=among)

    def previous(self, slot: str, deployment: Deployment) -> Deployment | None:
        """Return the committed release that the slot may go back to from `deployment`."""
        return self._store.previous(slot, deployment, self._store.security_floors(slot))

    # --- the machine ---------------------------------------------------------------------------------------------

    def happen(self, key: int, event: Event, now: float, also: Callable[[], None] | None = None) -> None:
        """Feed one event to a deployment: decide, write, then act. `also` writes in the same transaction."""
        deployment = self._store.deployment(key)
        decided = None if self._last_known_good(deployment, event) else step(deployment, event, now)
        if decided is None:
            log.debug("stale event slot=%s release=%s event=%s", deployment.slot, deployment.release, event.kind.value)
            return
        after = decided.deployment
        restored: Deployment | None = None
        with self._store.transaction():
            self._store.save_deployment(after, event=event.kind.value, before=deployment.state, now=now)
            for write in decided.writes:
                restored = self._write(write, after, now) or restored
            if also is not None:
                also()
        log.info(
            "transition slot=%s release=%s from=%s to=%s event=%s reasons=%s",
            after.slot, after.release, deployment.state.value, after.state.value, event.kind.value,
            "; ".join(map(str, event.reasons)) or "-",
        )  # fmt: skip
        if after.state is State.REJECTED:
            self._rejected.add(after.id)
        if after.state is not State.FETCHING:
            self.effects.left(after)
        try:
            for effect in decided.effects:
                self.effects.perform(effect, restored or after, now)
        finally:
            self._ports.changed()
        if after.state not in UNDER_WAY and after.state in (State.ROLLED_BACK, State.REVERTED):
            self._ended(after, now)

    def stopped_serving(self, key: int, reasons: tuple[Reason, ...], now: float) -> None:
        """A committed release keeps crashing: go back to the one before, if there is one; else it is tried again."""
        self.happen(key, Event(kind=EventKind.FAILED, reasons=reasons), now)

    def mended(self, key: int, now: float) -> bool:
        """Tell whether the files of a committed release that stopped serving are not whole; lay them out anew then.

        That is the disk's fault (U6): the release is not given up.
        """
        deployment = self._store.deployment(key)
        data = self._store.manifest(deployment.digest)
        if deployment.state is not State.COMMITTED or intact(self._releases, data, self._ports.blob_path):
            return False
        log.error("files of a committed release are not whole slot=%s release=%s", deployment.slot, deployment.release)
        for path in retire(self._releases, [deployment.digest.hex]):
            shutil.rmtree(path, ignore_errors=True)
        self.effects.perform(Effect.RESTORE, deployment, now)
        return True

    def _last_known_good(self, deployment: Deployment, event: Event) -> bool:
        """A committed release with nothing to go back to is never given up, whatever is said of it (U3)."""
        leaving = event.kind in (EventKind.FAILED, EventKind.OPERATOR)
        if deployment.state is not State.COMMITTED or not leaving:
            return False
        return self.previous(deployment.slot, deployment) is None

    def _write(self, write: Write, deployment: Deployment, now: float) -> Deployment | None:
        if write is Write.MAKE_ACTIVE:
            before = self._store.active(deployment.slot)
            self._store.set_active(deployment.slot, deployment.id)
            if before is not None:
                self._save_step(before, EventKind.REPLACED, now)
        elif write is Write.MAKE_PREVIOUS_ACTIVE:
            previous = self.previous(deployment.slot, deployment)
            assert previous is not None
            self._store.set_active(deployment.slot, previous.id)
            return self._save_step(previous, EventKind.RESTORED, now)
        elif write is Write.QUARANTINE:
            setup = self._slots[deployment.slot]
            self._store.quarantine(
                Quarantined(
                    slot=deployment.slot,
                    digest=deployment.digest,
                    at=now,
                    reasons=deployment.reasons,
                    generation=deployment.generation,
                ),
                config=setup.config_digest,
                profile=self._profile_digest,
            )
        return None

    def _save_step(self, deployment: Deployment, kind: EventKind, now: float) -> Deployment | None:
        """Write what an event makes of another deployment, inside the transaction that caused it."""
        found = step(deployment, Event(kind=kind), now)
        if found is None:
            return None
        changed = msgspec.structs.replace(found.deployment, reasons=())
        self._store.save_deployment(changed, event=kind.value, before=deployment.state, now=now)
        return changed


def _nothing(result: Any, now: float) -> None:
    """Nobody waits for this."""
