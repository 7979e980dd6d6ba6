"""Pushes a pipeline into a channel, or offers an older release again, and (if asked) waits for what the devices say.

Decides the order: what is cheap to find wrong comes first (home, channel, words, target, passphrase), then packing and
preflight, then the broker; only when all of them have answered is anything signed.
"""

from __future__ import annotations

import enum
import functools
import getpass
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import ConfigError, TransportError
from edge_agent.contract.manifest import Manifest, check_name, parse_manifest
from edge_agent.contract.messages import ReleaseInfo, Topics
from edge_agent.sdk.pipeline import Pipeline
from publisher.config import Home, load_home
from publisher.fleet import DeviceOutcome, Fleet, Outcome
from publisher.keys import KeyStore
from publisher.packaging import pack
from publisher.passphrase import Passphrase, ask
from publisher.preflight import Verdict, judge_reported, preflight
from publisher.project import find_pipeline
from publisher.record import Record
from publisher.repository import Channel, Published
from publisher.retreat import condemned, earlier, only_pipeline
from publisher.uplink import Uplink, connect

__all__ = ["Ending", "PushResult", "ending_of", "push", "rollback"]

MESSAGE_CHARACTERS_MAX = 500
Progress = Callable[[str], None]


class Ending(enum.Enum):
    """How a push ended, as far as was waited for."""

    DRY_RUN = "dry_run"
    PUBLISHED = "published"
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


def push(
    target: Pipeline | str | None = None,
    *,
    channel: str,
    tag: str = "",
    message: str = "",
    wait: bool = False,
    dry_run: bool = False,
    require_portable: bool = False,
    devices: int = 0,
    timeout_seconds: float = 120.0,
    home: str | Path | None = None,
    passphrase: Passphrase = ask,
    progress: Progress = lambda words: None,
) -> PushResult:
    """Push a pipeline (an instance, or TARGET as on the command line) into a channel.

    With `wait`, return when every device that follows the channel has committed, refused or rolled back, at least
    `devices` of them, or after `timeout_seconds`. `require_portable` refuses classes that only this Python could run.
    Raises `ConfigError`, `AuthorError`, `TransportError`, or
    `UpdateRejected` when a device would refuse what was signed.
    """
    started = time.monotonic()
    desk = _Desk.at(load_home(home), channel, progress)
    _check_words(desk.home, tag, message)
    pipeline = find_pipeline(target)
    secret = "" if dry_run else desk.unlock(passphrase)
    progress("packing")
    package = pack(pipeline, require_portable=require_portable)
    progress("preflight in a clean process")
    seen = preflight(package, pipeline=pipeline)
    result = PushResult(
        ending=Ending.DRY_RUN,
        channel=channel,
        pipeline=package.manifest.pipeline,
        digest=Digest.of(package.data),
        preflight=seen.words,
        warnings=[*package.warnings, *seen.warnings],
    )
    if not dry_run:
        publish = functools.partial(
            desk.channel.publish,
            package.data,
            pipeline=package.manifest.pipeline,
            tag=tag,
            message=message,
            **desk.hand(secret),
            **_commit(),
        )
        awaited = _Wait(devices, timeout_seconds) if wait else None
        result = desk.offer(result, package.manifest, package.blobs.values(), publish, awaited)
    return _timed(result, started)


def rollback(
    pipeline: str | None = None,
    *,
    channel: str,
    sequence: int | None = None,
    message: str = "",
    wait: bool = False,
    devices: int = 0,
    timeout_seconds: float = 120.0,
    home: str | Path | None = None,
    passphrase: Passphrase = ask,
    progress: Progress = lambda words: None,
) -> PushResult:
    """Offer an older release of a pipeline again, under a new sequence number (the fleet's rollback).

    Without `sequence`: the newest release from before the bytes offered now first came that no device reports as
    failed; done again, it goes further back. Raises as `push` does.
    """
    started = time.monotonic()
    desk = _Desk.at(load_home(home), channel, progress)
    _check_words(desk.home, "", message)
    name = pipeline or only_pipeline(desk.channel)
    back_to = earlier(desk.channel, name, sequence, functools.partial(condemned, desk.home))
    republish = functools.partial(
        desk.channel.republish, back_to.sequence, pipeline=name, message=message, **desk.hand(desk.unlock(passphrase))
    )
    progress(f"back to {back_to.name}")
    manifest = parse_manifest(desk.channel.manifest(back_to.digest))
    contents = [desk.channel.record.get_blob(ref) for ref in manifest.blobs()]
    result = PushResult(ending=Ending.PUBLISHED, channel=channel, pipeline=name, digest=back_to.digest)
    awaited = _Wait(devices, timeout_seconds) if wait else None
    return _timed(desk.offer(result, manifest, contents, republish, awaited), started)


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


