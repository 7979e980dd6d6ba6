"""Several inputs as one source: every sample of a part is a row in which the other parts' columns are NaN.

Rows are numbered here, in the order in which they are taken: of what has come from several parts meanwhile, the one
stamped earliest first, never changing the order within a part. Replays that run as fast as they are taken are read so
that none runs ahead of the others. It acknowledges each part's samples to that part, in order, and holds nothing back:
bounds, waiting and faults are the parts' own.

What a part knows its samples by, should they come once more (`Samples.marks`), goes on the trail together with the
part's place, so a restart treats each MQTT part as if it were alone. A part that replays a file has no such mark and
begins at its top again.
"""

from __future__ import annotations

import math
import select
import time
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence

from edge_agent.config.plugs import JsonlInput, MergeInput
from edge_agent.config.sections import CsvInput, Input
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.ports import Source
from edge_agent.runtime.samples import Faults, Samples
from edge_agent.runtime.stamps import Stamps

__all__ = ["MARK_BITS", "MergedSource", "marks_of"]

MARK_BITS = 48  # of what MQTT marks samples with; above it, the part's place
NO_MARK = -1
OpenPart = Callable[[str, Input, Sequence[int]], Source]
_SAMPLE_BYTES = 8


class _Part:
    """One input: its source, what was taken of it and not given out yet, and where its columns lie in a row."""

    def __init__(self, name: str, place: int, section: Input, source: Source, stamps: Stamps) -> None:
        self.name, self.place, self.source, self._stamps = name, place, source, stamps
        self.waits = isinstance(section, CsvInput | JsonlInput) and not section.speed
        self.due: float | None = None
        self.offset = 0
        self._rows: Samples | None = None
        self._given = 0

    @property
    def waiting(self) -> int:
        rows = self._rows  # once: metrics ask on another thread
        return rows.rows - self._given if rows is not None else 0

    @property
    def behind(self) -> bool:
        """Whether nothing may overtake what comes next: it is there, it only was not read yet."""
        return self.waits and not self.waiting and not self.source.finished

    @property
    def time(self) -> int:
        assert self._rows is not None
        return self._rows.timestamps[self._given]

    @property
    def pending(self) -> int:
        """How many samples wait here and, unless it is a file, in the source."""
        return self.waiting + getattr(self.source, "pending", 0)

    def fill(self, room: int, now: int) -> None:
        if not self.waiting:
            self._rows, self._given = self.source.take(room), 0
            if self._rows is not None:
                self._stamps.see(self._rows, now)

    def until(self, time: float, room: int) -> tuple[Samples, int, int]:
        """Give out the rows up to `time`, at least one and at most `room`: the samples, and from where to where."""
        rows, start = self._rows, self._given
        assert rows is not None
        end = min(bisect_right(rows.timestamps, time, start + 1), start + room) if time < math.inf else start + room
        self._given = min(end, rows.rows)
        return rows, start, self._given


