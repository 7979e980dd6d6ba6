"""Pushes a pipeline into a channel: pack, preflight, sign, send, and (if asked) wait for what the devices say.

Blobs go first and the envelope that announces them last, so no device hears of a release whose bytes are not there.
Nothing is signed before preflight has passed and the broker has answered.
"""

from __future__ import annotations

import enum
import functools
import getpass
import os
import queue
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import AuthorError, ConfigError, UpdateRejected
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.messages import ReleaseInfo, Topics
from edge_agent.contract.verification import Request
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.transport import blobs
from edge_agent.transport import envelope as envelopes
from edge_agent.transport.client import Client
from publisher.config import Home, access_arguments, load_home
from publisher.fleet import DeviceOutcome, Fleet, Outcome
from publisher.keys import KeyStore
from publisher.packaging import Package, pack
from publisher.passphrase import passphrase as ask_passphrase
from publisher.preflight import preflight
from publisher.project import find_pipeline
from publisher.record import Record
from publisher.repository import Channel, Published
from publisher.verification import verify

__all__ = ["Ending", "PushResult", "connect", "push", "rollback"]

CONNECT_SECONDS = 10.0
SEND_SECONDS = 60.0
RETAINED_SECONDS = 1.5
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
    devices: int = 0,
    timeout_seconds: float = 120.0,
    home: str | Path | None = None,
    passphrase: str | None = None,
    progress: Progress = lambda words: None,
) -> PushResult:
    """Push a pipeline (an instance, or TARGET as on the command line) into a channel.

    With `wait`, return when every device that follows the channel has committed, refused or rolled back, at least
    `devices` of them, or after `timeout_seconds`. Raises `ConfigError`, `AuthorError`, `TransportError`, or
    `UpdateRejected` when a device would refuse what was signed.
    """
    started = time.monotonic()
    place = load_home(home)
    place.require_channel(channel)
    package, words = _prepare(target, progress)
    if dry_run:
        return _result(Ending.DRY_RUN, channel, package, words, started)
    secret = passphrase if passphrase is not None else ask_passphrase()
    store = _open(place, channel, secret)
    with connect(place) as client, Fleet(Topics(place.fleet)).listening(client) as fleet:
        _require_one_history(client, place, store)
        progress("sending blobs")
        sent = _send_blobs(client, place, store, list(package.blobs.values()))
        progress("signing")
        published = store.publish(
            package.data,
            pipeline=package.manifest.pipeline,
            keys=KeyStore(place.keys),
            passphrase=secret,
            tag=tag,
            message=message,
            signer=_signer(),
            **_commit(),  # type: ignore[arg-type]
        )
        sent += _announce(client, place, store, published.envelope)
        progress(f"published {published.info.name}")
        outcomes = _wait(fleet, published, devices, timeout_seconds, progress) if wait else []
    ending = ending_of(outcomes, devices) if wait else Ending.PUBLISHED
    return _result(ending, channel, package, words, started, published.info, sent, outcomes)


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
    passphrase: str | None = None,
    progress: Progress = lambda words: None,
) -> PushResult:
    """Offer an older release of a pipeline again, under a new sequence number (the fleet's rollback).

    Without `sequence`: the newest release before the one offered now that has other bytes. Raises as `push` does.
    """
    started = time.monotonic()
    place = load_home(home)
    place.require_channel(channel)
    store = Channel(Record(place.record_location), place.fleet, channel)
    name = pipeline or _only_pipeline(store)
    back_to = _earlier(store, name, sequence)
    secret = passphrase if passphrase is not None else ask_passphrase()
    _open(place, channel, secret)
    with connect(place) as client, Fleet(Topics(place.fleet)).listening(client) as fleet:
        _require_one_history(client, place, store)
        manifest = parse_manifest(store.manifest(back_to.digest))
        sent = _send_blobs(client, place, store, [store.record.get_blob(ref) for ref in manifest.blobs()])
        published = store.republish(
            back_to.sequence,
            pipeline=name,
            keys=KeyStore(place.keys),
            passphrase=secret,
            message=message,
            signer=_signer(),
        )
        sent += _announce(client, place, store, published.envelope)
        progress(f"published {published.info.name}, the bytes of {back_to.name}")
        outcomes = _wait(fleet, published, devices, timeout_seconds, progress) if wait else []
    return PushResult(
        ending=ending_of(outcomes, devices) if wait else Ending.PUBLISHED,
        channel=channel,
        pipeline=name,
        digest=published.info.digest,
        release=published.info.name,
        sequence=published.info.sequence,
        sent_bytes=sent,
        seconds=round(time.monotonic() - started, 3),
        devices=outcomes,
    )


@contextmanager
def connect(home: Home) -> Iterator[Client]:
    """Connect to the home's broker for as long as the block runs. Raises `TransportError`."""
    client = Client(
        home.broker.url,
        f"publisher-{os.getpid()}-{os.urandom(4).hex()}",
        clean_start=True,
        session_expiry_seconds=0,
        **access_arguments(home),
    )
    with client:
        client.wait_connected(CONNECT_SECONDS)
        yield client


def _prepare(target: Pipeline | str | None, progress: Progress) -> tuple[Package, str]:
    pipeline = target if isinstance(target, Pipeline) else find_pipeline(target)
    progress("packing")
    package = pack(pipeline)
    progress("preflight in a clean process")
    return package, preflight(package)


