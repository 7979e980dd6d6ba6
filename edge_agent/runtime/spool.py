"""A sink that goes on while its peer is away: outputs wait on disk, within a budget, and are resent at a limited rate.

While the inner sink works, outputs pass through and nothing is written. When it has a problem, or no room, what it has
not confirmed and all that follows is put on disk by a thread, and is confirmed as soon as it is there; it goes out in
order, before anything newer. What is on disk when the agent ends goes out after the next start. With the budget used
up there is no room, so the source waits: nothing is dropped here. A disk that fails does not stop outputs from going
out, only from being safe before.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import msgspec

from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.ports import Sink
from edge_agent.runtime.samples import Faults
from edge_agent.runtime.spool_log import SpoolLog

__all__ = ["SpoolSink"]

log = logging.getLogger(__name__)
MEGABYTE = 1_000_000
PENDING_MAX = 10_000
BATCH_MAX = 1_000
IN_FLIGHT_MAX = 1_000
TICK_SECONDS = 0.02
DROP_SECONDS = 0.2
AGAIN_SECONDS = 1.0
CLOSE_SECONDS = 5.0


class SpoolSink:
    """`inner` with a spool at `path`. `confirmed` counts what the inner sink confirmed or the disk holds.

    Entries of the spool are counted from 0: those below `_done` the inner sink has confirmed, those below `_sent` it
    was given, those below `_safe` are or were on disk, the rest waits in `_pending`.
    """

    def __init__(self, inner: Sink, path: Path, *, spool_mb: float, resend_per_second: float) -> None:
        self._inner, self._bytes_max, self._rate = inner, int(spool_mb * MEGABYTE), resend_per_second
        self._name = path.name
        self._log = SpoolLog(path)
        self._safe = self._end = self._log.rows
        self._direct = -self._end  # those of earlier runs count for nobody now
        self._sent = self._done = self._dropped = 0
        self._inner_confirmed = inner.confirmed
        self._handed: deque[OutputMessage] = deque()  # passed through, and unconfirmed
        self._pending: deque[OutputMessage] = deque()
        self._loaded: deque[OutputMessage] = deque()  # entries from `_sent` on
        self._spooling = self._end > 0
        self._allowance, self._refilled_at = 0.0, time.monotonic()
        self._inner_due: float | None = None
        self._disk_problem = ""
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"spool {path.name}", daemon=True)
        self._thread.start()

    @property
    def confirmed(self) -> int:
        """How many outputs are safe."""
        return self._direct + max(self._safe, self._done)

    @property
    def spooled(self) -> int:
        """How many outputs the spool holds that the inner sink has not confirmed."""
        return self._end - self._done

    @property
    def room(self) -> int:
        """How many outputs may be written now."""
        if self._spooling:
            return 0 if self._full else PENDING_MAX - len(self._pending)
        # What the inner sink has goes out at its own pace when the peer is back, so it never has much.
        return max(0, min(self._inner.room, IN_FLIGHT_MAX - len(self._handed))) if self._inner.room > 0 else PENDING_MAX

    @property
    def faults(self) -> Faults:
        """What was given up."""
        return self._inner.faults

    @property
    def problem(self) -> str:
        """Why nothing can be confirmed now."""
        if self._spooling and (self._full or self._disk_problem):
            words = self._disk_problem or f"the spool holds its {self._bytes_max / MEGABYTE:g} MB"
            return f"{words}; {self._inner.problem}" if self._inner.problem else words
        return ""

    @property
    def _full(self) -> bool:
        return self._log.bytes >= self._bytes_max

    def interest(self) -> Interest:
        """Return what the inner sink waits for; see `edge_agent.runtime.sinks.Sink`."""
        descriptor, events, due = self._inner.interest()
        self._inner_due = due
        tick = time.monotonic() + TICK_SECONDS if self._spooling or self._handed else None
        return descriptor, events, min((one for one in (due, tick) if one is not None), default=None)

    def handle(self, events: int, now: float) -> None:
        """Let the inner sink work, count, and resend."""
        if events or (self._inner_due is not None and self._inner_due <= now):
            self._inner.handle(events, now)
        self._count()
        if not self._spooling and self._inner.problem and self._handed:
            self._begin()
        self._resend(now)

    def write(self, messages: Sequence[OutputMessage]) -> None:
        """Take outputs, in order. `ValueError` for more than `room`."""
        if not self._spooling and not self._inner.problem and len(messages) <= self._inner.room:
            self._handed.extend(messages)
            self._inner.write(messages)
            return
        self._count()
        if not self._spooling:
            self._begin()
        if len(self._pending) + len(messages) > 2 * PENDING_MAX:
            raise ValueError(f"{len(messages)} outputs do not fit: there is room for {self.room}")
        self._append(messages)

    def close(self) -> None:
        """Close the inner sink; what is on disk stays there."""
        self._inner.close()
        self._count()
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(CLOSE_SECONDS)

    def _begin(self) -> None:
        log.warning("outputs are spooled name=%s reason=%s", self._name, self._inner.problem or "no room")
        self._spooling = True
        handed = list(self._handed)
        self._handed.clear()
        self._sent += len(handed)  # the inner sink has them already
        self._append(handed)

    def _append(self, messages: Sequence[OutputMessage]) -> None:
        with self._change:
            self._pending.extend(messages)
            self._end += len(messages)
            self._change.notify()

    def _count(self) -> None:
        """Take over what the inner sink has confirmed since."""
        new, self._inner_confirmed = self._inner.confirmed - self._inner_confirmed, self._inner.confirmed
        if not self._spooling:
            for _ in range(new):
                self._handed.popleft()
            self._direct += new
            return
        with self._change:
            self._done += new
            self._change.notify()
            if self._done < self._end or self._inner.problem:
                return
            self._pending.clear()
            self._safe = self._end
        self._spooling = False
        log.info("the spool is empty name=%s", self._name)

    def _resend(self, now: float) -> None:
        """Give the inner sink what its room, the rate and the window allow."""
        self._allowance = min(max(1.0, self._rate), self._allowance + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        if not self._spooling or self._inner.problem:
            return
        window = IN_FLIGHT_MAX - (self._sent - self._done)
        count = min(int(self._allowance), self._inner.room, window, self._end - self._sent)
        if count <= 0:
            return
        with self._change:
            if self._sent < self._safe:
                count = min(count, len(self._loaded))
                chosen = [self._loaded.popleft() for _ in range(count)]
            else:
                start = self._sent - self._safe
                chosen = list(islice(self._pending, start, start + count))
            self._sent += len(chosen)
            self._change.notify()
        self._allowance -= len(chosen)
        if chosen:
            self._inner.write(chosen)

    # --- the thread: `_safe`, `_pending`, `_loaded`, `_done` and `_sent` change under `_change`

    def _run(self) -> None:
        base = self._log.first
        dropped_at = 0.0
        while True:
            with self._change:
                self._change.wait_for(lambda: self._has_work() or self._dropped < self._done)
                self._change.wait_for(self._has_work, DROP_SECONDS)
                closing = self._closing
            try:
                self._save(base)
                self._load(base)
                if self._dropped < self._done and (closing or time.monotonic() - dropped_at >= DROP_SECONDS):
                    done, dropped_at = self._done, time.monotonic()
                    self._log.drop(base + done)
                    self._dropped = done
                self._disk_problem = ""
            except (sqlite3.Error, msgspec.MsgspecError) as error:
                if not self._disk_problem:
                    log.warning("the spool cannot be used name=%s reason=%s", self._name, error)
                self._disk_problem = f"spool {self._name}: {error}"
                with self._change:
                    self._change.wait_for(lambda: self._closing, AGAIN_SECONDS)
            if closing:
                break
        self._log.close()

    def _has_work(self) -> bool:
        return bool(self._closing or self._pending or self._wants_loading())

    def _wants_loading(self) -> bool:
        return len(self._loaded) < BATCH_MAX // 2 and self._sent + len(self._loaded) < self._safe

    def _save(self, base: int) -> None:
        while True:
            with self._change:
                while self._pending and self._safe < self._done:  # sent from memory: no need to write it any more
                    self._pending.popleft()
                    self._safe += 1
                at, batch = self._safe, list(islice(self._pending, BATCH_MAX))
            if not batch:
                return
            self._log.append(base + at, batch)
            with self._change:
                # `_count` may have emptied it meanwhile.
                for _ in range(max(0, min(len(self._pending), at + len(batch) - self._safe))):
                    self._pending.popleft()
                    self._safe += 1

    def _load(self, base: int) -> None:
        with self._change:
            if not self._wants_loading():
                return
            at, end = self._sent + len(self._loaded), self._safe
        found = self._log.read(base + at, min(BATCH_MAX, end - at))
        with self._change:
            if self._sent + len(self._loaded) == at:
                self._loaded.extend(found)
