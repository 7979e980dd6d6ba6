"""Everything about one release in the record: who signed it and when, what it is made of, and what it needs.

Decides nothing. What it says of trust is what the device's own verifier finds from this workstation's pinned root.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import FieldcastError, UpdateRejected
from edge_agent.contract.manifest import (
    HealthPolicy,
    InputSpec,
    Manifest,
    OutputSpec,
    ResourceLimits,
    parse_manifest,
)
from edge_agent.contract.messages import ReleaseInfo
from edge_agent.contract.verification import Request
from publisher.record import Record
from publisher.reference import Release, find
from publisher.trust.keys import KeyStore
from publisher.trust.verification import verify

__all__ = ["BlobShown", "Description", "StageShown", "describe"]


class BlobShown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One blob: what it is for, its digest and size, and what is wrong with it in the record, if anything."""

    what: str
    digest: Digest
    size: int
    fault: str = ""


class StageShown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stage of the release."""

    name: str
    target: str
    fingerprint: str
    tag: str
    parameters: dict[str, object] = {}
    files: list[str] = []


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """A release, as `publisher show --json` prints it. `signatures` is empty when they hold, else says why not."""

    release: ReleaseInfo
    also: list[str]
    offered: bool
    signatures: str
    manifest: BlobShown
    stages: list[StageShown]
    blobs: list[BlobShown]
    input: InputSpec
    output: OutputSpec
    tunable: list[str]
    requires_python: str
    requires: list[str]
    self_test: BlobShown | None
    health: HealthPolicy
    history: int
    limits: ResourceLimits


def describe(text: str, *, home: str | Path | None = None, channel: str | None = None) -> Description:
    """Describe the release that a reference means. Raises `ConfigError` as `reference.find` does, and what the record
    raises."""
    found = find(text, home=home, channel=channel)
    data = found.channel.manifest(found.info.digest)
    manifest = parse_manifest(data)
    record = found.channel.record
    blobs = [_blob(what, ref, record) for what, ref in _named(manifest)]
    offered = found.channel.current().get(found.info.pipeline)
    return Description(
        release=found.info,
        also=[f"{one.name} in {one.channel}" for one in found.also],
        offered=offered is not None and offered[1] == found.info,
        signatures=_signatures(found),
        manifest=BlobShown(what="manifest", digest=found.info.digest, size=len(data)),
        stages=_stages(manifest, record),
        blobs=blobs,
        self_test=next((one for one in blobs if one.what == "self-test"), None),
        **{key: getattr(manifest, key) for key in _AS_IT_IS},
    )


_AS_IT_IS = ("input", "output", "tunable", "requires_python", "requires", "health", "history", "limits")


def _named(manifest: Manifest) -> list[tuple[str, BlobRef]]:
    found: list[tuple[str, BlobRef]] = []
    for stage in manifest.stages:
        if stage.bundle is not None:
            found.append((f"bundle of stage {stage.name}", stage.bundle))
        if stage.state is not None:
            found.append((f"state of stage {stage.name}", stage.state))
        for key, one in sorted(stage.models.items()):
            found += [(f"{key} of stage {stage.name} ({path})", ref) for path, ref in one.files()]
    if manifest.self_test is not None:
        found.append(("self-test", manifest.self_test))
    return found


def _blob(what: str, ref: BlobRef, record: Record) -> BlobShown:
    fault = ""
    try:
        record.get_blob(ref)
    except FieldcastError as error:
        fault = str(error)
    return BlobShown(what=what, digest=ref.digest, size=ref.size, fault=fault)


def _stages(manifest: Manifest, record: Record) -> list[StageShown]:
    return [
        StageShown(
            name=stage.name,
            target=stage.target,
            fingerprint=stage.fingerprint,
            tag=stage.tag,
            parameters=stage.parameters,
            files=_members(stage.bundle, record),
        )
        for stage in manifest.stages
    ]


def _members(ref: BlobRef | None, record: Record) -> list[str]:
    try:
        return sorted(read_bundle(record.get_blob(ref)).members) if ref is not None else []
    except FieldcastError:
        return []  # the blob's own line says what is wrong with it


def _signatures(found: Release) -> str:
    """Ask the device's verifier whether this release is what the holders of the pinned root signed (T10)."""
    root = KeyStore(found.home.keys).pinned(found.info.channel)
    if root is None:
        return f"not checked: {found.home.keys} holds no {found.info.channel}.root.json"
    request = Request(
        fleet=found.home.fleet,
        channel=found.info.channel,
        now=time.time(),
        root=root,
        envelope=found.channel.envelope(),
        accepted=None,
    )
    try:
        verified = verify(request)
    except UpdateRejected as error:
        return str(error)
    return "" if found.info in verified.releases else f"{found.info.name} is not among the signed releases"
