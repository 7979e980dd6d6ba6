"""Feeds one device and counts what comes out. Imports nothing of Fieldcast: run as `python -I counter.py …`.

Every sample has an id of its own, every result says which ids it covers (`first` to `sequence`). An id that no result
covers is lost, one that two cover is repeated. `redelivered` counts results that came a second time under their old
(stream, sequence) key: what MQTT allows after a lost connection. Commands come as lines on standard input (`rate HZ`,
`stop`), the count so far goes as JSON lines to standard output, the last one with `"final": true`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import threading
import time
from collections import Counter
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

TELL_SECONDS = 0.05
DRAIN_SECONDS = 30.0


class Count:
    """What was sent and what was answered, by id."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sent = 0
        self.covered = bytearray()
        self.keys: set[tuple[str, int]] = set()
        self.redelivered = self.unreadable = 0
        self.outputs: Counter[str] = Counter()
        self.probation: Counter[str] = Counter()
        self.last: dict[str, Any] = {}

    def heard(self, payload: bytes) -> None:
        try:
            result = json.loads(payload)
            first, newest, key = result["first"], result["sequence"], (result["stream"], result["sequence"])
        except (ValueError, KeyError):
            self.unreadable += 1
            return
        with self.lock:
            if key in self.keys:
                self.redelivered += 1
                return
            self.keys.add(key)
            if len(self.covered) <= newest:
                self.covered.extend(bytes(newest + 1 - len(self.covered)))
            for number in range(max(first, 0), newest + 1):
                self.covered[number] = min(self.covered[number] + 1, 255)
            self.outputs[result["release"]] += 1
            self.probation[result["release"]] += bool(result["probation"])
            self.last[result["release"]] = result

    def told(self, *, final: bool) -> dict[str, Any]:
        with self.lock:
            covered = self.covered[: self.sent]
            missing = [number for number in range(len(covered)) if not covered[number]][:10]
            return {
                "final": final,
                "sent": self.sent,
                "lost": self.sent - len(covered) + covered.count(0),
                "missing": missing,
                "repeated": sum(count - 1 for count in self.covered if count > 1),
                "invented": len(self.covered) - len(covered),
                "redelivered": self.redelivered,
                "unreadable": self.unreadable,
                "outputs": dict(self.outputs),
                "probation": dict(self.probation),
                "last": self.last,
            }


def sample(number: int) -> bytes:
    """One reading: `x` is between 0 and 1 and deterministic, and so are a text and an object beside it."""
    x = 0.5 + 0.5 * math.sin(number / 7)
    tags = {"parity": ("even", "odd")[number % 2], "seen": [number, None]}
    body = {"id": number, "t": time.time_ns() // 1000, "x": x, "y": 1 - x, "text": f"sample {number}", "tags": tags}
    return json.dumps(body).encode()


class Feed:
    """Publishes at the rate asked for, until told to stop; ends on a multiple of `block` ids.

    As a sensor would, it waits while the broker is away: what is under way arrives before anything newer.
    """

    def __init__(self, client: paho.Client, topic: str, count: Count, block: int) -> None:
        self.client, self.topic, self.count, self.block = client, topic, count, block
        self.rate_hz, self.stopping = 0.0, threading.Event()
        self.arrived, self.broken = 0, False
        client.on_publish = lambda *_: setattr(self, "arrived", self.arrived + 1)
        client.on_disconnect = lambda *_: setattr(self, "broken", True)

    def may_publish(self) -> bool:
        if self.broken and self.arrived == self.count.sent and self.client.is_connected():
            self.broken = False
        return self.rate_hz > 0 and not self.broken

    def run(self) -> None:
        due = told = time.monotonic()
        while not self.stopping.is_set() or self.count.sent % self.block:
            now = time.monotonic()
            if not self.may_publish():
                due = now
            while due <= now and self.may_publish():
                self.client.publish(self.topic, sample(self.count.sent), qos=1)
                self.count.sent += 1
                due += 1 / self.rate_hz
            if now - told > TELL_SECONDS:
                told = now
                tell(self.count, final=False)
            time.sleep(0.002)

    def drain(self) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.count.told(final=False)["lost"] and time.monotonic() < deadline:
            time.sleep(0.05)

    def obey(self) -> None:
        for line in sys.stdin:
            word, _, value = line.strip().partition(" ")
            if word == "rate":
                self.rate_hz = float(value)
            elif word == "stop":
                break
        self.stopping.set()  # whoever closes the pipe wants an end, too


def tell(count: Count, *, final: bool) -> None:
    sys.stdout.write(json.dumps(count.told(final=final)) + "\n")
    sys.stdout.flush()


def connected(host: str, port: int, name: str) -> paho.Client:
    """Return a client that keeps its session over a broken connection.

    mosquitto 2.0.11 does not keep a session over its own restart that began with a clean start.
    """
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(200)
    client.reconnect_delay_set(0.1, 0.3)  # type: ignore[arg-type]
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    client.connect(host, port, clean_start=False, properties=properties)
    return client


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--host", required=True)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--device", required=True)
    arguments.add_argument("--block", type=int, default=1)
    chosen = arguments.parse_args()
    count, subscribed = Count(), threading.Event()
    sink = connected(chosen.host, chosen.port, f"count-{chosen.device}-out")
    sink.on_message = lambda _client, _userdata, message: count.heard(message.payload)
    sink.on_connect = lambda *_: sink.subscribe(f"results/{chosen.device}", qos=1)
    sink.on_subscribe = lambda *_: subscribed.set()
    sink.loop_start()
    if not subscribed.wait(30):
        sys.exit("counter: the broker does not answer")
    source = connected(chosen.host, chosen.port, f"count-{chosen.device}-in")
    source.loop_start()
    feed = Feed(source, f"sensors/{chosen.device}", count, chosen.block)
    threading.Thread(target=feed.obey, daemon=True).start()
    tell(count, final=False)
    feed.run()
    feed.drain()
    tell(count, final=True)
    source.disconnect()
    sink.disconnect()


if __name__ == "__main__":
    main()
