"""When a batch begins, and when a source is let alone: larger batches cost less for each message.

While a batch is in flight, what comes waits where it is (in the kernel, mostly) and forms the next one; with a linger,
a batch also waits until its oldest sample is `seconds` old or it is full. A source is never let alone for longer than
`NAP_SECONDS`, so that its queue, and what is done when that is full, stay its own. Times are monotonic seconds.

How old a sample is counts from when it was first seen, or from the end of the batch that was in flight when it came: a
linger adds no more than `seconds` to what a sample waits anyway. After a batch that took longer than that the next one
begins at once.
"""

from __future__ import annotations

import math

__all__ = ["NAP_SECONDS", "Linger"]

NAP_SECONDS = 0.002


class Linger:
    """The waiting of one slot; `seconds` is 0 for none."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._since: float | None = None
        self._until: float | None = None

    def sent(self, now: float) -> None:
        """A batch is in flight from now on."""
        self._since = now
        self.rest(now)

    def rest(self, now: float) -> None:
        """Let the source alone for a moment: a batch is in flight, and what comes cannot begin before that is done."""
        self._until = now + NAP_SECONDS

    def ended(self, now: float) -> None:
        """The batch is done with."""
        self._until = now
        if self.seconds and self._since is not None:
            self._nap(self._since if now - self._since >= self.seconds else now, now)

    def resting(self, now: float) -> bool:
        """Tell whether the source is let alone."""
        return self._until is not None and now < self._until

    def puts_off(self, now: float) -> bool:
        """Tell whether reading what has just come is put off, so that more comes with it."""
        if not self.seconds or self._since is not None:
            return False
        self._nap(now, now)
        return True

    def rested(self) -> bool:
        """Tell once that the source was let alone: it has to be looked at before a batch begins."""
        rested, self._until = self._until is not None, None
        return rested

    def begins(self, rows: int, most: int, now: float) -> bool:
        """Tell whether a batch of the `rows` that wait begins now; `most` are a full one."""
        if not self.seconds or rows >= most:
            return rows > 0
        if rows == 0:
            self._since = None
            return False
        since = now if self._since is None else self._since
        if now >= since + self.seconds:
            return True
        self._nap(since, now)
        return False

    def wake_at(self, now: float) -> float:
        """Return when somebody must look again, infinity when only something new matters."""
        return self._until if self._until is not None and self._until > now else math.inf

    def _nap(self, since: float, now: float) -> None:
        self._since, self._until = since, min(since + self.seconds, now + NAP_SECONDS)
