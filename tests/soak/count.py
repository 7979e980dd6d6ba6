"""Feeds one device and counts what comes out, for hours. Imports the standard library alone: `python -I count.py PORT`.

A bare MQTT 3.1.1 connection, QoS 1 both ways. Every reading has an id and the time it was sent, every result says which
ids it covers (`first` to `sequence`). Commands come as lines on standard input (`rate HZ`, `stop`); each second, and at
the end with `"final": true`, the count goes out as a line of JSON: `sent`, `covered` (ids that a result covers),
`repeated` (covered once more), `invented` (never sent), `unreadable`, and milliseconds from sending to the result:
`p99_ms`, `longest_ms`, over the time since the line before.
"""

from __future__ import annotations

import json
import math
import select
import socket
import sys
import time

TELL_SECONDS = 1.0
DRAIN_SECONDS = 30.0
TICK_SECONDS = 0.002
# First bytes of packets: MQTT 3.1.1, section 2.2 (PUBLISH with QoS 1).
CONNECT, PUBLISH, PUBACK, SUBSCRIBE = 0x10, 0x32, 0x40, 0x82


def text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def packet(head: int, body: bytes) -> bytes:
    length, size = b"", len(body)
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | 0x80 if size else digit])
        if not size:
            return bytes([head]) + length + body


def packets(buffer: bytearray) -> list[tuple[int, bytes]]:
    """Take whole packets off the buffer: (first byte, body)."""
    found, at = [], 0
    while True:
        size = shift = 0
        start = at + 1
        while start < len(buffer) and start < at + 5:
            digit = buffer[start]
            size |= (digit & 0x7F) << shift
            shift += 7
            start += 1
            if digit < 0x80:
                break
        else:
            break
        if len(buffer) < start + size:
            break
        found.append((buffer[at], bytes(buffer[start : start + size])))
        at = start + size
    del buffer[:at]
    return found


class Count:
    """What was sent and what was answered, by id."""

    def __init__(self) -> None:
        self.sent = self.covered = self.repeated = self.invented = self.unreadable = 0
        self._times: list[int] = []
        self._seen = bytearray()
        self._waits: list[int] = []
        self.longest = 0

    def reading(self, now: int) -> bytes:
        number = self.sent
        self.sent += 1
        self._times.append(now)
        self._seen.append(0)
        x = 0.5 + 0.5 * math.sin(number / 7)
        return json.dumps({"id": number, "t": now // 1000, "x": x}).encode()

    def heard(self, payload: bytes, now: int) -> None:
        try:
            result = json.loads(payload)
            first, newest = int(result["first"]), int(result["sequence"])
        except (ValueError, KeyError, TypeError):
            self.unreadable += 1
            return
        for number in range(first, newest + 1):
            if not 0 <= number < self.sent:
                self.invented += 1
            elif self._seen[number]:
                self.repeated += 1
            else:
                self._seen[number] = 1
                self.covered += 1
                self._waits.append(now - self._times[number])

    def told(self, *, final: bool = False) -> dict[str, object]:
        waits, self._waits = sorted(self._waits), []
        self.longest = max(self.longest, waits[-1] if waits else 0)
        return {
            "final": final,
            "sent": self.sent,
            "covered": self.covered,
            "lost": self.sent - self.covered if final else 0,
            "repeated": self.repeated,
            "invented": self.invented,
            "unreadable": self.unreadable,
            "p99_ms": round(waits[int(len(waits) * 0.99)] / 1e6, 2) if waits else 0.0,
            "longest_ms": round((self.longest if final else waits[-1] if waits else 0) / 1e6, 2),
        }


class Line:
    """The connection; what cannot be sent at once waits in `out`."""

    def __init__(self, port: int, device: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.out, self._in, self._number = bytearray(), bytearray(), 0
        self._topic = text(f"sensors/{device}")
        self.sock.sendall(packet(CONNECT, text("MQTT") + b"\x04\x02\x00\x00" + text(f"soak-{device}")))
        self.sock.sendall(packet(SUBSCRIBE, b"\x00\x01" + text(f"results/{device}") + b"\x01"))
        heard: list[tuple[int, bytes]] = []
        while not any(head == 0x90 for head, _ in heard):
            heard += self.read()
        self.sock.setblocking(False)

    def publish(self, payload: bytes) -> None:
        self._number = self._number % 65_535 + 1
        self.out += packet(PUBLISH, self._topic + self._number.to_bytes(2, "big") + payload)

    def read(self) -> list[tuple[int, bytes]]:
        data = self.sock.recv(1 << 16)
        if not data:
            sys.exit("count: the broker closed the connection")
        self._in += data
        return packets(self._in)

    def results(self) -> list[bytes]:
        """Return what was published to us, and acknowledge it."""
        found = []
        for head, body in self.read():
            if head & 0xF0 == 0x30:
                at = 2 + int.from_bytes(body[:2], "big")
                if head & 0x06:
                    self.out += packet(PUBACK, body[at : at + 2])
                    at += 2
                found.append(body[at:])
        return found

    def turn(self, seconds: float) -> list[bytes]:
        readable, writable, _ = select.select([self.sock], [self.sock] if self.out else [], [], seconds)
        if writable:
            del self.out[: self.sock.send(self.out)]
        return self.results() if readable else []


def main() -> None:
    port, device = int(sys.argv[1]), sys.argv[2]
    line, count = Line(port, device), Count()
    rate, stopping, due, told = 0.0, False, time.monotonic(), 0.0
    deadline = math.inf
    while time.monotonic() < deadline and not (stopping and count.covered == count.sent):
        now = time.monotonic()
        if now >= told + TELL_SECONDS:
            told = now
            print(json.dumps(count.told()), flush=True)
        if select.select([sys.stdin], [], [], 0)[0]:
            word, _, value = sys.stdin.readline().strip().partition(" ")
            rate, due = float(value) if word == "rate" else 0.0, now
            if word != "rate":
                stopping, deadline = True, now + DRAIN_SECONDS
        while rate and due <= now:
            line.publish(count.reading(time.time_ns()))
            due += 1 / rate
        for payload in line.turn(TICK_SECONDS):
            count.heard(payload, time.time_ns())
    while any(line.turn(0.5)):  # what comes a second time would come now
        pass
    print(json.dumps(count.told(final=True)), flush=True)


if __name__ == "__main__":
    main()