def _open(place: Home, channel: str, secret: str) -> Channel:
    """Open a channel, and find out now whether the passphrase opens its keys."""
    store = Channel(Record(place.record_location), place.fleet, channel)
    if not store.exists():
        raise ConfigError(f"channel {channel} is not in the record {place.record}: run `publisher init` again?")
    KeyStore(place.keys).signer(f"{channel}-release", secret)
    return store


def _require_one_history(client: Client, place: Home, store: Channel) -> None:
    """Refuse to sign when the broker announces a newer state than the record holds (T7)."""
    message = _retained(client, Topics(place.fleet).trust(store.name))
    if message is None:
        return
    root = store.root()
    request = functools.partial(Request, fleet=place.fleet, channel=store.name, now=0.0, root=root)
    try:
        announced = envelopes.unpack(message)
        if announced == store.envelope():
            return
        theirs = verify(request(envelope=announced))
    except UpdateRejected:
        return  # whoever put it there holds no key; ours replaces it
    ours = verify(request(envelope=store.envelope()))
    versions = [next(one.version for one in side.floors if one.role == "timestamp") for side in (theirs, ours)]
    if versions[0] >= versions[1]:
        raise AuthorError(
            f"the broker announces state {versions[0]} of channel {store.name}, the record {place.record} only has "
            f"{versions[1]}: somebody pushed from another record; use theirs, or restore this one from its backup"
        )


def _retained(client: Client, topic: str) -> bytes | None:
    found: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def hear(heard: str, payload: bytes, retain: bool) -> None:
        if heard == topic:
            found.put(payload)

    with client.listening(hear):
        client.subscribe([topic])
        try:
            return found.get(timeout=RETAINED_SECONDS) or None
        except queue.Empty:
            return None
        finally:
            client.unsubscribe([topic])


def _send_blobs(client: Client, place: Home, store: Channel, contents: list[bytes]) -> int:
    """Keep blobs in the record and make sure the broker has them; return the bytes sent for those it lacked."""
    topics = Topics(place.fleet)
    by_digest = {ref.digest: (ref, data) for data in contents if (ref := store.record.put_blob(data))}
    lacking = blobs.absent(client, topics, [ref for ref, _ in by_digest.values()], RETAINED_SECONDS)
    return sum(blobs.publish(client, topics, by_digest[ref.digest][1]) for ref in lacking)


def _announce(client: Client, place: Home, store: Channel, envelope: bytes) -> int:
    message = envelopes.pack(envelope)
    client.publish(Topics(place.fleet).trust(store.name), message, retain=True).wait(SEND_SECONDS)
    return len(message)


def _wait(fleet: Fleet, published: Published, devices: int, seconds: float, progress: Progress) -> list[DeviceOutcome]:
    told: dict[str, str] = {}

    def done(fleet: Fleet) -> bool:
        outcomes = fleet.outcomes(published.info)
        for one in outcomes:
            if told.get(one.device) != one.state:
                told[one.device] = one.state
                progress(f"{one.device}: {one.state}")
        ended = [one for one in outcomes if one.outcome is not Outcome.PENDING]
        return len(ended) == len(outcomes) and len(ended) >= max(devices, 1)

    fleet.wait_for(done, seconds)
    return fleet.outcomes(published.info)


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


def _result(
    ending: Ending,
    channel: str,
    package: Package,
    words: str,
    started: float,
    info: ReleaseInfo | None = None,
    sent: int = 0,
    outcomes: list[DeviceOutcome] | None = None,
) -> PushResult:
    return PushResult(
        ending=ending,
        channel=channel,
        pipeline=package.manifest.pipeline,
        digest=Digest.of(package.data),
        release=info.name if info is not None else "",
        sequence=info.sequence if info is not None else 0,
        preflight=words,
        warnings=list(package.warnings),
        sent_bytes=sent,
        seconds=round(time.monotonic() - started, 3),
        devices=outcomes or [],
    )


def _only_pipeline(store: Channel) -> str:
    names = sorted(store.current())
    if len(names) != 1:
        raise ConfigError(f"which pipeline? channel {store.name} has {', '.join(names) or 'none yet'}")
    return names[0]


def _earlier(store: Channel, pipeline: str, sequence: int | None) -> ReleaseInfo:
    current = store.current().get(pipeline)
    listed = [one for one in store.releases() if one.pipeline == pipeline]
    if current is None:
        raise ConfigError(f"channel {store.name} has no pipeline {pipeline!r}")
    if sequence is not None:
        found = [one for one in listed if one.sequence == sequence]
        if not found:
            known = ", ".join(one.name for one in listed)
            raise ConfigError(f"channel {store.name} has no release {pipeline}@{sequence}; it has {known}")
        return found[0]
    earlier = [one for one in listed if one.sequence < current[1].sequence and one.digest != current[1].digest]
    if not earlier:
        raise AuthorError(f"{current[1].name} is the only release of {pipeline}: there is nothing to go back to")
    return max(earlier, key=lambda one: one.sequence)


def _signer() -> str:
    named = os.environ.get("FIELDCAST_SIGNER")
    return named or f"{getpass.getuser()}@{socket.gethostname()}"


def _commit() -> dict[str, str | bool]:
    """Return the git commit of the working directory and whether it has uncommitted changes; empty outside one."""
    try:
        head, changes = (
            subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S607
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": head, "dirty": bool(changes)}
