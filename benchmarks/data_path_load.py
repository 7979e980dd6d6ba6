"""The two ends of `data_path.py`, a process each: one sends readings at a given rate, one counts what comes back.

    data_path_load.py send PORT       reads {"rate": …, "seconds": …, "first": …} lines, answers {"sent": …, "rate": …}
    data_path_load.py count PORT      reads {"first": …, "end": …} lines, answers what came of those readings

Raw sockets, and nothing is parsed while messages flow, so that neither end is what a subject waits for.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import threading
import time
from typing import Any

import numpy as np

__all__ = ["IN_TOPIC", "OUT_TOPIC", "connect", "publish_head", "remaining_length", "subscribe"]

IN_TOPIC, OUT_TOPIC = "in/d0", "out/d0"
READING = b'{"s":%d,"t":%d,"v":[0.079106,0.394032,0.551444,0.351565,0.023970,0.633883]}'
FIRST = 10_000_000  # numbers and times all have as many digits, so every packet is as long as the next
TICK_SECONDS = 0.0005
QUIET_SECONDS, DRAIN_SECONDS = 0.5, 4.0
_NUMBER = re.compile(rb'"(?:s|sequence)": ?(\d+)')
_TIME = re.compile(rb'"(?:t|timestamp)": ?(\d+)')


def remaining_length(size: int) -> bytes:
    """Return MQTT's variable byte integer (MQTT 3.1.1, section 2.2.3)."""
    found = bytearray()
    while True:
        size, digit = divmod(size, 128)
        found.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(found)


def connect(port: int, client: str) -> socket.socket:
    """Return a connected MQTT 3.1.1 client without keep-alive."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = b"\0\x04MQTT\x04\x02\0\0" + struct.pack(">H", len(client)) + client.encode()
    sock.sendall(b"\x10" + remaining_length(len(body)) + body)
    answer = sock.recv(4)
    assert answer.startswith(b"\x20"), answer
    assert answer[3] == 0, answer
    return sock


def subscribe(sock: socket.socket, topic: str) -> None:
    """Subscribe at QoS 0."""
    body = b"\0\x01" + struct.pack(">H", len(topic)) + topic.encode() + b"\0"
    sock.sendall(b"\x82" + remaining_length(len(body)) + body)
    answer = sock.recv(5)
    assert answer[:1] == b"\x90", answer


def publish_head(topic: str, payload_bytes: int) -> bytes:
    """Return what stands before the payload of a QoS 0 publication."""
    name = topic.encode()
    return b"\x30" + remaining_length(2 + len(name) + payload_bytes) + struct.pack(">H", len(name)) + name


def send(sock: socket.socket, rate: float, seconds: float, first: int) -> dict[str, Any]:
    """Send what is due, every half millisecond, whatever becomes of it: an open loop."""
    size = len(READING % (FIRST, time.time_ns()))
    packet = publish_head(IN_TOPIC, size) + READING
    sent, total = 0, int(rate * seconds)
    began = time.monotonic()
    while sent < total:
        due = min(total, int((time.monotonic() - began) * rate) + 1)
        if due > sent:
            now = time.time_ns()
            sock.sendall(b"".join([packet % (first + number, now) for number in range(sent, due)]))
            sent = due
        else:
            time.sleep(TICK_SECONDS)
    return {"sent": sent, "rate": sent / (time.monotonic() - began)}


class Counter:
    """Collects what comes, with the time when; looks at it when asked."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._chunks: list[tuple[int, bytes]] = []
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        self._sock.settimeout(None)
        while data := self._sock.recv(1 << 18):
            self._chunks.append((time.time_ns(), data))

    def take(self, first: int, end: int) -> dict[str, Any]:
        """Wait until nothing more comes, then tell what became of readings `first` to `end` (exclusive)."""
        deadline, seen, found, since = time.monotonic() + DRAIN_SECONDS, 0, 0, time.monotonic()
        while found < end - first and time.monotonic() < min(deadline, since + QUIET_SECONDS):
            fresh = self._chunks[seen:]
            if fresh:  # one that two chunks share is not seen here: then a quiet moment ends the wait
                seen, since = seen + len(fresh), time.monotonic()
                found += sum(len(_NUMBER.findall(data)) for _, data in fresh)
            time.sleep(0.02)
        chunks, self._chunks = self._chunks, []
        whole = b"".join(data for _, data in chunks)
        ends = np.cumsum([len(data) for _, data in chunks])
        times = np.array([at for at, _ in chunks], np.int64)
        matches = list(_NUMBER.finditer(whole))
        numbers = np.array([int(match[1]) for match in matches], np.int64)
        measured = np.array([int(found) for found in _TIME.findall(whole)], np.int64)
        places = np.array([match.end() for match in matches], np.int64)
        wanted = (numbers >= first) & (numbers < end)
        if not wanted.any():
            return {"distinct": 0, "repeated": 0, "p50_ms": None, "p99_ms": None, "max_ms": None}
        arrived = times[np.searchsorted(ends, places, side="left")]
        late = (arrived[wanted] - measured[: len(numbers)][wanted]) / 1e6
        distinct = len(np.unique(numbers[wanted]))
        p50, p99 = np.percentile(late, [50, 99])
        return {
            "distinct": distinct,
            "repeated": int(wanted.sum()) - distinct,
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "max_ms": round(float(late.max()), 2),
        }


def main() -> None:
    role, port = sys.argv[1], int(sys.argv[2])
    sock = connect(port, f"load-{role}")
    if role == "count":
        subscribe(sock, OUT_TOPIC)
    counter = Counter(sock) if role == "count" else None
    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        found = counter.take(**asked) if counter is not None else send(sock, **asked)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
