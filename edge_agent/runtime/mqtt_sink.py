"""Outputs as JSON messages to one MQTT topic: bounded, in order, and resent until the broker has them.

An output counts as confirmed when the broker acknowledged it (QoS 1) or the socket took it (QoS 0), and never before
all older ones. What the broker refuses for good (no permission, too large) is counted as a fault and given up: a
publication that can never succeed must not stop the stream for ever.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Sequence

import mqtt5
import msgspec

from edge_agent.config import Broker, MqttOutput
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.mqtt_stream import FAILURE_CODE, KEEP_ALIVE_SECONDS, Connection
from edge_agent.runtime.samples import Faults

__all__ = ["OUTPUTS_MAX", "REFUSED", "TOO_LARGE", "MqttSink"]

OUTPUTS_MAX = 10_000
OUTPUT_BYTES_MAX = 16 * 1024 * 1024
UNSENT_BYTES_MAX = 128 * 1024
IN_FLIGHT_MAX = 1_000
REFUSED = "refused by the broker"
TOO_LARGE = "output too large"
_AT_MOST_ONCE, _Publish = mqtt5.QoS.AT_MOST_ONCE, mqtt5.PublishPacket
_encode = msgspec.json.Encoder().encode


class MqttSink:
    """The sink of one slot. `confirmed` counts outputs that are safe, since it was made."""

    def __init__(
        self,
        config: MqttOutput,
        broker: Broker,
        name: str,
        *,
        outputs_max: int = OUTPUTS_MAX,
        keep_alive_seconds: int = KEEP_ALIVE_SECONDS,
    ) -> None:
        self.confirmed = 0
        self.faults = Faults()
        self._topic = config.topic
        self._qos = mqtt5.QoS(config.qos)
        self._retain = config.retain
        self._outputs_max = outputs_max
        self._connection = Connection(config.broker or broker, f"{name}-out", keep_alive_seconds=keep_alive_seconds)
        self._opened = 0
        self._written = 0
        self._bytes = 0  # of everything unconfirmed
        self._backlog: deque[bytes] = deque()  # QoS 0: packets; QoS 1: payloads, since a packet has a number as well
        self._sending: deque[tuple[int, bytes]] = deque()  # QoS 0: where each ends in what was queued
        self._unacknowledged: OrderedDict[int, bytes | None] = (
            OrderedDict()
        )  # QoS 1: None: done, but an older one is not
        self._packet_id = 0

    @property
    def room(self) -> int:
        """How many outputs may be written now."""
        return 0 if self._bytes > OUTPUT_BYTES_MAX else self._outputs_max - (self._written - self.confirmed)

    @property
    def problem(self) -> str:
        """Why no output can leave now, in words; empty while the connection is open."""
        return self._connection.problem

    def interest(self) -> Interest:
        """Return descriptor, poll events and deadline; see `edge_agent.runtime.sinks.Sink`."""
        return self._connection.interest()

    def handle(self, events: int, now: float) -> None:
        """Send what waits, and take acknowledgements."""
        connection = self._connection
        packets = connection.handle(events, now)
        if connection.opened != self._opened:
            self._opened = connection.opened
            self._restart()
        for packet in packets:
            if isinstance(packet, mqtt5.PubAckPacket):
                self._acknowledged(packet)
        self._pump(now)

    def write(self, messages: Sequence[OutputMessage]) -> None:
        """Take outputs, in order. `ValueError` for more than `room`."""
        if len(messages) > self._outputs_max - (self._written - self.confirmed):
            raise ValueError(f"{len(messages)} outputs do not fit: there is room for {self.room}")
        made = list(map(_encode, messages))
        if self._qos == _AT_MOST_ONCE:
            topic, retain = self._topic, self._retain
            made = [_Publish(topic, payload, retain=retain).write() for payload in made]
        self._backlog.extend(made)
        self._bytes += sum(map(len, made))
        self._written += len(made)
        self._pump(time.monotonic())

    def close(self) -> None:
        """Leave the broker. What is unconfirmed is not sent."""
        self._connection.close()

    def _pump(self, now: float) -> None:
        """Give the connection as much as it may hold, and count what the socket took."""
        connection = self._connection
        while True:
            if self._backlog and connection.open:
                if self._qos == _AT_MOST_ONCE:
                    self._publish_once()
                else:
                    self._publish_window(min(IN_FLIGHT_MAX, connection.receive_maximum))
            sent = connection.sent_bytes
            connection.flush(now)
            self._handed_over()
            if not self._backlog or connection.sent_bytes == sent:
                return

    def _publish_once(self) -> None:
        """Queue what the connection may hold at QoS 0, in one piece."""
        connection, backlog = self._connection, self._backlog
        end, most, packets = connection.queued_bytes, connection.sent_bytes + UNSENT_BYTES_MAX, []
        while backlog and end < most:
            packet = backlog.popleft()
            if len(packet) <= connection.packet_bytes_max:
                packets.append(packet)
                end += len(packet)
            else:
                self._too_large(packet)
            self._sending.append((end, packet))
        connection.send(b"".join(packets))

    def _publish_window(self, window: int) -> None:
        """Queue what the connection may hold and the broker lets be under way at QoS 1."""
        connection, backlog = self._connection, self._backlog
        while (
            backlog
            and connection.queued_bytes - connection.sent_bytes < UNSENT_BYTES_MAX
            and len(self._unacknowledged) < window
        ):
            self._publish(backlog.popleft())

    def _publish(self, payload: bytes) -> None:
        packet_id = self._fresh_id()
        if not payload:
            self._unacknowledged[packet_id] = None
            self._confirm()
            return
        packet = _Publish(self._topic, payload, qos=self._qos, retain=self._retain, packet_id=packet_id).write()
        self._unacknowledged[packet_id] = payload
        if len(packet) <= self._connection.packet_bytes_max:
            self._connection.send(packet)
        else:
            self._too_large(packet)
            self._settle(packet_id)

    def _too_large(self, packet: bytes) -> None:
        """Give an output up: it would end the connection, and again after every reconnection."""
        self.faults.note(TOO_LARGE, f"{len(packet)} bytes, the broker takes {self._connection.packet_bytes_max}")

    def _fresh_id(self) -> int:
        while True:
            self._packet_id = self._packet_id % 65_535 + 1
            if self._packet_id not in self._unacknowledged:
                return self._packet_id

    def _acknowledged(self, packet: mqtt5.PubAckPacket) -> None:
        if int(packet.reason_code) >= FAILURE_CODE:
            self.faults.note(REFUSED, f"{self._topic}: {packet.reason_code.name} {packet.reason_str or ''}".rstrip())
        self._settle(packet.packet_id)

    def _settle(self, packet_id: int) -> None:
        """Mark one as done."""
        payload = self._unacknowledged.get(packet_id)
        if payload is None:
            return
        self._bytes -= len(payload)
        self._unacknowledged[packet_id] = None
        self._confirm()

    def _confirm(self) -> None:
        """Count the done ones that no undone one stands before."""
        while self._unacknowledged and next(iter(self._unacknowledged.values())) is None:
            self._unacknowledged.popitem(last=False)
            self.confirmed += 1

    def _handed_over(self) -> None:
        sending, sent = self._sending, self._connection.sent_bytes
        if sending and sending[-1][0] <= sent:
            self._bytes -= sum([len(packet) for _, packet in sending])
            self.confirmed += len(sending)
            sending.clear()
        while sending and sending[0][0] <= sent:
            self._bytes -= len(sending.popleft()[1])
            self.confirmed += 1

    def _restart(self) -> None:
        """Put what the last connection did not get through in front of the backlog, in order."""
        self._backlog.extendleft(packet for _, packet in reversed(self._sending))
        self._sending.clear()
        # One that is done already keeps its place, empty: it must not be confirmed before an older one is.
        self._backlog.extendleft(payload or b"" for payload in reversed(self._unacknowledged.values()))
        self._unacknowledged.clear()
