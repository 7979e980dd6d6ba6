"""What lies on a broker under a fleet's blob topics: the first chunk of each blob tells its size, hints its deltas.

Known blobs are asked for by exact topic, in batches. What else there is can only be found by a wildcard, from which
brokers drop what overflows their queues (M2): a list made this way may be too short and is never wrong, so it must only
be used for what may as well be found next time. Changes nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Sequence

from edge_agent.contract.digest import Digest
from edge_agent.contract.messages import ChunkHeader, Topics, Ways, decode_ways
from edge_agent.transport.client import Client

__all__ = ["Inventory", "take"]

QUIET_SECONDS = 1.0
LISTING_SECONDS_MAX = 30.0
BATCH = 128


class Inventory:
    """First chunks and hints, by blob, as they come in."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._news = threading.Condition()
        self._heard = time.monotonic()
        self.headers: dict[Digest, ChunkHeader] = {}
        self.ways: dict[Digest, Ways] = {}

    def hear(self, topic: str, payload: bytes, retain: bool) -> None:
        """Take a message; what is no first chunk and no hint of this fleet is passed over."""
        with contextlib.suppress(ValueError):
            digest = self._topics.blob_of(topic)
            with self._news:
                self._heard = time.monotonic()
                self._news.notify_all()
                if topic == self._topics.ways(digest):
                    self.ways[digest] = decode_ways(payload)
                elif payload and topic == self._topics.chunk(digest, 0):
                    self.headers[digest], _ = ChunkHeader.split(payload)

    def settle(self, wanted: Sequence[Digest] | None, seconds_max: float) -> None:
        """Wait until all first chunks `wanted` are here, or nothing has come for a moment."""
        deadline = time.monotonic() + seconds_max
        with self._news:
            self._heard = time.monotonic()
            while (now := time.monotonic()) < deadline and now - self._heard < QUIET_SECONDS:
                if wanted is not None and all(one in self.headers for one in wanted):
                    return
                self._news.wait(QUIET_SECONDS)

    def deltas_to(self, targets: Iterable[Digest]) -> set[Digest]:
        """Return the deltas that lead to some blobs."""
        return {way.delta.digest for one in targets if one in self.ways for way in self.ways[one].ways}

    @property
    def every_delta(self) -> set[Digest]:
        """Every delta that some hint names."""
        return self.deltas_to(self.ways)


def take(client: Client, topics: Topics, known: Iterable[Digest], *, every: bool) -> Inventory:
    """Return what the broker has of the `known` blobs, and with `every` what else can be found."""
    found = Inventory(topics)
    wanted = sorted(set(known))
    with client.listening(found.hear):
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            # The hints come first: when the last first chunk is here, they are too.
            _ask(client, found, [*map(topics.ways, batch), *(topics.chunk(one, 0) for one in batch)], batch)
        if every:
            _ask(client, found, [topics.every_blob("ways"), topics.every_blob("0")], None)
    return found


def _ask(client: Client, found: Inventory, filters: list[str], wanted: Sequence[Digest] | None) -> None:
    client.subscribe(filters)
    try:
        found.settle(wanted, LISTING_SECONDS_MAX)
    finally:
        client.unsubscribe(filters)
