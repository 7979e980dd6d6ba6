"""Creates a channel: its keys, its first root, and a first publication without any release.

Decides what an interrupted creation left that may be taken up. It never makes a channel anew that exists.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from edge_agent.contract.errors import AuthorError
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.repository import Channel
from publisher.trust.roles import ROLES, Roles, first_root, key_name, named, parse, sign

__all__ = ["create_channel"]


def create_channel(
    record: Record,
    keys: KeyStore,
    fleet: str,
    channel: str,
    passphrase: str,
    *,
    numbers: Mapping[str, int] | None = None,
    thresholds: Mapping[str, int] | None = None,
    now: float | None = None,
) -> Channel:
    """Create a channel with new keys and no release; return it.

    Every role has one key and threshold 1, unless `numbers` (any role) and `thresholds` (`root`, `release`) say
    otherwise. An interrupted creation is taken up where it stopped. Raises `AuthorError` if the channel exists or the
    keys found do not open with `passphrase`, `Conflict` if another workstation creates it at the same time.
    """
    now = time.time() if now is None else now
    created = Channel(record, fleet, channel)
    if created.exists():
        raise AuthorError(f"channel {channel} of fleet {fleet} exists already in {record.location}")
    counts, needed = {role: (numbers or {}).get(role, 1) for role in ROLES}, thresholds or {}
    names = {role: [key_name(channel, role, number + 1) for number in range(counts[role])] for role in ROLES}
    everyone = [name for role in ROLES for name in names[role]]
    signers = {name: keys.signer(name, passphrase) for name in everyone if keys.has(name)}
    absent = [name for name in everyone if name not in signers]
    if absent:
        keys.create(absent, passphrase)
        signers |= {name: keys.signer(name, passphrase) for name in absent}
    public = {role: [named(signers[name].public_key, name) for name in names[role]] for role in ROLES}
    pinned = keys.pinned(channel)
    begun = first_root(fleet, channel, public, now, needed.get("root", 1)) if pinned is None else parse("root", pinned)
    roles = Roles.first(fleet, channel, public, now, begun, needed.get("release", 1))
    if begun.unrecognized_fields != roles.targets.unrecognized_fields:
        raise AuthorError(f"the keys in {keys.directory} belong to a channel of another fleet: use another directory")
    for role in ROLES:
        for name in names[role]:
            roles.require_authorised(role, signers[name], name, channel)
    by_role = {role: [signers[name] for name in names[role]] for role in ROLES}
    root = keys.pin(channel, pinned if pinned is not None else sign(roles.root, *by_role["root"]))
    created.create(root, roles, by_role)
    return created
