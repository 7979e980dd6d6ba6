"""How fast bytes may be fetched: a token bucket that may go into debt (§7).

Whoever fetches asks for as much as `ready` allows, says what it `took`, and gives back what did not come. A single
chunk may be larger than a second's worth, so the bucket goes below zero and the wait grows. It never waits itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Pace"]


class Pace:
    """At most `bytes_per_second` on average, 0 is no limit; a second's worth may come at once. Thread-safe."""

    def __init__(self, bytes_per_second: float = 0.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        if bytes_per_second < 0:
            raise ValueError(f"a limit of {bytes_per_second} bytes per second makes no sense: use 0 for none")
        self.bytes_per_second = bytes_per_second
        self._clock, self._lock = clock, threading.Lock()
        self._tokens, self._at = 0.0, clock()

    @property
    def ready(self) -> bool:
        """Whether something may be asked for now."""
        return self.wait_seconds() == 0

    def wait_seconds(self) -> float:
        """Return how long to wait before the next bytes may be asked for."""
        if not self.bytes_per_second:
            return 0.0
        with self._lock:
            now = self._clock()
            grown = self._tokens + (now - self._at) * self.bytes_per_second
            self._tokens, self._at = min(self.bytes_per_second, grown), now
            return max(0.0, -self._tokens / self.bytes_per_second)

    def took(self, size: int) -> None:
        """Note that `size` bytes are on their way; a negative size gives back what did not come."""
        if self.bytes_per_second:
            with self._lock:
                self._tokens -= size
