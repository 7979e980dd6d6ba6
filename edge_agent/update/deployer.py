"""Carries deployments through the machine: decide, write down in one transaction, then act (U2).

One deployer serves all slots, on one thread. Slow work (fetching, laying out) runs on a single helper thread and comes
back as an event; the runtime's answers come in the same way. Which release should run is decided elsewhere.
"""

from __future__ import annotations

import functools
import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.errors import Blame, Reason, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.manifest import Manifest, parse_manifest
from edge_agent.update.admission import admit, space
from edge_agent.update.deployment import (
    RESTART,
    RETRY_SECONDS_MAX,
    UNDER_WAY,
    Deployment,
    Effect,
    Event,
    EventKind,
    State,
    Write,
    step,
)
from edge_agent.update.helper import Helper
from edge_agent.update.layout import lay_out, release_root, remove_leftovers, retire
from edge_agent.update.ports import Ports, Runtime, SlotSetup
from edge_agent.update.store import Quarantined, Store

__all__ = ["Deployer", "Ports", "Runtime", "SlotSetup"]

log = logging.getLogger(__name__)
MEND_SECONDS = 30.0


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
    ) -> None:
        self._slots, self._store, self._releases = slots, store, releases
        self._profile, self._ports = profile, ports
        self._fresh, self._ended = fresh, ended
        self._profile_digest = Digest.of(encode_json(profile)).hex
        self._helper = Helper("update", ports.wake)
        self._waiting: dict[int, tuple[float, Effect]] = {}
        self._cancel: dict[int, threading.Event] = {}
        self._rejected: set[int] = set()

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Bring every slot back to where the store says it was: the committed release first, then the one under way."""
        remove_leftovers(self._releases)
        for slot in self._slots:
            active = self._store.active(slot)
            if active is not None:
                self._perform(Effect.RESTORE, active, now)
            found = self._store.under_way(slot)
            if found is not None:
                kind, effects = RESTART[found.state]
                if kind is not None:
                    self.happen(found.id, Event(kind=kind), now)
                for effect in effects:
                    self._perform(effect, found, now)

    def stop(self, now: float) -> None:
        """Stop cleanly: attempts under way are refunded, downloads keep what they have."""
        self._helper.refuse_more()
        for slot in self._slots:
            found = self._store.under_way(slot)
            if found is not None:
                self.happen(found.id, Event(kind=EventKind.STOPPED), now)
        for cancel in self._cancel.values():
            cancel.set()
        self._helper.stop()

    def tick(self, now: float) -> float:
        """Take in finished work and due postponements; return when to be called again at the latest (seconds UTC)."""
        self._helper.collect(now)
        for key, (due, effect) in list(self._waiting.items()):
            if due <= now:
                del self._waiting[key]
                deployment = self._store.deployment(key)
                if effect is Effect.WAIT:
                    self.happen(key, Event(kind=EventKind.DUE), now)
                elif effect is Effect.RESTORE or deployment.state in UNDER_WAY:
                    self._perform(effect, deployment, now)
        return min((due for due, _ in self._waiting.values()), default=now + 3600.0)

    def begin(self, slot: str, channel: str, release: str, digest: Digest, now: float) -> Deployment:
        """Take up a release that the slot should run."""
        with self._store.transaction():
            deployment = self._store.add_deployment(slot=slot, channel=channel, release=release, digest=digest, now=now)
        log.info("announced slot=%s release=%s digest=%s", slot, release, digest.short)
        self._perform(Effect.ADMIT, deployment, now)
        return deployment

    def stands(self, ended: Deployment) -> bool:
        """Tell whether an end stands: a rollback always, a rejection until the agent starts anew."""
        return ended.state in (State.ROLLED_BACK, State.REVERTED) or ended.id in self._rejected

    def quarantined(self, slot: str) -> list[Quarantined]:
        """Return what is condemned on a slot under its present configuration and this image profile (U6)."""
        return self._store.quarantined(slot, config=self._slots[slot].config_digest, profile=self._profile_digest)

    # --- the machine ---------------------------------------------------------------------------------------------

    def happen(self, key: int, event: Event, now: float, also: Callable[[], None] | None = None) -> None:
        """Feed one event to a deployment: decide, write, then act. `also` writes in the same transaction."""
        deployment = self._store.deployment(key)
        decided = step(deployment, event, now)
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
        if after.state not in UNDER_WAY and after.id in self._cancel:
            self._cancel.pop(after.id).set()
        for effect in decided.effects:
            self._perform(effect, restored or after, now)
        self._ports.changed()
        if after.state in (State.ROLLED_BACK, State.REVERTED):
            self._ended(after, now)

    def stopped_serving(self, key: int, reasons: tuple[Reason, ...], now: float) -> None:
        """A committed release keeps crashing: go back to the one before, if there is one; else it is tried again."""
        deployment = self._store.deployment(key)
        if self._store.previous(deployment.slot, deployment) is not None:
            self.happen(key, Event(kind=EventKind.FAILED, reasons=reasons), now)

    def _write(self, write: Write, deployment: Deployment, now: float) -> Deployment | None:
        if write is Write.MAKE_ACTIVE:
            before = self._store.active(deployment.slot)
            self._store.set_active(deployment.slot, deployment.id)
            if before is not None:
                replaced = step(before, Event(kind=EventKind.REPLACED), now)
                if replaced is not None:
                    self._store.save_deployment(replaced.deployment, event="replaced", before=before.state, now=now)
        elif write is Write.MAKE_PREVIOUS_ACTIVE:
            previous = self._store.previous(deployment.slot, deployment)
            self._store.set_active(deployment.slot, previous.id if previous is not None else None)
            if previous is not None:
                back = msgspec.structs.replace(previous, state=State.COMMITTED, reasons=())
                self._store.save_deployment(back, event="restored", before=previous.state, now=now)
                return back
        elif write is Write.QUARANTINE:
            setup = self._slots[deployment.slot]
            self._store.quarantine(
                Quarantined(slot=deployment.slot, digest=deployment.digest, at=now, reasons=deployment.reasons),
                config=setup.config_digest,
                profile=self._profile_digest,
            )
        return None

    # --- effects -------------------------------------------------------------------------------------------------

    def _perform(self, effect: Effect, deployment: Deployment, now: float) -> None:
        handler = getattr(self, f"_do_{effect.name.lower()}")
        try:
            handler(deployment, now)
        except UpdateRejected as error:
            self.happen(deployment.id, Event(kind=EventKind.REFUSED, reasons=error.reasons), now)
        except (StoreError, OSError) as error:
            reason = Reason(code=ReasonCode.ENVIRONMENT, message=str(error), blame=Blame.ENVIRONMENT)
            self.happen(deployment.id, Event(kind=EventKind.POSTPONED, reasons=(reason,)), now)

    def _manifest(self, deployment: Deployment) -> Manifest:
        return parse_manifest(self._store.manifest(deployment.digest))

    def _do_admit(self, deployment: Deployment, now: float) -> None:
        if not self._fresh(deployment.channel, now):
            words = f"the metadata of channel {deployment.channel} has expired: run `publisher refresh`"
            reason = Reason(code=ReasonCode.EXPIRED, message=words, blame=Blame.ENVIRONMENT)
            self.happen(deployment.id, Event(kind=EventKind.POSTPONED, reasons=(reason,)), now)
            return
        setup = self._slots[deployment.slot]
        condemned = next((one for one in self.quarantined(setup.name) if one.digest == deployment.digest), None)
        reasons = admit(
            self._manifest(deployment),
            self._profile,
            slot=setup.name,
            columns=setup.columns,
            units=setup.units,
            tunables=setup.tunables,
            condemned=condemned.reasons if condemned is not None else (),
        )
        kind = EventKind.REFUSED if reasons else EventKind.ADMITTED
        self.happen(deployment.id, Event(kind=kind, reasons=tuple(reasons)), now)

    def _do_reserve(self, deployment: Deployment, now: float) -> None:
        manifest = self._manifest(deployment)
        present = {ref.digest for ref in manifest.blobs() if self._ports.blob_path(ref).exists()}
        self._releases.mkdir(parents=True, exist_ok=True)
        reason = space(manifest, present=present, free_bytes=shutil.disk_usage(self._releases).free)
        if reason is not None:
            self.happen(deployment.id, Event(kind=EventKind.POSTPONED, reasons=(reason,)), now)
        else:
            self.happen(deployment.id, Event(kind=EventKind.RESERVED), now)

    def _do_fetch(self, deployment: Deployment, now: float) -> None:
        self._fetch(deployment, self._done, EventKind.FETCHED)

    def _fetch(self, deployment: Deployment, act: Callable[..., None], *arguments: Any) -> None:
        """Have every blob of a release fetched; `act(key, *arguments, result, now)` follows."""
        cancel = self._cancel[deployment.id] = threading.Event()
        blobs = list(self._manifest(deployment).blobs())

        def fetch() -> None:
            for ref in blobs:
                self._ports.fetch(ref, cancel)

        self._helper.submit(act, (deployment.id, *arguments), fetch)

    def _do_lay_out(self, deployment: Deployment, now: float) -> None:
        if deployment.due > now:
            self._wait(deployment, Effect.LAY_OUT, now)
            return
        data = self._store.manifest(deployment.digest)

        def build() -> None:
            lay_out(self._releases, data, self._ports.blob_path)

        self._helper.submit(self._done, (deployment.id, EventKind.BEGUN), build)

    def _done(self, key: int, kind: EventKind, result: Any, now: float) -> None:
        """Turn the outcome of slow work into an event."""
        if isinstance(result, UpdateRejected):
            blamed = any(reason.blame is Blame.RELEASE for reason in result.reasons)
            kind, reasons = (EventKind.REFUSED if blamed else EventKind.POSTPONED), result.reasons
        elif isinstance(result, Exception):
            reason = Reason(code=ReasonCode.UNAVAILABLE, message=str(result), blame=Blame.ENVIRONMENT)
            kind, reasons = EventKind.POSTPONED, (reason,)
        else:
            reasons = ()
        self.happen(key, Event(kind=kind, reasons=reasons), now)

    def _do_start(self, deployment: Deployment, now: float) -> None:
        root = release_root(self._releases, deployment.digest)
        self._ports.runtime.start(deployment.slot, deployment.id, root, deployment.release)

    def _do_shadow(self, deployment: Deployment, now: float) -> None:
        self._ports.runtime.shadow(deployment.slot, deployment.id)

    def _do_serve(self, deployment: Deployment, now: float) -> None:
        self._ports.runtime.serve(deployment.slot, deployment.id)

    def _do_keep(self, deployment: Deployment, now: float) -> None:
        self._ports.runtime.keep(deployment.slot, deployment.id)

    def _do_abandon(self, deployment: Deployment, now: float) -> None:
        self._ports.runtime.abandon(deployment.slot, deployment.id)

    def _do_restore(self, deployment: Deployment, now: float) -> None:
        active = self._store.active(deployment.slot)
        if active is None:
            self._ports.runtime.abandon(deployment.slot, deployment.id)
            return
        try:
            root = lay_out(self._releases, self._store.manifest(active.digest), self._ports.blob_path)
            self._ports.runtime.run(active.slot, active.id, root, active.release)
        except (UpdateRejected, StoreError, OSError) as error:
            self._mend(active, error, now)
        else:
            self._note(active, (), "mended", now)

    def _mend(self, active: Deployment, error: Exception, now: float) -> None:
        """The files of a committed release are gone, damaged or cannot be written: say so, fetch them, try again."""
        log.error("committed release cannot run slot=%s release=%s error=%s", active.slot, active.release, error)
        reason = Reason(code=ReasonCode.ENVIRONMENT, message=f"cannot run: {error}", blame=Blame.ENVIRONMENT)
        self._note(active, (reason,), "damaged", now)
        self._fetch(active, self._mended)

    def _mended(self, key: int, result: Any, now: float) -> None:
        self._waiting[key] = (now + MEND_SECONDS, Effect.RESTORE)

    def _note(self, active: Deployment, reasons: tuple[Reason, ...], event: str, now: float) -> None:
        """Write down why a committed release does not run, or that it does again."""
        if active.reasons != reasons:
            noted = msgspec.structs.replace(active, reasons=reasons)
            with self._store.transaction():
                self._store.save_deployment(noted, event=event, before=active.state, now=now)
            self._ports.changed()

    def _do_wait(self, deployment: Deployment, now: float) -> None:
        self._wait(deployment, Effect.WAIT, now)

    def _wait(self, deployment: Deployment, effect: Effect, now: float) -> None:
        """Go on when the deployment is due, and no later than the longest wait: the clock may have been set back."""
        self._waiting[deployment.id] = (min(deployment.due, now + RETRY_SECONDS_MAX), effect)

    def _do_collect(self, deployment: Deployment, now: float) -> None:
        """Remove the laid-out files of releases that nothing refers to; blobs stay for the next update."""
        kept = set()
        for slot in self._slots:
            active, under_way = self._store.active(slot), self._store.under_way(slot)
            kept |= {one.digest.hex for one in (active, under_way) if one is not None}
            if active is not None and (previous := self._store.previous(slot, active)) is not None:
                kept.add(previous.digest.hex)
        for path in retire(self._releases, kept):
            self._helper.submit(_nothing, (), functools.partial(shutil.rmtree, path, ignore_errors=True))


def _nothing(result: Any, now: float) -> None:
    """Nobody waits for this."""
