"""The two ends of `swap.py`, a process each: one sends readings until it is told to stop, one keeps what comes back.

    swap_load.py send PORT RATE       answers {"sent": …} when its input ends
    swap_load.py keep PORT            answers [[number, sent at, arrived at, release], …] when its input ends

Raw sockets; nothing is parsed while messages flow. Times are nanoseconds of the one clock both have.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time

from data_path_load import FIRST, IN_TOPIC, OUT_TOPIC, READING, connect, publish_head, subscribe

TICK_SECONDS = 0.0005
QUIET_SECONDS, DRAIN_SECONDS = 0.3, 5.0
_OUTPUT = re.compile(rb"\{[^{}]*\{[^{}]*\}[^{}]*\}|\{[^{}]*\}")


def send(sock: socket.socket, rate: float, stop: threading.Event) -> int:
    """Send what is due, every half millisecond, whatever becomes of it; return how many were sent."""
    packet = publish_head(IN_TOPIC, len(READING % (FIRST, time.time_ns()))) + READING
    sent, began = 0, time.monotonic()
    while not stop.is_set():
        due = int((time.monotonic() - began) * rate) + 1
        if due > sent:
            now = time.time_ns()
            sock.sendall(b"".join([packet % (FIRST + number, now) for number in range(sent, due)]))
            sent = due
        time.sleep(TICK_SECONDS)
    return sent


def keep(sock: socket.socket, stop: threading.Event) -> list[list[object]]:
    """Take what comes until told to stop and nothing more comes; return it message by message."""
    chunks: list[tuple[int, bytes]] = []
    sock.settimeout(QUIET_SECONDS)
    deadline = float("inf")
    while time.monotonic() < deadline:
        try:
            data = sock.recv(1 << 18)
        except TimeoutError:
            if stop.is_set():
                break
            continue
        chunks.append((time.time_ns(), data))
        if stop.is_set() and deadline == float("inf"):
            deadline = time.monotonic() + DRAIN_SECONDS
    return _messages(chunks)


def _messages(chunks: list[tuple[int, bytes]]) -> list[list[object]]:
    """Cut a stream into messages; one that comes in pieces has come with its last."""
    found: list[list[object]] = []
    left = b""
    for arrived, data in chunks:
        data, end = left + data, 0
        for match in _OUTPUT.finditer(data):
            output, end = json.loads(match[0]), match.end()
            number, sent = (output[name] for name in (("sequence", "timestamp") if "sequence" in output else "st"))
            found.append([number - FIRST, sent, arrived, output.get("release", "")])
        left = data[end:]
    return found


def main() -> None:
    role, port = sys.argv[1], int(sys.argv[2])
    sock, stop = connect(port, f"swap-{role}"), threading.Event()
    if role == "keep":
        subscribe(sock, OUT_TOPIC)
    answer: list[object] = []

    def work() -> None:
        answer.append({"sent": send(sock, float(sys.argv[3]), stop)} if role == "send" else keep(sock, stop))

    thread = threading.Thread(target=work)
    thread.start()
    print("{}", flush=True)
    sys.stdin.read()
    stop.set()
    thread.join()
    print(json.dumps(answer[0]), flush=True)


if __name__ == "__main__":
    main()
