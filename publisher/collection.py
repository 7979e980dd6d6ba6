"""Clears blobs from the broker that no channel offers any more (M2): what `publisher gc` does.

Decides what may go. Kept is what the candidate and the stable release of any channel need, as the record says, as the
broker announces, and as changes that wait for signatures would have it; and every delta that leads to one of those. A
blob that no signed release knows goes only when the record has not got it either, or has had it for a day: it may be on
its way into a release. The record itself is never touched: a rollback sends from it what the broker lacks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import StoreError
from edge_agent.contract.manifest import MANIFEST_BYTES_MAX, parse_manifest
from edge_agent.contract.messages import CHUNK_HEADER, Topics
from edge_agent.transport.client import Client, Delivery
from publisher.config import Home, load_home
from publisher.inventory import Inventory, take
from publisher.record import Record
from publisher.trust.chronicle import Chronicle, trusted
from publisher.trust.pending import PendingShelf
from publisher.trust.repository import Channel
from publisher.trust.roles import parse
from publisher.uplink import Uplink, connect

__all__ = ["GRACE_SECONDS", "Cleared", "Collection", "collect", "offered_manifests", "waiting"]

GRACE_SECONDS = 86_400.0
SEND_SECONDS = 30.0
_WINDOW = 16


class Cleared(msgspec.Struct, frozen=True, kw_only=True):
    """A blob that was (or would be) cleared: why, and what it took on the broker."""

    digest: Digest
    why: str
    chunks: int
    bytes: int


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """What was cleared, what stays, and how many bytes the broker got back."""

    dry_run: bool
    cleared: list[Cleared]
    kept: int
    freed_bytes: int
    sent_again: int = 0


def collect(
    *,
    channel: str | None = None,
    dry_run: bool = False,
    home: str | Path | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Collection:
    """Clear from the broker what no channel offers any more; with `channel`, only what that one once offered.

    Raises `AuthorError` when the broker announces a newer history than the record has, `TransportError`, `StoreError`.
    """
    place = load_home(home)
    record = Record(place.record_location)
    chosen = [place.require_channel(channel)] if channel else place.channels
    with connect(place) as client:
        needed = _needed(record, place, client, check=True)
        known = {ref.digest: ref for name in chosen for ref in _ever(Channel(record, place.fleet, name), place)}
        found = take(client, Topics(place.fleet), [*known, *(ref.digest for ref in needed)], every=channel is None)
        keep = {ref.digest for ref in needed} | found.deltas_to(ref.digest for ref in needed)
        going = _going(found, keep, known, record, grace_seconds)
        if not dry_run:
            for one in going:
                _clear(client, Topics(place.fleet), one)
        again = [] if dry_run else _missed(record, place, client, {one.digest for one in going})
    return Collection(
        dry_run=dry_run,
        cleared=going,
        kept=len(found.headers) - len(going),
        freed_bytes=sum(one.bytes for one in going),
        sent_again=len(again),
    )


def _going(
    found: Inventory, keep: set[Digest], known: dict[Digest, BlobRef], record: Record, grace_seconds: float
) -> list[Cleared]:
    """Decide what goes, of what lies on the broker."""
    going = []
    for digest, header in sorted(found.headers.items()):
        if digest in keep:
            continue
        if digest in known:
            why = "no longer offered"
        else:
            age = record.blob_age_seconds(digest)
            if age is not None and age < grace_seconds:
                continue
            why = "delta of a release no longer offered" if digest in found.every_delta else "of no signed release"
        size = header.encoded_bytes + header.count * CHUNK_HEADER.size
        going.append(Cleared(digest=digest, why=why, chunks=header.count, bytes=size))
    return going


# --- what is needed --------------------------------------------------------------------------------------------------


def _needed(record: Record, home: Home, client: Client, *, check: bool) -> set[BlobRef]:
    """Return the blobs that any channel in the record needs, also one that this home does not know."""
    folders = {path.split("/")[2] for path in record.walk(f"channel/{home.fleet}") if path.count("/") > 2}
    found: set[BlobRef] = set()
    for name in sorted(folders | set(home.channels)):
        channel = Channel(record, home.fleet, name)
        if not channel.exists():
            continue
        if name in home.channels:
            trusted(channel, home)
        if check:
            uplink = Uplink(client, channel)
            announced = uplink.announced()
            if announced is not None:  # devices go by it until the record's newest is announced
                uplink.require_one_history()
                found |= _refs(announced.manifests.values())
        found |= _refs(offered_manifests(channel)) | _refs(waiting(record, channel))
    return found


def offered_manifests(channel: Channel) -> list[bytes]:
    """Return the manifests of candidate and stable, as the record has them."""
    listed = {(one.pipeline, one.sequence): one for one in channel.releases()}
    chosen = [
        listed.get((rollout.pipeline, sequence))
        for rollout, _ in channel.current().values()
        for sequence in (rollout.candidate, rollout.stable)
        if sequence is not None
    ]
    return [channel.manifest(one.digest) for one in chosen if one is not None]


def waiting(record: Record, channel: Channel) -> list[bytes]:
    """Return the manifests of a change that waits for signatures."""
    pending = PendingShelf(record, channel.fleet, channel.name).newest()
    if pending is None or "release" not in pending.change.roles:
        return []
    release = parse("release", pending.change.roles["release"].encode())
    refs = [
        BlobRef(digest=Digest(f"sha256:{one.hashes['sha256']}"), size=one.length) for one in release.targets.values()
    ]
    return [record.get_blob(ref) for ref in refs if ref.size <= MANIFEST_BYTES_MAX and record.has_blob(ref)]


def _ever(channel: Channel, home: Home) -> set[BlobRef]:
    """Return the blobs of every release ever signed into a channel, as far as the record still has its manifest."""
    if not channel.exists():
        return set()
    refs = {ref for moment in Chronicle(channel, home).moments() for ref in moment.manifests}
    found: set[BlobRef] = set()
    for ref in refs:
        try:
            found |= _refs([channel.record.get_blob(ref)])
        except StoreError:
            continue  # what is not known is at most cleared later, as unknown
    return found


def _refs(manifests: Iterable[bytes]) -> set[BlobRef]:
    return {ref for data in manifests for ref in parse_manifest(data).blobs()}


# --- clearing --------------------------------------------------------------------------------------------------------


def _clear(client: Client, topics: Topics, one: Cleared) -> None:
    """Clear the hint and the chunks; the first chunk goes last, so that a run that is cut short is found again."""
    under_way: deque[Delivery] = deque()
    for topic in (topics.ways(one.digest), *(topics.chunk(one.digest, n) for n in reversed(range(1, one.chunks)))):
        if len(under_way) >= _WINDOW:
            under_way.popleft().wait(SEND_SECONDS)
        under_way.append(client.publish(topic, b"", qos=1, retain=True))
    while under_way:
        under_way.popleft().wait(SEND_SECONDS)
    client.publish(topics.chunk(one.digest, 0), b"", qos=1, retain=True).wait(SEND_SECONDS)


def _missed(record: Record, home: Home, client: Client, cleared: set[Digest]) -> list[BlobRef]:
    """Send again what somebody published while we cleared it; a refresh mends what falls between even that."""
    again = [ref for ref in _needed(record, home, client, check=False) if ref.digest in cleared]
    if again:
        uplink = Uplink(client, Channel(record, home.fleet, home.channels[0]))
        uplink.send_blobs(record.get_blob(ref) for ref in again)
    return again
