"""A real mosquitto on a directory that `publisher broker config` wrote, and a plain client that tries its doors."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.simulators.broker import Mosquitto
from tests.simulators.waiting import until

__all__ = ["GuardedMosquitto", "Visitor", "visiting"]


class GuardedMosquitto(Mosquitto):
    """A mosquitto that runs the configuration in `written`, to the letter; as root it is told to stay root."""

    def __init__(self, written: Path, *, start: bool = True) -> None:
        self.written = written
        listener = re.search(r"^listener (\d+)", (written / "mosquitto.conf").read_text(), re.MULTILINE)
        assert listener is not None
        super().__init__(port=int(listener[1]), start=start)

    def reload(self) -> None:
        """Have it read its files again; return when it has."""
        before = self.log.count("Reloading config")
        os.kill(self.pid, 1)
        until(lambda: self.log.count("Reloading config") > before, 5, "mosquitto reads its files again")

    def _configuration(self) -> str:
        text = (self.written / "mosquitto.conf").read_text()
        return f"{text}\nlog_type all\n{'user root' if os.geteuid() == 0 else ''}\n"


class Visitor:
    """A plain paho client, none of ours: what it was answered and what it heard."""

    def __init__(self, ca: Path, cert: Path | None, key: Path | None, client_id: str) -> None:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
        context = ssl.create_default_context(cafile=str(ca))
        if cert is not None:
            context.load_cert_chain(str(cert), str(key))
        self.client.tls_set_context(context)
        self.connected: list[str] = []
        self.dropped: list[str] = []
        self.heard: list[tuple[str, bytes]] = []
        self._answers: dict[int, int] = {}
        self.client.on_connect = lambda _, __, ___, reason, ____: self.connected.append(str(reason))
        self.client.on_disconnect = lambda _, __, ___, reason, ____: self.dropped.append(str(reason))
        self.client.on_message = lambda _, __, message: self.heard.append((message.topic, message.payload))
        self.client.on_publish = lambda _, __, mid, reason, ____: self._answers.update({mid: reason.value})
        self.client.on_subscribe = lambda _, __, mid, ___, ____: self._answers.update({mid: 0})

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> int:
        """Publish at QoS 1 and return the broker's reason code: 0 taken, 0x87 not authorized."""
        mid = self.client.publish(topic, payload, qos=1, retain=retain).mid
        until(lambda: mid in self._answers, 5, f"the broker answers a publish to {topic}")
        return self._answers[mid] & 0xEF  # 0x10, no subscriber, is a yes too

    def subscribe(self, *topics: str) -> None:
        """Subscribe, and return when the broker has answered."""
        _, mid = self.client.subscribe([(topic, 1) for topic in topics])
        until(lambda: mid in self._answers, 5, "the broker answers a subscription")


@contextlib.contextmanager
def visiting(
    port: int, ca: Path, cert: Path | None = None, key: Path | None = None, *, client_id: str = "", wait: bool = True
) -> Iterator[Visitor]:
    """Connect a visitor for a while; without `wait`, whatever becomes of it."""
    visitor = Visitor(ca, cert, key, client_id)
    with contextlib.suppress(OSError):
        visitor.client.connect("127.0.0.1", port, 30)
    visitor.client.loop_start()
    try:
        if wait:
            until(lambda: "Success" in visitor.connected, 5, "the visitor is let in")
        else:
            until(lambda: visitor.connected or visitor.dropped, 5, "the visitor is let in or not")
        yield visitor
    finally:
        visitor.client.disconnect()
        visitor.client.loop_stop()
