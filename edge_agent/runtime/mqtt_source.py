"""Samples from an MQTT topic, in batches, acknowledged only when what they led to is safe (R4).

It decides what becomes a sample and when a message is acknowledged. Payloads that do not fit are counted by kind and
acknowledged in their turn: a broken sensor never stops the stream. While more than `pending_rows_max` samples, or
`PENDING_BYTES_MAX` of them, wait to be taken nothing is read, so the broker has to wait.

A broker that resumes a session sends again what it holds as unacknowledged, under the same packet identifier (MQTT 5,
section 4.4). Messages that are held here already are recognized by identifier and content and become no second sample.
Some brokers (iotcore) number anew and set no DUP flag: there, what comes first after a resumed session is compared with
what is held, in order.

What an earlier run of the agent took and has on its trail is recognized in the same way, by what samples are marked
with: packet identifier and checksum of the payload. (By brokers that set no DUP flag it may come as new samples.)
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Sequence
from zlib import crc32

import mqtt5

from edge_agent.config import Broker, MqttInput
from edge_agent.runtime.answered import Answered
from edge_agent.runtime.decode import Layout
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.mqtt_stream import KEEP_ALIVE_SECONDS, Connection
from edge_agent.runtime.samples import BadPayload, Faults, Samples, bytes_of

__all__ = ["PENDING_BYTES_MAX", "PENDING_ROWS_MAX", "MqttSource"]

PENDING_ROWS_MAX = 4096
PENDING_BYTES_MAX = 4 << 20  # of texts and the like, beside what one read brings
SESSION_SECONDS = 24 * 3600


class _Held:
    """A message that is not acknowledged yet; `rows` is 0 for one that became no sample."""

    __slots__ = ("content", "opened", "packet_id", "rows")

    def __init__(self, packet_id: int, opened: int, content: int, rows: int) -> None:
        self.packet_id = packet_id
        self.opened = opened
        self.content = content
        self.rows = rows


class MqttSource:
    """The source of one slot. `name` becomes the MQTT client id, together with topic and QoS: an old session with
    another subscription must not pour into this one.

    `start_sequence` is where counting starts; with sequences from the payload, a redelivered message with a smaller
    one was answered before a restart and is only acknowledged (`repeats` counts them). `answered` are marks of samples
    that an earlier run took, oldest first.
    """

    finished = False

    def __init__(
        self,
        config: MqttInput,
        broker: Broker,
        name: str,
        *,
        start_sequence: int = 0,
        answered: Sequence[int] = (),
        pending_rows_max: int = PENDING_ROWS_MAX,
        keep_alive_seconds: int = KEEP_ALIVE_SECONDS,
    ) -> None:
        self._layout = Layout(config.columns, config.timestamp, config.sequence)
        self.columns = self._layout.columns
        self.faults = Faults()
        self.repeats = 0
        self._qos = config.qos
        mark = hashlib.sha256(f"{config.topic}\0{config.qos}".encode()).hexdigest()[:8]
        self._connection = Connection(
            config.broker or broker,
            f"{name}-in-{mark}",
            subscription=(config.topic, config.qos),
            session_seconds=SESSION_SECONDS if config.qos else 0,
            keep_alive_seconds=keep_alive_seconds,
        )
        self._pending_rows_max = pending_rows_max
        self._start_sequence = self._next_sequence = start_sequence
        self._opened = 0
        self._taken = 0
        self._waiting, self._bytes = Samples.none(self.columns, self._layout.dtypes), 0
        self._held: deque[_Held] = deque()
        self._awaited: dict[int, _Held] = {}
        self._expected: deque[_Held] = deque()  # the same in order, until the first message that is none of them
        self._answered = Answered()
        for known in answered:
            self._answered.add(known & 0xFFFF, known >> 16)

    @property
    def rejected(self) -> int:
        """How many messages became no sample."""
        return self.faults.total()

    @property
    def problem(self) -> str:
        """Why no samples can arrive now, in words; empty while the connection is open."""
        return self._connection.problem

    @property
    def pending(self) -> int:
        """How many samples wait to be taken."""
        return self._waiting.rows

    def interest(self) -> Interest:
        """Return descriptor, poll events and deadline; see `edge_agent.runtime.sources.Source`."""
        reading = self._waiting.rows < self._pending_rows_max and self._bytes < PENDING_BYTES_MAX
        return self._connection.interest(reading=reading)

    def handle(self, events: int, now: float) -> None:
        """Read what is there and turn it into samples."""
        connection = self._connection
        packets = connection.handle(events, now)
        if connection.opened != self._opened:
            self._opened = connection.opened
            self._resume()
        for packet in packets:
            if type(packet) is mqtt5.PublishPacket:
                self._accept(packet)
        if packets and self._qos:
            self._release(0)
            connection.flush(now)

    def take(self, room: int) -> Samples | None:
        """Return up to `room` samples, oldest first, or None. They stay unacknowledged."""
        waiting = self._waiting
        rows = min(room, waiting.rows)
        if rows <= 0:
            return None
        self._taken += rows
        if rows == waiting.rows:
            self._waiting, self._bytes = Samples.none(self.columns, waiting.dtypes), 0
            return waiting
        taken = waiting.part(0, rows)
        waiting.drop(rows)
        self._bytes -= taken.bytes if taken.dtypes else 0
        return taken

    def acknowledge(self, rows: int) -> None:
        """Tell the broker that the oldest `rows` taken samples are safe. `ValueError` if so many were not taken."""
        if not 0 <= rows <= self._taken:
            raise ValueError(f"{rows} samples cannot be acknowledged: {self._taken} are taken and unacknowledged")
        self._taken -= rows
        if self._qos and rows:
            self._release(rows)
            self._connection.flush(time.monotonic())

    def close(self) -> None:
        """Leave the broker. It keeps what is unacknowledged for the next start (QoS 1)."""
        self._connection.close()

    # --- messages

    def _accept(self, packet: mqtt5.PublishPacket) -> None:
        payload = packet.payload
        packet_id = packet.packet_id or 0
        content = crc32(payload) if packet_id else 0
        if packet_id and (
            self._known(packet_id, content) if packet.duplicate else self._renumbered(packet_id, content)
        ):
            self.repeats += 1
            return
        if packet.retain:  # from before the subscription, which asked for none
            self._hold(packet_id, content, 0)
            return
        rows, waiting = 0, self._waiting
        try:
            sequence, timestamp, values = self._layout.decode(payload)
            if sequence is None:
                sequence = self._next_sequence
                self._next_sequence += 1
            elif packet.duplicate and sequence < self._start_sequence:
                self.repeats += 1
                self._hold(packet_id, content, 0)
                return
            waiting.append(sequence, time.time_ns() if timestamp is None else timestamp, values)
            if waiting.dtypes:
                self._bytes += bytes_of(values)
            if self._qos:
                waiting.marks.append(content << 16 | packet_id)
            rows = 1
        except BadPayload as bad:
            self.faults.note(bad.kind, f"{packet.topic}: {bad}")
        if self._qos:
            self._hold(packet_id, content, rows)

    def _hold(self, packet_id: int, content: int, rows: int) -> None:
        if self._qos:
            self._held.append(_Held(packet_id, self._opened, content, rows))

    def _known(self, packet_id: int, content: int) -> bool:
        """Whether a redelivered message is held here or was answered already."""
        self._expected.clear()
        held = self._awaited.get(packet_id)
        if held is not None and held.content == content:
            del self._awaited[packet_id]
            held.opened = self._opened
        elif self._answered.has(packet_id, content):
            self._connection.send(mqtt5.PubAckPacket(packet_id).write())
        else:
            return False
        return True

    def _renumbered(self, packet_id: int, content: int) -> bool:
        """The same for a message that does not say it is sent again: it must be the next one expected."""
        if not self._expected:
            return False
        if self._expected[0].content == content:
            held = self._expected.popleft()
            self._awaited.pop(held.packet_id, None)
            held.packet_id, held.opened = packet_id, self._opened
        elif self._answered.has_content(content):
            self._connection.send(mqtt5.PubAckPacket(packet_id).write())
        else:
            self._expected.clear()
            return False
        return True

    def _release(self, rows: int) -> None:
        """Acknowledge the oldest messages that make up `rows` samples, and what was rejected among and after them.

        In the order of arrival, as MQTT 5 section 4.6 demands.
        """
        held = self._held
        while held and (rows or not held[0].rows):
            message = held.popleft()
            rows -= message.rows
            if not message.packet_id:
                continue
            if self._expected and self._expected[0] is message:
                self._expected.popleft()
            if message.opened == self._opened:
                self._connection.send(mqtt5.PubAckPacket(message.packet_id).write())
            self._awaited.pop(message.packet_id, None)
            self._answered.add(message.packet_id, message.content)

    def _resume(self) -> None:
        """Look at a fresh connection: what will be sent again, or never again."""
        if self._connection.resumed:
            self._awaited = {message.packet_id: message for message in self._held if message.packet_id}
            self._expected = deque(self._awaited.values())
            return
        self._awaited = {}
        self._expected.clear()
        self._answered.clear()
        for message in self._held:
            message.packet_id = 0  # the broker has forgotten them: no acknowledgement, other messages get these numbers
