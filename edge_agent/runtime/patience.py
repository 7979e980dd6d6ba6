"""How long a worker may be at what it owes: time that it waits for a processor is the machine's, not its own (§10).

The kernel tells everybody how long a process ran and how long it waited for its turn (`/proc/PID/schedstat`), of a wait
only once it is over: a process that is ready to run counts as waiting whenever it does not run. It is looked at when
half of its time is over, and again when all of it seems to be; before that nothing is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["EXCUSED_MAX", "Look", "Patience", "look"]

# It is ended after ten times as long as it may take, whatever the machine does.
EXCUSED_MAX = 9.0
_NANO = 1e-9


class Look(NamedTuple):
    """What a process's first thread had by `at`, in seconds: of a processor, of waiting for one; `ready` to run now."""

    at: float
    ran: float
    waited: float
    ready: bool


class Patience:
    """One worker's deadlines, in seconds on a monotonic clock. Of a `pid` that says nothing, nothing is excused."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._since, self._begun, self._waited = -1.0, -1.0, 0.0
        self._last: Look | None = None

    def ended(self, since: float, limit: float, now: float) -> bool:
        """Tell whether it had `limit` seconds of its own for what it was given at `since`."""
        if now < self.due(since, limit):
            return False
        seen = look(self._pid, now)
        if since != self._since:  # who looks late for the first time was kept from it, and maybe the worker too
            self._since, self._begun, self._waited = since, max(since, now - limit / 2), 0.0
        elif seen is not None and self._last is not None:
            self._waited += _waited(self._last, seen)
        self._last = seen
        return now >= self.due(since, limit)

    def due(self, since: float, limit: float) -> float:
        """Return when to ask `ended` again; once that has said yes, a time that is over."""
        if since != self._since:
            return since + limit / 2
        return self._begun + limit + min(self._waited, EXCUSED_MAX * limit)

    def waited(self, since: float) -> float:
        """Return how much of the time since the first look it waited for a processor, in seconds."""
        return self._waited if since == self._since else 0.0


def look(pid: int, now: float) -> Look | None:
    """Look at process `pid`; None if there is none, or the kernel does not tell."""
    try:
        ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return None
    return Look(now, int(ran) * _NANO, int(waited) * _NANO, state == "R")


def _waited(before: Look, seen: Look) -> float:
    """Return how much of the time between two looks it could have run and did not."""
    passed = seen.at - before.at
    waited = passed - (seen.ran - before.ran) if seen.ready else seen.waited - before.waited
    return min(max(waited, 0.0), passed)
