"""One helper thread for slow work: what it finds comes back as a call in its owner's thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edge_agent.contract.errors import StoreError

__all__ = ["Helper"]


class Helper:
    """Runs one piece of work at a time, in order. `wake` is called, from the thread, when something is finished."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._results: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._stopping = threading.Event()
        self._open = 0

    @property
    def idle(self) -> bool:
        """Whether everything submitted was handed over."""
        return self._open == 0

    def submit(self, act: Callable[..., None], arguments: tuple[Any, ...], work: Callable[..., Any], *a: Any) -> None:
        """Run `work(*a)` on the thread and `act(*arguments, result or exception, now)` in a later `collect`."""

        def run() -> None:
            try:
                result: Any = work(*a)
            except Exception as error:  # noqa: BLE001 - lost in a thread, it would leave its owner waiting for ever
                result = error
            self._results.put((act, (*arguments, result)))
            self._wake()

        if not self._stopping.is_set():
            self._open += 1
            self._thread.submit(run)

    def collect(self, now: float) -> None:
        """Hand over what was finished since the last call."""
        while True:
            try:
                act, arguments = self._results.get_nowait()
            except queue.Empty:
                return
            try:
                act(*arguments, now)
            except StoreError:  # what was found is not lost because it cannot be written now
                self._results.put((act, arguments))
                raise
            self._open -= 1

    def refuse_more(self) -> None:
        """Take no new work: the end has begun."""
        self._stopping.set()

    def stop(self) -> None:
        """Drop what waits and wait for what runs."""
        self._stopping.set()
        self._thread.shutdown(wait=True, cancel_futures=True)
