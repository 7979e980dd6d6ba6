"""Samples from a peer that must be asked, or whose library waits: a thread of the source's own does that.

The thread hands rows through a bounded queue and is seen through an eventfd, so the supervisor never waits for it. A
peer that cannot be reached is tried again after growing waits, in a thread that lives as long as the source. Samples
that nobody takes in time are dropped, the oldest first, and counted; if the input is to block, the peer is not asked
meanwhile, and what is left out is counted instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from edge_agent.config.plugs import Polled
from edge_agent.config.sections import Input
from edge_agent.runtime.arrivals import ROWS_MAX, Arrivals
from edge_agent.runtime.fields import Fields, Row
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.samples import BadPayload, Faults, Samples
from edge_agent.runtime.stream_source import DISCONNECTED
from edge_agent.transport.backoff import Backoff

__all__ = ["DROPPED", "OutsideSource", "Poll", "Talk", "Unreachable", "polling"]

log = logging.getLogger(__name__)
DROPPED = "dropped: nobody took them"
SKIPPED = "not asked: nobody took the others"
FAILED = "failed"
AGAIN_SECONDS = (0.2, 10.0)
CLOSE_SECONDS = 1.0


class Unreachable(Exception):
    """The peer cannot be reached, or is gone: the text says what happened."""


class Talk:
    """What the thread may say and ask. `stopping` tells it to return."""

    def __init__(self, fields: Fields, rows_max: int, *, blocks: bool = False) -> None:
        self.fields, self._blocks, self._rows_max = fields, blocks, rows_max
        self.stopping = threading.Event()
        self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.rows: deque[Row] = deque(maxlen=rows_max)
        self.told = 0  # rows in all
        self.faults = Faults()
        self.problem = "not connected yet"

    def tell(self, found: Mapping[str, Any], timestamp: int | None = None) -> None:
        """Hand over one sample of values by path, measured at `timestamp` nanoseconds (None: now)."""
        if self.skips():
            return
        try:
            sequence, _, values = self.fields.row(found)
        except BadPayload as bad:
            self.fault(bad.kind, str(bad))
            return
        self.rows.append((sequence, time.time_ns() if timestamp is None else timestamp, values))
        self.told += 1
        self.problem = ""
        os.eventfd_write(self.event, 1)

    def skips(self) -> bool:
        """Tell whether there is no room for a sample, and count that it is left out."""
        if not self._blocks or len(self.rows) < self._rows_max:
            return False
        self.faults.note(SKIPPED, f"{self._rows_max} samples wait")
        return True

    def fault(self, kind: str, words: str) -> None:
        """Count what became no sample; until the next sample comes it is the source's problem, too."""
        self.faults.note(kind, words)
        self.problem = words


Work = Callable[[Talk], None]
"""Connects, tells samples, and returns when `stopping` is set. Raises `Unreachable` or `OSError`."""


class OutsideSource:
    """The source of one slot. `name` is how the peer is called in messages. Nothing is acknowledged."""

    finished = False

    def __init__(
        self,
        config: Input,
        name: str,
        work: Work,
        *,
        texts: bool = False,
        start_sequence: int = 0,
        rows_max: int = ROWS_MAX,
        again_seconds: tuple[float, float] = AGAIN_SECONDS,
    ) -> None:
        fields = Fields(config, texts=texts)
        self.columns = fields.columns
        self._name, self._work = name, work
        self._arrivals = Arrivals(self.columns, fields.dtypes, start_sequence, rows_max=rows_max)
        self._blocks = config.overflow == "block"
        self._talk = Talk(fields, rows_max, blocks=self._blocks)
        self._backoff = Backoff(*again_seconds)
        self._seen = 0
        self._thread = threading.Thread(target=self._run, name=f"source {name}", daemon=True)
        self._thread.start()

    @property
    def faults(self) -> Faults:
        """What became no sample, by kind."""
        return self._talk.faults

    @property
    def rejected(self) -> int:
        """How many answers became no sample."""
        return self.faults.total() - self.faults[DISCONNECTED] - self.faults[SKIPPED]

    @property
    def pending(self) -> int:
        """How many samples wait to be taken."""
        return self._arrivals.rows

    @property
    def problem(self) -> str:
        """Why nothing can come now."""
        problem = self._talk.problem
        return f"{self._name}: {problem}" if problem else ""

    def interest(self) -> Interest:
        """Return the descriptor that tells of samples; see `edge_agent.runtime.sources.Source`."""
        if self._blocks and self._arrivals.full:
            return -1, 0, None
        return self._talk.event, select.POLLIN, 0.0 if self._blocks and self._talk.rows else None

    def handle(self, events: int, now: float) -> None:
        """Take over what the thread has handed over."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._talk.event)
        rows, got = self._talk.rows, 0
        told = self._talk.told
        while rows and not (self._blocks and self._arrivals.full):
            self._arrivals.add(rows.popleft())
            got += 1
        if self._blocks:
            return
        lost = max(0, told - self._seen - got) + self._arrivals.forget_oldest()
        self._seen = max(told, self._seen + got)
        if lost:
            self.faults.note(DROPPED, f"{self._name}: {lost} samples")
            self.faults[DROPPED] += lost - 1

    def take(self, room: int) -> Samples | None:
        """Return up to `room` samples, oldest first, or None."""
        return self._arrivals.take(room)

    def acknowledge(self, rows: int) -> None:
        """Do nothing: a measurement cannot be asked for again."""

    def close(self) -> None:
        """End the thread; one that hangs in its library is left behind, it holds nothing of ours."""
        self._talk.stopping.set()
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():  # else it may still write there: better one leaked than a wrong one written
            os.close(self._talk.event)

    def _run(self) -> None:
        talk = self._talk
        while not talk.stopping.is_set():
            before = talk.told
            try:
                self._work(talk)
                continue
            except (Unreachable, OSError) as error:
                words = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
                kind = DISCONNECTED
            except Exception as error:
                log.exception("source failed name=%s", self._name)
                words, kind = f"{type(error).__name__}: {error}", FAILED
            if talk.told != before:
                self._backoff.reset()
                log.warning("source is gone name=%s reason=%s", self._name, words)
            talk.fault(kind, words)
            talk.stopping.wait(self._backoff.next())


class Poll(Protocol):
    """One connection that is asked for all values at once."""

    def read(self) -> Mapping[str, Any]:
        """Return values by path. Raises `Unreachable`, `OSError`, or `BadPayload` when the peer refuses."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


def polling(config: Polled, connect: Callable[[], Poll]) -> Work:
    """Return work that connects and reads `rate_hz` times a second.

    Reads that take too long are followed by the next one at once; those missed are not made up for.
    """

    def work(talk: Talk) -> None:
        peer = connect()
        try:
            due = time.monotonic()
            while not talk.stopping.wait(max(0.0, due - time.monotonic())):
                try:
                    if not talk.skips():
                        talk.tell(peer.read())
                except BadPayload as bad:
                    talk.fault(bad.kind, str(bad))
                due = max(due + 1.0 / config.rate_hz, time.monotonic())
        finally:
            peer.close()

    return work
