"""A trust channel that signs on demand and can corrupt anything.

It shares no code with `publisher`: what devices accept is pinned by a second, independent maker of envelopes. Roles are
plain `tuf` objects that a test may change before `envelope()` signs them; `edit` changes the finished envelope.

    channel = ChannelSimulator("plant", "staging")
    info = channel.release("activity", sample_manifest())
    verify(channel.request())
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.manifest import InputSpec, Manifest, OutputSpec, Stage, encode_manifest
from edge_agent.contract.messages import (
    ENVELOPE_FORMAT,
    Envelope,
    ReleaseInfo,
    Rollout,
    encode_envelope,
    release_path,
    rollout_path,
)
from edge_agent.contract.verification import Floor, Request

TOP = ("root", "timestamp", "snapshot", "targets")
DELEGATED = ("release", "rollout")
DAY_SECONDS = 86_400.0

Edit = Callable[[dict[str, Any]], None]


def sample_manifest(pipeline: str = "activity", marker: str = "1") -> bytes:
    """Return a small valid manifest; another `marker` gives another digest."""
    stage = Stage(name="window", target="edge_agent.sdk.window:Window", fingerprint=f"builtin:{marker}")
    return encode_manifest(
        Manifest(
            format=1,
            pipeline=pipeline,
            stages=[stage],
            input=InputSpec(columns=["x"]),
            output=OutputSpec(columns=["y"]),
        )
    )


class ChannelSimulator:
    """One channel with all its keys in memory.

    `keys[role]` are the signers that sign; `root` and `targets.delegations` say which keys are in force. `now` is the
    time at which everything was signed: timestamps live 14 days from it, the rest a year.
    """

    def __init__(self, fleet: str = "plant", channel: str = "staging", *, now: float | None = None) -> None:
        self.fleet, self.channel = fleet, channel
        self.now = time.time() if now is None else now
        self.keys = {role: [CryptoSigner.generate_ed25519()] for role in (*TOP, *DELEGATED)}
        subject = {"x-fieldcast": {"fleet": fleet, "channel": channel}}
        year = self.after(365)
        self.root = Root(expires=year, unrecognized_fields=copy.deepcopy(subject))
        for role in TOP:
            self.root.add_key(self.keys[role][0].public_key, role)
        self.delegated = {role: Targets(expires=year) for role in DELEGATED}
        self.targets = Targets(
            expires=year, delegations=Delegations({}, {}), unrecognized_fields=copy.deepcopy(subject)
        )
        assert self.targets.delegations is not None
        assert self.targets.delegations.roles is not None
        for role in DELEGATED:
            self.targets.delegations.roles[role] = DelegatedRole(role, [], 1, True, [f"{role}/*"])
            self.targets.add_key(self.keys[role][0].public_key, role)
        self.snapshot = Snapshot(expires=year)
        self.timestamp = Timestamp(expires=self.after(14))
        self.documents: dict[str, bytes] = {}
        self.releases: dict[tuple[str, int], ReleaseInfo] = {}
        self.rollouts: dict[str, Rollout] = {}
        self.roots: list[bytes] = []
        self.sign_root()

    def after(self, days: float) -> datetime:
        """Return the time `days` after `now`, to the second, as TUF wants it."""
        return datetime.fromtimestamp(self.now + days * DAY_SECONDS, UTC).replace(microsecond=0)

    # --- what key holders do -----------------------------------------------------------------------------------------

    def release(
        self, pipeline: str = "activity", manifest: bytes | None = None, *, percent: float = 100.0, **custom: Any
    ) -> ReleaseInfo:
        """Sign a manifest as the pipeline's next release and choose it as the candidate; raise all versions.

        `custom` overrides what `release` signs about it (`fleet="other"`, `sequence=7`, …).
        """
        data = sample_manifest(pipeline, str(len(self.releases))) if manifest is None else manifest
        sequence = max((number for name, number in self.releases if name == pipeline), default=0) + 1
        fields: dict[str, Any] = {
            "fleet": self.fleet,
            "channel": self.channel,
            "pipeline": pipeline,
            "sequence": sequence,
            "digest": Digest.of(data),
            "published": int(self.now),
        }
        info = ReleaseInfo(**{**fields, **custom})
        path = release_path(pipeline, sequence)
        self.sign_target("release", path, data, custom=msgspec.to_builtins(info, enc_hook=str))
        self.releases[pipeline, sequence] = info
        before = self.rollouts.get(pipeline)
        self.choose(
            pipeline, sequence, stable=before.candidate if before else None, percent=percent, raise_versions=False
        )
        self.bump("release", "rollout")
        return info

    def choose(
        self, pipeline: str, candidate: int, *, stable: int | None = None, raise_versions: bool = True, **fields: Any
    ) -> Rollout:
        """Sign a rollout that chooses `candidate`; `fields` override or add (`percent=5`, `aborted=True`, …)."""
        values: dict[str, Any] = {
            "fleet": self.fleet,
            "channel": self.channel,
            "pipeline": pipeline,
            "rollout_id": f"{pipeline}@{candidate}",
            "candidate": candidate,
            "stable": stable,
        }
        rollout = Rollout(**{**values, **fields})
        self.rollouts[pipeline] = rollout
        self.sign_target("rollout", rollout_path(pipeline), encode_json(rollout))
        if raise_versions:
            self.bump("rollout")
        return rollout

    def sign_target(self, role: str, path: str, data: bytes, *, custom: Any = None) -> None:
        """List any bytes under any path in `release` or `rollout`, and carry them in the envelope."""
        target = TargetFile.from_data(path, data, ["sha256"])
        if custom is not None:
            target.unrecognized_fields["custom"] = custom
        self.delegated[role].targets[path] = target
        self.documents[path] = data

    def refresh(self) -> None:
        """Do what `publisher refresh` does: new snapshot and timestamp with new expiry, nothing else."""
        self.timestamp.expires = self.after(14)
        self.snapshot.expires = self.after(365)
        self.bump()

    def rotate(self, *roles: str) -> None:
        """Replace the keys of `roles` by new ones, through a new root or targets version, and raise all versions."""
        root_roles = [role for role in roles if role in TOP]
        old_root = list(self.keys["root"])
        for role in roles:
            owner = self.root if role in TOP else self.targets
            for signer in self.keys[role]:
                owner.revoke_key(signer.public_key.keyid, role)
            self.keys[role] = [CryptoSigner.generate_ed25519()]
            owner.add_key(self.keys[role][0].public_key, role)
        if root_roles:
            self.root.version += 1
            self.sign_root([*old_root, *self.keys["root"]] if "root" in roles else None)
        self.bump(*({"targets"} if set(roles) & set(DELEGATED) else ()))

    def bump(self, *roles: str) -> None:
        """Raise the versions of `roles`, and of snapshot and timestamp, which always follow."""
        for role in roles:
            (self.targets if role == "targets" else self.delegated[role]).version += 1
        self.snapshot.version += 1
        self.timestamp.version += 1

    def sign_root(self, signers: Iterable[CryptoSigner] | None = None) -> None:
        """Append the root as it is now to the chain."""
        self.roots.append(self.sign(self.root, signers or self.keys["root"]))

    def sign(self, signed: Any, signers: Iterable[CryptoSigner]) -> bytes:
        """Return any role, signed by anyone."""
        metadata = Metadata(copy.deepcopy(signed))
        for signer in signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes(JSONSerializer(compact=True))

    # --- what travels ------------------------------------------------------------------------------------------------

    @property
    def bootstrap(self) -> bytes:
        """The first root, which devices are enrolled with."""
        return self.roots[0]

    def envelope(self, edit: Edit | None = None) -> bytes:
        """Sign everything as it stands and return the envelope; `edit` may change its finished parts first.

        `edit` gets a dict of `format`, `fleet`, `channel`, `metadata` (file name to bytes) and `targets` (path to
        bytes).
        """
        parts: dict[str, Any] = {
            "format": ENVELOPE_FORMAT,
            "fleet": self.fleet,
            "channel": self.channel,
            "metadata": self._metadata(),
            "targets": self._chosen(),
        }
        if edit is not None:
            edit(parts)
        return encode_envelope(Envelope(**parts))

    def request(self, edit: Edit | None = None, **overrides: Any) -> Request:
        """Return what a device of this channel asks about `envelope(edit)`; `overrides` replace fields."""
        fields: dict[str, Any] = {
            "fleet": self.fleet,
            "channel": self.channel,
            "now": self.now,
            "root": self.bootstrap,
            "floors": [],
        }
        if "envelope" not in overrides:
            fields["envelope"] = self.envelope(edit)
        return Request(**{**fields, **overrides})

    def _metadata(self) -> dict[str, bytes]:
        files = {f"{number}.root.json": data for number, data in enumerate(self.roots, 1)}
        for role, signed in {"targets": self.targets, **self.delegated}.items():
            data = self.sign(signed, self.keys[role])
            files[f"{signed.version}.{role}.json"] = data
            self.snapshot.meta[f"{role}.json"] = _pin(signed.version, data)
        data = self.sign(self.snapshot, self.keys["snapshot"])
        files[f"{self.snapshot.version}.snapshot.json"] = data
        self.timestamp.snapshot_meta = _pin(self.snapshot.version, data)
        files["timestamp.json"] = self.sign(self.timestamp, self.keys["timestamp"])
        return files

    def _chosen(self) -> dict[str, bytes]:
        paths = set()
        for pipeline, rollout in self.rollouts.items():
            paths |= {rollout_path(pipeline), release_path(pipeline, rollout.candidate)}
            if rollout.stable is not None:
                paths.add(release_path(pipeline, rollout.stable))
        return {path: self.documents[path] for path in sorted(paths) if path in self.documents}


def _pin(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": Digest.of(data).hex})


def with_floors(request: Request, floors: Iterable[Floor]) -> Request:
    """Return `request` as a device asks it that has accepted `floors` before."""
    return msgspec.structs.replace(request, floors=list(floors))
