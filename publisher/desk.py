"""What push, rollback and promotion share: one channel of a home, ready to be signed into, and the way to the devices.

Decides the order: one history first, then blobs, then the signature, then the announcement, then (if asked) what the
devices make of it. What is signed, and why, is its callers' business.
"""

from __future__ import annotations

import enum
import getpass
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import ConfigError, TransportError
from edge_agent.contract.manifest import Manifest, check_name
from edge_agent.contract.messages import ReleaseInfo
from publisher.config import Home
from publisher.contention import rebased
from publisher.deltas import Delta, bases, deltas
from publisher.devices.fleet import DeviceOutcome, Fleet, Outcome
from publisher.preflight import Verdict, judge_reported
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.passphrase import Passphrase
from publisher.trust.repository import Channel, Published
from publisher.uplink import Uplink, connect

__all__ = [
    "MESSAGE_CHARACTERS_MAX",
    "Desk",
    "Ending",
    "Progress",
    "PushResult",
    "Wait",
    "check_words",
    "ending_of",
    "signer",
    "timed",
]

MESSAGE_CHARACTERS_MAX = 500
Progress = Callable[[str], None]


class Ending(enum.Enum):
    """How a push ended, as far as was waited for. `UNCHANGED`: the channel offers these bytes already."""

    DRY_RUN = "dry_run"
    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    COMMITTED = "committed"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    TIMED_OUT = "timed_out"


class PushResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was pushed and what became of it. `sent_bytes` counts what crossed the wire, blobs and envelope."""

    ending: Ending
    channel: str
    pipeline: str
    digest: Digest
    release: str = ""
    sequence: int = 0
    preflight: str = ""
    warnings: list[str] = []
    sent_bytes: int = 0
    seconds: float = 0.0
    devices: list[DeviceOutcome] = []


def ending_of(outcomes: list[DeviceOutcome], devices: int) -> Ending:
    """Return the worst ending among the devices: rolled back, refused, timed out, committed."""
    found = {one.outcome for one in outcomes}
    if Outcome.ROLLED_BACK in found:
        return Ending.ROLLED_BACK
    if Outcome.REFUSED in found:
        return Ending.REFUSED
    if Outcome.PENDING in found or len(outcomes) < max(devices, 1):
        return Ending.TIMED_OUT
    return Ending.COMMITTED


def timed(result: PushResult, started: float) -> PushResult:
    """Return the result with the seconds since `started` (monotonic)."""
    return msgspec.structs.replace(result, seconds=round(time.monotonic() - started, 3))


@dataclass(frozen=True)
class Wait:
    """For how many devices at least, and for how long at most."""

    devices: int
    seconds: float

    def over(self, fleet: Fleet, info: ReleaseInfo, progress: Progress) -> list[DeviceOutcome]:
        """Wait until every device that follows has come to an end with the release; return what became of it."""
        told: dict[str, str] = {}

        def done(fleet: Fleet) -> bool:
            outcomes = fleet.outcomes(info)
            for one in outcomes:
                if told.get(one.device) != one.words:
                    told[one.device] = one.words
                    progress(f"{one.device}: {one.words}")
            ended = [one for one in outcomes if one.outcome is not Outcome.PENDING]
            return len(ended) == len(outcomes) and len(ended) >= max(self.devices, 1)

        fleet.wait_for(done, self.seconds)
        return fleet.outcomes(info)


@dataclass(frozen=True)
class Desk:
    """One channel of a home, ready to be signed into."""

    home: Home
    channel: Channel
    progress: Progress

    @classmethod
    def at(cls, home: Home, name: str, progress: Progress) -> Desk:
        """Return the desk of a channel. Raises `ConfigError` when the home or its record has no such channel."""
        channel = Channel(Record(home.record_location), home.fleet, home.require_channel(name))
        if not channel.exists():
            raise ConfigError(
                f"channel {name} is not in the record {home.record_location}: restore the record from its backup"
            )
        return cls(home, channel, progress)

    def unlock(self, passphrase: Passphrase) -> str:
        """Return the passphrase, after finding out whether it opens the channel's keys."""
        secret = passphrase if isinstance(passphrase, str) else passphrase()
        self.channel.unlock(KeyStore(self.home.keys), secret)
        return secret

    def hand(self, secret: str) -> dict[str, Any]:
        """Return who signs, and with what."""
        return {"keys": KeyStore(self.home.keys), "passphrase": secret, "signer": signer()}

    def offer(
        self,
        result: PushResult,
        manifest: Manifest,
        contents: Iterable[bytes],
        sign: Callable[[], Published],
        wait: Wait | None,
        *,
        on_conflict: Callable[[], None] = lambda: None,
    ) -> PushResult:
        """Send the blobs, sign, announce, and wait if asked; return `result` with what came of it.

        `sign` is called again when somebody else published first, unless `on_conflict` objects by raising.
        """
        with connect(self.home) as client, Fleet.of(self.home).listening(client) as fleet:
            uplink = Uplink(client, self.channel)
            uplink.require_one_history()
            self.progress("sending blobs")
            sent = uplink.send_blobs(contents)
            sent += uplink.send_deltas(self._deltas(manifest, fleet))
            before = self.offered(result.pipeline)
            warnings = [*_same_bytes(before, result), *_refusals(fleet, self.channel.name, manifest)]
            self.progress("signing")
            published = rebased(sign, on_conflict=lambda: self._rebase(on_conflict))
            sent += _announced(uplink, published)
            self.progress(f"published {published.info.name}")
            warnings += self._overtaken(before, published.info)
            outcomes = wait.over(fleet, published.info, self.progress) if wait else []
        return msgspec.structs.replace(
            result,
            ending=ending_of(outcomes, wait.devices) if wait else Ending.PUBLISHED,
            release=published.info.name,
            sequence=published.info.sequence,
            sent_bytes=sent,
            warnings=[*result.warnings, *warnings],
            devices=outcomes,
        )

    def _deltas(self, manifest: Manifest, fleet: Fleet) -> list[Delta]:
        """Return what is worth sending to devices that have older blobs; their reports are hints here."""
        reported = [
            slot.active_digest
            for known in fleet.devices()
            if known.report is not None
            for slot in known.report.slots
            if slot.pipeline == manifest.pipeline and slot.active_digest
        ]
        olds = bases(self.channel, manifest.pipeline, reported)
        return deltas(manifest, olds, self.channel.record.get_blob)

    def offered(self, pipeline: str) -> ReleaseInfo | None:
        """Return the release of a pipeline that the channel offers now, if any."""
        current = self.channel.current().get(pipeline)
        return None if current is None else current[1]

    def _rebase(self, on_conflict: Callable[[], None]) -> None:
        on_conflict()
        self.progress("somebody else published first: signing again on top of that")

    def _overtaken(self, before: ReleaseInfo | None, mine: ReleaseInfo) -> list[str]:
        """Say which other releases came since `before`, and which one is offered instead of the others."""
        first = 0 if before is None else before.sequence
        since = [one for one in self.channel.releases() if one.pipeline == mine.pipeline and one.sequence > first]
        last = max(since, key=lambda one: one.sequence)
        return [
            f"{one.name} by {one.signer or 'someone unnamed'} was published meanwhile; {last.name} is offered"
            for one in since
            if one != mine
        ]


