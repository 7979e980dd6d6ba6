"""The supervisor's thread outlives what workers, sources, sinks and the system do to it, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.errors import Blame, ReasonCode
from edge_agent.runtime.crew import NoticeKind
from edge_agent.runtime.lane import Lane
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.supervisor import Supervisor
from tests.simulators.processes import children, descriptors
from tests.simulators.release import Releases
from tests.simulators.slot import ScriptedSink, ScriptedSource, Slot, processor_seconds
from tests.simulators.waiting import until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def slot(releases: Releases) -> Iterator[Slot]:
    with Slot() as made:
        yield made


def test_thirty_swaps_leave_no_process_descriptor_or_zombie(releases: Releases) -> None:
    before = children(), descriptors()
    plans = [releases.act(1), releases.act(2, "raise in cleanup"), releases.act(3, "start child")]
    with Slot() as slot:
        for number in range(30):
            slot.supervisor.run("act", plans[number % 3])
            if number % 3 == 0:  # the others are let go in the middle of loading
                slot.feed(3)
                slot.wait_for_done()

        def settled() -> bool:
            active = slot.lane._active
            return active is not None and active.key == plans[29 % 3].key and not slot.lane.crew.dying

        until(settled, what="the last worker, alone")
        assert len(children() - before[0]) == 1
        assert len(slot.lane.crew._plans) == 1
    # Earlier tests of this process may let go of descriptors meanwhile; none may have come.
    assert children() <= before[0]
    assert len(descriptors()) <= len(before[1])


def test_a_filter_starts_no_process(slot: Slot, releases: Releases, caplog: pytest.LogCaptureFixture) -> None:
    before = children()
    slot.run(releases.act(1, "start child"))
    slot.feed(1)
    slot.wait_for_done()
    assert "this filter starts a process; on devices it may not" in caplog.text
    assert children() - before == {str(slot.active_pid)}


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_system_without_room_for_a_process_is_tried_again_and_blames_nobody(
    slot: Slot, releases: Releases, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number))

    plan = releases.act(1)
    monkeypatch.setattr(os, "posix_spawn", refuse)
    before = descriptors()
    slot.supervisor.run("act", plan)
    slot.try_out(releases.act(2))
    notice = slot.wait_for(NoticeKind.FAILED, 2)
    assert notice.reason is not None
    assert (notice.reason.code, notice.reason.blame) == (ReasonCode.ENVIRONMENT, Blame.ENVIRONMENT)
    assert os.strerror(number) in notice.reason.message
    until(lambda: slot.lane.counters["spawn_refused"] >= 2, what="a second attempt")
    assert not descriptors() - before
    monkeypatch.undo()
    slot.feed(3)
    slot.wait_for_done()
    assert slot.numbers == [0, 1, 2]


def test_a_source_or_sink_that_raises_costs_its_own_lane_a_rest(releases: Releases) -> None:
    with Slot() as slot:
        other_source, other_sink = ScriptedSource(), ScriptedSink()
        other = Lane("other", "device/other", other_source, other_sink, slot.notices.append)
        slot.supervisor.lanes["other"] = other
        slot.run(releases.act(1))
        slot.supervisor.run("other", releases.act(2))

        slot.source.fault = RuntimeError("a bug in a source")
        until(lambda: slot.lane.counters["faults"] >= 1, what="a fault")
        other_source.feed(*range(5))
        until(lambda: other_source.acknowledged == 5, what="the other lane")
        slot.source.fault = None
        slot.feed(5)
        slot.wait_for_done()

        slot.sink.fault = ValueError("a bug in a sink")
        slot.feed(5)
        until(lambda: slot.lane.counters["faults"] >= 2, what="another fault")
        slot.sink.fault = None
        slot.wait_for_done()
        assert slot.numbers == list(range(10))
        assert slot.lane.counters["crashes"] == 0


def test_an_order_for_an_unknown_slot_is_its_callers_mistake(slot: Slot, releases: Releases) -> None:
    with pytest.raises(KeyError):
        slot.supervisor.shadow("no such slot", 1)
    slot.supervisor.keep("act", 99)
    slot.supervisor.serve("act", 99)
    slot.supervisor.shadow("act", 99)
    slot.supervisor.abandon("act", 99)
    slot.run(releases.act(1))
    assert slot.lane.counters["faults"] == 0


def test_nothing_to_do_takes_no_processor_time(slot: Slot, releases: Releases) -> None:
    """Also with a replacement overtaken by a commit, a worker being buried, and a full sink."""
    slot.run(releases.act(1))
    slot.try_out(releases.act(2))
    slot.wait_for(NoticeKind.LOADED)
    slot.feed_until(NoticeKind.PROVEN)
    for _ in range(3):  # the old worker's next start lies half a second ahead when the candidate is committed
        killed = slot.active_pid
        if killed:
            os.kill(killed, signal.SIGKILL)
            until(lambda killed=killed: slot.active_pid != killed, what="its end to be seen")
    slot.feed(20)
    slot.wait_for(NoticeKind.HEALTHY)
    until(lambda: slot.lane._candidate is None and not slot.lane.crew.dying, what="the commit")
    assert slot.lane.crew._again is None
    assert processor_seconds(0.7) < 0.1


def test_a_full_sink_takes_no_processor_time(releases: Releases) -> None:
    with Slot(sink=ScriptedSink(capacity=2, confirms=False)) as slot:
        slot.run(releases.act(1))
        slot.feed(10)
        slot.wait_for_outputs(2)
        assert processor_seconds(0.5) < 0.1


def test_the_beat_tells_that_the_thread_turns(slot: Slot) -> None:
    now = time.monotonic()
    assert slot.supervisor.alive(now)
    assert not slot.supervisor.alive(now + 60)
    slot.supervisor.stop()
    assert not slot.supervisor.alive(time.monotonic())
    assert slot.source.closed == slot.sink.closed == 1


def test_stopping_what_was_never_started_or_twice_is_no_mistake() -> None:
    before = descriptors()
    supervisor = Supervisor([])
    supervisor.stop()
    supervisor.stop()
    assert descriptors() <= before


def test_orders_after_the_end_go_nowhere(releases: Releases) -> None:
    with Slot() as slot:
        slot.supervisor.stop()
        slot.supervisor.abandon("act", 1)


def test_a_worker_in_a_hang_is_killed_when_the_supervisor_stops(releases: Releases) -> None:
    with Slot() as slot:
        slot.run(releases.act(1, "hang"))
        worker = os.pidfd_open(slot.active_pid)
        slot.feed(1)
        until(lambda: slot.source.taken == 1, what="the frame to be given")
        slot.supervisor.stop()
    try:
        assert select.select([worker], [], [], 0)[0]
    finally:
        os.close(worker)


def test_workers_die_with_a_killed_agent(releases: Releases) -> None:
    script = f"""
