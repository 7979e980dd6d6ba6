"""What a worker measures of itself: time at a frame, time it had to wait for a processor, and memory.

Nobody else can: it is not dumpable, so the agent may not read its `/proc` entries. It judges nothing. What the kernel
does not tell counts as 0.
"""

from __future__ import annotations

import os
import resource
import time

__all__ = ["Meter"]

LOOK_NANOSECONDS = 2_000_000
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


class Meter:
    """One worker's gauges. `prepare` opens their files, before the sandbox closes `/proc`; they stay open.

    The time waited is the thread's run delay (`/proc/thread-self/schedstat`, second field, in nanoseconds): the time it
    could run and others had the processor. A frame's own time is wall time less that, so an overloaded machine makes
    nobody slow, while a filter that sleeps is.
    """

    _schedule: int | None = None
    _memory: int | None = None

    def __init__(self) -> None:
        self._started, self._delay = 0, self._waited()

    @classmethod
    def prepare(cls) -> None:
        """Open what is read later, once a process, on the thread that runs the frames."""
        cls._schedule, cls._memory = _open("/proc/thread-self/schedstat"), _open("/proc/self/statm")

    def begin(self) -> None:
        """A frame begins."""
        self._started = time.perf_counter_ns()

    def end(self) -> tuple[int, int]:
        """Return the frame's own time and the time it waited, in microseconds.

        Looking costs as much as a small frame, so quick ones are not looked at, and what was waited since the last look
        counts for the one that is.
        """
        wall = time.perf_counter_ns() - self._started
        if wall < LOOK_NANOSECONDS:
            return wall // 1000, 0
        before, self._delay = self._delay, self._waited()
        waited = min(max(0, self._delay - before), wall)
        return (wall - waited) // 1000, waited // 1000

    def memory_kb(self) -> int:
        """Return the resident memory in KiB (the most there ever was, if `/proc` cannot be read).

        It looks how long was waited so far, too.
        """
        self._delay = self._waited()
        if self._memory is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(os.pread(self._memory, 128, 0).split()[1]) * _PAGE_KB

    def _waited(self) -> int:
        if self._schedule is None:
            return 0
        return int(os.pread(self._schedule, 128, 0).split()[1])


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
