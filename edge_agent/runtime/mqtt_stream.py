"""One MQTT 5 connection for sensor data: bytes to packets and back, never blocking, always coming back (M5).

It owns connecting, CONNECT and CONNACK, keep-alive, subscription, bounded buffers and the wait between attempts. It
does not own packet identifiers, acknowledgements or resending: source and sink do, since only they know what is safe.
Traps of the codec: `IndexError` means more bytes are needed, invalid UTF-8 raises a `BaseException`, a header may
claim 256 MB. A source that stops reading stops its acknowledgements: source and sink use a connection each.

    WAITING ──retry time──> DIALING ──socket──> GREETING ──CONNACK──> OPEN
       ^─────────────────────┴────────── any fault ──┴──────────────────┘
"""

from __future__ import annotations

import enum
import random
import select
import socket
import ssl
import time

import mqtt5

from edge_agent.config import Broker
from edge_agent.runtime.dial import CONNECT_SECONDS, Dial
from edge_agent.runtime.interest import Interest

__all__ = ["FAILURE_CODE", "PACKET_BYTES_MAX", "Connection", "Subscription"]

PACKET_BYTES_MAX = 256 * 1024
READ_BYTES_MAX = 64 * 1024  # parsing this much takes about 2 ms, which is how long a frame may wait (R3)
RETRY_SECONDS = (0.1, 30.0)
STABLE_SECONDS = 5.0  # a connection that lived this long starts the waiting anew
KEEP_ALIVE_SECONDS = 20
RECEIVE_MAXIMUM = 10_000
CONNACK_BYTE = 0x20
_DATA = (mqtt5.PublishPacket, mqtt5.PubAckPacket)
FAILURE_CODE = 0x80  # reason codes from here on are failures (MQTT 5, section 2.4); mqtt5 enums do not compare

Subscription = tuple[str, int]


class _State(enum.Enum):
    WAITING = enum.auto()
    DIALING = enum.auto()
    GREETING = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class _Lost(Exception):
    """The connection cannot go on; the text says why."""