import sys, time
from pathlib import Path
from edge_agent.contract.manifest import HealthPolicy, OutputSpec
from edge_agent.runtime.crew import Plan
from tests.simulators.slot import Slot
plan = Plan(key=1, release="act@1", root=Path({str(releases.act(1).root)!r}), columns=["x"],
            output=OutputSpec(columns=["y"]), health=HealthPolicy())
with Slot() as slot:
    slot.run(plan)
    print(slot.active_pid, flush=True)
    time.sleep(60)
"""
    agent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert agent.stdout is not None
        worker = os.pidfd_open(int(agent.stdout.readline()))
        agent.kill()
        assert select.select([worker], [], [], 10)[0]
        os.close(worker)
    finally:
        agent.kill()
        agent.communicate()


def test_a_steady_stream_has_deadlines_looked_at_now_and_then_only(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    looks, overdue = [], slot.lane.crew.overdue

    def counted(now: float) -> list[Any]:
        looks.append(now)
        return overdue(now)

    slot.lane.crew.overdue = counted  # type: ignore[method-assign]
    slot.feed(200)  # a batch each
    slot.wait_for_done()
    assert len(looks) < 20


class Unread(ScriptedSource):
    """Has only what it was let read."""

    def __init__(self) -> None:
        super().__init__()
        self._read = 0

    def handle(self, events: int, now: float) -> None:
        super().handle(events, now)
        self._read = len(self._waiting)

    def take(self, room: int) -> Samples | None:
        taken = super().take(min(room, self._read))
        self._read -= taken.rows if taken is not None else 0
        return taken


def test_what_came_while_a_batch_was_in_flight_begins_without_another_poll(releases: Releases) -> None:
    with Slot(Unread()) as slot:
        slot.run(releases.act(1))
        arrivals, arrived, sent = [], slot.lane.arrived, slot.lane.linger.sent

        def counted(events: int, now: float) -> None:
            arrivals.append(events)
            arrived(events, now)

        def fed(now: float) -> None:
            sent(now)
            if slot.source.taken < 50:
                slot.feed(1)

        slot.lane.arrived, slot.lane.linger.sent = counted, fed  # type: ignore[method-assign]
        slot.feed(1)
        until(lambda: slot.source.acknowledged == 50, what="all of them")
        assert len(arrivals) < 25
