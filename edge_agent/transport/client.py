"""The control plane's MQTT 5 connection: paho-mqtt, with what a program that runs for years needs around it (M1, M3).

It reconnects for ever with jittered back-off, subscribes again when the broker kept no session, refuses a packet that
is larger than the broker takes *before* sending it (sent, it would be repeated for ever), and never lets a callback's
exception through. It carries trust, blobs, reports and commands at QoS 1; sensor topics have a plane of their own (M5).

Two threads: paho's network thread, which calls `on_message` and `on_state`, and the `keeper`. Callbacks may publish and
subscribe; they must not wait.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.contract.errors import TransportError
from edge_agent.transport.address import Address, tls_context
from edge_agent.transport.backoff import Backoff
from edge_agent.transport.delivery import Deliveries, Delivery, packet_bytes
from edge_agent.transport.keeper import Keeper
from edge_agent.transport.session import (
    PACKET_BYTES_MAX,
    QUEUED_MAX,
    Will,
    connect_arguments,
    new_paho,
    publish_properties,
)
from edge_agent.transport.subscriptions import Subscriptions

__all__ = ["Client", "Delivery", "Will"]

log = logging.getLogger(__name__)

# What a managed broker takes; assumed until a CONNACK says more or less.
ASSUMED_PACKET_BYTES_MAX = 128 * 1024
# Managed brokers take no more topics in one SUBSCRIBE.
TOPICS_PER_PACKET = 8
# A connection that lived shorter counts as a failed attempt: two clients with one id would else displace each other
# as fast as they can.
STABLE_SECONDS = 10.0
# … unless it brought more than every short one does: a line that breaks every few seconds still makes progress.
USEFUL_BYTES = 256 * 1024

OnMessage = Callable[[str, bytes, bool], None]
OnState = Callable[[bool, bool], None]


class Client:
    """An MQTT 5 client that stays connected. `address` is the broker's, `faults` counts what callbacks raised.

    `on_message(topic, payload, retain)` and `on_state(connected, session_present)` run in the network thread. The
    session outlives the connection by `session_expiry_seconds`. Raises `ConfigError` for an unusable URL or TLS file.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        will: Will | None = None,
        clean_start: bool = False,
        session_expiry_seconds: int = 7 * 86_400,
        on_message: OnMessage | None = None,
        on_state: OnState | None = None,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        username: str | None = None,
        password: str | None = None,
        keep_alive_seconds: int = 30,
        backoff: Backoff | None = None,
    ) -> None:
        self.address = Address.parse(url)
        self.client_id = client_id
        self.faults: Counter[str] = Counter()
        self._on_state = on_state
        self._listeners: tuple[OnMessage, ...] = () if on_message is None else (on_message,)
        self._lock = threading.Lock()
        self._subscriptions = Subscriptions()
        self._asked: dict[int, list[str]] = {}
        self._deliveries = Deliveries()
        self._connected = threading.Event()
        self._connected_since = 0.0
        self._connections = self._received_bytes = 0
        self._packet_bytes_max = ASSUMED_PACKET_BYTES_MAX
        self._cause = "never tried"
        self._paho = new_paho(client_id, will, username, password)
        self._wire()
        if self.address.tls:
            self._paho.tls_set_context(tls_context(ca, cert, key))
        connect = connect_arguments(
            self.address,
            keep_alive_seconds=keep_alive_seconds,
            clean_start=clean_start,
            session_expiry_seconds=session_expiry_seconds,
        )
        self._keeper = Keeper(
            self._paho, connect, backoff or Backoff(0.3, 60.0), on_death=self._died, on_end=self._ended
        )

    # --- for callers -----------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection stands, as far as we know."""
        return self._connected.is_set()

    @property
    def connection(self) -> int:
        """The number of the present connection, or of the last one; 0 before the first."""
        return self._connections

    @property
    def condition(self) -> str:
        """Say in words how the connection is: `connected`, or why not."""
        return "connected" if self.connected else f"not connected: {self._cause}"

    def _describe(self) -> str:
        return f"broker {self.address} ({self.condition})"

    @property
    def in_callback(self) -> bool:
        """Whether the caller runs in the network thread."""
        return self._keeper.in_network_thread

    @property
    def packet_bytes_max(self) -> int:
        """The largest packet the broker takes; a careful guess before it has said so."""
        return self._packet_bytes_max

    def start(self) -> Client:
        """Begin to connect, and go on for ever. Returns at once; a client is started once."""
        self._cause = "no answer yet"
        self._keeper.start()
        return self

    def wait_connected(self, timeout_seconds: float) -> None:
        """Return when connected. Raises `TransportError` with host, port and cause when that takes too long."""
        if not self._connected.wait(timeout_seconds):
            raise TransportError(
                f"broker {self.address} cannot be reached within {timeout_seconds:g} s: {self._cause}; "
                "check that it runs, the address, and the network"
            )

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 1,
        retain: bool = False,
        *,
        properties: Mapping[str, str | bytes | int] | None = None,
    ) -> Delivery:
        """Hand a message to the broker; what is sent while disconnected at QoS 1 goes out later.

        `properties` are MQTT 5's by the names that paho gives them (`ResponseTopic`, `CorrelationData`, …).
        Raises `TransportError` when the broker would not take the packet's size, when too many messages wait, and at
        QoS 0 without connection.
        """
        delivery = Delivery(
            topic,
            packet_bytes(topic, payload, properties),
            describe=self._describe,
            forbidden=lambda: self.in_callback,
        )
        if delivery.packet_bytes > self._packet_bytes_max:
            raise TransportError(
                f"{topic}: a packet of {delivery.packet_bytes} bytes exceeds the {self._packet_bytes_max} that broker "
                f"{self.address} takes; raise the broker's limit (mosquitto: max_packet_size) or send less"
            )
        with self._lock:
            info = self._paho.publish(topic, payload, qos, retain, publish_properties(properties))
            if info.rc == paho.MQTT_ERR_QUEUE_SIZE:
                raise TransportError(f"{topic}: {QUEUED_MAX} messages already wait for {self._describe()}")
            if qos:
                self._deliveries.add(info.mid, delivery)
        if not qos:
            if info.rc != paho.MQTT_ERR_SUCCESS:
                raise TransportError(f"{topic}: not sent to {self._describe()}, and QoS 0 does not wait")
            delivery.settle("")
        return delivery

    def subscribe(self, topics: Iterable[str], qos: int = 1) -> None:
        """Ask for `topics` now and after every connect that finds no session. Retained messages come again."""
        with self._lock:
            pairs = self._subscriptions.want(topics, qos)
            if self.connected:
                self._ask(pairs)

    def ask(self, topics: Iterable[str]) -> int:
        """Ask for `topics` at QoS 0 on this connection only; return its number, 0 when there is none.

        For retained messages that are wanted once: what a connection loses, whoever asked asks for again on the next
        one. At QoS 1 the broker would send again what has arrived, wherever its confirmation was lost (M2).
        """
        with self._lock:
            if not self.connected:
                return 0
            self._ask([(topic, 0) for topic in topics])
            return self._connections

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Ask for `topics` no more."""
        with self._lock:
            names = self._subscriptions.drop(topics)
            if self.connected:
                self._release(names)

    def refusal(self, topic: str) -> str:
        """Return why the broker refused the subscription to `topic`, or an empty string."""
        with self._lock:
            return self._subscriptions.refusal(topic)

    def granted(self, topic: str) -> bool:
        """Tell whether the broker has granted the subscription to `topic`."""
        with self._lock:
            return self._subscriptions.has(topic)

    @contextlib.contextmanager
    def listening(self, listener: OnMessage) -> Iterator[None]:
        """Let `listener(topic, payload, retain)` hear every message too, for a while."""
        with self._lock:
            self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            with self._lock:
                kept = list(self._listeners)
                kept.remove(listener)
                self._listeners = tuple(kept)

    def stop(self) -> None:
        """Say goodbye (the will is not sent) and end both threads, within a few seconds. Safe to call twice."""
        self._keeper.stop()

    def __enter__(self) -> Client:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- the keeper's thread ---------------------------------------------------------------------------------------

    def _died(self) -> None:
        self.faults["network thread restarted"] += 1
        self._connected.clear()
        self._cause = "the network thread died"

    def _ended(self) -> None:
        self._connected.clear()
        self._cause = "stopped"
        self._deliveries.fail_all("the client was stopped")

    def _settle(self, mid: int, refusal: str) -> None:
        # Whoever publishes holds the lock until the delivery is in the ledger; an answer may be faster than that.
        with self._lock:
            self._deliveries.settle(mid, refusal)

    def _answered(self, mid: int, refusals: list[str]) -> None:
        with self._lock:
            for topic, refusal in zip(self._asked.pop(mid, []), refusals, strict=False):
                if not topic:
                    continue
                self._subscriptions.answered(topic, refusal)
                if refusal:
                    log.warning("subscription_refused broker=%s topic=%s reason=%s", self.address, topic, refusal)

    # --- with the lock held ----------------------------------------------------------------------------------------

    def _ask(self, pairs: list[tuple[str, int]]) -> None:
        for start in range(0, len(pairs), TOPICS_PER_PACKET):
            batch = pairs[start : start + TOPICS_PER_PACKET]
            result, mid = self._paho.subscribe([(topic, SubscribeOptions(qos=qos)) for topic, qos in batch])
            if result == paho.MQTT_ERR_SUCCESS and mid is not None:
                self._asked[mid] = [topic for topic, _ in batch]

    def _release(self, topics: list[str]) -> None:
        for start in range(0, len(topics), TOPICS_PER_PACKET):
            batch = topics[start : start + TOPICS_PER_PACKET]
            result, _ = self._paho.unsubscribe(batch)
            if result == paho.MQTT_ERR_SUCCESS:
                self._subscriptions.released(batch)
                for asked in self._asked.values():  # what comes may be here before the answer: that grants nothing now
                    asked[:] = ["" if topic in batch else topic for topic in asked]

    # --- paho's network thread -------------------------------------------------------------------------------------

    def _wire(self) -> None:
        self._paho.on_connect = self._on_connect
        self._paho.on_connect_fail = self._on_connect_fail
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_message = self._on_message
        self._paho.on_publish = self._on_publish
        self._paho.on_subscribe = self._on_subscribe

    def _on_connect(self, _: object, __: object, flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        if reason.is_failure:
            self._fails(f"the broker refuses us: {reason}")
            return
        self._packet_bytes_max = min(getattr(properties, "MaximumPacketSize", PACKET_BYTES_MAX), PACKET_BYTES_MAX)
        self._drop_oversized()
        self._connected_since, self._received_bytes = time.monotonic(), 0
        session_present = bool(flags.session_present)
        with self._lock:
            self._asked.clear()
            asks, leftovers = self._subscriptions.connected(session_present)
            self._ask(asks)
            self._release(leftovers)
            self._connections += 1
            self._connected.set()
        log.info("broker_connected broker=%s session_present=%s", self.address, session_present)
        self._tell(True, session_present)

    def _drop_oversized(self) -> None:
        # Queued for a broker that took more: sent now, it would end this connection and every later one.
        if self._deliveries.any_above(self._packet_bytes_max):
            self._paho.drop_out_messages()
            self._deliveries.fail_all(f"a waiting packet exceeds the {self._packet_bytes_max} bytes it takes now")

    def _on_connect_fail(self, *_: object) -> None:
        # paho calls this inside its `except OSError`, and passes no cause.
        self._fails(str(sys.exception() or "connection failed"))
        self._keeper.delay_reconnect()

    def _fails(self, cause: str) -> None:
        """Keep why there is no connection, and log it once: the next hundred attempts fail alike."""
        if cause != self._cause:
            log.info("broker_unreachable broker=%s reason=%s", self.address, cause)
        self._cause = cause

    def _on_disconnect(self, _: object, __: object, ___: object, reason: ReasonCode, ____: object) -> None:
        was_connected = self._connected.is_set()
        self._connected.clear()
        if was_connected:
            self._cause = f"connection lost: {reason}"
            log.info("broker_disconnected broker=%s reason=%s", self.address, reason)
            if time.monotonic() - self._connected_since >= STABLE_SECONDS or self._received_bytes >= USEFUL_BYTES:
                self._keeper.held()
        elif self._cause == "no answer yet":  # with TLS 1.3 a client learns of its refusal only by being hung up on
            self._fails("the broker hung up before it answered; with TLS: is our certificate good and not revoked?")
        self._keeper.delay_reconnect()
        if was_connected:
            self._tell(False, False)

    def _on_message(self, _: object, __: object, message: paho.MQTTMessage) -> None:
        self._received_bytes += len(message.payload)
        for listener in self._listeners:
            try:
                listener(message.topic, bytes(message.payload), message.retain)
            except Exception as error:  # noqa: BLE001 - one listener's mistake must not cost the others the message
                self._fault("on_message", error)

    def _on_publish(self, _: object, __: object, mid: int, reason: ReasonCode, ___: object) -> None:
        refusal = str(reason) if reason.is_failure else ""
        self._keeper.post(lambda: self._settle(mid, refusal))

    def _on_subscribe(self, _: object, __: object, mid: int, reasons: list[ReasonCode], ___: object) -> None:
        refusals = [str(reason) if reason.is_failure else "" for reason in reasons]
        self._keeper.post(lambda: self._answered(mid, refusals))

    def _tell(self, connected: bool, session_present: bool) -> None:
        if self._on_state is None:
            return
        try:
            self._on_state(connected, session_present)
        except Exception as error:  # noqa: BLE001 - see _on_message
            self._fault("on_state", error)

    def _fault(self, callback: str, error: Exception) -> None:
        self.faults[f"{callback}: {type(error).__name__}"] += 1
        log.error("callback_failed callback=%s client=%s", callback, self.client_id, exc_info=error)
