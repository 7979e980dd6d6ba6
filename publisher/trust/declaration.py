"""What one set of roles changes against another, in words, for whoever is asked to sign it.

It reads the roles themselves, never what somebody wrote about them: whoever can write to the record could lie. What it
has no words for is refused, so nobody signs what was not shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edge_agent.contract.errors import AuthorError
from edge_agent.contract.messages import Rollout
from publisher.trust.roles import DELEGATED, ROLES, SUBJECT_FIELD, TOP, Roles, key_name, name_of
from publisher.trust.rotation import operators_of

__all__ = ["declared"]


def declared(
    channel: str,
    before: Roles,
    after: Roles,
    rollouts: Iterable[tuple[Rollout | None, Rollout]],
    gone: Iterable[str] = (),
) -> list[str]:
    """Return a line for each difference, and for each role that is signed anew how long it would be good.

    `rollouts` are the changed rollouts, before and after; `gone` the pipelines that have none any more. Raises
    `AuthorError` for a difference without words.
    """
    changed = [role for role in ROLES if after.named(role).to_dict() != before.named(role).to_dict()]
    for role in changed:
        _require_next(channel, role, before.named(role), after.named(role))
    lines = [line for role in ROLES for line in _keys(channel, role, before, after)]
    lines += _operators(before, after)
    lines += _releases(before, after)
    lines += [_rollout(new) for _, new in rollouts]
    lines += [f"offers nothing of {pipeline} any more" for pipeline in gone]
    lines += [f"signs {role} anew, good until {after.named(role).expires:%Y-%m-%d}" for role in changed]
    return lines


def _keys(channel: str, role: str, before: Roles, after: Roles) -> Iterator[str]:
    old, new = before.keys_of(role), after.keys_of(role)

    def name(key: Any) -> str:
        return f"{name_of(key, key_name(channel, role))} ({key.keyid[:12]})"

    yield from (f"{role}: adds key {name(new[keyid])}" for keyid in new if keyid not in old)
    yield from (f"{role}: revokes key {name(old[keyid])}" for keyid in old if keyid not in new)
    yield from (
        f"{role}: calls key {name(old[keyid])} {name(new[keyid])}"
        for keyid in new
        if keyid in old and name(old[keyid]) != name(new[keyid])
    )
    counts = [roles.authorised(role).threshold for roles in (before, after)]
    if counts[0] != counts[1]:
        yield f"{role}: needs {counts[1]} signatures of {len(new)} keys instead of {counts[0]}"


def _operators(before: Roles, after: Roles) -> Iterator[str]:
    old, new = operators_of(before), operators_of(after)
    for one in new:
        if one not in old:
            yield f"operator {one.name} ({one.keyid[:12]}) may command: {', '.join(one.scope) or 'nothing'}"
    yield from (f"operator {one.name} ({one.keyid[:12]}) may command nothing any more" for one in old if one not in new)


def _releases(before: Roles, after: Roles) -> Iterator[str]:
    old, new = before.releases(), after.releases()
    for one in new:
        if one not in old:
            said = f", {one.message!r}" if one.message else ""
            commit = (
                f", commit {one.commit[:12]}{' with uncommitted changes' if one.dirty else ''}" if one.commit else ""
            )
            marks = [
                f", {words} {number}"
                for words, number in (("retry", one.retry_generation), ("security floor", one.security_floor))
                if number
            ]
            by = one.signer or "someone unnamed"
            yield f"release {one.name}: manifest {one.digest}, by {by}{commit}{said}{''.join(marks)}"
    names = {one.name for one in new}
    yield from (f"release {one.name} is not listed any more" for one in old if one.name not in names)


def _rollout(after: Rollout) -> str:
    stable = f"{after.pipeline}@{after.stable}" if after.stable is not None else "what they have"
    text = f"offers {after.pipeline}@{after.candidate} to {after.percent:g} % of the fleet, {stable} to the others"
    flags = [name for name in ("paused", "aborted") if getattr(after, name, False)]
    return f"{text}{', ' + ' and '.join(flags) if flags else ''}"


# --- what has no words -----------------------------------------------------------------------------------------------


def _require_next(channel: str, role: str, before: Any, after: Any) -> None:
    """Raise `AuthorError` unless `after` is the next version and differs in nothing but what is put in words."""
    if after.version != before.version + 1 or _rest(role, before) != _rest(role, after):
        raise AuthorError(
            f"the change that waits in channel {channel} does something to role {role} that this version has no words "
            "for: drop it by `publisher key sign --drop`, and ask who made it"
        )


def _rest(role: str, signed: Any) -> dict[str, Any]:
    """Return what of a role is not put in words."""
    found: dict[str, Any] = signed.to_dict()
    for name in ("version", "expires"):
        found.pop(name)
    if role == "root":
        found.pop("keys")
        found["roles"] = sorted(found["roles"])
        found[SUBJECT_FIELD] = {**found[SUBJECT_FIELD], "previous": None}
        assert found["roles"] == sorted(TOP)
    elif role == "targets":
        found["delegations"] = {**found["delegations"], "keys": None}
        found["delegations"]["roles"] = [
            {**one, "keyids": None, "threshold": None} for one in found["delegations"]["roles"]
        ]
        found[SUBJECT_FIELD] = {**found[SUBJECT_FIELD], "operators": None}
    elif role in DELEGATED:
        found.pop("targets")
    return found
