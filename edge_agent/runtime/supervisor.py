"""One thread that moves every slot's frames: it polls sources, sinks and workers, and pumps the lanes.

Orders come in through a queue and take effect between two polls; news goes out through a callback. The thread never
waits for a disk, a broker or a worker. It ends by itself only when told to: a lane in which something is wrong with our
own code rests for a while and is tried again, and the others go on.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from edge_agent.runtime.chatter import Chatter
from edge_agent.runtime.crew import Plan
from edge_agent.runtime.lane import Lane
from edge_agent.runtime.member import Member
from edge_agent.runtime.ports import Sink, Source

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)
POLL_SECONDS_MAX = 1.0
CLOSE_SECONDS = 3.0
DRAIN_SECONDS = 1.0
DRAIN_TURN_SECONDS = 0.02
REST_SECONDS = 1.0
T = TypeVar("T")
Due: TypeAlias = "tuple[int, float, Lane, Source | Sink]"
Wanted: TypeAlias = "tuple[int, Lane, Member | Source | Sink]"


class Supervisor:
    """Runs lanes on a thread of its own."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self.lanes = {lane.slot: lane for lane in lanes}
        self._resting: dict[str, float] = {}
        self._orders: queue.SimpleQueue[tuple[Lane, Callable[[Lane, Any, float], None], Any]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = threading.Event()
        self._poll = select.poll()
        self._wanted: dict[int, Wanted] = {}
        self._chatter = Chatter()
        for lane in self.lanes.values():
            lane.crew.listen(functools.partial(self._chatter.voice, lane.slot))
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self.failure: BaseException | None = None
        self.beat = time.monotonic()

    # --- called from other threads -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start moving frames."""
        self._chatter.start()
        self._thread.start()

    def stop(self) -> None:
        """End every worker and the thread."""
        self._stopping.set()
        self._nudge()
        if self._thread.ident is not None:
            self._thread.join(DRAIN_SECONDS + CLOSE_SECONDS + 2.0)
        if not self._thread.is_alive():
            self._chatter.stop()
        if not self._thread.is_alive() and self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def alive(self, now: float) -> bool:
        """Tell whether the thread still turns: it came round within the last few seconds."""
        return self._thread.is_alive() and now - self.beat < 5 * POLL_SECONDS_MAX

    def run(self, slot: str, plan: Plan) -> None:
        """Run a committed release on a slot."""
        self._order(self.lanes[slot], Lane.run, plan)

    def start_candidate(self, slot: str, plan: Plan) -> None:
        """Start a candidate beside the active release."""
        self._order(self.lanes[slot], Lane.start, plan)

    def shadow(self, slot: str, key: int) -> None:
        """Let the candidate shadow."""
        self._order(self.lanes[slot], Lane.shadow, key)

    def serve(self, slot: str, key: int) -> None:
        """Let the candidate answer."""
        self._order(self.lanes[slot], Lane.serve, key)

    def keep(self, slot: str, key: int) -> None:
        """The candidate is committed."""
        self._order(self.lanes[slot], Lane.keep, key)

    def compare(self, slot: str, plan: Plan) -> None:
        """Let the release before the active one compute along."""
        self._order(self.lanes[slot], Lane.compare, plan)

    def abandon(self, slot: str, key: int) -> None:
        """Drop a release."""
        self._order(self.lanes[slot], Lane.abandon, key)

    def rename(self, slot: str, key: int, release: str) -> None:
        """Call a release by another name in what it gives out from now on."""
        self._order(self.lanes[slot], Lane.rename, (key, release))

    def _order(self, lane: Lane, act: Callable[[Lane, Any, float], None], what: Any) -> None:
        self._orders.put((lane, act, what))
        self._nudge()

    def _nudge(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._poll.register(self._wake, select.POLLIN)
            while not self._stopping.is_set():
                self._turn()
            self._drain()
        except BaseException as error:
            self.failure = error
            log.exception("supervisor thread ended")
        finally:
            self._close()

    def _drain(self) -> None:
        """Finish what is in flight, so that nothing confirmed is asked again; not for longer than a moment."""
        for lane in self.lanes.values():
            lane.draining = True
        deadline = time.monotonic() + DRAIN_SECONDS
        while not all(lane.idle for lane in self.lanes.values()) and time.monotonic() < deadline:
            self._turn(longest=DRAIN_TURN_SECONDS)
        for lane in self.lanes.values():
            self._try(lane, time.monotonic(), lane.pump, time.monotonic())  # the last acknowledgements

    def _turn(self, longest: float = POLL_SECONDS_MAX) -> None:
        now = time.monotonic()
        self.beat = now
        due, deadline = self._move(now)
        wait = min(max(deadline - time.monotonic(), 0.0), longest)
        # poll() counts in whole milliseconds: rounding up a deadline beats spinning on it.
        ready = dict(self._poll.poll(int(wait * 1000) + (wait > 0)))
        now = time.monotonic()
        if ready.pop(self._wake, 0):
            os.eventfd_read(self._wake)
            self._obey(now)
        for descriptor, events in ready.items():
            _, lane, owner = self._wanted[descriptor]
            if isinstance(owner, Member):
                self._try(lane, now, lane.hear, owner, now)
            elif owner is lane.source:
                self._try(lane, now, lane.arrived, events, now)
            else:
                self._try(lane, now, owner.handle, events, now)
        for descriptor, at, lane, end in due:
            if at <= now and descriptor not in ready and not self._rests(lane, now):
                self._try(lane, now, end.handle, 0, now)

    def _obey(self, now: float) -> None:
        while True:
            try:
                lane, act, what = self._orders.get_nowait()
            except queue.Empty:
                return
            self._try(lane, now, lane.obey, act, what, now)

    def _rests(self, lane: Lane, now: float) -> bool:
        return bool(self._resting) and self._resting.get(lane.slot, 0.0) > now

    def _awake(self, now: float) -> list[Lane]:
        lanes = list(self.lanes.values())
        return [lane for lane in lanes if not self._rests(lane, now)] if self._resting else lanes

    def _try(self, lane: Lane, now: float, act: Callable[..., T], *arguments: Any) -> T | None:
        """Do something for one lane; what it raises, against its promises, costs this lane a rest and no other."""
        try:
            return act(*arguments)
        except Exception:
            log.exception("lane rests slot=%s seconds=%s", lane.slot, REST_SECONDS)
            lane.counters["faults"] += 1
            self._resting[lane.slot] = now + REST_SECONDS
            return None

    def _move(self, now: float) -> tuple[list[Due], float]:
        """Let every lane do what it can; return whose end is due before poll() is back at the latest, and the first.

        Mostly nobody waits for anything else than the turn before.
        """
        latest = deadline = now + POLL_SECONDS_MAX
        if self._resting:
            deadline = min([deadline, *(end for end in self._resting.values() if end > now)])
        wanted: dict[int, Wanted] = {}
        due: list[Due] = []
        for lane in self._awake(now):
            found = self._try(lane, now, lane.turn, now)
            if found is None:
                continue
            (source, to_read, read_at), (sink, to_write, write_at), members, until = found
            if source >= 0:
                wanted[source] = to_read, lane, lane.source
            if sink >= 0:
                wanted[sink] = to_write, lane, lane.sink
            for descriptor, member in members.items():
                wanted[descriptor] = select.POLLIN, lane, member
            if read_at is not None and read_at < latest:
                due.append((source, read_at, lane, lane.source))
                deadline = min(deadline, read_at)
            if write_at is not None and write_at < latest:
                due.append((sink, write_at, lane, lane.sink))
                deadline = min(deadline, write_at)
            deadline = min(deadline, until)
        if wanted != self._wanted:
            self._register(wanted)
        return due, deadline

    def _register(self, wanted: dict[int, Wanted]) -> None:
        """Tell poll() what changed. It knows numbers, not files: one that was closed and reused needs no word."""
        for descriptor in self._wanted.keys() - wanted.keys():
            with contextlib.suppress(KeyError):
                self._poll.unregister(descriptor)
        for descriptor, one in wanted.items():
            if self._wanted.get(descriptor) != one:
                self._poll.register(descriptor, one[0])
        self._wanted = wanted

    def _close(self) -> None:
        now = time.monotonic()
        for lane in self.lanes.values():
            self._try(lane, now, lane.close, now)
        deadline = now + CLOSE_SECONDS
        while any(lane.crew.dying for lane in self.lanes.values()) and time.monotonic() < deadline:
            for lane in self.lanes.values():
                lane.crew.bury(time.monotonic())
            time.sleep(0.005)
        for lane in self.lanes.values():
            self._try(lane, now, lane.source.close)
            self._try(lane, now, lane.sink.close)
