"""What leaves a slot: results to the sink, each once, and word to the source of what is safe (R4).

It remembers what went out by sequence, so a batch that is computed again through another worker repeats nothing, and a
sample that merely comes late is answered. It decides nothing about workers or releases.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice

from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.member import Answer
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.sinks import Sink
from edge_agent.runtime.sources import Source

__all__ = ["Outlet", "starts_anew"]

# Results remembered as sent; one that is older than all of them counts as sent, too.
REMEMBERED_MAX = 8192


class Outlet:
    """Between the serving worker's answers and a slot's source and sink."""

    def __init__(self, stream: str, source: Source, sink: Sink, counters: Counter[str]) -> None:
        self._stream, self._source, self._sink, self._counters = stream, source, sink, counters
        self._written = 0
        self._sent: set[int] = set()
        self._order: deque[int] = deque()
        self._newest = (-1, -1)
        self._rest: Samples | None = None
        self._waiting: deque[OutputMessage] = deque()
        self._unconfirmed: deque[tuple[int, int, int]] = deque()
        self.again = 0
        """How many of the next rows are from an earlier run: the source knows nothing of them."""

    def resume(self, newest: tuple[int, int], again: Samples | None) -> None:
        """Go on after an earlier run: after sample `newest` (number, timestamp), with samples to be computed again."""
        self._newest = newest
        if again is not None:
            self._rest, self.again = again, again.rows

    def take(self, rows_max: int) -> tuple[Samples, bool] | None:
        """Return the next samples if their results will find room, and whether the stream started anew with them."""
        room = 0 if self._waiting else min(rows_max, self._sink.room)
        if room <= 0:
            return None
        samples = self._rest or self._source.take(room)
        if samples is None or samples.rows == 0:
            return None
        anew, most = self._starts_anew(samples, 0), min(samples.rows, room)
        end = next((row for row in range(1, most) if self._starts_anew(samples, row)), most)
        self._rest = samples.part(end, samples.rows) if end < samples.rows else None
        samples = samples.part(0, end) if self._rest is not None else samples
        self._newest = (samples.sequences[-1], samples.timestamps[-1])
        if anew:
            self._sent.clear()
            self._order.clear()
            self._counters["restarts"] += 1
        return samples, anew

    def _starts_anew(self, samples: Samples, row: int) -> bool:
        before = (samples.sequences[row - 1], samples.timestamps[row - 1]) if row else self._newest
        return starts_anew(before, samples, row)

    def emit(self, answer: Answer, columns: list[str], release: str, *, probation: bool) -> None:
        """Take a batch's results, without those that went out already."""
        for sequence, first, timestamp, row in zip(
            answer.sequences, answer.firsts, answer.timestamps, answer.rows, strict=True
        ):
            if self._went_out(sequence):
                self._counters["repeats_dropped"] += 1
                continue
            self._waiting.append(
                OutputMessage(
                    timestamp=timestamp,
                    stream=self._stream,
                    sequence=sequence,
                    first=first,
                    release=release,
                    probation=probation,
                    values=dict(zip(columns, row, strict=False)),
                )
            )
            self._counters["outputs"] += 1
            self._written += 1
        self.flush()

    def _went_out(self, sequence: int) -> bool:
        """Tell whether a result was sent already; if not, remember that it is now."""
        full = len(self._order) >= REMEMBERED_MAX
        if sequence in self._sent or (full and sequence < self._order[0]):
            return True
        if self._order and sequence < self._order[-1]:
            self._counters["late"] += 1
        self._sent.add(sequence)
        self._order.append(sequence)
        if full:
            self._sent.discard(self._order.popleft())
        return False

    @property
    def idle(self) -> bool:
        """Whether every result so far is confirmed by the sink."""
        return not self._waiting and self._written <= self._sink.confirmed

    def owe(self, rows: int, mark: int = 0) -> None:
        """Note that `rows` taken samples are done with: safe as soon as all results so far are confirmed.

        `mark` is what `acknowledge` returns then.
        """
        own = min(rows, self.again)
        self.again -= own
        self._unconfirmed.append((self._written, rows - own, mark))

    def flush(self) -> None:
        """Hand results to the sink as far as it has room: a filter may give more rows than it got."""
        room = min(self._sink.room, len(self._waiting))
        if room > 0:
            self._sink.write(list(islice(self._waiting, room)))
            for _ in range(room):
                self._waiting.popleft()

    def acknowledge(self) -> int | None:
        """Tell the source what is safe: every result up to there is confirmed by the sink. Return the newest mark."""
        confirmed, mark = self._sink.confirmed, None
        while self._unconfirmed and self._unconfirmed[0][0] <= confirmed:
            _, rows, mark = self._unconfirmed.popleft()
            if rows:
                self._source.acknowledge(rows)
        return mark


def starts_anew(before: tuple[int, int], samples: Samples, row: int) -> bool:
    """Tell whether a stream started anew with this row, after sample `before` (number, timestamp).

    Numbers that fall while time goes on mean that, and no repetition.
    """
    return samples.sequences[row] <= before[0] and samples.timestamps[row] > before[1]
