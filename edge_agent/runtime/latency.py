"""How long frames take in one slot: histograms with fixed buckets, one look at the clock and a few counts per frame.

Kept only where somebody may ask for them. The supervisor's thread writes, any other may read: a count that is one
frame old harms nobody.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left

from edge_agent.runtime.answers import Answer, Batch

__all__ = ["BUCKETS_SECONDS", "STAGES_MAX", "Histogram", "Latency"]

BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STAGES_MAX = 64


class Histogram:
    """Counts by upper bound (closed), the last of them without one; `sum` is in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * (len(BUCKETS_SECONDS) + 1)))
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.sum += seconds


class Latency:
    """What is known of the frames that were answered.

    `frame` is from the data path's giving a frame to its results, `end_to_end` from the time of its newest sample,
    `worker` what the worker that answered took itself. `stages` are sampled: a few frames a second.
    """

    def __init__(self) -> None:
        self.frame, self.end_to_end, self.worker = Histogram(), Histogram(), Histogram()
        self.stages: dict[str, Histogram] = {}
        self.memory_bytes = 0

    def note(self, batch: Batch, answer: Answer, now: float) -> None:
        """Take a frame whose results go out at `now`, monotonic seconds."""
        self.frame.observe(max(0.0, now - batch.sent_at))
        self.end_to_end.observe(max(0.0, (time.time_ns() - batch.samples.timestamps[-1]) / 1e9))
        note = answer.note
        self.worker.observe(note.micros / 1e6)
        if note.memory_kb:
            self.memory_bytes = note.memory_kb * 1024
        for name, micros in note.stages.items():
            if name in self.stages or len(self.stages) < STAGES_MAX:
                self.stages.setdefault(name, Histogram()).observe(micros / 1e6)
