"""One slot in memory: a scripted source and sink around a real lane, real workers and the real supervisor."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence

from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.crew import Notice, NoticeKind, Plan
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.lane import Lane
from edge_agent.runtime.samples import Faults, Samples
from edge_agent.runtime.stamps import Stamps
from edge_agent.runtime.supervisor import Supervisor
from edge_agent.runtime.trail import Trail
from tests.simulators.waiting import until

__all__ = ["ScriptedSink", "ScriptedSource", "Slot"]

PERIOD_NANOSECONDS = 10_000_000


class ScriptedSource:
    """Samples that the test feeds: sample `n` has number `n` and values `n, n, …`."""

    def __init__(self, columns: tuple[str, ...] = ("x",), rows_per_take: int = 1) -> None:
        self.columns = columns
        self.faults = Faults()
        self.rejected = 0
        self.problem = ""
        self.finished = False
        self.taken = self.acknowledged = self.closed = 0
        self.fault: Exception | None = None
        self._rows_per_take = rows_per_take
        self._waiting: deque[tuple[int, int]] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.time = 0

    def feed(self, *numbers: int) -> None:
        for number in numbers:
            self.time += PERIOD_NANOSECONDS
            self._waiting.append((number, self.time))
        os.eventfd_write(self._event, 1)

    def interest(self) -> Interest:
        if self.fault is not None:
            raise self.fault
        return self._event, select.POLLIN, None

    def handle(self, events: int, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def take(self, room: int) -> Samples | None:
        numbers, times, values = array("q"), array("q"), array("d")
        while self._waiting and len(numbers) < min(room, self._rows_per_take):
            number, time_ns = self._waiting.popleft()
            numbers.append(number)
            times.append(time_ns)
            values.extend([float(number)] * len(self.columns))
        self.taken += len(numbers)
        return Samples(self.columns, numbers, times, values) if numbers else None

    def acknowledge(self, rows: int) -> None:
        self.acknowledged += rows

    def close(self) -> None:
        self.closed += 1
        os.close(self._event)


class ScriptedSink:
    """Keeps what is written; confirms at once, or when told."""

    def __init__(self, capacity: int = 10_000, *, confirms: bool = True) -> None:
        self.messages: list[OutputMessage] = []
        self.confirmed = self.closed = 0
        self.faults = Faults()
        self.problem = ""
        self.fault: Exception | None = None
        self.largest = 0
        self._capacity, self._confirms = capacity, confirms
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def room(self) -> int:
        return self._capacity - (len(self.messages) - self.confirmed)

    def interest(self) -> Interest:
        return self._event, select.POLLIN, None

    def handle(self, events: int, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def write(self, messages: Sequence[OutputMessage]) -> None:
        if self.fault is not None:
            raise self.fault
        if len(messages) > self.room:
            raise ValueError("more than there is room for")
        self.largest = max(self.largest, len(messages))
        self.messages.extend(messages)
        if self._confirms:
            self.confirmed = len(self.messages)
            os.eventfd_write(self._event, 1)

    def confirm(self, total: int) -> None:
        self.confirmed = total
        os.eventfd_write(self._event, 1)

    def close(self) -> None:
        self.closed += 1
        os.close(self._event)


class Slot:
    """A lane under its supervisor; plays the updater too: what a candidate shows moves it on, unless told otherwise."""

    def __init__(
        self,
        source: ScriptedSource | None = None,
        sink: ScriptedSink | None = None,
        *,
        moves_on: bool = True,
        trail: Trail | None = None,
        stamps: Stamps | None = None,
    ) -> None:
        self.source, self.sink = source or ScriptedSource(), sink or ScriptedSink()
        self.notices: list[Notice] = []
        self.moves_on = moves_on
        self.lane = Lane("act", "device/act", self.source, self.sink, self._hear, trail=trail, stamps=stamps)
        self.supervisor = Supervisor([self.lane])
        self._fed = 0
        self._feeding = threading.Event()
        self._feeder: threading.Thread | None = None

    def __enter__(self) -> Slot:
        self.supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_feeding()
        self.supervisor.stop()
        assert self.supervisor.failure is None, self.supervisor.failure
        assert not self.lane.crew.dying, "a worker was left behind"

    # --- the updater's part

    def _hear(self, notice: Notice) -> None:
        self.notices.append(notice)
        if not self.moves_on:
            return
        move: dict[NoticeKind, Callable[[str, int], None]] = {
            NoticeKind.LOADED: self.supervisor.shadow if self.active_pid else self.supervisor.serve,
            NoticeKind.PROVEN: self.supervisor.serve,
            NoticeKind.HEALTHY: self.supervisor.keep,
        }
        if notice.kind in move:
            move[notice.kind]("act", notice.key)

    def run(self, plan: Plan) -> None:
        """Run `plan` as the committed release and wait until it has loaded."""
        self.supervisor.run("act", plan)
        until(lambda: self._loaded(plan.key), 30.0, what=f"loading of {plan.release}")

    def try_out(self, plan: Plan) -> None:
        self.supervisor.start_candidate("act", plan)

    def _loaded(self, key: int) -> bool:
        return any(one.key == key and one.loaded for one in self.lane.crew.by_descriptor().values())

    @property
    def active_pid(self) -> int:
        """The active worker's process, 0 without one."""
        active = self.lane._active
        return active.pid if active is not None and active.loaded is not None else 0

    # --- what the test does and sees

    def feed(self, count: int) -> None:
        self.source.feed(*range(self._fed, self._fed + count))
        self._fed += count

    def feed_on(self, seconds: float = 0.002) -> None:
        """Feed a sample every few milliseconds until `stop_feeding`."""

        def go_on() -> None:
            while not self._feeding.wait(seconds):
                self.feed(1)

        self._feeding.clear()
        self._feeder = threading.Thread(target=go_on)
        self._feeder.start()

    def stop_feeding(self) -> int:
        """Return how many samples were fed in all."""
        self._feeding.set()
        if self._feeder is not None:
            self._feeder.join()
        return self._fed

    def feed_until(self, kind: NoticeKind) -> Notice:
        """Feed until there is such news: how many samples that takes depends on how many a candidate is shown late."""
        self.feed_on()
        try:
            return self.wait_for(kind)
        finally:
            self.stop_feeding()

    @property
    def numbers(self) -> list[int]:
        return [message.sequence for message in list(self.sink.messages)]

    def wait_for(self, kind: NoticeKind, key: int | None = None, seconds: float = 30.0) -> Notice:
        def found() -> Notice | None:
            matching = (one for one in list(self.notices) if one.kind is kind and key in (None, one.key))
            return next(matching, None)

        until(found, seconds, f"the notice {kind.value}, among {self.notices}")
        notice = found()
        assert notice is not None
        return notice

    def wait_for_outputs(self, count: int, seconds: float = 30.0) -> None:
        until(lambda: len(self.sink.messages) >= count, seconds, f"{count} outputs after {self.lane.counters}")

    def wait_for_done(self, seconds: float = 30.0) -> None:
        """Wait until every sample fed so far was acknowledged."""
        until(lambda: self.source.acknowledged >= self._fed, seconds, f"{self._fed} samples, {self.lane.counters}")


def processor_seconds(seconds: float) -> float:
    """Return the processor time that this process takes while nothing happens for some seconds."""
    before = time.process_time()
    time.sleep(seconds)
    return time.process_time() - before
