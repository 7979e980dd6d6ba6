"""Does for an input spool what touches the disk, on a thread of its own, one order after the other.

`obey` turns an order into an answer (see `spool_orders`), and the thread does nothing else. An order that the disk
refuses is answered with `Failed` and has changed nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Protocol

from edge_agent.runtime.input_spool import InputSpool
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
)

__all__ = ["Clerk", "Desk", "obey"]

log = logging.getLogger(__name__)


def obey(spool: InputSpool, order: Order) -> Answer:
    """Do what an order says."""
    try:
        return _obey(spool, order)
    except OSError as error:
        return Failed(order, error.strerror or str(error))


def _obey(spool: InputSpool, order: Order) -> Answer:
    match order:
        case Write(chunks):
            spool.write(chunks)
            return Wrote(spool.end, spool.bytes)
        case Read(number):
            return Found(number, spool.end, spool.read(number))
        case Finish(number):
            spool.finish(number)
            return Finished(number, spool.bytes)
        case Trim(given):
            start, end = spool.trim(given)
            return Trimmed(start, end, spool.bytes)
        case Clear():
            spool.clear()
            return Cleared()


class Desk(Protocol):
    """Where orders are put and answers lie."""

    def put(self, order: Order) -> None:
        """Give an order."""
        ...

    def get(self, wait_seconds: float = 0.0) -> Answer | None:
        """Return the next answer, None when there is none within `wait_seconds`."""
        ...

    def close(self) -> None:
        """Take no more orders, and close the files once those there are have been obeyed."""
        ...


class Clerk:
    """The desk of a thread that obeys. It is started with the first order."""

    def __init__(self, spool: InputSpool, name: str, close_seconds: float = 5.0) -> None:
        self._spool, self._close_seconds = spool, close_seconds
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"input spool {name}", daemon=True)

    def put(self, order: Order) -> None:
        """Give an order."""
        if self._thread.ident is None:
            self._thread.start()
        self._orders.put(order)

    def get(self, wait_seconds: float = 0.0) -> Answer | None:
        """Return the next answer, None when there is none within `wait_seconds`."""
        try:
            return self._answers.get(wait_seconds > 0, wait_seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Take no more orders; a disk that does not answer is not waited for without end."""
        if self._thread.ident is None:
            self._spool.close()
            return
        self._orders.put(None)
        self._thread.join(self._close_seconds)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                answer = obey(self._spool, order)
            except Exception as error:  # the other side waits for an answer
                log.exception("input spool failed order=%s", type(order).__name__)
                answer = Failed(order, f"{type(error).__name__}: {error}")
            self._answers.put(answer)
        self._spool.close()
