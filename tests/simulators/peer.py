"""An MQTT client that shares no code with ours (paho): publishes sensor payloads, collects what comes out."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

__all__ = ["Peer"]


class Peer:
    """A connected client as a context manager. It reconnects by itself and keeps its session for an hour."""

    def __init__(self, port: int, *topics: str, name: str = "peer") -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._topics = topics
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_disconnect = lambda *_: self._ready.clear()
        self._client.on_message = lambda _c, _u, m: self.messages.append((m.topic, m.payload, m.retain))
        self._client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        self._port = port

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        if self._topics:
            client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in self._topics])
        else:
            self._ready.set()

    def __enter__(self) -> Peer:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", self._port, clean_start=False, properties=properties)
        self._client.loop_start()
        self.wait_connected()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_connected(self, seconds: float = 30.0) -> None:
        """Wait until connected and subscribed."""
        assert self._ready.wait(seconds), "the peer is not connected"

    def publish(self, topic: str, payload: Any, *, qos: int = 1, retain: bool = False) -> None:
        """Publish bytes as they are and anything else as JSON; return when the broker has it (QoS 1)."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self._client.publish(topic, data, qos=qos, retain=retain).wait_for_publish(10)

    def publish_all(self, topic: str, payloads: list[Any], *, qos: int = 1) -> None:
        """Publish many, and wait for the last."""
        infos = [self._client.publish(topic, json.dumps(payload).encode(), qos=qos) for payload in payloads]
        for info in infos:
            info.wait_for_publish(10)

    def wait(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        """Wait until `condition()` is true; fail after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not reached; {len(self.messages)} messages arrived"
            time.sleep(0.005)
