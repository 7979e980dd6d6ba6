"""Pulls a blob by content address, chunk by chunk in a window of exact topics (M2), onto the disk (F7, U1).

It gives back a path whose file has exactly the pinned size and sha256, or raises. Partial blobs are kept and resumed,
also by another process; a blob whose bytes turn out wrong is dropped whole, since nothing says which chunk lied. One
retained stream may replace another while we pull (a publisher with another zstd): then it starts over, once, and waits
for the rest of the new one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import ReasonCode, TransportError, UpdateRejected
from edge_agent.contract.messages import CHUNK_BYTES, CHUNK_HEADER, ChunkHeader, Topics
from edge_agent.transport.chunks import Progress, accept, continues, count_max, rejected, same_stream
from edge_agent.transport.landing import disk, land
from edge_agent.transport.pace import Pace
from edge_agent.transport.partial import Partial
from edge_agent.transport.subscriber import Subscriber

__all__ = ["Puller"]

log = logging.getLogger(__name__)

WINDOW = 32
RELEASE_AT = 16
# So many chunks that have arrived are hashed and written together.
BATCH = 16
# Nothing new for so long: ask again for what is under way (brokers drop from full queues without a word). Longer where
# chunks come slower: each asking again sends the whole window once more over a link that is slow already.
ASK_AGAIN_SECONDS = 3.0
ASK_AGAIN_SECONDS_MAX = 60.0
ASK_AGAIN_GAPS = 4
POLL_SECONDS = 0.1
# Without news for so long we say what we wait for; far longer before we give up (`timeout_seconds`).
NOTICE_SECONDS = 15.0
# The lowest rate that is still one.
BYTES_PER_SECOND_MIN = 1024


class Puller:
    """Fetches blobs from the broker, one at a time; others wait. What is on its way lies in `directory/partial`.

    Feed it every message of the client through `on_message`. `waiting` says what a fetch waits for in vain, and is
    empty otherwise; `told` is called when it changed, by the thread that fetches.
    """

    def __init__(
        self,
        client: Subscriber,
        topics: Topics,
        directory: Path,
        *,
        window: int = WINDOW,
        pace: Pace | None = None,
    ) -> None:
        self.name, self.waiting = "mqtt", ""
        self.told: Callable[[], None] = lambda: None
        self._pace = pace or Pace()
        self._client, self._topics, self._directory, self._window = client, topics, directory, window
        self._turn = threading.Lock()
        self._arrived: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._prefix = ""

    def on_message(self, topic: str, payload: bytes, retain: bool = False) -> bool:
        """Take a message from the client; False when it is not ours. Never blocks, never raises."""
        prefix = self._prefix
        if not prefix or not topic.startswith(prefix):
            return False
        number = topic[len(prefix) :]
        # An empty message is a cleared chunk: nothing arrived.
        known = number.isascii() and number.isdigit() and len(number) <= 10
        # Bounded: what does not fit is dropped, stays on the broker, and is asked for again.
        if payload and known and self._arrived.qsize() < 4 * self._window:
            self._arrived.put((int(number), payload))
        return True

    def fetch(self, ref: BlobRef, target: Path, *, timeout_seconds: float, stop: threading.Event) -> None:
        """Make the blob the file `target`. Blocks.

        Raises `TransportError` after `timeout_seconds` without a new chunk, when the broker drips, or when `stop` is
        set (what arrived is kept); `UpdateRejected` CONTENT or SIZE, naming the blob, when its bytes are not what `ref`
        pins; `StoreError` when the disk refuses.
        """
        with self._turn, disk(self._directory):
            partial = Partial(self._directory / "partial", ref)
            try:
                _Pull(self, ref, partial, timeout_seconds, stop).run()
                self._finish(ref, partial, target)
            finally:
                partial.close()
            log.info("blob_fetched digest=%s bytes=%d", ref.digest.short, ref.size)

    def discard(self, digest: Digest) -> None:
        """Drop what a broken-off fetch of `digest` left."""
        for suffix in (".map", ".part"):
            (self._directory / "partial" / f"{digest.hex}{suffix}").unlink(missing_ok=True)

    def _finish(self, ref: BlobRef, partial: Partial, target: Path) -> None:
        try:
            land(ref, partial, target)
        except UpdateRejected:
            partial.discard()
            raise
        partial.discard()

    def _say(self, words: str) -> None:
        if words != self.waiting:
            self.waiting = words
            if words:
                log.warning("blob_awaited reason=%s", words)
            self.told()

    @contextlib.contextmanager
    def _receiving(self, ref: BlobRef) -> Iterator[None]:
        while not self._arrived.empty():
            self._arrived.get_nowait()
        self._prefix = self._topics.chunk(ref.digest, 0)[:-1]
        try:
            yield
        finally:
            self._prefix = ""
            self._say("")


class _Pull:
    """One fetch: until every chunk is in `partial`."""

    def __init__(
        self, puller: Puller, ref: BlobRef, partial: Partial, timeout_seconds: float, stop: threading.Event
    ) -> None:
        self._puller, self._ref, self._partial = puller, ref, partial
        self._timeout_seconds, self._stop = timeout_seconds, stop
        self._fresh_starts, self._strangers = 1, 0
        self._prefix = puller._topics.chunk(ref.digest, 0)[:-1]
        self._count_max = count_max(ref.size)
        # Before the first header the number of chunks is unknown: ask for one.
        header = partial.header
        self._progress = Progress(1 if header is None else header.count, partial.have)
        # Which connection each chunk was last asked for on; what a connection loses is asked for on the next.
        self._subscribed: dict[int, int] = {}
        self._spent: set[int] = set()
        self._begun = self._last_news = self._last_ask = time.monotonic()
        self._gap_seconds, self._ask_again_seconds = 0.0, ASK_AGAIN_SECONDS
        self._news_from = puller._client.connection

    def run(self) -> None:
        with self._puller._receiving(self._ref):
            try:
                self._unsubscribe(self._leftovers())
                while self._progress.missing:
                    self._ask()
                    self._take()
                    self._check_patience()
            finally:
                self._unsubscribe(sorted(self._subscribed))

    def _ask(self) -> None:
        client = self._puller._client
        lost = [index for index in sorted(self._progress.asked) if self._subscribed.get(index) != client.connection]
        if lost:
            self._subscribe(lost)
        if fresh := self._progress.ask(self._window()):
            self._subscribe(fresh)
        elif self._progress.asked and time.monotonic() - self._last_ask > self._ask_again_seconds:
            self._last_ask = time.monotonic()
            self._ask_again_seconds = min(ASK_AGAIN_SECONDS_MAX, 2 * self._ask_again_seconds)
            # rumqttd sends retained messages for a new subscription only, not for a repeated one.
            asked = sorted(self._progress.asked)
            self._unsubscribe(asked)
            self._subscribe(asked)

    def _window(self) -> int:
        """Return how many chunks may be under way: one more than are, while the pace is limited and allows it."""
        pace, window, asked = self._puller._pace, self._puller._window, len(self._progress.asked)
        if not pace.bytes_per_second:
            # Refilled by halves: several topics in one packet cost the broker and us little more than one does.
            return window if asked <= window // 2 else asked
        return min(window, asked + (1 if pace.ready else 0))

    def _leftovers(self) -> list[int]:
        """Return the chunks that a process which died in the middle may have left subscribed in the broker's session.

        What was delivered to that session before we listened would otherwise not come again.
        """
        have = self._partial.have
        missing = (index for index in range(self._progress.count) if index not in have)
        return [*sorted(have)[-2 * WINDOW :], *itertools.islice(missing, 2 * WINDOW)]

    def _take(self) -> None:
        """Take what has arrived, up to a batch of it; wait for a first piece."""
        arrived = self._puller._arrived
        kept: list[tuple[int, memoryview]] = []
        try:
            self._sort(*arrived.get(timeout=POLL_SECONDS), kept)
            while len(kept) < BATCH:
                self._sort(*arrived.get_nowait(), kept)
        except queue.Empty:
            pass
        finally:
            # Also when the next one was refused: these are right, and need not come again.
            self._keep(kept)

    def _sort(self, index: int, message: bytes, kept: list[tuple[int, memoryview]]) -> None:
        if index in self._subscribed:
            self._spent.add(index)
        if len(self._spent) >= RELEASE_AT:
            self._unsubscribe(sorted(self._spent))
            self._spent.clear()
        if index >= self._count_max:
            return
        payload = self._payload(index, message, kept)
        self._puller._pace.took(len(message) - CHUNK_BYTES)
        if payload is not None and self._progress.got(index):
            kept.append((index, payload))

    def _payload(self, index: int, message: bytes, kept: list[tuple[int, memoryview]]) -> memoryview | None:
        """Return the bytes of a chunk, None for one of a stream that we do not collect."""
        known = self._partial.header
        if known is not None and continues(known, index, message):
            return memoryview(message)[CHUNK_HEADER.size :]
        header, payload = accept(self._ref, index, message)
        return payload if self._belongs(header, kept) else None

    def _keep(self, kept: list[tuple[int, memoryview]]) -> None:
        if kept:
            self._partial.add_all(kept)
            self._note_news()

    def _note_news(self) -> None:
        self._puller._say("")
        now = time.monotonic()
        # The largest gap of late: chunks arrive in bursts, and between bursts lies the link's real pace. What it took
        # to find out that a connection was dead, and to have another, says nothing about that.
        connection = self._puller._client.connection
        gap_seconds = now - self._last_news if connection == self._news_from else 0.0
        self._news_from = connection
        self._gap_seconds = max(gap_seconds, 0.9 * self._gap_seconds)
        wanted = max(ASK_AGAIN_SECONDS, ASK_AGAIN_GAPS * self._gap_seconds)
        self._ask_again_seconds = min(ASK_AGAIN_SECONDS_MAX, wanted)
        self._last_news = self._last_ask = now

    def _belongs(self, header: ChunkHeader, kept: list[tuple[int, memoryview]]) -> bool:
        known = self._partial.header
        if known is not None and same_stream(known, header):
            return True
        if known is not None:
            if not self._fresh_starts:
                self._strangers += 1
                return False
            self._fresh_starts -= 1
            log.warning(
                "blob_stream_changed digest=%s chunks_dropped=%d", self._ref.digest.short, len(self._partial.have)
            )
        kept.clear()
        self._partial.begin(header)
        self._progress = Progress(header.count)
        return True

    def _check_patience(self) -> None:
        if self._stop.is_set():
            raise TransportError(f"fetching blob {self._ref.digest.short} was stopped; what arrived is kept")
        now = time.monotonic()
        if now - self._begun > self._deadline_seconds():
            raise TransportError(
                f"blob {self._ref.digest.short}: {self._missing()} missing after {now - self._begun:g} s"
            )
        if now - self._last_news < self._timeout_seconds:
            if now - self._last_news > NOTICE_SECONDS:
                self._puller._say(self._awaited())
            return
        if self._strangers:
            why = "the broker holds chunks of two different encodings of it: publish the release again"
            raise rejected(self._ref, ReasonCode.CONTENT, why)
        raise TransportError(
            f"blob {self._ref.digest.short}: {self._missing()} missing on the broker, nothing new for "
            f"{self._timeout_seconds:g} s ({self._condition()}); if it stays so, publish the release again"
        )

    def _deadline_seconds(self) -> float:
        """Return how long a fetch may take in all: whoever drips must not hold up what another source has."""
        slowest = min(BYTES_PER_SECOND_MIN, self._puller._pace.bytes_per_second / 2 or BYTES_PER_SECOND_MIN)
        return 2 * self._timeout_seconds + self._ref.size / slowest

    def _awaited(self) -> str:
        """Say what we wait for. Nobody is to blame yet: who forgot it may be told again."""
        index, condition = min(self._progress.asked, default=0), self._condition()
        what = f"chunk {index} of blob {self._ref.digest.short} ({self._missing()} missing)"
        if condition != "connected":
            return f"waiting for {what}: {condition}"
        return f"waiting: {what} is not on the broker; push the release again, or wait for whoever does"

    def _missing(self) -> str:
        if self._partial.header is None:
            return f"all of its up to {count_max(self._ref.size)} chunks are"
        missing = self._progress.missing
        return f"{missing} of {self._progress.count} chunks {'is' if missing == 1 else 'are'}"

    def _condition(self) -> str:
        for topic in self._topics(sorted(self._progress.asked)):
            if refusal := self._puller._client.refusal(topic):
                return f"the broker refuses us {topic}: {refusal}"
        return self._puller._client.condition

    def _topics(self, indices: Iterable[int]) -> list[str]:
        return [f"{self._prefix}{index}" for index in indices]

    def _subscribe(self, indices: list[int]) -> None:
        self._spent.difference_update(indices)
        connection = self._puller._client.ask(self._topics(indices))
        if connection:
            self._puller._pace.took(len(indices) * CHUNK_BYTES)
        self._subscribed.update(dict.fromkeys(indices, connection))

    def _unsubscribe(self, indices: list[int]) -> None:
        if indices:
            for index in indices:
                self._subscribed.pop(index, None)
            self._puller._client.unsubscribe(self._topics(indices))