class MergedSource:
    """The source of one slot, over the sources of its parts.

    `open_part` opens a part, given its name, section and the marks of its samples that an earlier run took (`answered`
    are all parts'). `stamps` counts what the stamps of each part are like. Raises what `open_part` raises.
    """

    def __init__(
        self,
        config: MergeInput,
        open_part: OpenPart,
        stamps: Stamps,
        *,
        start_sequence: int = 0,
        answered: Sequence[int] = (),
    ) -> None:
        self.columns = tuple(config.columns)
        self._parts: list[_Part] = []
        self._owed: deque[tuple[_Part, int]] = deque()
        self._taken = 0
        self._next_sequence = start_sequence
        self._epoll = select.epoll()
        self._registered: dict[int, _Part] = {}
        try:
            for place, name in enumerate(sorted(config.part)):
                section = config.part[name]
                source = open_part(name, section, marks_of(answered, place))
                self._parts.append(_Part(name, place, section, source, stamps.of_part(name)))
        except BaseException:
            self.close()
            raise
        for part in self._parts:
            part.offset = self.columns.index(part.source.columns[0])

    # --- what is wrong -------------------------------------------------------------------------------------------

    @property
    def faults(self) -> Faults:
        """What became no sample in any part, by part and kind."""
        found = Faults()
        for part in self._parts:
            for kind, count in dict(part.source.faults).items():  # a copy: reports are made by another thread
                found[f"{part.name}: {kind}"] = count
            for kind, words in dict(part.source.faults.messages).items():
                found.messages[f"{part.name}: {kind}"] = words
        return found

    @property
    def rejected(self) -> int:
        """How many messages or rows became no sample."""
        return sum(part.source.rejected for part in self._parts)

    @property
    def problem(self) -> str:
        """Why nothing can come now from some part."""
        return "; ".join(f"{part.name}: {problem}" for part in self._parts if (problem := part.source.problem))

    @property
    def finished(self) -> bool:
        """Whether the last sample of every part was taken."""
        return all(part.source.finished and not part.waiting for part in self._parts)

    @property
    def pending(self) -> int:
        """How many samples wait to be taken, of all parts."""
        return sum(part.pending for part in self._parts)

    # --- turns ---------------------------------------------------------------------------------------------------

    def interest(self) -> Interest:
        """Return the descriptor of an epoll set, brought up to date; see `edge_agent.runtime.sources.Source`."""
        wanted: dict[int, _Part] = {}
        for part in self._parts:
            descriptor, events, part.due = part.source.interest()
            if descriptor >= 0:
                wanted[descriptor] = part
                self._register(descriptor, events)
        for descriptor in self._registered.keys() - wanted.keys():
            self._unregister(descriptor)
        self._registered = wanted
        return (
            self._epoll.fileno(),
            select.POLLIN,
            min((one.due for one in self._parts if one.due is not None), default=None),
        )

    def _register(self, descriptor: int, events: int) -> None:
        """Watch a descriptor. A closed one left the set by itself, and its number may be another file's by now."""
        if descriptor in self._registered:
            try:
                return self._epoll.modify(descriptor, events)
            except FileNotFoundError:
                pass
        self._epoll.register(descriptor, events)
        return None

    def _unregister(self, descriptor: int) -> None:
        try:
            self._epoll.unregister(descriptor)
        except OSError:  # closed, and so gone from the set
            return

    def handle(self, events: int, now: float) -> None:
        """Let every part do what is due."""
        self.interest()
        parts = self._registered
        done = {id(part): (part, seen) for fd, seen in self._epoll.poll(0) if (part := parts.get(fd)) is not None}
        for part in self._parts:
            if id(part) in done:
                part.source.handle(done[id(part)][1], now)
            elif part.due is not None and part.due <= now:
                part.source.handle(0, now)

    # --- samples -------------------------------------------------------------------------------------------------

    def take(self, room: int) -> Samples | None:
        """Return up to `room` rows, oldest first, or None. They stay unacknowledged."""
        now, pieces, total = time.time_ns(), [], 0
        while total < room:
            piece = self._next(room - total, now)
            if piece is None:
                break
            pieces.append(piece)
            total += piece[3] - piece[2]
        return self._merged(pieces, total) if total else None

    def _next(self, room: int, now: int) -> tuple[_Part, Samples, int, int] | None:
        """Return the next run of rows that come from one part."""
        for part in self._parts:
            part.fill(room, now)
        if any(part.behind for part in self._parts):
            return None
        ready = sorted((part for part in self._parts if part.waiting), key=lambda part: part.time)
        if not ready:
            return None
        return ready[0], *ready[0].until(ready[1].time if len(ready) > 1 else math.inf, room)

    def _merged(self, pieces: list[tuple[_Part, Samples, int, int]], total: int) -> Samples:
        width, start = len(self.columns), self._next_sequence
        self._next_sequence += total
        values = array("d", [math.nan]) * (total * width)
        timestamps, marks = array("q"), array("q")
        for part, rows, begin, end in pieces:
            own, row = len(rows.columns), len(timestamps)
            for column in range(own):
                at = row * width + part.offset + column
                stop = at + (end - begin) * width
                values[at:stop:width] = rows.values[begin * own + column : end * own : own]  # type: ignore[assignment]
            timestamps.extend(rows.timestamps[begin:end])
            marks.extend(_marks(part.place, rows, begin, end))
            self._owed.append((part, end - begin))
        self._taken += total
        marked = marks if any(mark != NO_MARK for mark in marks) else None
        return Samples(self.columns, array("q", range(start, start + total)), timestamps, values, (), marked)

    def acknowledge(self, rows: int) -> None:
        """Tell the parts which of their oldest taken samples are safe. `ValueError` if so many were not taken."""
        if not 0 <= rows <= self._taken:
            raise ValueError(f"{rows} samples cannot be acknowledged: {self._taken} are taken and unacknowledged")
        self._taken -= rows
        safe: dict[int, int] = {}
        while rows:
            part, owed = self._owed.popleft()
            done = min(rows, owed)
            if done < owed:
                self._owed.appendleft((part, owed - done))
            rows -= done
            safe[part.place] = safe.get(part.place, 0) + done
        for place, count in safe.items():
            self._parts[place].source.acknowledge(count)

    def close(self) -> None:
        """Close every part."""
        for part in self._parts:
            part.source.close()
        self._epoll.close()


def _marks(place: int, rows: Samples, begin: int, end: int) -> Sequence[int]:
    if not rows.marks:
        return [NO_MARK] * (end - begin)
    return [place << MARK_BITS | mark for mark in rows.marks[begin:end]]


def marks_of(answered: Sequence[int], place: int) -> list[int]:
    """Return the marks that samples of the part at `place` had in that part, oldest first."""
    return [mark & (1 << MARK_BITS) - 1 for mark in answered if mark >= 0 and mark >> MARK_BITS == place]
