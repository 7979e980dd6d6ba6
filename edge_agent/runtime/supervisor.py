"""One thread that moves every slot's frames: it polls sources, sinks and workers, and pumps the lanes.

Orders come in through a queue and take effect between two polls; news goes out through a callback. The thread never
waits for a disk, a broker or a worker. It ends by itself only when told to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from edge_agent.runtime.crew import Plan
from edge_agent.runtime.lane import Lane
from edge_agent.runtime.sinks import Sink
from edge_agent.runtime.sources import Source

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)
POLL_SECONDS_MAX = 1.0
CLOSE_SECONDS = 3.0


class Supervisor:
    """Runs lanes on a thread of its own."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self.lanes = {lane.slot: lane for lane in lanes}
        self._endpoints: list[Source | Sink] = [end for lane in self.lanes.values() for end in (lane.source, lane.sink)]
        self._orders: queue.SimpleQueue[Callable[[float], None]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = threading.Event()
        self._poll = select.poll()
        self._registered: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self.failure: BaseException | None = None
        self.beat = time.monotonic()

    # --- called from other threads -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start moving frames."""
        self._thread.start()

    def stop(self) -> None:
        """End every worker and the thread."""
        self._stopping.set()
        self._nudge()
        self._thread.join(CLOSE_SECONDS + 2.0)

    def alive(self, now: float) -> bool:
        """Tell whether the thread still turns: it came round within the last few seconds."""
        return self._thread.is_alive() and now - self.beat < 5 * POLL_SECONDS_MAX

    def run(self, slot: str, plan: Plan) -> None:
        """Run a committed release on a slot."""
        self._order(lambda now: self.lanes[slot].run(plan, now))

    def start_candidate(self, slot: str, plan: Plan) -> None:
        """Start a candidate beside the active release."""
        self._order(lambda now: self.lanes[slot].start(plan, now))

    def shadow(self, slot: str, key: int) -> None:
        """Let the candidate shadow."""
        self._order(lambda now: self.lanes[slot].shadow(key, now))

    def serve(self, slot: str, key: int) -> None:
        """Let the candidate answer."""
        self._order(lambda now: self.lanes[slot].serve(key, now))

    def keep(self, slot: str, key: int) -> None:
        """The candidate is committed."""
        self._order(lambda now: self.lanes[slot].keep(key, now))

    def abandon(self, slot: str, key: int) -> None:
        """Drop a release."""
        self._order(lambda now: self.lanes[slot].abandon(key, now))

    def _order(self, act: Callable[[float], None]) -> None:
        self._orders.put(act)
        self._nudge()

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._poll.register(self._wake, select.POLLIN)
            while not self._stopping.is_set():
                self._turn()
        except BaseException as error:
            self.failure = error
            log.exception("supervisor thread ended")
        finally:
            self._close()

    def _turn(self) -> None:
        now = time.monotonic()
        self.beat = now
        for lane in self.lanes.values():
            lane.pump(now)
        owners, deadline = self._interests(now)
        wait = min(max(deadline - time.monotonic(), 0.0), POLL_SECONDS_MAX)
        # poll() counts in whole milliseconds: rounding up a deadline beats spinning on it.
        ready = dict(self._poll.poll(int(wait * 1000) + (wait > 0)))
        now = time.monotonic()
        if ready.pop(self._wake, 0):
            os.eventfd_read(self._wake)
        self._obey(now)
        for descriptor, events in ready.items():
            owner = owners.get(descriptor)
            if isinstance(owner, tuple):
                owner[0].hear(owner[1], now)
            elif owner is not None:
                owner.handle(events, now)
        for endpoint in self._endpoints:
            descriptor, _, due = endpoint.interest()
            if due is not None and due <= now and descriptor not in ready:
                endpoint.handle(0, now)

    def _obey(self, now: float) -> None:
        while True:
            try:
                act = self._orders.get_nowait()
            except queue.Empty:
                return
            act(now)

    def _interests(self, now: float) -> tuple[dict[int, Any], float]:
        """Bring poll's registrations up to date; return who owns each descriptor, and the nearest deadline."""
        owners: dict[int, Any] = {}
        wanted: dict[int, int] = {}
        deadline = now + POLL_SECONDS_MAX
        for endpoint in self._endpoints:
            descriptor, events, due = endpoint.interest()
            if descriptor >= 0:
                owners[descriptor], wanted[descriptor] = endpoint, events
            if due is not None:
                deadline = min(deadline, due)
        for lane in self.lanes.values():
            for descriptor, member in lane.crew.by_descriptor().items():
                owners[descriptor], wanted[descriptor] = (lane, member), select.POLLIN
            due = lane.wake_at(now)
            if due is not None:
                deadline = min(deadline, due)
        for descriptor in self._registered.keys() - wanted.keys():
            with contextlib.suppress(KeyError, OSError):
                self._poll.unregister(descriptor)
        for descriptor, events in wanted.items():
            # A number may have been closed and reused since the last turn: register anew, changed or not.
            self._poll.register(descriptor, events)
        self._registered = wanted
        return owners, deadline

    def _close(self) -> None:
        now = time.monotonic()
        for lane in self.lanes.values():
            lane.close(now)
        deadline = now + CLOSE_SECONDS
        while any(lane.crew.dying for lane in self.lanes.values()) and time.monotonic() < deadline:
            for lane in self.lanes.values():
                lane.crew.bury(time.monotonic())
            time.sleep(0.005)
        for endpoint in self._endpoints:
            endpoint.close()
