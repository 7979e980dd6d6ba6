"""A change that waits for signatures: kept in the repository of record until enough key holders have signed it.

    channel/<fleet>/<channel>/pending/
        <n>.change.json                  what would be published: the next versions of some roles, not signed yet
        <n>.<role>.<key id>.json         one signature
        <n>.closed.json                  published, dropped or overtaken: it waits no more

Everything is created only if absent, so one change waits in a channel at a time and no signature is lost. Files are
what anybody with access to the record may have written: signatures are checked, and what is to be signed is put in
words, by others. Nothing here is seen by a device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from tuf.api.metadata import Metadata
from tuf.api.serialization.json import JSONSerializer

from edge_agent.contract.digest import Digest, decode_json, encode_json
from edge_agent.contract.errors import StoreError
from edge_agent.contract.messages import ENVELOPE_BYTES_MAX
from publisher.record import Conflict, Record
from publisher.trust.publication import Publication
from publisher.trust.roles import Roles, parse
from publisher.trust.signers import Signature

__all__ = ["Change", "Pending", "PendingShelf", "unsigned"]

_CHANGE_BYTES_MAX = 2 * ENVELOPE_BYTES_MAX
_SMALL_BYTES_MAX = 4096
_SIGNATURES_MAX = 256
_NAME = re.compile(r"([1-9][0-9]{0,9})\.(change|closed|(root|targets|release|rollout)\.([0-9a-f]{64}))\.json")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What would be published. `roles` are files without signatures; `base` the digests of those they follow.

    `made` is seconds UTC, `by` who says so: neither is signed.
    """

    format: int
    by: str
    made: int
    base: dict[str, Digest]
    roles: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A change that waits, and the signatures that it has, by role and key id, unverified."""

    number: int
    change: Change
    signatures: Mapping[str, Mapping[str, Signature]]

    def overtaken(self, head: Publication) -> bool:
        """Tell whether something was published that the change does not know of."""
        files = {**head.files, "root": head.roots[-1]}
        return any(Digest.of(files[role]) != digest for role, digest in self.change.base.items())

    def roles(self, head: Publication) -> Roles:
        """Return the roles as they would be."""
        return head.roles.replaced(**{role: parse(role, text.encode()) for role, text in self.change.roles.items()})


class PendingShelf:
    """Where a channel's waiting changes lie in the record."""

    def __init__(self, record: Record, fleet: str, channel: str) -> None:
        self._record = record
        self._folder = f"channel/{fleet}/{channel}/pending"

    def newest(self) -> Pending | None:
        """Return the change that waits, if one does."""
        names = [found for found in map(_NAME.fullmatch, self._record.names(self._folder)) if found is not None]
        number = max((int(found[1]) for found in names if found[2] == "change"), default=0)
        mine = [found for found in names if int(found[1]) == number]
        if not number or any(found[2] == "closed" for found in mine):
            return None
        signatures: dict[str, dict[str, Signature]] = {}
        for found in [one for one in mine if one[3]][:_SIGNATURES_MAX]:
            signatures.setdefault(found[3], {})[found[4]] = self._signature(found[0], found[4])
        return Pending(number=number, change=self._change(f"{number}.change.json"), signatures=signatures)

    def open(self, change: Change) -> int:
        """Keep a change; return its number. Raises `Conflict` if somebody else's came first."""
        names = map(_NAME.fullmatch, self._record.names(self._folder))
        number = 1 + max((int(found[1]) for found in names if found is not None), default=0)
        self._record.create(f"{self._folder}/{number}.change.json", encode_json(change))
        return number

    def sign(self, number: int, role: str, signature: Signature) -> None:
        """Keep a signature; one that is there already is as good."""
        try:
            data = encode_json({"sig": signature.signature})
            self._record.create(f"{self._folder}/{number}.{role}.{signature.keyid}.json", data)
        except Conflict:
            return

    def close(self, number: int, how: str) -> None:
        """Let a change wait no more."""
        try:
            self._record.create(f"{self._folder}/{number}.closed.json", encode_json({"how": how}))
        except Conflict:
            return

    def _change(self, name: str) -> Change:
        data = self._record.read(f"{self._folder}/{name}", _CHANGE_BYTES_MAX) or b""
        try:
            found = decode_json(data, Change)
        except (msgspec.DecodeError, ValueError) as error:
            raise self._damaged(name, str(error)) from None
        if found.format != 1 or not found.roles or not found.roles.keys() <= {"root", "targets", "release", "rollout"}:
            raise self._damaged(name, "it is of another format")
        if found.roles.keys() != found.base.keys():
            raise self._damaged(name, "it does not say what it follows")
        return found

    def _signature(self, name: str, keyid: str) -> Signature:
        data = self._record.read(f"{self._folder}/{name}", _SMALL_BYTES_MAX) or b""
        try:
            return Signature(keyid, msgspec.json.decode(data, type=dict[str, str])["sig"])
        except (msgspec.DecodeError, KeyError):
            return Signature(keyid, "")  # verifies nothing

    def _damaged(self, name: str, why: str) -> StoreError:
        return StoreError(
            f"repository of record {self._record.location}: {self._folder}/{name} cannot be read ({why}): drop the "
            "change by `publisher key sign --drop`"
        )

    def drop(self) -> int:
        """Close the change that waits, readable or not; return its number, 0 if none waits."""
        names = [found for found in map(_NAME.fullmatch, self._record.names(self._folder)) if found is not None]
        number = max((int(found[1]) for found in names if found[2] == "change"), default=0)
        if not number or any(found[2] == "closed" and int(found[1]) == number for found in names):
            return 0
        self.close(number, "dropped")
        return number


def unsigned(signed: object) -> str:
    """Return a role's file without signatures."""
    return Metadata(signed).to_bytes(JSONSerializer(compact=True)).decode()  # type: ignore[type-var]
