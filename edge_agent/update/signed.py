"""What verified roles say about a channel: releases, rollouts and manifests, and nothing that nobody signed (T2).

Decides whether each signed target is one of Fieldcast's, whether `rollout` chooses only among what `release` signs now,
and whether every byte string in the envelope is a signed one. Pure; collects all reasons before it refuses. Manifests
are checked by size and sha256 and not parsed: what is in one concerns one slot, at admission.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]

from edge_agent.contract.digest import Digest, decode_json
from edge_agent.contract.errors import Reason, ReasonCode, UpdateRejected
from edge_agent.contract.manifest import MANIFEST_BYTES_MAX, check_name
from edge_agent.contract.messages import Envelope, ReleaseInfo, Rollout, release_path, rollout_path
from edge_agent.contract.verification import OPERATORS_MAX, Operator, Request, Verified
from edge_agent.update.chain import (
    SUBJECT_FIELD,
    Chain,
    below_floor,
    expired,
    floors_of,
    foreign,
    malformed,
    reason,
    shape_faults,
    subject_faults,
)

__all__ = ["ROLLOUT_BYTES_MAX", "judge"]

ROLLOUT_BYTES_MAX = 16 * 1024
_ED25519 = re.compile("[0-9a-f]{64}")


def judge(request: Request, envelope: Envelope, chain: Chain) -> Verified:
    """Return what the chain and the envelope's targets prove together. Raises `UpdateRejected` with all reasons."""
    _raise(subject_faults(request, chain))
    _raise(shape_faults(envelope, chain))
    floors = floors_of(chain)
    _raise([*below_floor(request, floors), *expired(request, chain)])
    reasons: list[Reason] = []
    releases = list(_releases(request, chain.delegated["release"], reasons))
    rollouts = list(_rollouts(request, chain.delegated["rollout"], envelope, reasons))
    reasons += _unsigned_choices(releases, rollouts)
    reasons += _unsigned_bytes(envelope, chain)
    manifests = _manifests(releases, rollouts, envelope, reasons)
    operators = _operators(chain.targets, reasons)
    _raise(reasons)
    expiries = {role: signed.expires.timestamp() for role, signed in chain.roles().items()}
    return Verified(
        releases=sorted(releases, key=lambda one: (one.pipeline, one.sequence)),
        rollouts=sorted(rollouts, key=lambda one: one.pipeline),
        manifests=manifests,
        floors=floors,
        expires_at=min(expiries.values()),
        timestamp_expires_at=expiries["timestamp"],
        operators=operators,
    )


def _raise(reasons: Iterable[Reason]) -> None:
    found = list(reasons)
    if found:
        raise UpdateRejected(found)


# --- what do they sign? ----------------------------------------------------------------------------------------------


def _releases(request: Request, role: Targets, reasons: list[Reason]) -> Iterator[ReleaseInfo]:
    for path, target in role.targets.items():
        where = f"release.signed.targets.{path[:80]}"
        try:
            info = msgspec.convert(target.custom, ReleaseInfo, dec_hook=_digest)
            check_name("pipeline", info.pipeline)
        except (msgspec.ValidationError, ValueError) as error:
            reasons.append(malformed(f"release: {error}", f"{where}.custom"))
            continue
        reasons += foreign(request, info.fleet, info.channel, f"release {info.name}", f"{where}.custom")
        if _misplaced(path, info):
            reasons.append(malformed(f"release {info.name} is signed under another path", where))
        if fault := _bad_floor(info):
            reasons.append(malformed(f"release {info.name}: {fault}", f"{where}.custom"))
        if target.hashes.get("sha256") != info.digest.hex:
            reasons.append(malformed(f"release {info.name} names another digest than its target", where))
        if not 0 < target.length <= MANIFEST_BYTES_MAX:
            reasons.append(reason(ReasonCode.SIZE, f"manifest of {target.length} bytes exceeds the limit", where))
        yield info


def _rollouts(request: Request, role: Targets, envelope: Envelope, reasons: list[Reason]) -> Iterator[Rollout]:
    for path, target in role.targets.items():
        where = f"$.targets.{path[:80]}"
        data = envelope.targets.get(path)
        if data is None:
            reasons.append(malformed(f"{path[:80]} is signed but missing in the envelope: push again", where))
            continue
        fault = _mismatch(path, target, data, ROLLOUT_BYTES_MAX)
        if fault is not None:
            reasons.append(fault)
            continue
        try:
            rollout = decode_json(data, Rollout)
            check_name("pipeline", rollout.pipeline)
        except (msgspec.DecodeError, ValueError) as error:
            reasons.append(malformed(f"rollout: {error}", where))
            continue
        reasons += foreign(request, rollout.fleet, rollout.channel, f"rollout of {rollout.pipeline}", where)
        if path != rollout_path(rollout.pipeline):
            reasons.append(malformed(f"rollout of {rollout.pipeline} is signed under another path", where))
        if not (math.isfinite(rollout.percent) and 0 <= rollout.percent <= 100):
            reasons.append(malformed(f"percent = {rollout.percent} is outside [0, 100]", f"{where}.percent"))
        yield rollout


