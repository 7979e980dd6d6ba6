"""What becomes of samples that a slot cannot take as fast as its input brings them (R4): `drop_oldest`, and the count.

`block` needs nothing of this: nothing more is read, and the peer waits. `spool` is `spooling`'s. Here is what both
policies share, a bounded queue, and the source that lets the oldest waiting samples go. It drains what it wraps whether
the lane takes anything or not: while a release is swapped, without any release, with the sink away.

Dropped samples lie between those in flight and those that wait. They are acknowledged upstream in their turn, when all
before them are safe, so the order of acknowledgements holds.
"""

from __future__ import annotations

import logging
from collections import deque

from edge_agent.runtime.input_spool import Chunk
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.ports import Source
from edge_agent.runtime.samples import Faults, Samples

__all__ = ["QUEUE_BYTES_MAX", "DroppingSource", "Queue", "Wrapper", "counts", "spooled"]

log = logging.getLogger(__name__)
QUEUE_BYTES_MAX = 8 << 20
CHUNK_ROWS = 1024
ROW_BYTES = 16  # number and time
TOGETHER_SECONDS = 0.1


class Queue:
    """Rows in order, in chunks of up to `CHUNK_ROWS` where they come in smaller ones, with the time they came at."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[Chunk, float, int]] = deque()
        self.rows = self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._chunks)

    @property
    def since(self) -> float:
        """When the oldest came; there must be one."""
        return self._chunks[0][1]

    @property
    def start(self) -> int:
        """The number of the oldest; there must be one."""
        return self._chunks[0][0].start

    def add(self, chunk: Chunk, now: float) -> None:
        """Append rows; they belong to the queue from now on."""
        size = _bytes_of(chunk.samples)
        self.rows += chunk.samples.rows
        self.bytes += size
        if self._chunks:
            last, at, before = self._chunks[-1]
            if last.end == chunk.start and now - at <= TOGETHER_SECONDS and _extend(last.samples, chunk.samples):
                self._chunks[-1] = last, at, before + size
                return
        self._chunks.append((chunk, now, size))

    def take(self, room: int) -> Chunk | None:
        """Return the oldest rows, at most `room`, or None."""
        if not self._chunks or room <= 0:
            return None
        chunk, at, size = self._chunks.popleft()
        while self._chunks and self._chunks[0][0].start == chunk.end and chunk.samples.rows < room:
            if not _extend(chunk.samples, self._chunks[0][0].samples):
                break
            size += self._chunks.popleft()[2]
        if chunk.samples.rows > room:
            rest = Chunk(chunk.start + room, chunk.samples.part(room, chunk.samples.rows))
            chunk = Chunk(chunk.start, chunk.samples.part(0, room))
            left = _bytes_of(rest.samples)
            self._chunks.appendleft((rest, at, left))
            size -= left
        self.rows -= chunk.samples.rows
        self.bytes -= size
        return chunk

    def take_all(self) -> list[tuple[Chunk, float]]:
        """Return every chunk and when it came."""
        found = [(chunk, at) for chunk, at, _ in self._chunks]
        self._chunks.clear()
        self.rows = self.bytes = 0
        return found

    def forget(self, end: int) -> None:
        """Drop rows with numbers below `end`."""
        while self._chunks and self._chunks[0][0].start < end:
            self.take(end - self._chunks[0][0].start)

    def remove(self, start: int, end: int) -> None:
        """Drop rows `start` to `end` (exclusive) from the middle."""
        for chunk, at in self.take_all():
            before, after = start - chunk.start, end - chunk.start
            if before >= chunk.samples.rows or after <= 0:
                self.add(chunk, at)
                continue
            if before > 0:
                self.add(Chunk(chunk.start, chunk.samples.part(0, before)), at)
            if after < chunk.samples.rows:
                self.add(Chunk(end, chunk.samples.part(after, chunk.samples.rows)), at)

    def copies(self) -> list[Chunk]:
        """Return copies of all rows, for another thread."""
        return [Chunk(chunk.start, chunk.samples.part(0, chunk.samples.rows)) for chunk, _, _ in self._chunks]


class Wrapper:
    """What a source with an overflow policy has in common with the source `inner` that it wraps."""

    policy = ""
    spooled = 0

    def __init__(self, inner: Source, name: str) -> None:
        self.inner, self.name = inner, name
        self.dropped = 0
        self._inner_due: float | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Logical column names."""
        return self.inner.columns

    @property
    def faults(self) -> Faults:
        """What became no sample."""
        return self.inner.faults

    @property
    def rejected(self) -> int:
        """How many messages or rows became no sample."""
        return self.inner.rejected

    @property
    def counts(self) -> dict[str, int]:
        """What the policy did, for the slot's counters."""
        return {"dropped": self.dropped} if self.dropped else {}

    def _let_inner(self, events: int, now: float) -> None:
        """Let the inner source work, if it is its turn: this may have been called for a reason of our own."""
        if events or (self._inner_due is not None and self._inner_due <= now):
            self.inner.handle(events, now)

    def _drop(self, rows: int) -> None:
        """Count dropped samples; tell of them at 1, 2, 4, 8 …, so that it does not flood the log."""
        before, self.dropped = self.dropped, self.dropped + rows
        if self.dropped.bit_length() > before.bit_length():
            log.warning("samples dropped slot=%s dropped=%d overflow=%s", self.name, self.dropped, self.policy)


