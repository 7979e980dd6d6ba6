"""Counts samples that came twice, late, or stamped back in time; it drops none and changes none.

    duplicate   the same sequence number as the sample before; where the data brings no numbers, the same timestamp
    late        when taken up, stamped more than `late_seconds` behind the device's clock
    backward    stamped earlier than the newest stamp seen so far; the furthest is kept in milliseconds

Only stamps that the data brings can be duplicate or late; a replayed file's are never late. What was stamped here goes
backward when the device's clock is set back. Nearly every batch is in order, which is all that is found out about it.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from operator import eq, le, lt

from edge_agent.config.plugs import JsonlInput, MergeInput
from edge_agent.config.sections import CsvInput, Input
from edge_agent.runtime.samples import Samples

__all__ = ["BACKWARD", "BACKWARD_MS_MAX", "DUPLICATE", "LATE", "Stamps"]

DUPLICATE, LATE, BACKWARD = "stamps_duplicate", "stamps_late", "stamps_backward"
BACKWARD_MS_MAX = "stamps_backward_ms_max"
_NONE = -(2**63)


class Stamps:
    """What the stamps of one input are like, counted in `counts` since the agent started.

    A merged input counts part by part, each into the same `counts`: times of different clocks are not compared.
    """

    def __init__(self, section: Input, counts: Counter[str] | None = None) -> None:
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._parts = section.part if isinstance(section, MergeInput) else {}
        self._idle = isinstance(section, MergeInput)
        self._numbered = bool(section.sequence)
        self._timed = section.timestamp is not None and not self._numbered
        replayed = isinstance(section, CsvInput | JsonlInput)
        self._late = int(section.late_seconds * 1e9) if section.timestamp is not None and not replayed else 0
        self._newest = self._before = _NONE
        self._number = -1

    def of_part(self, name: str) -> Stamps:
        """Return what looks at the samples of one part of a merged input."""
        return Stamps(self._parts[name], self.counts)

    def see(self, samples: Samples, now: int) -> None:
        """Look at samples just taken up, in their order; `now` is nanoseconds UTC by the device's clock."""
        times = samples.timestamps
        if self._idle or not times:
            return
        if self._numbered:
            self._see_numbers(samples)
        oldest, follows = (now - self._late if self._late else _NONE), lt if self._timed else le
        if (
            follows(self._newest, times[0])
            and times[0] >= oldest
            and (len(times) == 1 or all(map(follows, times, islice(times, 1, None))))
        ):
            self._newest = self._before = times[-1]
            return
        for time in times:
            self._see_one(time, oldest)

    def _see_numbers(self, samples: Samples) -> None:
        numbers = samples.sequences
        again = (numbers[0] == self._number) + sum(map(eq, numbers, islice(numbers, 1, None)))
        self._number = numbers[-1]
        if again:
            self.counts[DUPLICATE] += again

    def _see_one(self, time: int, oldest: int) -> None:
        if self._timed and time == self._before:
            self.counts[DUPLICATE] += 1
        if time < oldest:
            self.counts[LATE] += 1
        if time < self._newest:
            self.counts[BACKWARD] += 1
            by = -(-(self._newest - time) // 1_000_000)
            self.counts[BACKWARD_MS_MAX] = max(self.counts[BACKWARD_MS_MAX], by)
        self._before, self._newest = time, max(self._newest, time)
