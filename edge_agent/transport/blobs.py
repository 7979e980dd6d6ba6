"""Blobs over retained messages (M1, M2): put one on the broker, see whether it is there, pull it (`Puller`).

It moves bytes and checks them against their address; whether a blob should travel at all is decided by trust and
admission.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Iterable

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import UpdateRejected
from edge_agent.contract.messages import ChunkHeader, Topics
from edge_agent.transport.chunks import accept, split
from edge_agent.transport.client import Client, Delivery
from edge_agent.transport.puller import Puller

__all__ = ["Puller", "absent", "missing", "publish", "split"]

# Below the client's number of messages in flight, so that nothing queues behind us.
PUBLISH_WINDOW = 16


def publish(client: Client, topics: Topics, data: bytes, *, timeout_seconds: float = 30.0) -> int:
    """Put the blob `data` on the broker as retained chunks; return the bytes of their messages.

    Blocks until all are confirmed. Raises `TransportError` when the broker refuses one, takes no packet of that size,
    or confirms none for `timeout_seconds`.
    """
    digest = BlobRef.of(data).digest
    under_way: deque[Delivery] = deque()
    messages = split(data)
    for index, message in enumerate(messages):
        if len(under_way) >= PUBLISH_WINDOW:
            under_way.popleft().wait(timeout_seconds)
        under_way.append(client.publish(topics.chunk(digest, index), message, qos=1, retain=True))
    while under_way:
        under_way.popleft().wait(timeout_seconds)
    return sum(map(len, messages))


def missing(client: Client, topics: Topics, ref: BlobRef, timeout_seconds: float = 2.0) -> bool:
    """Tell whether the broker lacks `ref`, judged by its first and last chunk. See `absent`."""
    return bool(absent(client, topics, [ref], timeout_seconds))


def absent(client: Client, topics: Topics, refs: Iterable[BlobRef], timeout_seconds: float = 2.0) -> list[BlobRef]:
    """Return those of `refs` whose first or last retained chunk does not arrive, or is not a chunk of that blob.

    Takes `timeout_seconds` if any is missing, once for all of them; a broker does not say what it does not have.
    """
    wanted = {ref.digest: ref for ref in refs}
    places = {topics.chunk(ref.digest, 0): (ref, 0) for ref in wanted.values()}
    firsts: dict[str, ChunkHeader] = {}
    arrived: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    deadline = time.monotonic() + timeout_seconds
    with client.listening(lambda topic, payload, _: arrived.put((topic, payload)) if topic in places else None):
        try:
            client.subscribe(list(places))
            while wanted and (left := deadline - time.monotonic()) > 0:
                try:
                    topic, payload = arrived.get(timeout=left)
                except queue.Empty:
                    break
                ref, index = places[topic]
                last = _last(ref, index, payload, firsts)
                if last == index:
                    wanted.pop(ref.digest, None)
                elif last is not None and (name := topics.chunk(ref.digest, last)) not in places:
                    places[name] = (ref, last)
                    client.subscribe([name])
        finally:
            client.unsubscribe(list(places))
    return list(wanted.values())


def _last(ref: BlobRef, index: int, payload: bytes, firsts: dict[str, ChunkHeader]) -> int | None:
    """Return the index of the blob's last chunk, or None if this message is no chunk that fits the first one."""
    try:
        header, _ = accept(ref, index, payload)
    except UpdateRejected:
        return None
    first = firsts.setdefault(str(ref.digest), header)
    return header.count - 1 if first.stream == header.stream else None