class DroppingSource(Wrapper):
    """`inner` with a queue of `rows_max` samples (and `bytes_max`) from which the oldest go when it is full."""

    policy = "drop_oldest"

    def __init__(self, inner: Source, name: str, rows_max: int, bytes_max: int = QUEUE_BYTES_MAX) -> None:
        super().__init__(inner, name)
        self._rows_max, self._bytes_max = rows_max, bytes_max
        self._waiting = Queue()
        self._arrived = 0
        self._passed: deque[tuple[int, bool]] = deque()  # rows that left the queue in order; whether they were dropped

    @property
    def pending(self) -> int:
        """How many samples wait to be taken."""
        return self._waiting.rows

    @property
    def problem(self) -> str:
        """Why nothing can come now."""
        return self.inner.problem

    @property
    def finished(self) -> bool:
        """Whether the last sample was taken."""
        return self.inner.finished and not self._waiting

    @property
    def waiting(self) -> int:
        """How many samples wait to be taken."""
        return self._waiting.rows

    def interest(self) -> Interest:
        """Return what the inner source waits for."""
        descriptor, events, self._inner_due = self.inner.interest()
        return descriptor, events, self._inner_due

    def handle(self, events: int, now: float) -> None:
        """Let the inner source work, and take over what it has."""
        self._let_inner(events, now)
        self._drain(now)

    def take(self, room: int) -> Samples | None:
        """Return the oldest waiting samples, at most `room` rows, or None."""
        if not self._waiting:
            self._drain(0.0)
        chunk = self._waiting.take(room)
        if chunk is None:
            return None
        self._passed.append((chunk.samples.rows, False))
        return chunk.samples

    def acknowledge(self, rows: int) -> None:
        """The oldest `rows` taken samples are safe downstream: those dropped among and behind them are done with."""
        done = 0
        while rows > 0:
            if not self._passed:
                raise ValueError(f"{rows} samples cannot be acknowledged: they are not taken")
            here, dropped = self._passed.popleft()
            if not dropped and here > rows:
                self._passed.appendleft((here - rows, False))
                here = rows
            rows -= 0 if dropped else here
            done += here
        self._acknowledge(done)

    def close(self) -> None:
        """Close the inner source."""
        self.inner.close()

    def _drain(self, now: float) -> None:
        while (samples := self.inner.take(CHUNK_ROWS)) is not None and samples.rows:
            self._waiting.add(Chunk(self._arrived, samples), now)
            self._arrived += samples.rows
            self._bound()

    def _bound(self) -> None:
        waiting, gone = self._waiting, 0
        surplus = waiting.rows - self._rows_max
        while surplus > gone and (chunk := waiting.take(surplus - gone)) is not None:
            gone += chunk.samples.rows
        while waiting.bytes > self._bytes_max and (chunk := waiting.take(waiting.rows // 16 or 1)) is not None:
            gone += chunk.samples.rows
        if not gone:
            return
        self._drop(gone)
        before = self._passed.pop()[0] if self._passed and self._passed[-1][1] else 0
        self._passed.append((before + gone, True))
        self._acknowledge(0)

    def _acknowledge(self, done: int) -> None:
        while self._passed and self._passed[0][1]:
            done += self._passed.popleft()[0]
        if done:
            self.inner.acknowledge(done)


def spooled(source: Source) -> int:
    """Return how many samples of a source wait on disk."""
    return source.spooled if isinstance(source, Wrapper) else 0


def counts(source: Source) -> dict[str, int]:
    """Return what a source's overflow policy did, for the slot's counters."""
    return source.counts if isinstance(source, Wrapper) else {}


def _bytes_of(samples: Samples) -> int:
    return samples.bytes + ROW_BYTES * samples.rows


def _extend(before: Samples, more: Samples) -> bool:
    """Append rows to others of the same source, if that makes no large chunk; tell whether it was done."""
    if before.rows + more.rows > CHUNK_ROWS or bool(before.marks) != bool(more.marks):
        return False
    before.sequences.extend(more.sequences)
    before.timestamps.extend(more.timestamps)
    before.marks.extend(more.marks)
    before.values.extend(more.values)
    return True
