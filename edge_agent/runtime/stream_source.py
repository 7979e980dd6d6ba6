"""Samples from a stream of bytes that somebody else writes: what a serial port and a command's output have in common.

It reads when the descriptor has something and there is room, and opens again, after growing waits, when the stream
ends. While samples wait to be taken nothing is read, so the writer has to wait, or its driver drops.
"""

from __future__ import annotations

import logging
import os
import select
import time

from edge_agent.config.sections import Input
from edge_agent.runtime.arrivals import ROWS_MAX, Arrivals
from edge_agent.runtime.decode import dtypes_of
from edge_agent.runtime.fields import Decode
from edge_agent.runtime.framing import Framing
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.samples import BadPayload, Faults, Samples
from edge_agent.transport.backoff import Backoff

__all__ = ["DISCONNECTED", "Stream", "StreamSource"]

log = logging.getLogger(__name__)
READ_BYTES = 65_536
REOPEN_SECONDS = (0.2, 10.0)
HELD_SECONDS = 5.0  # a stream that lasted as long was a good one
DISCONNECTED = "disconnected"


class Stream:
    """What a `StreamSource` reads from."""

    name = ""

    def open(self) -> int:
        """Open it and return a non-blocking descriptor. Raises `OSError`."""
        raise NotImplementedError

    def shut(self) -> str:
        """Close what `open` opened and return what is known about its end, in words."""
        raise NotImplementedError

    def tend(self, now: float) -> float | None:
        """Do what is left to do about earlier ones; return when to be called again (monotonic), or None."""
        return None

    def end(self) -> None:
        """Leave nothing behind; called once, last."""


class StreamSource:
    """The source of one slot over `stream`. Nothing is acknowledged: a stream cannot be asked again."""

    finished = False

    def __init__(
        self,
        config: Input,
        stream: Stream,
        framing: Framing,
        decode: Decode,
        *,
        start_sequence: int = 0,
        rows_max: int = ROWS_MAX,
        reopen_seconds: tuple[float, float] = REOPEN_SECONDS,
    ) -> None:
        self.columns = tuple(config.columns)
        self.faults = Faults()
        self.problem = f"{stream.name}: not opened yet"
        self._stream, self._framing, self._decode = stream, framing, decode
        self._arrivals = Arrivals(self.columns, dtypes_of(config.columns), start_sequence, rows_max=rows_max)
        self._backoff = Backoff(*reopen_seconds)
        self._fd = -1
        self._opened_at = 0.0
        self._again_at = 0.0
        self._tend_at: float | None = None

    @property
    def pending(self) -> int:
        """How many samples wait to be taken."""
        return self._arrivals.rows

    @property
    def rejected(self) -> int:
        """How many lines or records became no sample."""
        return self.faults.total() - self.faults[DISCONNECTED]

    def interest(self) -> Interest:
        """Return descriptor, poll events and deadline; see `edge_agent.runtime.sources.Source`."""
        if self._fd < 0:
            return -1, 0, self._again_at if self._tend_at is None else min(self._again_at, self._tend_at)
        if self._arrivals.full:
            return -1, 0, self._tend_at
        return self._fd, select.POLLIN, self._tend_at

    def handle(self, events: int, now: float) -> None:
        """Open, or read what is there."""
        self._tend_at = self._stream.tend(now)
        if self._fd < 0:
            if now >= self._again_at:
                self._open(now)
        elif events:
            self._read(now)

    def take(self, room: int) -> Samples | None:
        """Return up to `room` samples, oldest first, or None."""
        return self._arrivals.take(room)

    def acknowledge(self, rows: int) -> None:
        """Do nothing: what a stream brought is gone from it."""

    def close(self) -> None:
        """Close the stream."""
        if self._fd >= 0:
            self._fd = -1
            self._stream.shut()
        self._stream.end()

    def _open(self, now: float) -> None:
        try:
            self._fd = self._stream.open()
        except OSError as error:
            self._wait(f"{self._stream.name}: cannot be opened: {error.strerror or error}", now)
            return
        self._framing.reset()
        self._opened_at = now
        if self.faults[DISCONNECTED]:
            log.info("source is back name=%s", self._stream.name)
        self.problem = ""

    def _read(self, now: float) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            return self._lost(error.strerror or str(error), now)
        if not data:
            return self._lost("ended", now)
        for piece in self._framing.feed(data):
            try:
                if isinstance(piece, BadPayload):
                    raise piece
                self._arrivals.add(self._decode(piece))
            except BadPayload as bad:
                if not getattr(piece, "partial", False):
                    self.faults.note(bad.kind, f"{self._stream.name}: {bad}")

    def _lost(self, words: str, now: float) -> None:
        self._fd = -1
        words = f"{self._stream.name}: {self._stream.shut() or words}"
        self.faults.note(DISCONNECTED, words)
        log.warning("source is gone name=%s reason=%s", self._stream.name, words)
        self._tend_at = self._stream.tend(now)
        if now - self._opened_at >= HELD_SECONDS:
            self._backoff.reset()
        self._wait(words, now)

    def _wait(self, words: str, now: float) -> None:
        self.problem = words
        self._again_at = max(now, time.monotonic()) + self._backoff.next()
