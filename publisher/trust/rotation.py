"""Which keys are in force for a role of a channel, and how that changes (T1, T5).

Pure: takes roles, returns changed copies. The keys of root, timestamp, snapshot and targets stand in root, those of
release and rollout in the delegations of targets, those of operators in a list of their own in targets. Refuses what
would leave a role with fewer keys than its threshold. Versions, expiry and signatures are others' business.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from tuf.api.metadata import Root  # type: ignore[attr-defined]

from edge_agent.contract.errors import AuthorError, ConfigError
from edge_agent.contract.verification import OPERATORS_MAX, Operator
from publisher.trust.keys import public_bytes
from publisher.trust.roles import DELEGATED, KEYS_MAX, ONLINE, ROLES, SUBJECT_FIELD, Roles, key_name, name_of
from publisher.trust.signatures import lacking, seats, signatures_in, valid
from publisher.trust.signers import Key

__all__ = [
    "OPERATOR",
    "affected",
    "check_role",
    "found_key",
    "operators_of",
    "require_fresh",
    "require_threshold",
    "restarted",
    "with_key",
    "with_operator",
    "without_key",
    "without_operator",
]

OPERATOR = "operator"


def with_key(roles: Roles, role: str, key: Key, threshold: int | None = None) -> Roles:
    """Return a copy in which `key` may sign `role` too. Raises `AuthorError` if it may already."""
    if key.keyid in roles.authorised(role).keyids:
        raise AuthorError(f"that key is in force for role {role} already, as {name_of(key, key.keyid[:12])}")
    _require_unshared(roles, key)
    fresh = copy.deepcopy(roles)
    _owner(fresh, role).add_key(key, role)
    return _with_threshold(fresh, role, threshold)


def _require_unshared(roles: Roles, key: Key) -> None:
    """Refuse a key of another role of the channel: whoever steals one of them would have both (T2)."""
    for role in ROLES:
        if key.keyid in roles.authorised(role).keyids:
            raise AuthorError(f"that key is in force for role {role} of this channel: give each role keys of its own")


def without_key(roles: Roles, role: str, keyid: str, threshold: int | None = None) -> Roles:
    """Return a copy in which the key may not sign `role` any more."""
    fresh = copy.deepcopy(roles)
    _owner(fresh, role).revoke_key(keyid, role)
    return _with_threshold(fresh, role, threshold)


def found_key(roles: Roles, channel: str, role: str, named: str) -> str:
    """Return the id of the key in force for `role` that is named so, by name or by the start of its id.

    Raises `ConfigError`, which lists what there is.
    """
    known = {keyid: name_of(key, key_name(channel, role)) for keyid, key in roles.keys_of(role).items()}
    found = [keyid for keyid, name in known.items() if name == named]
    found = found or [keyid for keyid in known if len(named) >= 4 and keyid.startswith(named.lower())]
    if len(found) != 1:
        listed = ", ".join(f"{name} ({keyid[:12]})" for keyid, name in known.items())
        raise ConfigError(f"{named!r} is not one key of role {role} of channel {channel}: it has {listed}")
    return found[0]


def affected(files: Mapping[str, bytes], before: Roles, after: Roles) -> tuple[str, ...]:
    """Return the roles that must be signed anew: what differs, and what the keys now in force have not signed.

    `files` are the roles' files as they are. Timestamp and snapshot are signed anew with every publication and do not
    count.
    """
    found = ["root"] if after.root.to_dict() != before.root.to_dict() else []
    for role in ("targets", *DELEGATED):
        signed = after.named(role)
        places = seats(role, before, after)
        enough = not lacking(places, valid(signed, signatures_in(files[role]), places))
        if signed.to_dict() != before.named(role).to_dict() or not enough:
            found.append(role)
    return tuple(found)


def restarted(before: Roles, after: Roles) -> tuple[str, ...]:
    """Return the online roles whose versions start again at 1: those none of whose keys was in force before (T5).

    Numbers that a thief has driven up stay behind with the stolen keys. The snapshot's number stands in the timestamp
    too, so it starts again only together with the timestamp's.
    """
    fresh = [role for role in ONLINE if not after.keys_of(role).keys() & before.keys_of(role).keys()]
    return tuple(fresh) if "timestamp" in fresh else ()


def require_fresh(roots: Iterable[Root], before: Roles, after: Roles) -> None:
    """Refuse a key that was revoked from an online role once: devices keep floors for keys they saw in force (T5)."""
    former = list(roots)
    for role in ONLINE:
        new = after.keys_of(role).keys() - before.keys_of(role).keys()
        if new & {keyid for root in former for keyid in root.roles[role].keyids}:
            raise AuthorError(f"that key was revoked from role {role} once and cannot come back: make a new one")


def _owner(roles: Roles, role: str) -> Any:
    return roles.targets if role in DELEGATED else roles.root


def _with_threshold(roles: Roles, role: str, threshold: int | None) -> Roles:
    entry = roles.authorised(role)
    if threshold is not None:
        entry.threshold = threshold
    if not 1 <= len(entry.keyids) <= KEYS_MAX:
        advice = "add another one first, or rotate it" if not entry.keyids else "revoke one first"
        raise AuthorError(f"role {role} would have {len(entry.keyids)} keys, and may have 1 to {KEYS_MAX}: {advice}")
    require_threshold(role, entry.threshold, len(entry.keyids))
    return roles


def require_threshold(role: str, threshold: int | None, keys: int) -> None:
    """Raise `AuthorError` unless `keys` keys can reach the threshold; None is one that stays."""
    if threshold is not None and not 1 <= threshold <= keys:
        raise AuthorError(
            f"role {role} would have {keys} keys and need {threshold} of them: add a key first, or lower the threshold "
            "by --threshold"
        )


# --- operators -------------------------------------------------------------------------------------------------------


def operators_of(roles: Roles) -> list[Operator]:
    """Return the operators that the channel lists. Raises `AuthorError` for a list that is none."""
    listed = roles.targets.unrecognized_fields.get(SUBJECT_FIELD, {}).get("operators", [])
    try:
        return msgspec.convert(listed, list[Operator])
    except msgspec.ValidationError as error:
        raise AuthorError(f"the channel's list of operators cannot be read ({error}): restore a backup") from None


def with_operator(roles: Roles, name: str, key: Key, scope: list[str]) -> Roles:
    """Return a copy with one more operator, who may send commands of the types in `scope`.

    Raises `AuthorError` if the name or the key is listed already.
    """
    listed = operators_of(roles)
    if any(one.name == name or one.keyid == key.keyid for one in listed):
        raise AuthorError(f"operator {name}, or that key, is listed already: revoke it first")
    _require_unshared(roles, key)
    if len(listed) >= OPERATORS_MAX:
        raise AuthorError(f"{OPERATORS_MAX} operators are listed, which is the most: revoke one first")
    new = Operator(name=name, keyid=key.keyid, public=public_bytes(key).hex(), scope=scope)
    return _with_operators(roles, [*listed, new])


def without_operator(roles: Roles, named: str) -> Roles:
    """Return a copy without the operator of this name or key id. Raises `ConfigError` if there is none."""
    listed = operators_of(roles)
    left = [one for one in listed if named != one.name and not (len(named) >= 4 and one.keyid.startswith(named))]
    if len(left) != len(listed) - 1:
        known = ", ".join(f"{one.name} ({one.keyid[:12]})" for one in listed)
        raise ConfigError(f"{named!r} is not one operator: there are {known or 'none'}")
    return _with_operators(roles, left)


def _with_operators(roles: Roles, operators: Iterable[Operator]) -> Roles:
    fresh = copy.deepcopy(roles)
    subject = fresh.targets.unrecognized_fields[SUBJECT_FIELD]
    subject["operators"] = msgspec.to_builtins(list(operators))
    if not subject["operators"]:
        del subject["operators"]
    return fresh


def check_role(role: str) -> str:
    """Return `role` if keys can be in force for it. Raises `ConfigError`."""
    if role not in (*ROLES, OPERATOR):
        raise ConfigError(f"unknown role {role!r}: there are {', '.join((*ROLES, OPERATOR))}")
    return role
