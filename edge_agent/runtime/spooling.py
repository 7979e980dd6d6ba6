"""A source whose samples wait on disk when the lane does not take them: the overflow policy `spool` (R4).

It drains the source it wraps, sends the rows on their way (see `detour`), and acknowledges upstream what is safe:
given and done with, or synced. That is what makes a kill harmless, at any moment and together with the trail, which has
every sample before a result of it leaves, in the order given:

    killed …                                    what is found again
    while DIRECT                                the trail's rows; others come again if upstream can be asked (QoS 1)
    while the first file is written             the same: a file without its final name is removed
    after that, before the acknowledgement      on disk, under the marks by which the source knows what comes again
    with rows given and not yet on the trail    on disk, and given again
    with rows on the trail                      on disk, too: those up to the trail's newest sample count as given, and
                                                the lane computes again those without safe results
    with the trail's newest sample not on disk  nothing of it was given yet: all of it is
    between `done` and the removal of files     rows below `done` are not looked at
    after that, before newer rows are given     as while DIRECT

After a power cut the disk has every row that was acknowledged upstream. The trail and `done` may be older, so rows may
be given twice, under their old numbers. Without a trail (the disk refused one) the same holds after a kill.

A disk that refuses makes the input block, with a problem in words: what is in memory stays there, unacknowledged, until
it is written or taken. With the budget used up the oldest file of rows not given is dropped and counted.
"""

from __future__ import annotations

import logging
import time

from edge_agent.runtime.detour import HOLD_SECONDS, Detour, State
from edge_agent.runtime.input_spool import InputSpool
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.overflow import QUEUE_BYTES_MAX, Wrapper
from edge_agent.runtime.ports import Source
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.spool_clerk import Clerk, Desk
from edge_agent.runtime.spool_orders import Answer, Failed, Write

__all__ = ["SpoolingSource"]

log = logging.getLogger(__name__)
CLOSE_SECONDS = 5.0
CHUNK_ROWS = 1024


class SpoolingSource(Wrapper):
    """`inner` with a queue of `rows_max` samples (and `bytes_max`), and behind it `spool`, which it closes.

    With `spools=False` only what an earlier run left on disk is worked off, and the input blocks.
    """

    policy = "spool"

    def __init__(
        self,
        inner: Source,
        name: str,
        rows_max: int,
        spool: InputSpool,
        *,
        bytes_max: int = QUEUE_BYTES_MAX,
        hold_seconds: float = HOLD_SECONDS,
        spools: bool = True,
        desk: Desk | None = None,
    ) -> None:
        super().__init__(inner, name)
        self._desk: Desk = desk or Clerk(spool, name)
        self._way = Detour(
            name,
            rows_max,
            spool,
            self._desk,
            self._drop,
            bytes_max=bytes_max,
            hold_seconds=hold_seconds,
            spools=spools,
        )
        self._acknowledged = spool.end
        if spool.rows:
            log.info("spooled samples are worked off slot=%s rows=%d", name, spool.rows)

    @property
    def state(self) -> State:
        """Which way samples go."""
        return self._way.state

    @property
    def problem(self) -> str:
        """Why nothing can come now, or nothing can be spooled."""
        return "; ".join(words for words in (self._way.trouble, self.inner.problem) if words)

    @property
    def finished(self) -> bool:
        """Whether the last sample was taken."""
        return self.inner.finished and not self.waiting

    @property
    def waiting(self) -> int:
        """How many samples wait to be taken, in memory or on disk."""
        return self._way.arrived - self._way.given

    @property
    def pending(self) -> int:
        """The same, by the name that every source has for it."""
        return self.waiting

    @property
    def spooled(self) -> int:  # type: ignore[override]
        """How many samples wait on disk, those that were given and are not safe yet included."""
        return self._way.spooled

    @property
    def damaged(self) -> int:
        """How many samples were on disk and cannot be read."""
        return self._way.damaged

    @property
    def counts(self) -> dict[str, int]:
        """What the policy did, for the slot's counters."""
        found = {"dropped": self.dropped, "spool_damaged": self.damaged}
        return {name: count for name, count in found.items() if count}

    def interest(self) -> Interest:
        """Return what the inner source waits for, and when there is something to do here."""
        descriptor, events, self._inner_due = self.inner.interest()
        times = [one for one in (self._inner_due, self._way.due(time.monotonic())) if one is not None]
        return descriptor, events, min(times, default=None)

    def handle(self, events: int, now: float) -> None:
        """Let the inner source work, take over what it has, and hear and tell the one at the disk."""
        self._let_inner(events, now)
        while (answer := self._desk.get()) is not None:
            self._hear(answer, now)
        self._drain(now)
        self._way.move(now)

    def take(self, room: int) -> Samples | None:
        """Return the oldest waiting samples, at most `room` rows, or None."""
        samples = self._way.take(room)
        if samples is None and self.state is State.DIRECT:
            self._drain(time.monotonic())
            samples = self._way.take(room)
        if samples is not None:
            self._go_on()
        return samples

    def acknowledge(self, rows: int) -> None:
        """The oldest `rows` taken samples are safe downstream."""
        self._way.confirm(rows)
        self._acknowledge()
        self._go_on()

    def close(self) -> None:
        """Put what is in memory on disk, too, and close everything."""
        deadline = time.monotonic() + CLOSE_SECONDS
        self._drain(time.monotonic())
        while self._way.put_away() and (left := deadline - time.monotonic()) > 0:
            answer = self._desk.get(left)
            if answer is not None:
                self._hear(answer, time.monotonic())
            if isinstance(answer, Failed) and isinstance(answer.order, Write):
                break
        self._way.end()
        self._desk.close()
        self.inner.close()

    def _hear(self, answer: Answer, now: float) -> None:
        self._way.hear(answer, now)
        self._acknowledge()

    def _go_on(self) -> None:
        """Make use of the room there is now, without waiting for the next turn."""
        if self._way.on_disk:
            self._way.move(time.monotonic())

    def _drain(self, now: float) -> None:
        while (room := min(self._way.room, CHUNK_ROWS)) > 0:
            samples = self.inner.take(room)
            if samples is None or not samples.rows:
                return
            self._way.add(samples, now)

    def _acknowledge(self) -> None:
        if (rows := self._way.safe - self._acknowledged) > 0:
            self._acknowledged += rows
            self.inner.acknowledge(rows)
