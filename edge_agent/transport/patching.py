"""Blobs made of a blob that is here and a delta (M6): hears the hints, chooses a way, checks what comes out.

A hint is not signed and not believed: it is used only where its base is here and its delta is smaller than the blob,
and what comes out is the blob or nothing. A way that failed is not tried again by this process; the whole blob is
fetched then.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import ReasonCode, TransportError
from edge_agent.contract.messages import Topics, Way, decode_ways
from edge_agent.transport import child
from edge_agent.transport.chunks import rejected
from edge_agent.transport.landing import disk, settle
from edge_agent.transport.patch import memory_bytes, unpacked
from edge_agent.transport.zstd import ZstdError

__all__ = ["Asker", "Hints", "choose", "patch", "room"]

log = logging.getLogger(__name__)

# A broker does not say that it has no hint. Once it has granted the subscription, a hint is not far away.
GRANT_SECONDS = 5.0
HINT_SECONDS = 0.25
# Below this a delta and its hint are no smaller than the blob.
BYTES_MIN = 1024
PATCH_SECONDS = 120.0
# Both blobs together: up to here the agent patches itself, in less memory than a process takes, and milliseconds.
HERE_BYTES_MAX = 256 * 1024
_MEMORY_RESERVE_BYTES = 32 * 1024 * 1024


class Asker(Protocol):
    """What hints need of a client: `edge_agent.transport.client.Client` is one."""

    def ask(self, topics: list[str]) -> int:
        """Ask for topics on this connection; its number, 0 without one."""

    def granted(self, topic: str) -> bool:
        """Whether the broker has granted a topic."""

    def unsubscribe(self, topics: list[str]) -> None:
        """Ask for them no more."""


class Hints:
    """The hints about one blob at a time. Feed it every message of the client through `on_message`."""

    def __init__(self, client: Asker, topics: Topics) -> None:
        self._client, self._topics = client, topics
        self._wanted = ""
        self._arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def on_message(self, topic: str, payload: bytes, retain: bool = False) -> bool:
        """Take a message from the client; False when it is not ours. Never blocks, never raises."""
        if not self._wanted or topic != self._wanted:
            return False
        self._arrived.put(payload)
        return True

    def hear(self, ref: BlobRef) -> list[Way]:
        """Return the ways to make `ref` that the broker holds; none when there is no readable hint."""
        self._wanted = topic = self._topics.ways(ref.digest)
        try:
            message = self._await(topic) if self._client.ask([topic]) else b""
            return decode_ways(message).ways if message else []
        except ValueError as error:
            log.warning("hint_refused digest=%s reason=%s", ref.digest.short, error)
            return []
        finally:
            self._wanted = ""
            self._client.unsubscribe([topic])

    def _await(self, topic: str) -> bytes:
        deadline, granted = time.monotonic() + GRANT_SECONDS, False
        while (left := deadline - time.monotonic()) > 0:
            if not granted and self._client.granted(topic):
                granted, deadline = True, time.monotonic() + HINT_SECONDS
            try:
                return self._arrived.get(timeout=min(left, 0.02))
            except queue.Empty:
                continue
        return b""


def choose(ref: BlobRef, ways: list[Way], path: Callable[[Digest], Path]) -> Way | None:
    """Return the way with the smallest delta among those whose base is here, if it is worth going."""
    usable = [
        way for way in ways if way.base != ref.digest and 0 < way.delta.size < ref.size and path(way.base).is_file()
    ]
    return min(usable, key=lambda way: way.delta.size, default=None)


def room(base_bytes: int, size: int, meminfo: str) -> bool:
    """Tell whether this machine has the memory for a patch; `meminfo` is the text of `/proc/meminfo`."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 >= memory_bytes(base_bytes, size) + _MEMORY_RESERVE_BYTES
    return False


def patch(ref: BlobRef, base: Path, delta: Path, target: Path, stop: threading.Event) -> None:
    """Make the blob `ref` of `base` and `delta`, as the file `target`.

    Raises `TransportError` when the delta does not unpack in time and memory, `UpdateRejected` CONTENT when something
    else comes out; no file is left then. `StoreError` when the disk refuses.
    """
    temporary = target.with_suffix(".new")
    found, size = hashlib.sha256(), 0
    with disk(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not room(base.stat().st_size, ref.size, Path("/proc/meminfo").read_text()):
                raise TransportError("there is not enough memory for it now")
            with (
                temporary.open("wb") as file,
                _pieces(base, delta, ref.size, stop) as pieces,
            ):
                for piece in pieces:
                    found.update(piece)
                    size += len(piece)
                    file.write(piece)
                if size != ref.size or found.hexdigest() != ref.digest.hex:
                    raise rejected(ref, ReasonCode.CONTENT, f"delta {delta.name[:12]} makes other bytes of it")
                file.flush()
                os.fsync(file.fileno())
            settle(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _pieces(base: Path, delta: Path, size: int, stop: threading.Event) -> Iterator[Iterator[bytes]]:
    """Give what a delta makes of its base, piece by piece; the iterator raises `TransportError`."""
    if base.stat().st_size + size <= HERE_BYTES_MAX:
        yield _made_here(base, delta, size)
        return
    with child.pieces(
        "edge_agent.transport.patch",
        [str(base), str(delta), str(size)],
        deadline_seconds=PATCH_SECONDS,
        stall_seconds=PATCH_SECONDS,
        stop=stop,
    ) as pieces:
        yield pieces


def _made_here(base: Path, delta: Path, size: int) -> Iterator[bytes]:
    with delta.open("rb") as file:
        try:
            yield from unpacked(base.read_bytes(), file, size, window_log_max=HERE_BYTES_MAX.bit_length())
        except (ValueError, ZstdError) as error:
            raise TransportError(f"{delta.name[:12]} does not unpack: {error}") from None
