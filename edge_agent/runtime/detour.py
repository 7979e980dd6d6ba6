"""The way of rows from a source to the lane, and over the disk where the lane does not take them for long.

It decides when rows are written, read, done with and dropped, and which are safe upstream. It knows no source and does
no I/O: orders go to a desk, answers come from there, and `now` is an argument.

Rows are numbered as they come, over all runs. Five numbers say where things are:

    done <= given <= loaded <= written <= arrived          (in memory only: written is where arrived was at the switch)

    DIRECT      nothing is on disk. Rows are given from memory and are safe when the lane says so.
    BEGINNING   the queue is full, or the oldest row waits for longer than `hold_seconds`: a copy of every row that is
                not done, those under way in the lane included, is written as one file, which is there whole or not at
                all. Rows it holds go on being given from memory; newer ones are kept back.
    SPOOLING    every row is written and synced before it is given, and is safe as soon as it is synced.
    LEAVING     the lane has taken all that is on disk: newer rows are kept back until it is done with it, then the disk
                is cleared and the way is direct again. If that takes long, SPOOLING goes on.

So whenever something is on disk, nothing was given that is not there, too.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable

from edge_agent.runtime.input_spool import Chunk, InputSpool
from edge_agent.runtime.overflow import QUEUE_BYTES_MAX, Queue
from edge_agent.runtime.runs import Gaps, Taken
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.spool_clerk import Desk
from edge_agent.runtime.spool_orders import (
    Answer,
    Clear,
    Cleared,
    Failed,
    Finish,
    Finished,
    Found,
    Order,
    Read,
    Trim,
    Trimmed,
    Write,
    Wrote,
    answered,
)

__all__ = ["HOLD_SECONDS", "Detour", "State"]

log = logging.getLogger(__name__)
HOLD_SECONDS = 1.0
AGAIN_SECONDS = 1.0
TICK_SECONDS = 0.005


class State(enum.Enum):
    """Which way rows go."""

    DIRECT = "direct"
    BEGINNING = "beginning"
    SPOOLING = "spooling"
    LEAVING = "leaving"


class Detour:
    """The way of slot `name`'s rows: `rows_max` of them (and `bytes_max`) in memory, the others on disk.

    `spool` says what an earlier run left; it belongs to who sits at `desk`. With `spools=False` only that is worked
    off. `dropped` is told how many rows the budget cost, each time.
    """

    def __init__(
        self,
        name: str,
        rows_max: int,
        spool: InputSpool,
        desk: Desk,
        dropped: Callable[[int], None],
        *,
        bytes_max: int = QUEUE_BYTES_MAX,
        hold_seconds: float = HOLD_SECONDS,
        spools: bool = True,
    ) -> None:
        self._name, self._desk, self._dropped = name, desk, dropped
        self._rows_max, self._bytes_max, self._hold_seconds = rows_max, bytes_max, hold_seconds
        self._budget, self._spools = spool.bytes_max, spools
        self.damaged, self.trouble = spool.lost, ""
        self.given = self._loaded = self._finished = spool.done
        self.arrived = self._written = spool.end
        self._used = spool.bytes
        # Files that are done with have to go, too, before anything newer is given.
        self.state = State.SPOOLING if spool.bytes else State.DIRECT
        self._retained, self._waiting, self._pending = Queue(), Queue(), Queue()
        self._writing: list[tuple[Chunk, float]] = []
        self._taken, self._gaps = Taken(), Gaps()
        self._outstanding: set[type] = set()  # kinds of orders without an answer
        self._untrimmable = -1  # where `done` was when nothing could be dropped
        self._again_at = 0.0

    # --- what is where ----------------------------------------------------------------------------------------------

    @property
    def on_disk(self) -> bool:
        """Whether rows have to be on disk before they are given."""
        return self.state in (State.SPOOLING, State.LEAVING)

    @property
    def done(self) -> int:
        """The number below which the lane is done with every row."""
        return self._taken.start if self._taken else self.given

    @property
    def safe(self) -> int:
        """The number below which no row is needed from upstream any more."""
        return max(self.done, self._written) if self.on_disk else self.done

    @property
    def spooled(self) -> int:
        """How many rows are on disk and not done."""
        return self._written - self.done if self.on_disk else 0

    @property
    def room(self) -> int:
        """How many more rows may come."""
        queues = (self._pending,) if self.on_disk else (self._retained, self._waiting, self._pending)
        rows = sum(one.rows for one in queues) + sum(chunk.samples.rows for chunk, _ in self._writing)
        return self._rows_max - rows if sum(one.bytes for one in queues) < self._bytes_max else 0

    @property
    def _kept(self) -> float | None:
        """When the oldest row came that is kept back, None without any."""
        if self._writing:
            return self._writing[0][1]
        return self._pending.since if self._pending else None

    @property
    def _hungry(self) -> bool:
        """Whether more is on disk, and there is room to read it."""
        few = self._waiting.rows <= self._rows_max // 2 and self._waiting.bytes <= self._bytes_max // 2
        return few and self._loaded < self._written

    @property
    def _over_budget(self) -> bool:
        return self._used >= self._budget

    def due(self, now: float) -> float | None:
        """Return when there is something to do, None while there is nothing."""
        if self._outstanding:
            return now + TICK_SECONDS
        if self.state is State.DIRECT:
            if not self._spools or not (self._retained or self._waiting):
                return None
            since = (self._retained or self._waiting).since
            return max(self._again_at, now if self.room <= 0 else since + self._hold_seconds)
        kept = self._kept
        if self.state is State.LEAVING:
            return max(self._again_at, kept + self._hold_seconds) if kept is not None else None
        if self._hungry or (self._loaded == self._written and not self._waiting):
            return now
        return max(self._again_at, now) if kept is not None and not self._over_budget else None

    # --- rows -------------------------------------------------------------------------------------------------------

    def add(self, samples: Samples, now: float) -> None:
        """Take over rows that came."""
        chunk = Chunk(self.arrived, samples)
        self.arrived = chunk.end
        (self._waiting if self.state is State.DIRECT else self._pending).add(chunk, now)

    def take(self, room: int) -> Samples | None:
        """Return the oldest waiting rows, at most `room`, or None."""
        if Trim in self._outstanding or not self._waiting:  # it must be known what was dropped
            return None
        since = self._waiting.since
        chunk = self._waiting.take(room)
        if chunk is None:
            return None
        self.given = chunk.end
        self._taken.add(chunk.start, chunk.samples.rows)
        if not self.on_disk:
            self._retained.add(Chunk(chunk.start, chunk.samples.part(0, chunk.samples.rows)), since)
        return chunk.samples

    def confirm(self, rows: int) -> None:
        """The oldest `rows` taken ones are safe downstream. `ValueError` if so many were not taken."""
        self._taken.confirm(rows)
        self._retained.forget(self.done)

    # --- orders -----------------------------------------------------------------------------------------------------

    def move(self, now: float) -> None:
        """Give the orders that are due."""
        if self.state is State.DIRECT:
            due = self.due(now)
            if due is not None and due <= now:
                self._begin()
        elif self.state is State.SPOOLING:
            self._spool(now)
        elif self.state is State.LEAVING:
            self._leave(now)

    def put_away(self) -> bool:
        """Order that everything is written; tell whether there is something to wait for."""
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

    def end(self) -> None:
        """Give the last order, if any: what is done with is noted."""
        if self.done > self._finished and self.state is not State.DIRECT:
            self._desk.put(Finish(self.done))

    def _order(self, order: Order) -> None:
        self._outstanding.add(type(order))
        self._desk.put(order)

    def _begin(self) -> None:
        self.state = State.BEGINNING
        self._order(Write([*self._retained.copies(), *self._waiting.copies()]))

    def _spool(self, now: float) -> None:
        kept = self._kept is not None
        if kept and self._over_budget and Trim not in self._outstanding and self._untrimmable != self.done:
            self._order(Trim(self.given))
        idle = Write not in self._outstanding
        if idle and not self._waiting and self._loaded == self._written and Trim not in self._outstanding:
            self.state = State.LEAVING
            return self._leave(now)
        if idle and kept and now >= self._again_at and not self._over_budget:
            self._write()
        if self._hungry and not self._outstanding & {Read, Trim}:
            self._order(Read(self._loaded))
        if self.done > self._finished and Finish not in self._outstanding and now >= self._again_at:
            self._order(Finish(self.done))
        return None

    def _write(self) -> None:
        self._writing += self._pending.take_all()
        self._order(Write([chunk for chunk, _ in self._writing]))

    def _leave(self, now: float) -> None:
        if Clear in self._outstanding:
            return
        if self.done == self._written:
            return self._order(Clear())
        kept = self._kept
        if kept is None or now < self._again_at:
            return None
        if kept + self._hold_seconds <= now or self.room <= 0:
            self.state = State.SPOOLING
            if not self._over_budget:
                self._write()
        return None

    # --- answers ----------------------------------------------------------------------------------------------------

    def hear(self, answer: Answer, now: float) -> None:
        """Take note of an answer."""
        self._outstanding.discard(answered(answer))
        match answer:
            case Wrote(end, size):
                self._used = size
                self._wrote(end, now)
            case Found(number, end, chunks):
                if number == self._loaded:
                    self._found(end, chunks, now)
            case Finished(number, size):
                self._finished, self._used = number, size
            case Trimmed(start, end, size):
                self._used = size
                self._trimmed(start, end)
            case Cleared():
                self._go_direct()
            case Failed(order, words):
                self._failed(order, words, now)
        if self.on_disk and not self._waiting:
            self.given = max(self.given, self._loaded)

    def _wrote(self, end: int, now: float) -> None:
        self.trouble = ""
        if self.state is State.BEGINNING:
            log.warning("samples are spooled slot=%s rows=%d", self._name, end - self.done)
            self.state, self._loaded, self._finished = State.SPOOLING, end, 0
            self._retained.take_all()
        elif self._writing and self._loaded == self._writing[0][0].start and self._waiting.rows < self._rows_max:
            caught_up = not self._waiting
            for chunk, _ in self._writing:
                self._waiting.add(chunk, now)
            self._loaded = end
            if caught_up and self.state is State.SPOOLING:
                self.state = State.LEAVING
        self._writing.clear()
        self._written = end

    def _found(self, end: int, chunks: list[Chunk], now: float) -> None:
        for chunk in chunks:
            self._pass_by(chunk.start)
            self._waiting.add(chunk, now)
            self._loaded = chunk.end
        if not chunks:
            self._pass_by(end)

    def _pass_by(self, upto: int) -> None:
        """Go on behind the rows up to `upto` that were not read; count them, but for those that were dropped."""
        lost = self._gaps.others(self._loaded, upto)
        self._loaded = upto
        if lost > 0:
            self.damaged += lost
            log.warning("spooled samples cannot be read slot=%s rows=%d", self._name, lost)

    def _trimmed(self, start: int, end: int) -> None:
        if start == end:
            self._untrimmable = self.done
            return
        self._dropped(end - start)
        self._waiting.remove(start, end)
        if start <= self._loaded:
            self._loaded = max(self._loaded, end)
        else:
            self._gaps.add(start, end)

    def _go_direct(self) -> None:
        if self.state is not State.DIRECT:
            log.info("the input spool is empty slot=%s", self._name)
        self.state = State.DIRECT
        self._used, self._untrimmable = 0, -1
        self._gaps.clear()
        for chunk, at in [*self._writing, *self._pending.take_all()]:
            self._waiting.add(chunk, at)
        self._writing.clear()

    def _failed(self, order: Order, words: str, now: float) -> None:
        self._again_at = now + AGAIN_SECONDS
        if not self.trouble:
            log.warning("the input spool cannot be used slot=%s reason=%s", self._name, words)
        self.trouble = f"input spool: {words}"
        if isinstance(order, Clear) or (isinstance(order, Write) and self.state is State.BEGINNING):
            self._go_direct()  # what cannot be removed is given again after a restart, under its old numbers
        elif isinstance(order, Read):
            self._pass_by(self._written)
        elif isinstance(order, Trim):
            self._untrimmable = self.done
