"""A device on the bench: real updater, store, layout and bundles; runtime, broker and key holders are scripted.

An envelope here is the `Verified` it would verify to, so a test signs by writing down what should come out. Time is a
value that the test sets. `crash` forgets everything that is not on disk; `restart` begins again from there.

    bench = Bench(tmp_path)
    one = bench.release("one")
    bench.announce(one)
    bench.run_to(State.STARTING)
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.bundle import build_bundle
from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import BlobRef, Digest, decode_msgpack, encode_msgpack
from edge_agent.contract.errors import Blame, Reason, ReasonCode, TransportError, UpdateRejected
from edge_agent.contract.manifest import InputSpec, Manifest, ModelRef, OutputSpec, Stage, encode_manifest
from edge_agent.contract.messages import ReleaseInfo, Rollout
from edge_agent.contract.verification import Floor, Request, Verified
from edge_agent.update.collection import Retention
from edge_agent.update.deployer import Ports, SlotSetup
from edge_agent.update.deployment import Deployment, Event, EventKind, State
from edge_agent.update.store import Store
from edge_agent.update.updater import Updater
from tests.simulators.waiting import until

SLOT, CHANNEL, DEVICE = "activity", "staging", "machine-1"
NOW = 1_800_000_000.0
DAY_SECONDS = 86_400.0
PROFILE = Profile(python="3.11.2", machine="x86_64", tags=["py3-none-any"], distributions={"numpy": "1.26.4"})

# What the runtime says to bring a deployment from one state to the next, on a slot that runs something.
ROAD = {
    State.STARTING: EventKind.LOADED,
    State.SHADOW: EventKind.PROVEN,
    State.LIVE: EventKind.HEALTHY,
}


class Release(msgspec.Struct, frozen=True):
    """One release as the key holders see it."""

    info: ReleaseInfo
    manifest: bytes
    parsed: Manifest


def fault(blame: Blame = Blame.RELEASE, code: ReasonCode = ReasonCode.ERRORS) -> Reason:
    return Reason(code=code, message="12 of 100 frames raised ValueError", blame=blame)


class ScriptedRuntime:
    """Writes down what it is asked; `broken` makes one order fail."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, str]] = []
        self.roots: dict[str, Path] = {}
        self.broken: dict[str, Exception] = {}
        self._names: dict[int, str] = {}

    def _order(self, verb: str, key: int) -> None:
        self.orders.append((verb, self._names.get(key, "?")))
        if verb in self.broken:
            raise self.broken[verb]

    def run(self, slot: str, key: int, root: Path, release: str) -> None:
        self._names[key], self.roots[release] = release, root
        self._order("run", key)

    def start(self, slot: str, key: int, root: Path, release: str) -> None:
        self._names[key], self.roots[release] = release, root
        self._order("start", key)

    def shadow(self, slot: str, key: int) -> None:
        self._order("shadow", key)

    def serve(self, slot: str, key: int) -> None:
        self._order("serve", key)

    def keep(self, slot: str, key: int) -> None:
        self._order("keep", key)

    def abandon(self, slot: str, key: int) -> None:
        self._order("abandon", key)

    def rename(self, slot: str, key: int, release: str) -> None:
        self._names[key] = release
        self._order("rename", key)