class Connection:
    """A connection to `broker` as `client_id`, made and kept by calling `handle` as `interest` asks.

    `opened` counts how often it was established, `resumed` whether the broker still knew the session last time;
    `problem` says in words why it is not open, or is empty. `session_seconds` above 0 keeps the session that long.
    `ValueError` for a subscription that is no topic filter.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        subscription: Subscription | None = None,
        session_seconds: int = 0,
        keep_alive_seconds: int = KEEP_ALIVE_SECONDS,
    ) -> None:
        self.opened = 0
        self.resumed = False
        self.problem = f"not connected to {broker.address} yet"
        self.receive_maximum = 0
        self.packet_bytes_max = 0
        self.sent_bytes = 0  # of what was queued since the connection was opened
        self.queued_bytes = 0
        self._broker = broker
        self._client_id = client_id
        self._subscription = subscription
        self._subscribe = _subscribe(*subscription) if subscription else b""
        self._session_seconds = session_seconds
        self._keep_alive = self._keep_alive_wanted = keep_alive_seconds
        self._state = _State.WAITING
        self._retry_at = 0.0
        self._failures = 0
        self._dial: Dial | None = None
        self._socket: socket.socket | None = None
        self._buffer = memoryview(bytearray(PACKET_BYTES_MAX))
        self._have = 0
        self._out = bytearray()
        self._reading = True
        self._since = self._received_at = self._sent_at = 0.0
        self._pinged_at: float | None = None

    @property
    def open(self) -> bool:
        """Whether packets can be sent now."""
        return self._state is _State.OPEN

    def interest(self, *, reading: bool = True) -> Interest:
        """Return descriptor (or -1), poll events and the monotonic time by which `handle` must be called.

        With `reading` False nothing more is read, so that the broker has to wait. The descriptor changes with every
        connection, possibly to the same number again.
        """
        if reading and not self._reading:  # silence while nobody listened proves nothing
            self._pinged_at, self._received_at = None, time.monotonic()
        self._reading = reading
        if self._socket is not None:
            events = (select.POLLIN if reading else 0) | (select.POLLOUT if self._out else 0)
            return self._socket.fileno(), events, 0.0 if reading and self._undecrypted() else self._deadline()
        if self._dial is not None:
            return self._dial.fd, select.POLLIN, None
        return -1, 0, self._retry_at if self._state is _State.WAITING else None

    def handle(self, events: int, now: float) -> list[mqtt5.PublishPacket | mqtt5.PubAckPacket]:
        """Do what can be done without waiting, given what poll() saw; return data packets in order of arrival.

        Never raises for what broker or network do: the connection is dropped and `problem` says why.
        """
        packets: list[mqtt5.PublishPacket | mqtt5.PubAckPacket] = []
        try:
            if self._state is _State.WAITING:
                self._call(now)
            elif self._state is _State.DIALING:
                self._greet(now)
            elif self._socket is not None:
                if events & select.POLLOUT:
                    self.flush(now)
                if self._reading and (events & ~select.POLLOUT or self._undecrypted()):
                    self._receive(now, packets)
                elif events & (select.POLLHUP | select.POLLERR):
                    raise _Lost("the connection was reset")
                self._keep(now)
        except _Lost as lost:
            self._lose(str(lost), now)
        return packets

    def send(self, packet: bytes) -> None:
        """Queue a packet's bytes; they are dropped unless the connection is open. `flush` or `handle` sends them."""
        if self.open:
            self._out += packet
            self.queued_bytes += len(packet)

    def flush(self, now: float) -> None:
        """Hand queued bytes to the socket as far as it takes them."""
        if not self._out or self._socket is None:
            return
        try:
            sent = self._socket.send(self._out)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError as error:
            self._lose(f"sending failed: {error.strerror or error}", now)
            return
        del self._out[:sent]
        self._sent_at = now
        if self.open:
            self.sent_bytes += sent

    def refuse(self, why: str) -> None:
        """Drop the connection for a reason of the caller's, and try again later."""
        self._lose(why, time.monotonic())

    def close(self) -> None:
        """Say goodbye if that works at once, and close everything."""
        if self.open:
            self._out += mqtt5.DisconnectPacket().write()
            self.flush(time.monotonic())
        self._drop()
        self._state = _State.CLOSED

    # --- coming and going

    def _call(self, now: float) -> None:
        if now >= self._retry_at:
            self._dial = Dial(self._broker)
            self._state = _State.DIALING

    def _greet(self, now: float) -> None:
        answer = self._dial.take() if self._dial is not None else None
        if answer is None:
            return
        self._dial = None
        if isinstance(answer, str):
            raise _Lost(answer)
        self._socket, password = answer
        self._state = _State.GREETING
        self._since = self._received_at = self._sent_at = now
        self._out += mqtt5.ConnectPacket(
            self._client_id,
            username=self._broker.username or None,
            password=password,
            clean_start=not self._session_seconds,
            session_expiry_interval=self._session_seconds,
            keep_alive=self._keep_alive_wanted,
            receive_max=RECEIVE_MAXIMUM,
            max_packet_size=PACKET_BYTES_MAX,
        ).write()
        self.flush(now)

    def _welcome(self, packet: mqtt5.ConnAckPacket) -> None:
        if packet.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            raise _Lost(f"refused the connection: {packet.reason_code.name} {packet.reason_str or ''}".rstrip())
        self._state = _State.OPEN
        self.sent_bytes = self.queued_bytes = 0
        self._keep_alive = packet.server_keep_alive or self._keep_alive_wanted
        self.receive_maximum = packet.receive_max
        self.packet_bytes_max = packet.max_packet_size or PACKET_BYTES_MAX
        self.resumed = packet.session_present and self._session_seconds > 0
        self.opened += 1
        self.problem = ""
        # Asked for even when the session knows it: costs nothing, and heals a broker that lost half of it.
        self.send(self._subscribe)

    def _lose(self, why: str, now: float) -> None:
        if self.open and now - self._since >= STABLE_SECONDS:
            self._failures = 0
        first, most = RETRY_SECONDS
        wait = min(most, first * 2 ** min(self._failures, 16)) * random.uniform(0.5, 1.0)
        self._failures += 1
        self._drop()
        self._retry_at = now + wait
        self._state = _State.WAITING
        self.problem = why if self._broker.address in why else f"{self._broker.address}: {why}"

    def _drop(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
        if self._socket is not None:
            self._socket.close()
        self._dial = self._socket = self._pinged_at = None
        self._out.clear()
        self._have = 0

    # --- keep-alive

    def _deadline(self) -> float:
        if self._state is _State.GREETING:
            return self._since + CONNECT_SECONDS
        half = self._keep_alive / 2
        heard = self._received_at if self._reading else self._sent_at
        return (self._pinged_at if self._pinged_at is not None else min(self._sent_at, heard)) + half

    def _keep(self, now: float) -> None:
        if self._socket is None or now < self._deadline():
            return
        if self._state is _State.GREETING:
            raise _Lost(f"did not answer within {CONNECT_SECONDS:.0f} s")
        if self._pinged_at is not None and self._reading:
            raise _Lost(f"silent for {now - self._received_at:.1f} s")
        # While nothing is read no answer can be seen: then pings only keep the broker from giving up on us.
        self._pinged_at = now
        self.send(mqtt5.PingReqPacket().write())
        self.flush(now)

    # --- reading

    def _undecrypted(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _receive(self, now: float, packets: list[mqtt5.PublishPacket | mqtt5.PubAckPacket]) -> None:
        """Read once, parse every whole packet, keep the rest."""
        assert self._socket is not None
        if self._have == PACKET_BYTES_MAX:
            raise _Lost(f"sent a packet above the agreed {PACKET_BYTES_MAX} bytes")
        try:
            room = self._buffer[self._have : self._have + READ_BYTES_MAX]
            size = self._socket.recv_into(room)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            raise _Lost(f"reading failed: {error.strerror or error}") from None
        if size == 0:
            raise _Lost("closed the connection")
        self._received_at = now
        self._pinged_at = None
        end, start = self._have + size, 0
        if self._state is _State.GREETING and self._buffer[0] != CONNACK_BYTE:
            raise _Lost("does not speak MQTT: its first answer is no CONNACK")
        try:
            start = self._parse(end, packets)
        finally:
            self._have = 0
        rest = end - start
        if start and rest:
            self._buffer[:rest] = bytes(self._buffer[start:end])
        self._have = rest
        self.flush(now)

    def _parse(self, end: int, packets: list[mqtt5.PublishPacket | mqtt5.PubAckPacket]) -> int:
        read, buffer, start = mqtt5.read, self._buffer, 0
        while start < end:
            try:
                packet, size = read(buffer[start:end])
            except IndexError:
                return start
            except BaseException as error:  # a panic of the codec is none of Exception
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                raise _Lost(f"sent what is not MQTT 5: {error}") from None
            start += size
            if isinstance(packet, _DATA) and self._state is _State.OPEN:
                packets.append(packet)
            else:
                self._control(packet)
        return start

    def _control(self, packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.ConnAckPacket) and self._state is _State.GREETING:
            self._welcome(packet)
        elif isinstance(packet, mqtt5.SubAckPacket):
            for code in packet.reason_codes:
                if int(code) >= FAILURE_CODE:
                    topic = self._subscription[0] if self._subscription else ""
                    raise _Lost(f"refused the subscription to {topic!r}: {code.name}")
        elif isinstance(packet, mqtt5.DisconnectPacket):
            raise _Lost(f"ended the connection: {packet.reason_code.name} {packet.reason_str or ''}".rstrip())
        elif not isinstance(packet, mqtt5.PingRespPacket):
            raise _Lost(f"sent an unexpected {type(packet).__name__}")


def _subscribe(topic: str, qos: int) -> bytes:
    """Return SUBSCRIBE without retained messages: what was measured before we came is not part of the stream.

    A broker that sends them all the same marks them, and only them (`retain_as_published` off).
    """
    wanted = mqtt5.TopicFilter(
        topic,
        max_qos=mqtt5.QoS(qos),
        retain_as_published=False,
        retain_handling=mqtt5.RetainHandling.SEND_NEVER,
    )
    return mqtt5.SubscribePacket(1, [wanted]).write()