def _misplaced(path: str, info: ReleaseInfo) -> bool:
    return path != release_path(info.pipeline, info.sequence) or info.sequence < 1


def _bad_floor(info: ReleaseInfo) -> str:
    """Return what is wrong with floor and generation. A floor above its own release would shut devices for them all."""
    if not 0 <= info.security_floor <= info.sequence:
        return f"security_floor = {info.security_floor} is outside [0, {info.sequence}], its own sequence"
    return f"retry_generation = {info.retry_generation} is negative" if info.retry_generation < 0 else ""


def _operators(role: Targets, reasons: list[Reason]) -> list[Operator]:
    """Return whom targets lists as operators (T8)."""
    where = f"targets.signed.{SUBJECT_FIELD}.operators"
    try:
        found = msgspec.convert(role.unrecognized_fields[SUBJECT_FIELD].get("operators", []), list[Operator])
    except msgspec.ValidationError as error:
        reasons.append(malformed(f"operators: {error}", where))
        return []
    if len(found) > OPERATORS_MAX:
        reasons.append(malformed(f"{len(found)} operators are listed, {OPERATORS_MAX} are allowed", where))
    reasons += [
        malformed(f"operator {one.name[:80]!r} has no Ed25519 key", where)
        for one in found
        if not _ED25519.fullmatch(one.public)
    ]
    return found


def _digest(_kind: type, value: Any) -> Digest:
    if not isinstance(value, str):  # an error that msgspec reports with the key path
        raise ValueError(f"not a digest: {str(value)[:80]}")
    return Digest(value)


def _unsigned_choices(releases: list[ReleaseInfo], rollouts: list[Rollout]) -> Iterator[Reason]:
    """T2: `rollout` may only choose among releases that `release` signs now."""
    signed = {(info.pipeline, info.sequence) for info in releases}
    for rollout in rollouts:
        for part, sequence in (("candidate", rollout.candidate), ("stable", rollout.stable)):
            if sequence is not None and (rollout.pipeline, sequence) not in signed:
                yield reason(
                    ReasonCode.SIGNATURE,
                    f"the rollout chooses {rollout.pipeline}@{sequence}, which `release` does not sign: "
                    "choose a signed release, and rotate the rollout key if nobody can explain it",
                    f"$.targets.{rollout_path(rollout.pipeline)}.{part}",
                )


def _unsigned_bytes(envelope: Envelope, chain: Chain) -> Iterator[Reason]:
    """Nothing rides along: each byte string must be a signed target, and each chosen manifest must be there."""
    releases, rollouts = chain.delegated["release"].targets, chain.delegated["rollout"].targets
    for path, data in envelope.targets.items():
        if path in releases:
            fault = _mismatch(path, releases[path], data, MANIFEST_BYTES_MAX)
            if fault is not None:
                yield fault
        elif path not in rollouts:
            message = f"{path[:80]!r} is in the envelope but nobody signed it"
            yield reason(ReasonCode.SIGNATURE, message, f"$.targets.{path[:80]}")


def _mismatch(path: str, target: TargetFile, data: bytes, bytes_max: int) -> Reason | None:
    where = f"$.targets.{path[:80]}"
    if len(data) > bytes_max:
        return reason(ReasonCode.SIZE, f"{path[:80]} of {len(data)} bytes exceeds {bytes_max}", where)
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        message = f"{path[:80]} is not the one that was signed ({str(error)[:200]}): altered on the way; push again"
        return reason(ReasonCode.SIGNATURE, message, where)
    return None


def _manifests(
    releases: list[ReleaseInfo], rollouts: list[Rollout], envelope: Envelope, reasons: list[Reason]
) -> dict[str, bytes]:
    signed = {(info.pipeline, info.sequence): info.digest for info in releases}
    found: dict[str, bytes] = {}
    for rollout in rollouts:
        for sequence in (rollout.candidate, rollout.stable):
            digest = None if sequence is None else signed.get((rollout.pipeline, sequence))
            if sequence is None or digest is None:
                continue
            path = release_path(rollout.pipeline, sequence)
            data = envelope.targets.get(path)
            if data is None:
                reasons.append(malformed(f"manifest {path} is missing in the envelope: push again", "$.targets"))
            else:
                found[str(digest)] = data
    return found