def _same_bytes(before: ReleaseInfo | None, result: PushResult) -> list[str]:
    if before is None or before.digest != result.digest:
        return []
    return [f"these are the bytes of {before.name}, offered already: devices that run it only take the new name"]


def _refusals(fleet: Fleet, channel: str, manifest: Manifest) -> list[str]:
    """Say which devices will refuse the release, of those that follow the channel with its pipeline.

    The broker has sent their retained reports before it answered about the channel itself.
    """
    followers = [
        (known.device, known.report.profile)
        for known in fleet.counted()
        if known.report is not None
        and any((slot.pipeline, slot.channel) == (manifest.pipeline, channel) for slot in known.report.slots)
    ]
    found = judge_reported(manifest, followers)
    return [f"{one.name} will refuse it: {one.words}" for one in found if one.verdict is Verdict.REFUSE]


def _announced(uplink: Uplink, published: Published) -> int:
    try:
        return uplink.announce(published.envelope)
    except TransportError as error:
        raise TransportError(
            f"{published.info.name} is signed, but the broker did not take the announcement: {error}; push again"
        ) from None


# --- what is signed beside the bytes --------------------------------------------------------------------------------


def check_words(home: Home, tag: str, message: str) -> None:
    """Refuse a tag that could not be told from another reference, and a message that would spoil a table."""
    if tag:
        try:
            check_name("tag", tag)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if tag.isdecimal() or tag in home.channels:
            raise ConfigError(f"tag {tag!r} reads like a sequence number or a channel: choose another, such as v1.4")
    if not message.isprintable() or len(message) > MESSAGE_CHARACTERS_MAX:
        raise ConfigError(f"the message must be one line of at most {MESSAGE_CHARACTERS_MAX} printable characters")


def signer() -> str:
    """Return who signs: `$FIELDCAST_SIGNER`, or the user on this machine."""
    return os.environ.get("FIELDCAST_SIGNER") or f"{getpass.getuser()}@{socket.gethostname()}"
