"""Feeds the devices and counts what comes out. Imports nothing of Fieldcast: run as `python -I meter.py …`.

It publishes every sample with an id of its own and reads the results from the broker. A result says which ids it
covers (`first` to `sequence`); an id that no result covers is lost, one that two cover is repeated. Labels never leave
this process. Commands come as lines on standard input (`start`, `stop`), what was counted goes as JSON lines to
standard output, the last one with `"final": true`.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import threading
import time
from collections import Counter
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

WINDOW = 100
TELL_SECONDS = 0.5
DRAIN_SECONDS = 15.0


class Meter:
    """Source and sink of every device in one place."""

    def __init__(self, rows: list[dict[str, str]], prefix: str, devices: list[str], rate_hz: float) -> None:
        self.rows, self.prefix, self.devices, self.rate_hz = rows, prefix, devices, rate_hz
        windows = len(rows) // WINDOW
        self.offset = {device: place * windows // len(devices) * WINDOW for place, device in enumerate(devices)}
        self.sent = dict.fromkeys(devices, 0)
        self.covered: dict[str, bytearray] = {device: bytearray() for device in devices}
        self.outputs: Counter[str] = Counter()
        self.right: Counter[str] = Counter()
        self.running: dict[str, str] = {}
        self.lock = threading.Lock()
        self.asked_to_start, self.asked_to_stop = threading.Event(), threading.Event()

    def heard(self, _client: object, _userdata: object, message: Any) -> None:
        """Take one result of a device."""
        device = message.topic.rpartition("/")[2]
        result = json.loads(message.payload)
        with self.lock:
            covered = self.covered[device]
            last = result["sequence"]
            if len(covered) <= last:
                covered.extend(bytes(last + 1 - len(covered)))
            for sample in range(result["first"], last + 1):
                covered[sample] = min(covered[sample] + 1, 255)
            release = self.running[device] = result["release"]
            self.outputs[release] += 1
            label = self.rows[(self.offset[device] + result["first"]) % len(self.rows)]["label"]
            self.right[release] += result["values"]["activity"] == label

    def payload(self, device: str) -> bytes:
        """Return the device's next sample, with its id."""
        number = self.sent[device]
        row = self.rows[(self.offset[device] + number) % len(self.rows)]
        sample = {name: float(row[name]) for name in ("ax", "ay", "az", "gx", "gy", "gz")}
        return json.dumps({"id": number, "t": time.time_ns() // 1_000_000, **sample}).encode()

    def feed(self, client: paho.Client) -> None:
        """Publish at the nominal rate until told to stop, then up to the end of the window begun."""
        started, told = time.monotonic(), 0.0
        while not self.asked_to_stop.is_set() or any(count % WINDOW for count in self.sent.values()):
            due = int((time.monotonic() - started) * self.rate_hz)
            for device in self.devices:
                while self.sent[device] < due and not (self.asked_to_stop.is_set() and self.sent[device] % WINDOW == 0):
                    client.publish(f"{self.prefix}/sensors/{device}", self.payload(device), qos=1)
                    self.sent[device] += 1
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self.tell(final=False)
            time.sleep(0.004)

    def drain(self) -> None:
        """Wait until every sample is covered, or for `DRAIN_SECONDS` at the most."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.counts()[0] and time.monotonic() < deadline:
            time.sleep(0.05)

    def counts(self) -> tuple[int, int]:
        """Return samples lost and samples repeated so far; samples not answered yet count as lost."""
        with self.lock:
            lost = repeated = 0
            for device in self.devices:
                covered = self.covered[device][: self.sent[device]]
                lost += self.sent[device] - len(covered) + covered.count(0)
                repeated += sum(one - 1 for one in self.covered[device] if one > 1)
            return lost, repeated

    def tell(self, *, final: bool) -> None:
        """Write what was counted so far as one line."""
        lost, repeated = self.counts()
        with self.lock:
            told = {
                "final": final,
                "sent": sum(self.sent.values()),
                "lost": lost,
                "repeated": repeated,
                "running": dict(self.running),
                "answered": {device: len(self.covered[device]) for device in self.devices},
                "outputs": dict(self.outputs),
                "accuracy": {name: round(self.right[name] / count, 4) for name, count in sorted(self.outputs.items())},
            }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()

    def obey(self) -> None:
        """Follow the commands on standard input until `stop`, or until nobody is there to say it."""
        for line in sys.stdin:
            if line.strip() == "start":
                self.asked_to_start.set()
            elif line.strip() == "stop":
                break
        self.asked_to_start.set()  # whoever closes the pipe wants an end, too
        self.asked_to_stop.set()


def main() -> None:
    """Feed and count until told to stop."""
    chosen = _arguments()
    with open(chosen.csv, newline="") as file:  # noqa: PTH123 - standard library only, as little as possible
        rows = list(csv.DictReader(file))
    meter = Meter(rows, chosen.prefix, chosen.devices.split(","), chosen.rate_hz)
    client = _connect(meter, chosen.host, chosen.port)
    threading.Thread(target=meter.obey, daemon=True).start()
    meter.tell(final=False)
    meter.asked_to_start.wait()
    meter.feed(client)
    meter.drain()
    client.loop_stop()
    meter.tell(final=True)


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser()
    for name in ("--host", "--csv", "--prefix", "--devices"):
        arguments.add_argument(name, required=True)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--rate-hz", type=float, required=True)
    return arguments.parse_args()


def _connect(meter: Meter, host: str, port: int) -> paho.Client:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(200)
    client.on_message = meter.heard
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect(host, port)
    client.loop_start()
    client.subscribe(f"{meter.prefix}/results/+", qos=1)
    if not subscribed.wait(10):
        sys.exit("meter: the broker does not answer")
    return client


if __name__ == "__main__":
    main()
