"""Performs what the deployment machine decides: writes each transition down, then acts on it (U2).

One updater serves all slots, on one thread. Slow work (verification, fetching, laying out) runs on a single helper
thread and comes back as an event; the runtime's answers come in the same way. Nothing here touches frames.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import BlobRef, Digest, decode_json, encode_json
from edge_agent.contract.errors import Blame, FieldcastError, Reason, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.manifest import Manifest, parse_manifest
from edge_agent.contract.messages import ReleaseInfo, Rollout
from edge_agent.update.admission import admit, space
from edge_agent.update.deployment import RESTART, UNDER_WAY, Deployment, Effect, Event, EventKind, State, Write, step
from edge_agent.update.desired import Wanted, desired
from edge_agent.update.layout import lay_out, release_root
from edge_agent.update.store import Quarantined, Refusal, Store, Trust
from edge_agent.update.trust import Floor, Request, Verified

__all__ = ["Runtime", "SlotSetup", "Updater"]

log = logging.getLogger(__name__)
FETCH_SECONDS = 600.0


class SlotSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What the device's configuration says about one slot, as far as updates care."""

    name: str
    channel: str
    columns: list[str]
    units: dict[str, str] = {}
    tunables: dict[str, Any] = {}
    config_digest: str = ""


class Runtime(Protocol):
    """What the updater asks of the runtime. Each call returns at once; answers arrive as events."""

    def run(self, slot: str, key: int, root: Path, release: str) -> None:
        """Run a committed release as the active one (again)."""

    def start(self, slot: str, key: int, root: Path, release: str) -> None:
        """Start a candidate beside the active release and load it."""

    def shadow(self, slot: str, key: int) -> None:
        """Give the candidate copies of live frames."""

    def serve(self, slot: str, key: int) -> None:
        """Let the candidate answer; keep the old worker warm."""

    def keep(self, slot: str, key: int) -> None:
        """The candidate is committed: let the old worker go."""

    def abandon(self, slot: str, key: int) -> None:
        """Drop the candidate; the old worker answers alone."""


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """The updater's ways into the world. `verify` and `fetch` may block: they run on the helper thread."""

    verify: Callable[[Request], Verified]
    fetch: Callable[[BlobRef, threading.Event], Path]
    blob_path: Callable[[BlobRef], Path]
    runtime: Runtime
    wake: Callable[[], None]
    changed: Callable[[], None]


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
        self._store, self._releases, self._profile, self._ports = store, releases, profile, ports
        self._profile_digest = Digest.of(encode_json(profile)).hex
        self._results: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._helper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="update")
        self._stopping = threading.Event()
        self._waiting: dict[int, tuple[float, Effect]] = {}
        self._verifying: dict[str, bytes] = {}
        self._cancel: dict[int, threading.Event] = {}
        self._rejected: set[int] = set()

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Bring every slot back to where the store says it was: the committed release first, then what was under way."""
        for slot in self._slots:
            active = self._store.active(slot)
            if active is not None:
                self._run_active(active)
            found = self._store.under_way(slot)
            if found is not None:
                kind, effects = RESTART[found.state]
                if kind is not None:
                    self.happen(found.id, Event(kind=kind), now)
                for effect in effects:
                    self._perform(effect, found, now)
        for channel in {setup.channel for setup in self._slots.values()}:
            self._evaluate(channel, now)

    def stop(self, now: float) -> None:
        """Stop cleanly: attempts under way are refunded, downloads keep what they have."""
        self._stopping.set()
        for slot in self._slots:
            found = self._store.under_way(slot)
            if found is not None:
                self.happen(found.id, Event(kind=EventKind.STOPPED), now)
        for cancel in self._cancel.values():
            cancel.set()
        self._helper.shutdown(wait=True, cancel_futures=True)

    def tick(self, now: float) -> float:
        """Take in finished work and due postponements; return when to be called again at the latest (seconds UTC)."""
        while True:
            try:
                act, arguments = self._results.get_nowait()
            except queue.Empty:
                break
            act(*arguments, now)
        for key, (due, effect) in list(self._waiting.items()):
            if due <= now:
                del self._waiting[key]
                deployment = self._store.deployment(key)
                if effect is Effect.WAIT:
                    self.happen(key, Event(kind=EventKind.DUE), now)
                elif deployment.state in UNDER_WAY:
                    self._perform(effect, deployment, now)
        self._take_requests(now)
        return min((due for due, _ in self._waiting.values()), default=now + 3600.0)

    # --- trust ---------------------------------------------------------------------------------------------------

    def announced(self, channel: str, envelope: bytes, now: float) -> None:
        """An envelope arrived on a channel's topic: verify it, unless it is the one already accepted."""
        trust = self._store.trust(channel)
        if trust is not None and trust.envelope == envelope:
            self._evaluate(channel, now)
            return
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
        self._submit(self._verified, (channel, envelope), self._ports.verify, request)

    def _verified(self, channel: str, envelope: bytes, result: Verified | Exception, now: float) -> None:
        self._verifying.pop(channel, None)
        if isinstance(result, Exception):
            self._refuse(channel, envelope, result, now)
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

    def _refuse(self, channel: str, envelope: bytes, error: Exception, now: float) -> None:
        if isinstance(error, UpdateRejected):
            reasons = error.reasons
        else:
            reasons = (Reason(code=ReasonCode.ENVIRONMENT, message=str(error), blame=Blame.ENVIRONMENT),)
        log.warning("trust refused channel=%s reasons=%s", channel, "; ".join(map(str, reasons)))
        with self._store.transaction():
            self._store.save_refusal(
                Refusal(channel=channel, at=now, digest=Digest.of(envelope), reasons=reasons)
            )
        self._ports.changed()

    # --- what a slot should run ----------------------------------------------------------------------------------

    def _evaluate(self, channel: str, now: float) -> None:
        trust = self._store.trust(channel)
        if trust is None:
            return
        if max(now, self._store.fact("clock")) > trust.expires:
            return  # T6: expiry blocks changes, nothing else
        known = decode_json(trust.verified, _Known)
        for setup in self._slots.values():
            if setup.channel == channel:
                wanted = desired(
                    setup.name,
                    known.releases,
                    known.rollouts,
                    device=self._device,
                    memberships=self._store.memberships(setup.name),
                    quarantined={one.digest for one in self._quarantined(setup)},
                )
                self._head_for(setup, wanted, now)

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
        if info is None:
            return
        if under_way is not None or (active is not None and active.digest == info.digest):
            self._adopt(under_way or active, info.name, info.channel, now)
            return
        last = self._store.last_ended(setup.name)
        if last is not None and (last.release, last.digest) == (info.name, info.digest) and self._stands(last):
            return
        with self._store.transaction():
            deployment = self._store.add_deployment(
                slot=setup.name, channel=info.channel, release=info.name, digest=info.digest, now=now
            )
        log.info("announced slot=%s release=%s digest=%s", setup.name, info.name, info.digest.short)
        self._perform(Effect.ADMIT, deployment, now)

    def _stands(self, ended: Deployment) -> bool:
        """Tell whether an end stands: a rollback always, a rejection until the agent starts anew, maybe reconfigured."""
        return ended.state in (State.ROLLED_BACK, State.REVERTED) or ended.id in self._rejected

    def _adopt(self, deployment: Deployment | None, name: str, channel: str, now: float) -> None:
        """The same bytes under another name: take the name, run on (U4)."""
        if deployment is None or (deployment.release, deployment.channel) == (name, channel):
            return
        renamed = msgspec.structs.replace(deployment, release=name, channel=channel)
        with self._store.transaction():
            self._store.save_deployment(renamed, event="adopted", before=deployment.state, now=now)
        self._ports.changed()

    # --- the machine ---------------------------------------------------------------------------------------------

    def happen(self, key: int, event: Event, now: float) -> None:
        """Feed one event to a deployment: decide, write, then act."""
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
            self._evaluate(after.channel, now)

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

    def _quarantined(self, setup: SlotSetup) -> list[Quarantined]:
        return self._store.quarantined(setup.name, config=setup.config_digest, profile=self._profile_digest)

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
        setup = self._slots[deployment.slot]
        reasons = admit(
            self._manifest(deployment),
            self._profile,
            columns=setup.columns,
            units=setup.units,
            tunables=setup.tunables,
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
        cancel = self._cancel[deployment.id] = threading.Event()
        blobs = list(self._manifest(deployment).blobs())

        def fetch() -> None:
            for ref in blobs:
                self._ports.fetch(ref, cancel)

        self._submit(self._done, (deployment.id, EventKind.FETCHED), fetch)

    def _do_lay_out(self, deployment: Deployment, now: float) -> None:
        if deployment.due > now:
            self._waiting[deployment.id] = (deployment.due, Effect.LAY_OUT)
            return
        data = self._store.manifest(deployment.digest)

        def build() -> None:
            lay_out(self._releases, data, self._ports.blob_path)

        self._submit(self._done, (deployment.id, EventKind.BEGUN), build)

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
        if active is not None:
            self._run_active(active)
        else:
            self._ports.runtime.abandon(deployment.slot, deployment.id)

    def _do_wait(self, deployment: Deployment, now: float) -> None:
        self._waiting[deployment.id] = (deployment.due, Effect.WAIT)

    def _do_collect(self, deployment: Deployment, now: float) -> None:
        """Remove the laid-out files of releases that nothing refers to; blobs stay for the next update."""
        kept = set()
        for slot in self._slots:
            active, under_way = self._store.active(slot), self._store.under_way(slot)
            kept |= {one.digest.hex for one in (active, under_way) if one is not None}
            if active is not None and (previous := self._store.previous(slot, active)) is not None:
                kept.add(previous.digest.hex)
        if self._releases.is_dir():
            for path in self._releases.iterdir():
                if path.name not in kept and not path.name.startswith("."):
                    self._helper.submit(shutil.rmtree, path, ignore_errors=True)

    def _run_active(self, active: Deployment) -> None:
        data = self._store.manifest(active.digest)
        root = lay_out(self._releases, data, self._ports.blob_path)
        self._ports.runtime.run(active.slot, active.id, root, active.release)

    # --- helpers -------------------------------------------------------------------------------------------------

    def _submit(self, act: Callable[..., None], arguments: tuple[Any, ...], work: Callable[..., Any], *a: Any) -> None:
        def run() -> None:
            try:
                result: Any = work(*a)
            except (FieldcastError, OSError) as error:
                result = error
            self._results.put((act, (*arguments, result)))
            self._ports.wake()

        if not self._stopping.is_set():
            self._helper.submit(run)

    def _take_requests(self, now: float) -> None:
        """Answer what operators asked of the running agent (`edge-agent release rollback`)."""
        for number, kind, slot in self._store.requests():
            answer = self._rollback(slot, now) if kind == "rollback" else f"unknown request {kind!r}"
            with self._store.transaction():
                self._store.answer(number, answer)

    def _rollback(self, slot: str, now: float) -> str:
        if slot not in self._slots:
            return f"refused: no slot {slot!r} in the configuration"
        target = self._store.under_way(slot) or self._store.active(slot)
        if target is None:
            return f"refused: nothing runs on {slot}"
        if target.state is State.COMMITTED and self._store.previous(slot, target) is None:
            return f"refused: {target.release} has no earlier committed release on this device"
        reason = Reason(code=ReasonCode.OPERATOR, message="rolled back on the device", blame=Blame.OPERATOR)
        self.happen(target.id, Event(kind=EventKind.OPERATOR, reasons=(reason,)), now)
        active = self._store.active(slot)
        return f"{target.release} rolled back; {active.release if active is not None else 'nothing'} runs"


class _Known(msgspec.Struct):
    """The verified part of a trust row."""

    releases: list[ReleaseInfo]
    rollouts: list[Rollout]
