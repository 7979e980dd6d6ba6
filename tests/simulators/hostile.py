"""What stands between a device and its broker and understands MQTT: it counts, drops, repeats and reorders PUBLISHes.

Both are shapers of `proxy.Proxy`. They frame packets themselves and read PUBLISH with a codec that shares no code with
the agent's client. Everything else goes through untouched; only one packet is ever held back, and not for long.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable

import mqtt5

from tests.simulators.proxy import Shaper

__all__ = ["Hostile", "Tally", "hostile", "tallying"]

PUBLISH = 3


class _Packets:
    """Cuts a stream into whole MQTT packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; return the packets that are whole now."""
        self._buffer += data
        found = []
        while (size := _size(self._buffer)) is not None and len(self._buffer) >= size:
            found.append(bytes(self._buffer[:size]))
            del self._buffer[:size]
        return found


def _size(data: bytearray) -> int | None:
    """Return the size of the packet that `data` begins with (MQTT 5, section 1.5.5), None while that is not known."""
    size = 0
    for place, byte in enumerate(data[1:5]):
        size |= (byte & 127) << (7 * place)
        if byte < 128:
            return size + place + 2
    return None


def _topic(packet: bytes) -> str | None:
    if packet[0] >> 4 != PUBLISH:
        return None
    found, _ = mqtt5.read(memoryview(bytearray(packet)))
    assert isinstance(found, mqtt5.PublishPacket)
    return found.topic


class Tally:
    """Counts, over all connections, how often each topic was delivered whole, and what else was on the wire."""

    def __init__(self) -> None:
        self.delivered: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def chunks(self) -> dict[str, int]:
        """Return how often each blob chunk was delivered."""
        return {topic: n for topic, n in self.delivered.items() if "/blob/" in topic and topic[-1].isdigit()}


class _Tallying:
    def __init__(self, tally: Tally) -> None:
        self._tally, self._packets = tally, _Packets()
        self._ends: deque[tuple[int, str, int]] = deque()
        self._queued = self._sent = 0

    def feed(self, data: bytes) -> list[bytes]:
        packets = self._packets.feed(data)
        for packet in packets:
            self._queued += len(packet)
            topic = _topic(packet)
            if topic is not None:
                self._ends.append((self._queued, topic, len(packet)))
        return packets

    def idle(self) -> list[bytes]:
        return []

    def sent(self, size: int) -> None:
        self._sent += size
        while self._ends and self._ends[0][0] <= self._sent:
            _, topic, length = self._ends.popleft()
            self._tally.delivered[topic] += 1
            self._tally.bytes[topic] += length


def tallying(tally: Tally) -> Callable[[], Shaper]:
    """Return what makes shapers that change nothing and write down in `tally` what was delivered."""
    return lambda: _Tallying(tally)


class Hostile:
    """What a hostile broker did, and how: of the PUBLISHes on `topics`, so many are dropped, repeated, reordered."""

    def __init__(self, seed: int, *, drop: float = 0.1, repeat: float = 0.2, swap: float = 0.3) -> None:
        self.rng = random.Random(seed)
        self.drop, self.repeat, self.swap = drop, repeat, swap
        self.did: Counter[str] = Counter()


class _Meddling:
    def __init__(self, hostile: Hostile) -> None:
        self._hostile, self._packets = hostile, _Packets()
        self._held: bytes | None = None

    def feed(self, data: bytes) -> list[bytes]:
        return [out for packet in self._packets.feed(data) for out in self._meddle(packet)]

    def _meddle(self, packet: bytes) -> list[bytes]:
        if packet[0] >> 4 != PUBLISH:
            return [packet]
        hostile, held = self._hostile, self._held
        draw = hostile.rng.random
        if draw() < hostile.drop:
            hostile.did["dropped"] += 1
            return []
        if held is None and draw() < hostile.swap:
            hostile.did["reordered"] += 1
            self._held = packet
            return []
        self._held = None
        times = 2 if draw() < hostile.repeat else 1
        hostile.did["repeated"] += times - 1
        return [packet] * times + ([held] if held is not None else [])

    def idle(self) -> list[bytes]:
        held, self._held = self._held, None
        return [held] if held is not None else []

    def sent(self, size: int) -> None:
        """Nothing is counted here."""


def hostile(how: Hostile) -> Callable[[], Shaper]:
    """Return what makes shapers that meddle as `how` says."""
    return lambda: _Meddling(how)
