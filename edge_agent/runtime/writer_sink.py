"""A sink whose deliveries wait for a disk or a peer: a thread of its own makes them, in order, until each succeeds.

The supervisor's thread only hands outputs over and is told through an eventfd when they are safe.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.samples import Faults
from edge_agent.transport.backoff import Backoff

__all__ = ["OUTPUTS_MAX", "Delivery", "Undelivered", "WriterSink"]

log = logging.getLogger(__name__)
OUTPUTS_MAX = 10_000
AGAIN_SECONDS = (0.1, 10.0)
CLOSE_SECONDS = 5.0


class Undelivered(Exception):
    """It did not work and is to be tried again, after `seconds` if the peer said so."""

    def __init__(self, words: str, seconds: float = 0.0) -> None:
        self.seconds = seconds
        super().__init__(words)


class Delivery(Protocol):
    """What the thread does. All calls come from it."""

    batch_max: int

    def deliver(self, batch: Sequence[OutputMessage], faults: Faults) -> None:
        """Return when all of `batch` is safe or given up (then it is in `faults`). Raises `Undelivered`, `OSError`."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class WriterSink:
    """The sink of one slot. `confirmed` counts what is safe; `name` is how messages call the place."""

    def __init__(
        self,
        name: str,
        delivery: Delivery,
        *,
        outputs_max: int = OUTPUTS_MAX,
        again_seconds: tuple[float, float] = AGAIN_SECONDS,
    ) -> None:
        self.confirmed = 0
        self.problem = ""
        self.faults = Faults()
        self._name, self._delivery, self._outputs_max = name, delivery, outputs_max
        self._backoff = Backoff(*again_seconds)
        self._written = 0
        self._done = 0  # by the thread; becomes `confirmed` in `handle`
        self._waiting: deque[OutputMessage] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._writer = threading.Thread(target=self._run, name=f"writer {name}", daemon=True)
        self._writer.start()

    @property
    def room(self) -> int:
        """How many outputs may be written now."""
        return self._outputs_max - (self._written - self.confirmed)

    def interest(self) -> Interest:
        """Return the descriptor that tells of deliveries; see `edge_agent.runtime.sinks.Sink`."""
        return self._event, select.POLLIN, None

    def handle(self, events: int, now: float) -> None:
        """Count what was delivered."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        self.confirmed = self._done

    def write(self, messages: Sequence[OutputMessage]) -> None:
        """Hand outputs over, in order. `ValueError` for more than `room`."""
        if len(messages) > self.room:
            raise ValueError(f"{len(messages)} outputs do not fit: there is room for {self.room}")
        self._written += len(messages)
        with self._change:
            self._waiting.extend(messages)
            self._change.notify()

    def close(self) -> None:
        """Deliver what waits, once and for some seconds at most, and end the thread."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._writer.join(CLOSE_SECONDS)
        self.confirmed = self._done
        if not self._writer.is_alive():  # else it still owns the descriptor: better one leaked than a wrong one written
            os.close(self._event)

    # --- the thread

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                batch = list(islice(self._waiting, self._delivery.batch_max))
            if not batch:
                break
            if not self._attempt(batch):
                if self._closing:
                    break
                continue
            with self._change:
                for _ in batch:
                    self._waiting.popleft()
            self._done += len(batch)
            os.eventfd_write(self._event, 1)
        self._delivery.close()

    def _attempt(self, batch: Sequence[OutputMessage]) -> bool:
        """Tell whether it worked; if not, wait."""
        seconds = 0.0
        try:
            self._delivery.deliver(batch, self.faults)
        except Undelivered as error:
            words, seconds = str(error), error.seconds
        except OSError as error:
            words = error.strerror or str(error)
        else:
            if self.problem:
                log.info("sink is back name=%s", self._name)
            self.problem = ""
            self._backoff.reset()
            return True
        if not self.problem:
            log.warning("sink is gone name=%s reason=%s", self._name, words)
        self.problem = f"{self._name}: {words}"
        os.eventfd_write(self._event, 1)  # somebody may wait for the word that nothing goes
        with self._change:
            self._change.wait_for(lambda: self._closing, max(seconds, self._backoff.next()))
        return False
