"""The way from the record to the broker: connect, send what it lacks, announce a channel's newest state.

Blobs go first and the envelope that announces them last, so no device hears of a release whose bytes are not there. It
refuses to go on when the broker announces a newer history than the record holds (T7). It signs nothing.
"""

from __future__ import annotations

import functools
import os
import queue
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import AuthorError, TransportError, UpdateRejected
from edge_agent.contract.messages import Topics, Way, Ways, decode_envelope, encode_ways
from edge_agent.contract.verification import Request, Verified
from edge_agent.transport import blobs
from edge_agent.transport import envelope as envelopes
from edge_agent.transport.address import Address
from edge_agent.transport.client import Client
from publisher.config import Home, access_arguments
from publisher.deltas import Delta
from publisher.trust.repository import Channel
from publisher.trust.verification import verify

__all__ = ["Uplink", "connect"]

CONNECT_SECONDS = 10.0
SEND_SECONDS = 60.0
RETAINED_SECONDS = 1.5
ANNOUNCEMENTS_MAX = 32
_OTHER_RECORD = (
    "somebody pushed from another record; use theirs, or restore this one from its backup. If it was a thief of its "
    "keys: `publisher key rotate {channel} snapshot`"
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
    _require_answer(client.address)
    with client:
        client.wait_connected(CONNECT_SECONDS)
        yield client


def _require_answer(address: Address) -> None:
    """Find out at once when nobody listens there: the client itself would go on trying."""
    try:
        socket.create_connection((address.host, address.port), CONNECT_SECONDS).close()
    except OSError as error:
        raise TransportError(
            f"broker {address} cannot be reached ({error.strerror or error}): "
            "check that it runs, the address, and the network"
        ) from None


class Uplink:
    """One channel's way over a connected client."""

    def __init__(self, client: Client, channel: Channel) -> None:
        self._client, self._channel = client, channel
        self.topics = Topics(channel.fleet)

    def require_one_history(self, advice: str = _OTHER_RECORD) -> None:
        """Refuse to go on when the broker announces another history than the record's.

        Raises `AuthorError` that ends with `advice`.
        """
        announced = self.announced_envelope()
        if announced is None:
            return
        # The record is read after the broker: what others committed since can only make ours newer.
        mine = self._channel.envelope()
        if announced == mine:
            return
        try:
            theirs = _state(self._verified(announced))
        except UpdateRejected:
            return  # whoever put it there holds no key; ours replaces it
        ours = _state(self._verified(mine))
        if theirs > ours or (theirs == ours and _timestamp(announced) != _timestamp(mine)):
            raise AuthorError(
                f"the broker announces state {theirs[1]} of channel {self._channel.name}, the record "
                f"{self._channel.record.location} only has {ours[1]}: {advice.format(channel=self._channel.name)}"
            )

    def announced(self) -> Verified | None:
        """Return what the broker announces for this channel, None if that is nothing or not signed by its keys."""
        envelope = self.announced_envelope()
        try:
            return None if envelope is None else self._verified(envelope)
        except UpdateRejected:
            return None

    def send_blobs(self, contents: Iterable[bytes]) -> int:
        """Keep blobs in the record and make sure the broker has them; return the bytes sent for those it lacked."""
        record = self._channel.record
        new: list[BlobRef] = []
        known: list[BlobRef] = []
        by_ref: dict[BlobRef, bytes] = {}
        for data in contents:
            ref = BlobRef.of(data)
            (known if record.has_blob(ref) else new).append(ref)
            by_ref[record.put_blob(data)] = data
        # Asking what a broker lacks costs a wait; what the record never had was never sent.
        lacking = [*new, *(blobs.absent(self._client, self.topics, known, RETAINED_SECONDS) if known else [])]
        return sum(blobs.publish(self._client, self.topics, by_ref[ref]) for ref in lacking)

    def send_deltas(self, found: Iterable[Delta]) -> int:
        """Keep deltas in the record, put them on the broker, and hint at them; return the bytes sent (M6)."""
        ways: dict[BlobRef, list[Way]] = {}
        sent = 0
        for delta in found:
            ref = self._channel.record.put_blob(delta.data)
            sent += blobs.publish(self._client, self.topics, delta.data)
            ways.setdefault(delta.target, []).append(Way(base=delta.base, delta=ref))
        for target, them in ways.items():
            message = encode_ways(Ways(format=1, ways=them))
            self._client.publish(self.topics.ways(target.digest), message, retain=True).wait(SEND_SECONDS)
            sent += len(message)
        return sent

    def announce(self, envelope: bytes) -> int:
        """Retain the channel's newest envelope at the broker, `envelope` or what others committed since.

        Return the bytes sent. Raises `TransportError` unless it was taken. Whoever commits announces after that, and
        looks again after having announced: so the last envelope that any publisher retains is the record's newest,
        in whatever order two of them get there.
        """
        sent = 0
        for _ in range(ANNOUNCEMENTS_MAX):
            sent += self._retain(envelope)
            newest = self._channel.envelope()
            if newest == envelope:
                return sent
            envelope = newest
        raise TransportError(
            f"channel {self._channel.name} was published {ANNOUNCEMENTS_MAX} times while we announced it: run "
            "`publisher refresh` when it is quieter, so that the broker has the newest"
        )

    def _retain(self, envelope: bytes) -> int:
        message = envelopes.pack(envelope)
        topic = self.topics.trust(self._channel.name)
        self._client.publish(topic, message, retain=True).wait(SEND_SECONDS)
        return len(message)

    def announced_envelope(self) -> bytes | None:
        """Return the envelope that the broker retains for this channel; None for nothing, or for rubbish."""
        message = self._announced()
        try:
            return None if message is None else envelopes.unpack(message)
        except UpdateRejected:
            return None

    def _announced(self) -> bytes | None:
        """Return the message retained for this channel, None when there is none within `RETAINED_SECONDS`."""
        topic = self.topics.trust(self._channel.name)
        found: queue.SimpleQueue[bytes] = queue.SimpleQueue()

        def hear(heard: str, payload: bytes, retain: bool) -> None:
            if heard == topic:
                found.put(payload)

        with self._client.listening(hear):
            self._client.subscribe([topic])
            try:
                return found.get(timeout=RETAINED_SECONDS) or None
            except queue.Empty:
                return None
            finally:
                self._client.unsubscribe([topic])

    def _verified(self, envelope: bytes) -> Verified:
        channel = self._channel
        request = functools.partial(Request, fleet=channel.fleet, channel=channel.name, now=0.0, root=channel.root())
        return verify(request(envelope=envelope))


def _state(verified: Verified) -> tuple[int, int]:
    """Return what orders two states of one history: root version, then timestamp version (T5)."""
    versions = {role: max(one.version for one in verified.floors if one.role == role) for role in ("root", "timestamp")}
    return versions["root"], versions["timestamp"]


def _timestamp(envelope: bytes) -> bytes:
    return decode_envelope(envelope).metadata["timestamp.json"]
