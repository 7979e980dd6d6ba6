"""Requests as a slot's input: the rows of each are samples, and the results of its rows are its answer.

They pass the lane like a sensor's, so swaps, hedging and replay happen under them. A question is answered when its last
row is acknowledged: results whose numbers lie within its range belong to it, none for rows that a window keeps. Each
question is a frame of its own, so that one which fails costs no other. What waits is bounded; nothing outlives the
agent, since who asked does not either.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from edge_agent.config.plugs import InferenceInput
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.decode import dtypes_of
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.plan import Plan
from edge_agent.runtime.samples import Cells, Faults, Samples, bytes_of
from edge_agent.runtime.sinks import Sink

__all__ = [
    "ABANDONED",
    "BAD",
    "CROWDED",
    "WAITING_BYTES_MAX",
    "AnsweringSink",
    "Crowded",
    "InferenceSource",
    "Question",
    "Running",
]

WAITING_BYTES_MAX = 16 * 1024 * 1024
ROOM = 4096
ABANDONED = "given up by who asked"
BAD, CROWDED = "bad request", "too many requests"
_OPEN = select.POLLIN


class Crowded(Exception):
    """As many questions wait as may; the text says so."""


class Running(NamedTuple):
    """Who answers, or will as soon as its worker is up, and whether it is."""

    plan: Plan
    loaded: bool


class Question:
    """One request on its way: `rows` samples, numbered `first` to `last` when they are taken (before: -1).

    When `done` is called (once, by the data path), there is either a `failure` in words or the results are complete.
    `closed` says that the slot ended first.
    """

    __slots__ = ("bytes", "cells", "closed", "done", "failure", "first", "last", "left", "results", "rows", "taken")

    def __init__(self, rows: int, cells: Cells, done: Callable[[Question], None]) -> None:
        self.rows, self.cells, self.done = rows, cells, done
        self.bytes = 8 * len(cells) if isinstance(cells, array) else bytes_of(cells)
        self.first = self.last = -1
        self.taken, self.left = 0, rows
        self.results: list[OutputMessage] = []
        self.failure = ""
        self.closed = False


class InferenceSource:
    """The source of one slot that answers requests. `ask` and `give_up` may be called from any thread.

    `look` tells who answers; it is asked on the supervisor's thread, and `running` is what it said last.
    """

    finished = False
    problem = ""

    def __init__(self, config: InferenceInput, *, start_sequence: int = 0) -> None:
        self.config = config
        self.columns = tuple(config.columns)
        self.faults = Faults()
        self.look: Callable[[], Running | None] = _nobody
        self.running: Running | None = None
        self._dtypes = dtypes_of(config.columns)
        self._next, self._stamp = start_sequence, 0
        self._lock = threading.Lock()
        self._waiting: deque[Question] = deque()
        self._waiting_bytes = 0
        self._taken: deque[Question] = deque()
        self._current: Question | None = None
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False

    @property
    def rejected(self) -> int:
        """How many requests became no samples."""
        return self.faults.total() - self.faults[ABANDONED]

    @property
    def waiting(self) -> int:
        """How many questions wait for the data path."""
        return len(self._waiting)

    @property
    def pending(self) -> int:
        """How many samples wait to be taken."""
        with self._lock:
            return sum(question.rows for question in self._waiting)

    # --- who asks, on other threads ------------------------------------------------------------------------------

    def ask(self, question: Question) -> None:
        """Queue a question. Raises `Crowded`; after `close`, calls `done` at once."""
        with self._lock:
            if self._closed:
                question.closed = True
            elif len(self._waiting) >= self.config.waiting_max:
                self._crowded(f"{len(self._waiting)} requests wait already")
            elif self._waiting_bytes + question.bytes > WAITING_BYTES_MAX:
                self._crowded(f"{self._waiting_bytes} bytes of requests wait already")
            else:
                self._waiting.append(question)
                self._waiting_bytes += question.bytes
                os.eventfd_write(self._event, 1)
        if question.closed:
            question.done(question)

    def refuse(self, words: str) -> None:
        """Count a request that is none this slot can take; `words` say why."""
        self.faults.note(BAD, words)

    def _crowded(self, words: str) -> NoReturn:
        self.faults.note(CROWDED, words)
        raise Crowded(words)

    def give_up(self, question: Question) -> None:
        """Nobody wants the answer any more: what was not taken yet is never computed."""
        with self._lock:
            self.faults.note(ABANDONED, f"a request of {question.rows} rows, {question.taken} of them taken")
            if question in self._waiting:
                self._waiting.remove(question)
                self._waiting_bytes -= question.bytes

    # --- the data path -------------------------------------------------------------------------------------------

    def interest(self) -> Interest:
        """Return the descriptor that tells of questions; see `edge_agent.runtime.sources.Source`."""
        self.running = self.look()
        return self._event, _OPEN, None

    def handle(self, events: int, now: float) -> None:
        """Take note that there are questions."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def take(self, room: int) -> Samples | None:
        """Return rows of the oldest question, and of no other, at most `room`; or None."""
        question = self._current or self._pop()
        if question is None or room <= 0:
            return None
        start, stop = question.taken, min(question.taken + room, question.rows)
        question.taken = stop
        self._current = question if stop < question.rows else None
        width = len(self.columns)
        sequences = array("q", range(question.first + start, question.first + stop))
        # One after the other, also where the clock is set back: rows of one request are no repetition of each other.
        stamp = max(time.time_ns(), self._stamp + 1)
        self._stamp = stamp + stop - start - 1
        stamps = array("q", range(stamp, self._stamp + 1))
        return Samples(self.columns, sequences, stamps, question.cells[start * width : stop * width], self._dtypes)

    def _pop(self) -> Question | None:
        with self._lock:
            if not self._waiting:
                return None
            question = self._waiting.popleft()
            self._waiting_bytes -= question.bytes
        question.first, self._next = self._next, self._next + question.rows
        question.last = self._next - 1
        self._taken.append(question)
        return question

    def heard(self, messages: Sequence[OutputMessage]) -> None:
        """Give results to the questions they belong to; those of rows before all of them are nobody's any more."""
        for message in messages:
            for question in reversed(self._taken):
                if question.first <= message.sequence <= question.last:
                    question.results.append(message)
                    break

    def skipped(self, samples: Samples, words: str) -> None:
        """The samples have no result: whose they are fails with these words."""
        first, last = samples.sequences[0], samples.sequences[-1]
        for question in self._taken:
            if question.first <= last and first <= question.last:
                question.failure = words

    def acknowledge(self, rows: int) -> None:
        """Answer every question whose rows are all done with."""
        while rows > 0 and self._taken:
            question = self._taken[0]
            done = min(rows, question.left)
            question.left -= done
            rows -= done
            if question.left:
                return
            self._taken.popleft()
            question.done(question)

    def close(self) -> None:
        """End every question that is open."""
        with self._lock:
            self._closed = True
            rest = [*self._taken, *self._waiting]
            self._taken.clear()
            self._waiting.clear()
        self.running = None
        for question in rest:
            question.closed = True
            question.done(question)
        os.close(self._event)