# --- what a push and a rollback share -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wait:
    """For how many devices at least, and for how long at most."""

    devices: int
    seconds: float

    def over(self, fleet: Fleet, info: ReleaseInfo, progress: Progress) -> list[DeviceOutcome]:
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
class _Desk:
    """One channel of a home, ready to be signed into."""

    home: Home
    channel: Channel
    progress: Progress

    @classmethod
    def at(cls, home: Home, name: str, progress: Progress) -> _Desk:
        channel = Channel(Record(home.record_location), home.fleet, home.require_channel(name))
        if not channel.exists():
            raise ConfigError(
                f"channel {name} is not in the record {home.record_location}: restore the record from its backup"
            )
        return cls(home, channel, progress)

    def unlock(self, passphrase: Passphrase) -> str:
        """Return the passphrase, after finding out whether it opens the channel's keys."""
        secret = passphrase if isinstance(passphrase, str) else passphrase()
        KeyStore(self.home.keys).signer(f"{self.channel.name}-release", secret)
        return secret

    def hand(self, secret: str) -> dict[str, Any]:
        """Return who signs, and with what."""
        return {"keys": KeyStore(self.home.keys), "passphrase": secret, "signer": _signer()}

    def offer(
        self,
        result: PushResult,
        manifest: Manifest,
        contents: Iterable[bytes],
        sign: Callable[[], Published],
        wait: _Wait | None,
    ) -> PushResult:
        """Send the blobs, sign, announce, and wait if asked; return `result` with what came of it."""
        with connect(self.home) as client, Fleet(Topics(self.home.fleet)).listening(client) as fleet:
            uplink = Uplink(client, self.channel)
            uplink.require_one_history()
            self.progress("sending blobs")
            sent = uplink.send_blobs(contents)
            refusals = [*_same_bytes(self.channel, result), *_refusals(fleet, self.channel.name, manifest)]
            self.progress("signing")
            published = sign()
            sent += _announced(uplink, published)
            self.progress(f"published {published.info.name}")
            outcomes = wait.over(fleet, published.info, self.progress) if wait else []
        return msgspec.structs.replace(
            result,
            ending=ending_of(outcomes, wait.devices) if wait else Ending.PUBLISHED,
            release=published.info.name,
            sequence=published.info.sequence,
            sent_bytes=sent,
            warnings=[*result.warnings, *refusals],
            devices=outcomes,
        )


def _same_bytes(channel: Channel, result: PushResult) -> list[str]:
    current = channel.current().get(result.pipeline)
    if current is None or current[1].digest != result.digest:
        return []
    return [f"these are the bytes of {current[1].name}, offered already: devices that run it only take the new name"]


def _refusals(fleet: Fleet, channel: str, manifest: Manifest) -> list[str]:
    """Say which devices will refuse the release, of those that follow the channel with its pipeline.

    The broker has sent their retained reports before it answered about the channel itself.
    """
    followers = [
        (known.device, known.report.profile)
        for known in fleet.devices()
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


def _timed(result: PushResult, started: float) -> PushResult:
    return msgspec.structs.replace(result, seconds=round(time.monotonic() - started, 3))


# --- what is signed beside the bytes --------------------------------------------------------------------------------


def _check_words(home: Home, tag: str, message: str) -> None:
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


def _signer() -> str:
    return os.environ.get("FIELDCAST_SIGNER") or f"{getpass.getuser()}@{socket.gethostname()}"


def _commit() -> dict[str, Any]:
    """Return the git commit of the working directory and whether it has uncommitted changes; empty outside one."""
    try:
        head, changes = (
            subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": head, "dirty": bool(changes)}
