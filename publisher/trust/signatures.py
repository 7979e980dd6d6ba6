"""Who must sign a role, who has, and who is still missing (T1).

A role's file is good when each of its *seats*, a set of keys and a threshold, has enough signatures. Every role has one
seat; a root from the second on has two, since the keys that leave must agree too. Decides nothing about what is signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from tuf.api.metadata import Metadata

from edge_agent.contract.errors import AuthorError
from publisher.trust.keys import KeyStore
from publisher.trust.roles import Roles, key_name, name_of
from publisher.trust.signers import CryptoSigner, Key, Signature

__all__ = ["Hand", "Seat", "lacking", "missing", "names", "payload", "require_some", "seats", "signatures_in", "valid"]

Signatures = Mapping[str, Signature]


@dataclass(frozen=True, kw_only=True)
class Seat:
    """The keys, by name and key id, of which `threshold` must sign."""

    threshold: int
    keys: Mapping[str, Key]

    def lacks(self, signatures: Mapping[str, Any]) -> int:
        """Return how many more of the keys must sign."""
        return max(0, self.threshold - len(self.keys.keys() & signatures.keys()))


@dataclass(frozen=True, kw_only=True)
class Hand:
    """Who signs, and when (seconds UTC)."""

    keys: KeyStore
    passphrase: str
    now: float

    def signers(self, channel: str, role: str, keys: Mapping[str, Key]) -> dict[str, CryptoSigner]:
        """Return the signers of those keys that are here, by key id. Raises `AuthorError` for a wrong passphrase."""
        found = {}
        for keyid, key in keys.items():
            name = name_of(key, key_name(channel, role))
            if self.keys.has(name):
                signer = self.keys.signer(name, self.passphrase)
                if signer.public_key.keyid == keyid:
                    found[keyid] = signer
        return found

    def require(self, channel: str, role: str, roles: Roles) -> dict[str, CryptoSigner]:
        """Return the signers of a role's keys that are here. Raises `AuthorError` if there is none."""
        keys = roles.keys_of(role)
        found = self.signers(channel, role, keys)
        if not found:
            named = [name_of(key, key_name(channel, role)) for key in keys.values()]
            name = next(filter(self.keys.has, named), named[0])
            roles.require_authorised(role, self.keys.signer(name, self.passphrase), name, channel)
        return found


def seats(role: str, before: Roles, after: Roles) -> list[Seat]:
    """Return who must sign a role of `after`, which follows `before`."""
    holders = [before, after] if role == "root" and before.root.version != after.root.version else [after]
    return [Seat(threshold=one.authorised(role).threshold, keys=one.keys_of(role)) for one in holders]


def payload(signed: Any) -> bytes:
    """Return the bytes that a role's signatures are over."""
    return bytes(Metadata(signed).signed_bytes)


def signatures_in(data: bytes) -> Signatures:
    """Return the signatures that a role's file carries, by key id, unverified."""
    return Metadata.from_bytes(data).signatures


def valid(signed: Any, signatures: Signatures, places: list[Seat]) -> dict[str, Signature]:
    """Return those signatures over a role that are good, and by keys that have a seat."""
    data = payload(signed)
    keys = {keyid: key for place in places for keyid, key in place.keys.items()}
    found = {}
    for keyid, signature in signatures.items():
        try:
            if keyid in keys:
                keys[keyid].verify_signature(signature, data)
                found[keyid] = signature
        except UnverifiedSignatureError:
            continue  # whoever left it here holds no key: as good as none
    return found


def lacking(places: list[Seat], signatures: Mapping[str, Any]) -> bool:
    """Tell whether any seat needs more signatures."""
    return any(place.lacks(signatures) for place in places)


def missing(channel: str, role: str, places: list[Seat], signatures: Mapping[str, Any]) -> str:
    """Say in words who must still sign a role, empty if nobody: `release: 1 more of staging-release-2, ada`."""
    parts = []
    for place in places:
        if place.lacks(signatures):
            waiting = [key for keyid, key in place.keys.items() if keyid not in signatures]
            parts.append(f"{place.lacks(signatures)} more of {names(channel, role, waiting)}")
    if len(set(parts)) == 2:  # one signature may count in both
        return f"{role}: of the keys until now {parts[0]}, and of those from now on {parts[1]}"
    return f"{role}: {parts[0]}" if parts else ""


def names(channel: str, role: str, keys: list[Key]) -> str:
    """Return the names of keys as a list in words."""
    return ", ".join(name_of(key, key_name(channel, role)) for key in keys)


def require_some(found: bool, channel: str, role: str, places: list[Seat]) -> None:
    """Raise `AuthorError` if no key that may sign was `found` here."""
    if not found:
        holders = missing(channel, role, places, {})
        raise AuthorError(
            f"none of the keys that may change channel {channel} is here ({holders}): name the directory that holds "
            "one by --keys, or have its holder do it; a key of your own is made and shown by "
            "`publisher key export NAME --new`"
        )