class AnsweringSink:
    """Gives results to who asked; with `record`, another sink, once that has them safe as well."""

    def __init__(self, source: InferenceSource, record: Sink | None = None) -> None:
        self._source, self._record = source, record
        self._written = 0
        self._none = Faults()

    @property
    def confirmed(self) -> int:
        """How many outputs are safe."""
        return self._record.confirmed if self._record is not None else self._written

    @property
    def room(self) -> int:
        """How many outputs may be written now."""
        return self._record.room if self._record is not None else ROOM

    @property
    def faults(self) -> Faults:
        """What the record gave up."""
        return self._record.faults if self._record is not None else self._none

    @property
    def problem(self) -> str:
        """Why nothing can be recorded now."""
        return self._record.problem if self._record is not None else ""

    def interest(self) -> Interest:
        """Return what the record waits for."""
        return self._record.interest() if self._record is not None else (-1, 0, None)

    def handle(self, events: int, now: float) -> None:
        """Do what is due for the record."""
        if self._record is not None:
            self._record.handle(events, now)

    def write(self, messages: Sequence[OutputMessage]) -> None:
        """Take outputs in order."""
        self._source.heard(messages)
        self._written += len(messages)
        if self._record is not None:
            self._record.write(messages)

    def close(self) -> None:
        """Close the record."""
        if self._record is not None:
            self._record.close()


def _nobody() -> Running | None:
    return None
