"""What leaves a slot: results to the sink, each once, and word to the source of what is safe (R4).

It remembers what went out by sequence, so a batch that is computed again through another worker repeats nothing, and a
sample that merely comes late is answered. It decides nothing about workers or releases.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import compress, islice
from operator import lt
from typing import Any

from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.answers import Answer
from edge_agent.runtime.ports import Sink, Source
from edge_agent.runtime.samples import Samples

__all__ = ["Outlet", "starts_anew"]

# So many results at least, and less than twice as many, are remembered as sent; one that is older than all of them
# counts as sent, too.
REMEMBERED_MAX = 8192


class Outlet:
    """Between the serving worker's answers and a slot's source and sink."""

    def __init__(self, stream: str, source: Source, sink: Sink, counters: Counter[str]) -> None:
        self._stream, self._source, self._sink, self._counters = stream, source, sink, counters
        self._written = 0
        self._sent = array("q")  # rising; a set beside their order took ten times the memory
        self._last = -1
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

    def gather(self, rows_max: int) -> int:
        """Take up what the source has, to be given out together; return how many samples wait, a full batch at most."""
        room = 0 if self._waiting else min(rows_max, self._sink.room)
        have = self._rest.rows if self._rest is not None else 0
        if self.again or have >= room:
            return rows_max if self.again else min(have, room)
        more = self._source.take(room - have)
        if more is None:
            return have
        if self._rest is None:
            self._rest = more
        else:
            self._rest.extend(more)
        return have + more.rows if have + more.rows < room else rows_max

    def take(self, rows_max: int) -> tuple[Samples, bool] | None:
        """Return the next samples if their results will find room, and whether the stream started anew with them."""
        room = 0 if self._waiting else min(rows_max, self._sink.room)
        if room <= 0:
            return None
        samples = self._rest or self._source.take(room)
        if samples is None or samples.rows == 0:
            return None
        anew, end = self._starts_anew(samples, 0), min(samples.rows, room)
        if not _rising(samples.sequences):
            end = next((row for row in range(1, end) if self._starts_anew(samples, row)), end)
        self._rest = samples.part(end, samples.rows) if end < samples.rows else None
        samples = samples.part(0, end) if self._rest is not None else samples
        self._newest = (samples.sequences[-1], samples.timestamps[-1])
        if anew:
            del self._sent[:]
            self._last = -1
            self._counters["restarts"] += 1
        return samples, anew

    def _starts_anew(self, samples: Samples, row: int) -> bool:
        before = (samples.sequences[row - 1], samples.timestamps[row - 1]) if row else self._newest
        return starts_anew(before, samples, row)

    def emit(self, answer: Answer, columns: list[str], release: str, *, probation: bool) -> None:
        """Take a batch's results, without those that went out already."""
        fresh, stream = self._news(answer.sequences), self._stream
        rows: Iterable[Any] = zip(answer.sequences, answer.firsts, answer.timestamps, answer.rows, strict=True)
        if fresh is not None:
            rows = compress(rows, fresh)
        only = columns[0] if len(columns) == 1 else None
        messages = [
            OutputMessage(
                timestamp=timestamp,
                stream=stream,
                sequence=sequence,
                first=first,
                release=release,
                probation=probation,
                # One column is the rule, and worth the shorter way.
                values={only: row[0]} if only is not None and row else dict(zip(columns, row, strict=False)),
            )
            for sequence, first, timestamp, row in rows
        ]
        self._waiting.extend(messages)
        self._counters["outputs"] += len(messages)
        self._written += len(messages)
        if len(messages) < len(answer.sequences):
            self._counters["repeats_dropped"] += len(answer.sequences) - len(messages)
        self.flush()

    def _news(self, sequences: Sequence[int]) -> list[bool] | None:
        """Return which results did not go out before, None for all of them, and remember that they do now."""
        sent = self._sent
        if not sequences or (sent and sequences[0] <= sent[-1]) or not _rising(sequences):
            return [not self._went_out(sequence) for sequence in sequences]
        sent.extend(sequences)
        self._last = sequences[-1]
        self._forget()
        return None

    def _went_out(self, sequence: int) -> bool:
        """Tell whether a result was sent already; if not, remember that it is now."""
        sent = self._sent
        place = bisect_left(sent, sequence)
        if place < len(sent) and (sent[place] == sequence or (place == 0 and len(sent) >= REMEMBERED_MAX)):
            return True
        if sequence < self._last:
            self._counters["late"] += 1
        sent.insert(place, sequence)
        self._last = sequence
        self._forget()
        return False

    def _forget(self) -> None:
        """Drop the oldest; many at once, since the others are moved for it."""
        if len(self._sent) >= 2 * REMEMBERED_MAX:
            del self._sent[:-REMEMBERED_MAX]

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
        waiting = self._waiting
        if not waiting or (room := self._sink.room) <= 0:
            return
        count = min(room, len(waiting))
        self._sink.write(list(islice(waiting, count)))
        for _ in range(count):
            waiting.popleft()

    def acknowledge(self) -> int | None:
        """Tell the source what is safe: every result up to there is confirmed by the sink. Return the newest mark."""
        confirmed, mark = self._sink.confirmed, None
        while self._unconfirmed and self._unconfirmed[0][0] <= confirmed:
            _, rows, mark = self._unconfirmed.popleft()
            if rows:
                self._source.acknowledge(rows)
        return mark


def _rising(numbers: Sequence[int]) -> bool:
    """Tell whether every number is above the one before it."""
    return all(map(lt, numbers, islice(numbers, 1, None)))


def starts_anew(before: tuple[int, int], samples: Samples, row: int) -> bool:
    """Tell whether a stream started anew with this row, after sample `before` (number, timestamp).

    Numbers that fall while time goes on mean that, and no repetition.
    """
    return samples.sequences[row] <= before[0] and samples.timestamps[row] > before[1]
