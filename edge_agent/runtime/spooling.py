"""A source whose samples wait on disk when the lane does not take them: the overflow policy `spool` (R4).

Rows are numbered as they are drained from the inner source, over all runs. Five numbers say where things are:

    done <= given <= loaded <= written <= arrived          (in memory only: written is where arrived was at the switch)

    DIRECT      nothing is on disk. Rows are given from memory and acknowledged upstream when the lane does.
    BEGINNING   the queue is full, or the oldest row waits for longer than `hold_seconds`: a copy of every row that is
                not done, those under way in the lane included, is written as one file, which is there whole or not at
                all. Rows it holds go on being given from memory; newer ones are kept back.
    SPOOLING    every row is written and synced before it is given, and acknowledged upstream as soon as it is synced.
    LEAVING     the lane has taken all that is on disk: newer rows are kept back until it is done with it, then the disk
                is cleared and the way is direct again. If that takes long, SPOOLING goes on.

So whenever something is on disk, nothing was given that is not there, too. That is what makes a kill harmless, at any
moment and together with the trail, which has every sample before a result of it leaves, in the order given:

    killed …                                    what is found again
    while DIRECT                                the trail's rows; others come again if upstream can be asked (QoS 1)
    while the first file is written             the same: a file without its final name is removed
    after that, before the acknowledgement      on disk, under the marks by which the source knows what comes again
    with rows given and not yet on the trail    on disk, and given again
    with rows on the trail                      on disk, too: those up to the trail's newest sample count as given, and
                                                the lane computes again those without safe results
    with the trail's newest sample not on disk  nothing of it was given yet: all of it is
    between `done` and the removal of files     rows below `done` are not looked at
    after that, before newer rows are given     as while DIRECT

After a power cut the disk has every row that was acknowledged upstream. The trail and `done` may be older, so rows may
be given twice, under their old numbers. Without a trail (the disk refused one) the same holds after a kill.

A disk that refuses makes the input block, with a problem in words: what is in memory stays there, unacknowledged, until
it is written or taken. With the budget used up the oldest file of rows not given is dropped and counted.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import deque

from edge_agent.runtime.input_spool import Chunk, InputSpool
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.overflow import QUEUE_BYTES_MAX, Queue, Wrapper
from edge_agent.runtime.ports import Source
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.spool_clerk import (
    Answer,
    Clear,
    Cleared,
    Clerk,
    Desk,
    Failed,
    Finish,
    Finished,
    Found,
    Read,
    Trim,
    Trimmed,
    Write,
    Wrote,
)

__all__ = ["HOLD_SECONDS", "SpoolingSource", "State"]

log = logging.getLogger(__name__)
HOLD_SECONDS = 1.0
AGAIN_SECONDS = 1.0
TICK_SECONDS = 0.005
CLOSE_SECONDS = 5.0
CHUNK_ROWS = 1024


class State(enum.Enum):
    """Which way rows go."""

    DIRECT = "direct"
    BEGINNING = "beginning"
    SPOOLING = "spooling"
    LEAVING = "leaving"


class SpoolingSource(Wrapper):
    """`inner` with a queue of `rows_max` samples (and `bytes_max`), and behind it `spool`, which it closes.

    With `spools=False` only what an earlier run left on disk is worked off, and the input blocks.
    """

    policy = "spool"

    def __init__(
        self,
        inner: Source,
        name: str,
        rows_max: int,
        spool: InputSpool,
        *,
        bytes_max: int = QUEUE_BYTES_MAX,
        hold_seconds: float = HOLD_SECONDS,
        spools: bool = True,
        desk: Desk | None = None,
    ) -> None:
        super().__init__(inner, name)
        self._rows_max, self._bytes_max, self._hold_seconds = rows_max, bytes_max, hold_seconds
        self._budget, self._spools = spool.bytes_max, spools
        self._desk: Desk = desk or Clerk(spool, name)
        self.damaged = spool.lost
        self._given = self._loaded = self._finished = spool.done
        self._written = self._arrived = self._acknowledged = spool.end
        self._used = spool.bytes
        # Files that are done with have to go, too, before anything newer is given.
        self.state = State.SPOOLING if spool.bytes else State.DIRECT
        self._retained, self._waiting, self._pending = Queue(), Queue(), Queue()
        self._writing: list[tuple[Chunk, float]] = []
        self._passed: deque[tuple[int, int]] = deque()  # number of the first row, rows
        self._trimmed: list[tuple[int, int]] = []
        self._outstanding: set[type] = set()  # kinds of orders without an answer
        self._untrimmable = -1  # where `done` was when nothing could be dropped
        self._again_at = 0.0
        self._trouble = ""
        if spool.rows:
            log.info("spooled samples are worked off slot=%s rows=%d", name, spool.rows)

    @property
    def problem(self) -> str:
        """Why nothing can come now, or nothing can be spooled."""
        return "; ".join(words for words in (self._trouble, self.inner.problem) if words)

    @property
    def finished(self) -> bool:
        """Whether the last sample was taken."""
        return self.inner.finished and self._given == self._arrived

    @property
    def waiting(self) -> int:
        """How many samples wait to be taken, in memory or on disk."""
        return self._arrived - self._given

    @property
    def spooled(self) -> int:  # type: ignore[override]
        """How many samples wait on disk, those that were given and are not safe yet included."""
        return self._written - self._done if self.state in (State.SPOOLING, State.LEAVING) else 0

    @property
    def counts(self) -> dict[str, int]:
        """What the policy did, for the slot's counters."""
        found = {"dropped": self.dropped, "spool_damaged": self.damaged}
        return {name: count for name, count in found.items() if count}

    def interest(self) -> Interest:
        """Return what the inner source waits for, and when there is something to do here."""
        descriptor, events, self._inner_due = self.inner.interest()
        times = [one for one in (self._inner_due, self._due(time.monotonic())) if one is not None]
        return descriptor, events, min(times, default=None)

    def handle(self, events: int, now: float) -> None:
        """Let the inner source work, take over what it has, and hear and tell the one at the disk."""
        self._let_inner(events, now)
        while (answer := self._desk.get()) is not None:
            self._hear(answer, now)
        self._drain(now)
        self._move(now)

    def take(self, room: int) -> Samples | None:
        """Return the oldest waiting samples, at most `room` rows, or None."""
        if Trim in self._outstanding:
            return None  # until it is known what was dropped
        if not self._waiting and self.state is State.DIRECT:
            self._drain(time.monotonic())
        since = self._waiting.since if self._waiting else 0.0
        chunk = self._waiting.take(room)
        if chunk is None:
            return None
        self._given = chunk.end
        self._passed.append((chunk.start, chunk.samples.rows))
        if self.state in (State.DIRECT, State.BEGINNING):
            self._retained.add(Chunk(chunk.start, chunk.samples.part(0, chunk.samples.rows)), since)
        else:
            self._move(time.monotonic())
        return chunk.samples

    def acknowledge(self, rows: int) -> None:
        """The oldest `rows` taken samples are safe downstream."""
        while rows > 0:
            if not self._passed:
                raise ValueError(f"{rows} samples cannot be acknowledged: they are not taken")
            start, here = self._passed.popleft()
            if here > rows:
                self._passed.appendleft((start + rows, here - rows))
            rows -= here
        self._retained.forget(self._done)
        self._acknowledge()
        if self.state in (State.SPOOLING, State.LEAVING):
            self._move(time.monotonic())

    def close(self) -> None:
        """Put what is in memory on disk, too, and close everything."""
        deadline = time.monotonic() + CLOSE_SECONDS
        self._drain(time.monotonic())
        self._again_at = 0.0
        while self._put_away() and (left := deadline - time.monotonic()) > 0:
            answer = self._desk.get(left)
            if answer is not None:
                self._hear(answer, time.monotonic())
            if isinstance(answer, Failed) and isinstance(answer.order, Write):
                break
        if self._done > self._finished and self.state is not State.DIRECT:
            self._desk.put(Finish(self._done))
        self._desk.close()
        self.inner.close()

    # --- what is where ----------------------------------------------------------------------------------------------

    @property
    def _done(self) -> int:
        return self._passed[0][0] if self._passed else self._given

    @property
    def _memory(self) -> tuple[int, int]:
        """Return rows and bytes that nothing else holds."""
        on_disk = self.state in (State.SPOOLING, State.LEAVING)
        queues = (self._pending,) if on_disk else (self._retained, self._waiting, self._pending)
        rows = sum(one.rows for one in queues) + sum(chunk.samples.rows for chunk, _ in self._writing)
        return rows, sum(one.bytes for one in queues)

    def _room(self) -> int:
        rows, size = self._memory
        return self._rows_max - rows if size < self._bytes_max else 0

    def _due(self, now: float) -> float | None:
        if self._outstanding:
            return now + TICK_SECONDS
        if self.state is State.DIRECT:
            if not self._spools or not (self._retained or self._waiting):
                return None
            return max(self._again_at, now if self._room() <= 0 else self._since + self._hold_seconds)
        kept = self._writing[0][1] if self._writing else self._pending.since if self._pending else None
        if self.state is State.LEAVING:
            return max(self._again_at, kept + self._hold_seconds) if kept is not None else None
        if (self._few and self._loaded < self._written) or (self._loaded == self._written and not self._waiting):
            return now
        return max(self._again_at, now) if kept is not None and not self._over_budget else None

    @property
    def _few(self) -> bool:
        """Whether more should be read."""
        return self._waiting.rows <= self._rows_max // 2 and self._waiting.bytes <= self._bytes_max // 2

    @property
    def _since(self) -> float:
        return self._retained.since if self._retained else self._waiting.since

    @property
    def _over_budget(self) -> bool:
        return self._used >= self._budget

    def _drain(self, now: float) -> None:
        target = self._waiting if self.state is State.DIRECT else self._pending
        while (room := min(self._room(), CHUNK_ROWS)) > 0:
            samples = self.inner.take(room)
            if samples is None or not samples.rows:
                return
            chunk = Chunk(self._arrived, samples)
            self._arrived = chunk.end
            target.add(chunk, now)

    def _acknowledge(self) -> None:
        on_disk = self._written if self.state in (State.SPOOLING, State.LEAVING) else 0
        safe = max(self._done, on_disk)
        if safe > self._acknowledged:
            rows, self._acknowledged = safe - self._acknowledged, safe
            self.inner.acknowledge(rows)

    # --- orders -----------------------------------------------------------------------------------------------------

    def _order(self, order: Write | Read | Finish | Clear | Trim) -> None:
        self._outstanding.add(type(order))
        self._desk.put(order)

    def _move(self, now: float) -> None:
        if self.state is State.DIRECT:
            due = self._due(now)
            if due is not None and due <= now:
                self._begin()
        elif self.state is State.SPOOLING:
            self._spool(now)
        elif self.state is State.LEAVING:
            self._leave(now)

    def _begin(self) -> None:
        self.state = State.BEGINNING
        self._order(Write([*self._retained.copies(), *self._waiting.copies()]))

    def _spool(self, now: float) -> None:
        kept = bool(self._pending or self._writing)
        if kept and self._over_budget and Trim not in self._outstanding and self._untrimmable != self._done:
            self._order(Trim(self._given))
        idle = Write not in self._outstanding
        if idle and not self._waiting and self._loaded == self._written and Trim not in self._outstanding:
            self.state = State.LEAVING
            return self._leave(now)
        if idle and kept and now >= self._again_at and not self._over_budget:
            self._write()
        if self._few and self._loaded < self._written and not self._outstanding & {Read, Trim}:
            self._order(Read(self._loaded))
        if self._done > self._finished and Finish not in self._outstanding and now >= self._again_at:
            self._order(Finish(self._done))
        return None

    def _write(self) -> None:
        self._writing += self._pending.take_all()
        self._order(Write([chunk for chunk, _ in self._writing]))

    def _leave(self, now: float) -> None:
        if Clear in self._outstanding:
            return
        if self._done == self._written:
            return self._order(Clear())
        if not (self._pending or self._writing) or now < self._again_at:
            return None
        since = self._writing[0][1] if self._writing else self._pending.since
        if since + self._hold_seconds <= now or self._room() <= 0:
            self.state = State.SPOOLING
            if not self._over_budget:
                self._write()
        return None

    def _put_away(self) -> bool:
        """Order that all is written; tell whether there is something to wait for."""
        if self._outstanding:
            return True
        if not self._spools:
            return False
        if self.state is State.DIRECT and (self._retained or self._waiting):
            self._begin()
        elif self.state is not State.DIRECT and (self._pending or self._writing):
            self.state = State.SPOOLING
            self._write()
        return bool(self._outstanding)

    # --- answers ----------------------------------------------------------------------------------------------------

    def _hear(self, answer: Answer, now: float) -> None:
        match answer:
            case Wrote(end, size):
                self._outstanding.discard(Write)
                self._used = size
                self._wrote(end, now)
            case Found(number, end, chunks):
                self._outstanding.discard(Read)
                if number == self._loaded:
                    self._found(end, chunks, now)
            case Finished(number, size):
                self._outstanding.discard(Finish)
                self._finished, self._used = number, size
            case Trimmed(start, end, size):
                self._outstanding.discard(Trim)
                self._used = size
                self._cut(start, end)
            case Cleared():
                self._outstanding.discard(Clear)
                self._go_direct()
            case Failed(order, words):
                self._outstanding.discard(type(order))
                self._failed(order, words, now)
        if self.state in (State.SPOOLING, State.LEAVING) and not self._waiting:
            self._given = max(self._given, self._loaded)

    def _wrote(self, end: int, now: float) -> None:
        self._trouble = ""
        if self.state is State.BEGINNING:
            log.warning("samples are spooled slot=%s rows=%d", self.name, end - self._done)
            self.state = State.SPOOLING
            self._finished = 0
            self._retained.take_all()
            self._loaded = end
        elif self._writing and self._loaded == self._writing[0][0].start and self._waiting.rows < self._rows_max:
            caught_up = not self._waiting
            for chunk, _ in self._writing:
                self._waiting.add(chunk, now)
            self._loaded = end
            if caught_up and self.state is State.SPOOLING:
                self.state = State.LEAVING
        self._writing.clear()
        self._written = end
        self._acknowledge()

    def _found(self, end: int, chunks: list[Chunk], now: float) -> None:
        for chunk in chunks:
            self._count_damaged(chunk.start)
            self._waiting.add(chunk, now)
            self._loaded = chunk.end
        if not chunks:
            self._count_damaged(end)
            self._loaded = end

    def _count_damaged(self, upto: int) -> None:
        """Count the rows from `loaded` to `upto` that were not read, but for those that were dropped."""
        lost = upto - self._loaded
        for start, end in self._trimmed:
            lost -= max(0, min(end, upto) - max(start, self._loaded))
        self._trimmed = [one for one in self._trimmed if one[1] > upto]
        if lost > 0:
            self.damaged += lost
            log.warning("spooled samples cannot be read slot=%s rows=%d", self.name, lost)

    def _cut(self, start: int, end: int) -> None:
        if start == end:
            self._untrimmable = self._done
            return
        self._drop(end - start)
        self._waiting.remove(start, end)
        if start <= self._loaded:
            self._loaded = max(self._loaded, end)
        elif self._trimmed and self._trimmed[-1][1] == start:
            self._trimmed[-1] = self._trimmed[-1][0], end
        else:
            self._trimmed.append((start, end))

    def _go_direct(self) -> None:
        if self.state is not State.DIRECT:
            log.info("the input spool is empty slot=%s", self.name)
        self.state = State.DIRECT
        self._used, self._untrimmable = 0, -1
        self._trimmed.clear()
        kept = [*self._writing, *self._pending.take_all()]
        self._writing.clear()
        for chunk, at in kept:
            self._waiting.add(chunk, at)

    def _failed(self, order: object, words: str, now: float) -> None:
        self._again_at = now + AGAIN_SECONDS
        if not self._trouble:
            log.warning("the input spool cannot be used slot=%s reason=%s", self.name, words)
        self._trouble = f"input spool: {words}"
        if isinstance(order, Clear) or (isinstance(order, Write) and self.state is State.BEGINNING):
            self._go_direct()  # what cannot be removed is given again after a restart, under its old numbers
        elif isinstance(order, Read):
            self._count_damaged(self._written)
            self._loaded = self._written
        elif isinstance(order, Trim):
            self._untrimmable = self._done
