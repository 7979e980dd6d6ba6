"""Verified TUF roles as one chain, and whether such a chain may stand (T1, T5).

TUF has checked signatures, hashes and version numbers before this. Decided here: whether root and targets name the
channel asked about, whether the delegations have the one shape that Fieldcast uses, whether the envelope holds exactly
the files of this chain, and whether any role is below its floor or expired. Pure; all faults are collected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from tuf.api.metadata import (  # type: ignore[attr-defined]
    DelegatedRole,
    Role,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from edge_agent.contract.digest import encode_json
from edge_agent.contract.errors import Blame, Reason, ReasonCode, UpdateRejected
from edge_agent.contract.messages import Envelope
from edge_agent.contract.verification import Floor, Request

__all__ = [
    "DELEGATED",
    "SUBJECT_FIELD",
    "Chain",
    "below_floor",
    "expired",
    "floors_of",
    "foreign",
    "keyset",
    "malformed",
    "reason",
    "refusal",
    "shape_faults",
    "subject_faults",
]

DELEGATED = ("release", "rollout")
SUBJECT_FIELD = "x-fieldcast"
_TOP = ("root", "timestamp", "snapshot", "targets")
_UNNUMBERED = ("root", "timestamp")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The roles of one channel as TUF verified them."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    delegated: dict[str, Targets]

    def roles(self) -> dict[str, Signed]:
        """All roles by name."""
        top: dict[str, Signed] = {role: getattr(self, role) for role in _TOP}
        return {**top, **self.delegated}


class _Subject(msgspec.Struct, frozen=True):
    """The field by which root and targets name the channel they belong to."""

    fleet: str
    channel: str


def refusal(code: ReasonCode, message: str, where: str = "") -> UpdateRejected:
    """Return a refusal with one reason. It blames no release: anyone with broker access can forge an envelope (U6)."""
    return UpdateRejected([reason(code, message, where)])


def reason(code: ReasonCode, message: str, where: str) -> Reason:
    """Return one trust reason; see `refusal` for whom it blames."""
    return Reason(code=code, message=message, where=where, blame=Blame.ENVIRONMENT)


def keyset(role: Role) -> str:
    """Return a short name of the keys and threshold that authorise a role: 16 hex digits of a sha256."""
    return hashlib.sha256(encode_json([sorted(role.keyids), role.threshold])).hexdigest()[:16]


def malformed(message: str, where: str) -> Reason:
    """Return a `MALFORMED` reason with the key path `where`."""
    return reason(ReasonCode.MALFORMED, message, where)


# --- whose metadata is this? -----------------------------------------------------------------------------------------


def subject_faults(request: Request, chain: Chain) -> Iterator[Reason]:
    """Yield what speaks against root and targets belonging to the channel asked about."""
    for role, signed in (("root", chain.root), ("targets", chain.targets)):
        where = f"{role}.signed.{SUBJECT_FIELD}"
        try:
            subject = msgspec.convert(signed.unrecognized_fields.get(SUBJECT_FIELD), _Subject)
        except msgspec.ValidationError as error:
            yield reason(ReasonCode.MALFORMED, f"{role} does not name its fleet and channel: {error}", where)
            continue
        yield from foreign(request, subject.fleet, subject.channel, f"signed {role}", where)


def foreign(request: Request, fleet: str, channel: str, what: str, where: str) -> Iterator[Reason]:
    """Yield a `WRONG_CHANNEL` reason if `what` names another fleet or channel than the request."""
    if (fleet, channel) != (request.fleet, request.channel):
        yield reason(
            ReasonCode.WRONG_CHANNEL,
            f"the {what} is for channel {channel[:80]!r} of fleet {fleet[:80]!r}, not for channel {request.channel!r} "
            f"of fleet {request.fleet!r}: publish it where it belongs, or enrol the device with the right root",
            where,
        )


# --- may the roles look like this? -----------------------------------------------------------------------------------


def shape_faults(envelope: Envelope, chain: Chain) -> Iterator[Reason]:
    """Yield every role, delegation or metadata file that has no place in a channel, and every one that is missing."""
    yield from _roles(chain)
    yield from _files(envelope, chain)


def _roles(chain: Chain) -> Iterator[Reason]:
    if chain.targets.targets:
        yield malformed("targets itself must not list targets, only delegate", "targets.signed.targets")
    expected = {f"{role}.json" for role in ("targets", *DELEGATED)}
    for name in sorted(expected ^ chain.snapshot.meta.keys()):
        verb = "is missing" if name in expected else "has no place here"
        yield malformed(f"role file {name[:80]!r} {verb}", "snapshot.signed.meta")
    delegations = chain.targets.delegations
    roles = dict(delegations.roles or {}) if delegations is not None else {}
    for name in sorted(set(DELEGATED) ^ roles.keys()):
        verb = "is missing" if name in DELEGATED else "has no place here"
        yield malformed(f"delegated role {name[:80]!r} {verb}", "targets.signed.delegations.roles")
    for name in DELEGATED:
        if name in roles:
            yield from _delegation(name, roles[name], chain.delegated.get(name))


def _delegation(name: str, role: DelegatedRole, signed: Targets | None) -> Iterator[Reason]:
    where = f"targets.signed.delegations.roles.{name}"
    if role.paths != [f"{name}/*"] or role.path_hash_prefixes is not None:
        yield malformed(f"role {name!r} must be delegated exactly the paths '{name}/*'", f"{where}.paths")
    if not role.terminating:
        yield malformed(f"role {name!r} must be a terminating delegation", f"{where}.terminating")
    if signed is None:
        yield malformed(f"role {name!r} could not be loaded", where)
    elif signed.delegations is not None:
        yield malformed(f"role {name!r} must not delegate further", f"{name}.signed.delegations")


def _files(envelope: Envelope, chain: Chain) -> Iterator[Reason]:
    """Every metadata file must have been verified, save roots older than the enrolled one; none may be missing."""
    roots = {f"{version}.root.json" for version in range(1, chain.root.version + 1)}
    others = {f"{signed.version}.{role}.json" for role, signed in chain.roles().items() if role not in _UNNUMBERED}
    for name in sorted(envelope.metadata.keys() - roots - others - {"timestamp.json"}):
        yield malformed(
            f"{name} is not part of the verified chain (a root is missing before it, or it is left over): push again",
            "$.metadata",
        )
    for name in sorted(roots - envelope.metadata.keys()):
        yield malformed(f"{name} is missing, the chain of roots must be complete: push again", "$.metadata")


# --- is it old? ------------------------------------------------------------------------------------------------------


def floors_of(chain: Chain) -> list[Floor]:
    """Return the chain's own versions as floors, each under the keys that authorise the role now."""
    delegations = chain.targets.delegations
    assert delegations is not None
    assert delegations.roles is not None
    authorised: dict[str, Role] = {**chain.root.roles, **delegations.roles}
    return [
        Floor(role=role, keyset=keyset(authorised[role]), version=signed.version)
        for role, signed in chain.roles().items()
    ]


def below_floor(request: Request, floors: list[Floor]) -> Iterator[Reason]:
    """Yield a reason for each role whose version is below a floor of the request."""
    for found in floors:
        lowest = max(
            (one.version for one in request.floors if one.role == found.role and _binds(one, found)), default=0
        )
        if found.version < lowest:
            yield reason(
                ReasonCode.OLDER,
                f"{found.role} version {found.version} is older than {lowest}, which this device has accepted: "
                "push again from the repository of record",
                found.role,
            )


def _binds(floor: Floor, found: Floor) -> bool:
    # Root's own key sets all bind: its versions are one chain, and an old chain would bring back revoked keys.
    return floor.role == "root" or floor.keyset == found.keyset


def expired(request: Request, chain: Chain) -> Iterator[Reason]:
    """Judge expiry once more through TUF's public data: its own check hangs on a private clock hook."""
    now = datetime.fromtimestamp(request.now, UTC)
    for role, signed in chain.roles().items():
        if signed.is_expired(now):
            message = f"{role} expired on {signed.expires:%Y-%m-%d %H:%M} UTC: run `publisher refresh`"
            yield reason(ReasonCode.EXPIRED, message, role)
