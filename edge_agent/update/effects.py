"""Does what a transition asks for, after it is durable (U2). Each effect can be done again.

Slow work (readings, fetching, laying out) runs on a helper thread of its slot, so that a slot whose download hangs
delays no other; what it finds comes back as an event. Nothing is decided here but by the pure rooms: `admission` and
`policy`.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import Blame, Reason, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.manifest import Manifest, parse_manifest
from edge_agent.update.admission import admit, space
from edge_agent.update.collector import Collector
from edge_agent.update.deployment import ENDED, RETRY_SECONDS_MAX, Deployment, Effect, Event, EventKind, State
from edge_agent.update.helper import Helper
from edge_agent.update.layout import keep_manifest, lay_out, release_root
from edge_agent.update.mender import Mender
from edge_agent.update.policy import Act, Deferral, Reading, may
from edge_agent.update.ports import Ports, SlotSetup
from edge_agent.update.readings import take
from edge_agent.update.store import Quarantined, Store

__all__ = ["Effects"]

log = logging.getLogger(__name__)
STORE_RETRY_SECONDS = 5.0
SETTLE_SECONDS = 10.0
"""How long a committed release runs alone after an unclean start before a candidate is tried again."""

# What is done again for a state in which an effect could not be finished.
AGAIN = {
    State.ANNOUNCED: Effect.ADMIT,
    State.ADMITTED: Effect.RESERVE,
    State.FETCHING: Effect.FETCH,
    State.STAGED: Effect.LAY_OUT,
    State.STARTING: Effect.START,
    State.SHADOW: Effect.SHADOW,
    State.LIVE: Effect.SERVE,
    State.COMMITTED: Effect.RESTORE,
}
Happen = Callable[[int, Event, float], None]


class Effects:
    """The doing part of every deployment. `happen(key, event, now)` takes what came of it."""

    def __init__(
        self,
        *,
        slots: Mapping[str, SlotSetup],
        store: Store,
        releases: Path,
        profile: Profile,
        ports: Ports,
        collector: Collector,
        fresh: Callable[[str, float], bool],
        condemned: Callable[[str, Collection[Digest]], Collection[Quarantined]],
        happen: Happen,
    ) -> None:
        self._slots, self._store, self._releases = slots, store, releases
        self._profile, self._ports, self._collector = profile, ports, collector
        self._fresh, self._condemned, self._happen = fresh, condemned, happen
        self._workers = {slot: Helper(f"update {slot}", ports.wake) for slot in slots}
        self._mender = Mender(slots, store, releases, ports, self._wait_until)
        self.helpers = [*self._workers.values(), *self._mender.helpers.values()]
        self._waiting: dict[int, float] = {}
        self._fetching: dict[str, tuple[int, threading.Event]] = {}
        self._settled: dict[str, float] = {}

    # --- life ----------------------------------------------------------------------------------------------------

    def settle(self, slot: str, now: float) -> float:
        """Start nothing on the slot before it has settled; return until when (seconds UTC)."""
        self._settled[slot] = now + self._slots[slot].policy.settle_seconds
        return self._settled[slot]

    def refuse_more(self) -> None:
        """Take no new work: the end has begun."""
        for helper in self.helpers:
            helper.refuse_more()

    def stop(self) -> None:
        """End what runs; downloads keep what they have."""
        self._mender.stopping.set()
        for _, cancel in self._fetching.values():
            cancel.set()
        for helper in self.helpers:
            helper.stop()

    def collect(self, now: float) -> None:
        """Hand over what the helpers finished and take up what is due. One slot's trouble does not stop another's."""
        troubles: list[StoreError] = []
        for helper in self.helpers:
            try:
                helper.collect(now)
            except StoreError as error:
                troubles.append(error)
        for slot in list(self._fetching):
            self._watch(slot, now)
        for key, due in list(self._waiting.items()):
            if _is_due(due, now):
                del self._waiting[key]
                try:
                    self._take_up(key, now)
                except StoreError as error:
                    self._waiting[key] = now + STORE_RETRY_SECONDS
                    troubles.append(error)
        if troubles:
            raise troubles[0]

    def due(self, now: float) -> float:
        """Return when to be called again at the latest (seconds UTC)."""
        return min((now if _is_due(due, now) else due for due in self._waiting.values()), default=now + 3600.0)

    def look_again(self, slot: str, now: float) -> None:
        """A hold changed: ask for permission at once instead of when it was due."""
        found = self._store.under_way(slot)
        if found is not None and found.state is State.DEFERRED and found.id in self._waiting:
            self._waiting[found.id] = now

    def left(self, deployment: Deployment) -> None:
        """A deployment is not fetching any more: end a download of it."""
        key, cancel = self._fetching.get(deployment.slot, (0, None))
        if cancel is not None and key == deployment.id:
            del self._fetching[deployment.slot]
            cancel.set()

    def _wait_until(self, key: int, due: float) -> None:
        self._waiting[key] = due

    def _take_up(self, key: int, now: float) -> None:
        """Go on with a deployment that waited, from whatever state it is in."""
        deployment = self._store.deployment(key)
        if deployment.state is State.DEFERRED:
            self._happen(key, Event(kind=EventKind.DUE), now)
        elif deployment.state in AGAIN:
            self.perform(AGAIN[deployment.state], deployment, now)

    def perform(self, effect: Effect, deployment: Deployment, now: float) -> None:
        """Do one effect; what it raises becomes an event. Raises `StoreError` if even that cannot be written."""
        handler = getattr(self, f"_do_{effect.name.lower()}")
        try:
            handler(deployment, now)
            return
        except UpdateRejected as error:
            event = Event(kind=EventKind.REFUSED, reasons=error.reasons)
        except (StoreError, OSError) as error:
            log.warning("not done effect=%s release=%s reason=%s", effect.value, deployment.release, error)
            event = Event(kind=EventKind.POSTPONED, reasons=(_environment(str(error)),))
        try:
            self._happen(deployment.id, event, now)
        except StoreError:
            self._waiting[deployment.id] = now + STORE_RETRY_SECONDS
            raise

    def _manifest(self, deployment: Deployment) -> Manifest:
        return parse_manifest(self._store.manifest(deployment.digest))

    # --- admission and permission --------------------------------------------------------------------------------

    def _do_admit(self, deployment: Deployment, now: float) -> None:
        pin = self._store.pin(deployment.slot)
        pinned = pin is not None and pin.digest == deployment.digest  # an operator's word needs no fresh metadata
        if not pinned and not self._fresh(deployment.channel, now):
            words = f"the metadata of channel {deployment.channel} has expired: run `publisher refresh`"
            reason = Reason(code=ReasonCode.EXPIRED, message=words, blame=Blame.ENVIRONMENT)
            self._happen(deployment.id, Event(kind=EventKind.POSTPONED, reasons=(reason,)), now)
            return
        setup = self._slots[deployment.slot]
        condemned = next(iter(self._condemned(setup.name, [deployment.digest])), None)
        if condemned is not None and condemned.generation < deployment.generation:
            condemned = None
        reasons = admit(
            self._manifest(deployment),
            self._profile,
            slot=setup.name,
            columns=setup.columns,
            units=setup.units,
            dtypes=setup.dtypes,
            tunables=setup.tunables,
            condemned=condemned.reasons if condemned is not None else (),
            first=None if pinned else self._store.barred(setup.name, deployment.channel).get(deployment.digest),
        )
        kind = EventKind.REFUSED if reasons else EventKind.ADMITTED
        self._happen(deployment.id, Event(kind=kind, reasons=tuple(reasons)), now)

    def _ask(self, act: Act, deployment: Deployment, now: float) -> None:
        """Ask local policy, on the slot's helper if it has to look at something; `_answered` goes on."""
        policy = self._slots[deployment.slot].policy
        if policy.needs_reading:
            self._workers[deployment.slot].submit(self._answered, (deployment.id, act), take, policy)
        else:
            self._answered(deployment.id, act, Reading(), now)

    def _answered(self, key: int, act: Act, reading: Any, now: float) -> None:
        deployment = self._store.deployment(key)
        if deployment.state is not (State.ADMITTED if act is Act.FETCH else State.STAGED):
            return  # it was given up meanwhile
        if isinstance(reading, Exception):
            self._happen(key, Event(kind=EventKind.POSTPONED, reasons=(_environment(str(reading)),)), now)
            return
        deferral = self._may(act, deployment.slot, reading, now)
        if deferral is not None:
            event = Event(kind=EventKind.HELD, reasons=deferral.reasons, until=deferral.until)
        elif act is Act.ACTIVATE:
            event = Event(kind=EventKind.BEGUN)
        else:
            event = self._room(deployment)
        self._happen(key, event, now)

    def _may(self, act: Act, slot: str, reading: Reading, now: float) -> Deferral | None:
        return may(
            act,
            self._slots[slot].policy,
            holds=self._store.holds(slot, now),
            reading=reading,
            now=now,
            offset_seconds=float(time.localtime(now).tm_gmtoff),
        )

    def _watch(self, slot: str, now: float) -> None:
        """A download does not go on past the end of its window, nor under a hold; what arrived is kept."""
        key, _ = self._fetching[slot]
        deferral = self._may(Act.FETCH, slot, Reading(), now)
        if deferral is not None:
            self._happen(key, Event(kind=EventKind.HELD, reasons=deferral.reasons, until=deferral.until), now)

    # --- fetching ------------------------------------------------------------------------------------------------

    def _do_reserve(self, deployment: Deployment, now: float) -> None:
        blobs = self._manifest(deployment).blobs()
        if all(self._ports.blob_path(ref).exists() for ref in blobs):
            self._happen(deployment.id, self._room(deployment), now)
        else:
            self._ask(Act.FETCH, deployment, now)

    def _room(self, deployment: Deployment) -> Event:
        """Say whether there is space, after a collection if it has to be."""
        manifest = self._manifest(deployment)
        present = {ref.digest for ref in manifest.blobs() if self._ports.blob_path(ref).exists()}
        self._releases.mkdir(parents=True, exist_ok=True)
        for again in (True, False):
            reason = space(manifest, present=present, free_bytes=shutil.disk_usage(self._releases).free)
            if reason is None:
                return Event(kind=EventKind.RESERVED)
            if again:
                self._collector.collect(everything=True)
        assert reason is not None
        return Event(kind=EventKind.POSTPONED, reasons=(reason,))

    def _do_fetch(self, deployment: Deployment, now: float) -> None:
        self._fetch(deployment, self._fetched)

    def _fetch(self, deployment: Deployment, act: Callable[..., None]) -> None:
        """Have every blob of a release fetched; `act(key, cancel, result, now)` follows."""
        cancel = threading.Event()
        self._fetching[deployment.slot] = (deployment.id, cancel)
        blobs = list(self._manifest(deployment).blobs())

        def fetch() -> None:
            for ref in blobs:
                self._ports.fetch(ref, cancel)

        self._workers[deployment.slot].submit(act, (deployment.id, cancel), fetch)

    def _fetched(self, key: int, cancel: threading.Event, result: Any, now: float) -> None:
        if cancel.is_set():
            self._collector.collect()  # it was given up while the download still wrote
        else:
            self._done(key, EventKind.FETCHED, result, now)

    def _do_lay_out(self, deployment: Deployment, now: float) -> None:
        until = max(deployment.due, self._settled.get(deployment.slot, 0.0))
        if not _is_due(until, now):
            self._waiting[deployment.id] = until
            return
        data = self._store.manifest(deployment.digest)

        def build() -> None:
            lay_out(self._releases, data, self._ports.blob_path, self._ports.proven)
            keep_manifest(self._ports.blob_path(BlobRef.of(data)), data)

        self._workers[deployment.slot].submit(self._laid_out, (deployment.id,), build)

    def _laid_out(self, key: int, result: Any, now: float) -> None:
        if isinstance(result, Exception):
            self._done(key, EventKind.BEGUN, result, now)
            return
        deployment = self._store.deployment(key)
        if deployment.state is State.STAGED:
            self._ask(Act.ACTIVATE, deployment, now)
        elif deployment.state in ENDED:
            self._collector.collect()  # it was given up while its files were still being laid out

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
        self._happen(key, Event(kind=kind, reasons=reasons), now)

    # --- the runtime ---------------------------------------------------------------------------------------------

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
        else:
            self._mender.restore(active, now)

    # --- waiting and cleaning up ---------------------------------------------------------------------------------

    def _do_wait(self, deployment: Deployment, now: float) -> None:
        self._waiting[deployment.id] = deployment.due

    def _do_collect(self, deployment: Deployment, now: float) -> None:
        self._collector.collect()


def _is_due(due: float, now: float) -> bool:
    """Tell whether a wait is over. One that is longer than any was begun before the clock was set back."""
    return not now < due <= now + RETRY_SECONDS_MAX


def _environment(words: str) -> Reason:
    return Reason(code=ReasonCode.ENVIRONMENT, message=words, blame=Blame.ENVIRONMENT)