class Bench:
    """One device and all that is around it."""

    def __init__(self, directory: Path, *, setup: SlotSetup | None = None) -> None:
        self.directory = directory
        self.now = NOW
        self.setup = setup or SlotSetup(name=SLOT, channel=CHANNEL, columns=["x"], config_digest="c0")
        self.broker: dict[Digest, bytes] = {}
        self.damaged: dict[Digest, Exception] = {}
        self.verdicts: dict[bytes, Exception] = {}
        self.verified: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        self.changes = 0
        self.boot = "boot 1"
        self.retention = Retention()
        self._version = 0
        self._sequence = 0
        self._begin()

    def _begin(self) -> None:
        self.runtime = ScriptedRuntime()
        self.store = Store(self.directory / "agent.db")
        self.updater = Updater(
            device=DEVICE,
            fleet="plant",
            slots={self.setup.name: self.setup},
            roots={self.setup.channel: b"root"},
            store=self.store,
            releases=self.directory / "releases",
            profile=PROFILE,
            ports=Ports(
                verify=self._verify,
                fetch=self._fetch,
                blob_path=self.blob_path,
                runtime=self.runtime,
                wake=lambda: None,
                changed=self._changed,
                blobs=self.directory / "blobs",
                boot_id=lambda: self.boot,
            ),
            retention=self.retention,
        )

    # --- the scripted world ------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        self.changes += 1

    def _verify(self, request: Request) -> Verified:
        self.gate.wait(30.0)
        self.verified.append(request.envelope)
        if request.envelope in self.verdicts:
            raise self.verdicts[request.envelope]
        verified = decode_msgpack(request.envelope, Verified)
        before = [decode_msgpack(request.accepted, Verified).floors[0]] if request.accepted else []
        if any(verified.floors[0].version < floor.version for floor in [*before, *request.floors]):
            raise UpdateRejected.one(ReasonCode.OLDER, "an older envelope", blame=Blame.ENVIRONMENT)
        if request.now > verified.expires_at:
            raise UpdateRejected.one(ReasonCode.EXPIRED, "expired", blame=Blame.ENVIRONMENT)
        return verified

    def _fetch(self, ref: BlobRef, cancel: threading.Event) -> Path:
        self.gate.wait(30.0)
        if cancel.is_set():
            raise TransportError("cancelled")
        if ref.digest in self.damaged:
            raise self.damaged[ref.digest]
        path = self.blob_path(ref)
        if not path.exists() or not ref.matches(path.read_bytes()):
            if ref.digest not in self.broker:
                raise TransportError(f"no chunk of {ref.digest.short} within 600 s")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_bytes(self.broker[ref.digest])
        return path

    def blob_path(self, ref: BlobRef) -> Path:
        return self.directory / "blobs" / ref.digest.hex[:2] / ref.digest.hex

    def blob(self, data: bytes) -> BlobRef:
        """Put a blob on the broker."""
        ref = BlobRef.of(data)
        self.broker[ref.digest] = data
        return ref

    # --- key holders -------------------------------------------------------------------------------------------------

    def release(self, marker: str, **fields: Any) -> Release:
        """Make a release with a bundle, a model, a state and a self-test; another `marker` gives other bytes."""
        bundle = build_bundle(
            name="sample",
            version="1",
            target="sample:Double",
            files={"sample.py": f"MARKER = {marker!r}\n\n\nclass Double:\n    pass\n".encode()},
        )
        stage = Stage(
            name="double",
            target="sample:Double",
            fingerprint=marker,
            bundle=self.blob(bundle),
            state=self.blob(f"state {marker}".encode()),
            models={"path": ModelRef(blob=self.blob(f"model {marker}".encode()), name="model.onnx")},
        )
        values: dict[str, Any] = {
            "format": 1,
            "pipeline": SLOT,
            "stages": [stage],
            "input": InputSpec(columns=["x"]),
            "output": OutputSpec(columns=["y"]),
            "self_test": self.blob(b"self-test"),
        }
        manifest = Manifest(**{**values, **fields})
        return self.sign(encode_manifest(manifest), manifest)

    def sign(self, data: bytes, parsed: Manifest) -> Release:
        """Sign a manifest under the next sequence number."""
        self._sequence += 1
        info = ReleaseInfo(
            fleet="plant",
            channel=CHANNEL,
            pipeline=SLOT,
            sequence=self._sequence,
            digest=Digest.of(data),
            published=int(NOW),
        )
        return Release(info, data, parsed)

    def envelope(
        self, candidate: Release, stable: Release | None = None, *, expires: float = 14 * DAY_SECONDS, **rollout: Any
    ) -> bytes:
        """Sign a rollout; a later envelope has a higher version. `expires` counts from now, in seconds."""
        self._version += 1
        releases = [one for one in (candidate, stable) if one is not None]
        fields: dict[str, Any] = {
            "fleet": "plant",
            "channel": CHANNEL,
            "pipeline": SLOT,
            "rollout_id": f"rollout {candidate.info.sequence}",
            "candidate": candidate.info.sequence,
            "stable": stable.info.sequence if stable is not None else None,
        }
        verified = Verified(
            releases=[one.info for one in releases],
            rollouts=[Rollout(**{**fields, **rollout})],
            manifests={str(one.info.digest): one.manifest for one in releases},
            floors=[Floor(role="timestamp", keyset="k", version=self._version)],
            expires_at=self.now + expires,
            timestamp_expires_at=self.now + expires,
        )
        return encode_msgpack(verified)

    def announce(self, candidate: Release, stable: Release | None = None, **fields: Any) -> bytes:
        """Sign and deliver an envelope and let everything settle that follows from it."""
        envelope = self.envelope(candidate, stable, **fields)
        self.deliver(envelope)
        return envelope

    def deliver(self, envelope: bytes) -> None:
        self.updater.announced(CHANNEL, envelope, self.now)
        self.settle()

    # --- the device --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Tick until neither the helper thread nor the updater has anything left that is due."""
        helpers = (*self.updater._deployer.helpers, self.updater._verifier)

        def settled() -> bool:
            self.updater.tick(self.now)
            return all(helper.idle for helper in helpers)

        until(settled, what="an end of the helper threads' work")
        self.updater.tick(self.now)

    def finish_work(self) -> None:
        """Let the helper threads finish what they have; the updater has not heard of it yet."""
        for helper in (self.updater._verifier, *self.updater._deployer.helpers):
            helper._thread.submit(lambda: None).result(10.0)

    def tick_at(self, now: float) -> None:
        """Let time pass."""
        self.now = now
        self.settle()

    def say(self, kind: EventKind, *reasons: Reason, key: int | None = None) -> None:
        """Let the runtime report on the deployment under way (or `key`)."""
        self.updater.happen(key or self.newest.id, Event(kind=kind, reasons=reasons), self.now)
        self.settle()

    def run_to(self, state: State) -> Deployment:
        """Bring the newest deployment along the good road to `state`."""
        self.settle()
        while (found := self.newest).state is not state:
            alone = found.state is State.STARTING and self.active is None
            assert found.state in ROAD, f"stuck in {found.state} on the way to {state}: {found.reasons}"
            self.say(EventKind.LOADED_ALONE if alone else ROAD[found.state])
        return self.newest

    def commit(self, release: Release, stable: Release | None = None) -> Deployment:
        """Announce a release and let it prove itself."""
        self.announce(release, stable)
        return self.run_to(State.COMMITTED)

    @property
    def newest(self) -> Deployment:
        return self.store.deployments(SLOT, limit=1)[0]

    @property
    def active(self) -> Deployment | None:
        return self.store.active(SLOT)

    @property
    def runs(self) -> str:
        """Name of the release that the slot runs, empty if none does."""
        return self.active.release if self.active is not None else ""

    def journal(self) -> list[tuple[str, str, str]]:
        return [(row.before, row.event, row.after) for row in reversed(self.store.journal(SLOT))]

    def crash(self) -> None:
        """End as by SIGKILL: nothing is said to anyone, only what is on disk stays."""
        self.gate.set()
        for helper in self.updater._deployer.helpers:
            helper.stop()
        self.updater._verifier.stop()
        self.store.close()

    def stop(self) -> None:
        self.gate.set()
        self.updater.stop(self.now)
        self.store.close()

    def restart(self, after_seconds: float = 1.0) -> None:
        self.now += after_seconds
        self._begin()
        self.updater.start(self.now)
        self.settle()


__all__ = ["CHANNEL", "DAY_SECONDS", "DEVICE", "NOW", "PROFILE", "SLOT", "Bench", "Release", "fault", "until"]
