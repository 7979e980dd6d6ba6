"""What the stream looks like from outside: windows across swaps, rollbacks, crashes, restarts and a full sink."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest

from edge_agent.contract.errors import Blame, ReasonCode
from edge_agent.runtime.crew import NoticeKind
from tests.simulators.processes import descriptors
from tests.simulators.release import Releases
from tests.simulators.slot import ScriptedSink, ScriptedSource, Slot
from tests.simulators.waiting import until


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def slot(releases: Releases) -> Iterator[Slot]:
    with Slot() as made:
        yield made


def windows(count: int, size: int = 8, hop: int = 4) -> dict[int, float]:
    """Return the windows' sums by the number of their newest sample, as a process that never stops gives them."""
    ends = range(size - 1, count, hop)
    return {end: float(sum(range(end - size + 1, end + 1))) for end in ends}


def test_every_window_comes_out_once_through_swap_rollback_and_crash(slot: Slot, releases: Releases) -> None:
    slot.run(releases.windows(1))
    slot.feed_on(0.002)
    slot.wait_for_outputs(3)
    slot.try_out(releases.windows(2))
    slot.wait_for(NoticeKind.HEALTHY, 2)
    until(lambda: slot.lane._candidate is None, what="the commit")
    slot.try_out(releases.act(3, "raise always", after=20, probation_seconds=60.0, probation_frames=1000))
    slot.wait_for(NoticeKind.PROVEN, 3)
    slot.wait_for(NoticeKind.FAILED, 3)
    seen = len(slot.sink.messages)
    slot.wait_for_outputs(seen + 3)
    killed = slot.active_pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: slot.active_pid not in (0, killed), what="a new worker")
    slot.wait_for_outputs(len(slot.sink.messages) + 3)
    fed = slot.stop_feeding()
    slot.wait_for_done()

    ours = [message for message in slot.sink.messages if message.release != "act@3"]
    assert len({message.sequence for message in slot.sink.messages}) == len(slot.sink.messages)
    expected = windows(fed)
    for message in ours:
        assert message.values["y"] == expected[message.sequence]
        assert message.first == max(0, message.sequence - 3)
    # Release 3 gave its own results while it was live; outside that time every window is there.
    theirs = [message.sequence for message in slot.sink.messages if message.release == "act@3"]
    missing = sorted(expected.keys() - {message.sequence for message in ours})
    assert all(min(theirs) <= number <= max(theirs) for number in missing)
    assert slot.lane.counters["crashes"] == 1
    assert slot.lane.counters["skipped"] == 0


def test_windows_of_a_rolled_back_twin_are_complete(slot: Slot, releases: Releases) -> None:
    slot.run(releases.windows(1))
    slot.feed_on(0.002)
    slot.try_out(releases.windows(2, probation_seconds=60.0))
    slot.wait_for(NoticeKind.PROVEN)
    until(lambda: any(message.probation for message in slot.sink.messages), what="an output in probation")
    slot.supervisor.abandon("act", 2)
    until(lambda: slot.lane._candidate is None, what="the rollback")
    slot.wait_for_outputs(len(slot.sink.messages) + 3)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert {message.sequence: message.values["y"] for message in slot.sink.messages} == windows(fed)
    assert len(slot.sink.messages) == len(windows(fed))


def test_a_crash_on_every_tenth_frame_keeps_windows_and_their_order(slot: Slot, releases: Releases) -> None:
    slot.run(releases.windows(1))
    for _ in range(3):
        slot.feed(10)
        slot.wait_for_done()
        killed = slot.active_pid
        os.kill(killed, signal.SIGKILL)
        until(lambda killed=killed: slot.active_pid not in (0, killed), what="a new worker")
    slot.feed(10)
    slot.wait_for_done()
    assert {message.sequence: message.values["y"] for message in slot.sink.messages} == windows(40)
    assert slot.numbers == sorted(windows(40))
    # Killed workers were not at fault while nothing was owed, but three within a minute are reported.
    assert [notice.kind for notice in slot.notices] == [NoticeKind.STOPPED_SERVING]


def test_history_of_a_skipped_batch_is_not_lost_with_its_worker(slot: Slot, releases: Releases) -> None:
    slot.run(releases.windows(1))
    slot.feed(11)
    slot.wait_for_done()
    assert slot.lane._history._rows >= 8
    killed = slot.active_pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: slot.active_pid not in (0, killed), what="a new worker")
    slot.feed(1)
    slot.wait_for_done()
    assert slot.numbers == [7, 11]


@pytest.mark.parametrize("rows_per_take", [1, 7, 100])
def test_numbers_start_anew_with_the_sensor(releases: Releases, rows_per_take: int) -> None:
    """Also where the restart falls into the middle of a batch."""
    with Slot(ScriptedSource(rows_per_take=rows_per_take)) as slot:
        slot.run(releases.act(1))
        slot.source.feed(*range(20), *range(30), *range(3, 8))
        until(lambda: slot.source.acknowledged == 55, what=f"55 samples, {slot.lane.counters}")
        assert slot.numbers == [*range(20), *range(30), *range(3, 8)]
        assert slot.lane.counters["restarts"] == 2
        assert slot.lane.counters["repeats_dropped"] == 0


def test_a_sample_sent_again_with_its_old_time_is_given_out_once(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.feed(5)
    slot.wait_for_done()
    slot.source.time -= 2 * 10_000_000
    slot.source.feed(3, 4)
    slot.source.feed(5)
    until(lambda: slot.source.acknowledged == 8, what="8 samples")
    assert slot.numbers == [0, 1, 2, 3, 4, 5]
    assert slot.lane.counters["repeats_dropped"] == 2
    assert slot.lane.counters["restarts"] == 0


def test_samples_are_acknowledged_only_after_the_sink_confirmed_their_results(releases: Releases) -> None:
    with Slot(sink=ScriptedSink(confirms=False)) as slot:
        slot.run(releases.windows(1))
        slot.feed(16)
        slot.wait_for_outputs(3)
        until(lambda: slot.source.taken == 16, what="16 samples taken")
        until(lambda: slot.source.acknowledged == 7, what="the samples before the first window")
        slot.sink.confirm(1)
        until(lambda: slot.source.acknowledged == 11, what="the first window's samples")
        slot.sink.confirm(3)
        until(lambda: slot.source.acknowledged == 16, what="all samples")


def test_a_full_sink_holds_the_source_back(releases: Releases) -> None:
    with Slot(ScriptedSource(rows_per_take=50), ScriptedSink(capacity=8, confirms=False)) as slot:
        slot.run(releases.act(1))
        slot.feed(30)
        slot.wait_for_outputs(8)
        assert slot.source.taken == 8
        assert slot.source.acknowledged == 0
        for confirmed in (8, 16, 24):
            slot.sink.confirm(confirmed)
            slot.wait_for_outputs(min(confirmed + 8, 30))
            assert slot.source.taken <= confirmed + 8
        slot.sink.confirm(30)
        slot.wait_for_done()
        assert slot.numbers == list(range(30))


def test_more_rows_out_than_in_wait_for_the_sink(releases: Releases) -> None:
    with Slot(sink=ScriptedSink(capacity=3, confirms=False)) as slot:
        slot.run(releases.act(1, "collect"))
        slot.feed(25)
        slot.wait_for_outputs(3)
        assert slot.source.taken == 10
        for confirmed in range(3, 21):
            slot.sink.confirm(confirmed)
            slot.wait_for_outputs(min(confirmed + 1, 20))
        slot.sink.confirm(20)
        until(lambda: slot.source.taken == 25, what="all samples taken")
        slot.wait_for_done()
        assert slot.numbers == list(range(20))
        assert slot.sink.largest <= 3


def test_frames_above_64_kb_travel_in_memory_files(releases: Releases) -> None:
    columns = ("x", *(f"x{number}" for number in range(1, 40)))
    with Slot(ScriptedSource(columns, rows_per_take=1000)) as slot:
        plan = releases.act(1, "wide", columns=40)
        slot.run(plan)
        before = descriptors()
        slot.feed(3000)
        slot.wait_for_done()
        assert len(slot.sink.messages) == 3000
        assert descriptors() <= before


def test_a_long_history_warms_a_worker_beyond_its_sockets_room(releases: Releases) -> None:
    """40,000 samples are more than a socket takes at once, and no reason to condemn anybody."""
    with Slot(ScriptedSource(rows_per_take=1000)) as slot:
        slot.run(releases.windows(1, size=40_000, hop=1000))
        slot.feed(60_000)
        slot.wait_for_done()
        killed = slot.active_pid
        os.kill(killed, signal.SIGKILL)
        until(lambda: slot.active_pid not in (0, killed), what="a new worker")
        slot.feed(2000)
        slot.wait_for_done()
        assert slot.numbers == list(range(39_999, 62_000, 1000))
        assert slot.lane.counters["crashes"] == 1


def test_a_release_whose_column_the_source_lacks_is_refused_as_environment(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.try_out(releases.act(2, columns=2))
    slot.wait_for(NoticeKind.LOADED)
    slot.feed_on(0.005)
    notice = slot.wait_for(NoticeKind.FAILED)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert notice.reason is not None
    assert (notice.reason.code, notice.reason.blame) == (ReasonCode.COLUMNS, Blame.ENVIRONMENT)
    assert "'x1'" in notice.reason.message
    assert slot.numbers == list(range(fed))


def test_the_first_release_takes_over_what_waited(slot: Slot, releases: Releases) -> None:
    slot.feed(5)
    slot.try_out(releases.act(1))
    slot.wait_for(NoticeKind.LOADED)
    slot.feed(10)
    slot.wait_for(NoticeKind.HEALTHY)
    slot.wait_for_done()
    assert slot.numbers == list(range(15))


def test_a_candidate_rescues_the_frame_that_an_active_release_dies_of(slot: Slot, releases: Releases) -> None:
    """The active release is down and waits for its next start: the candidate serves, the frame in flight included."""
    slot.run(releases.act(1, "exit", after=2))
    slot.feed(8)
    slot.wait_for(NoticeKind.STOPPED_SERVING)
    slot.try_out(releases.act(2))
    slot.supervisor.shadow("act", 2)
    slot.wait_for(NoticeKind.LOADED)
    slot.supervisor.serve("act", 2)
    slot.feed(10)
    slot.wait_for(NoticeKind.HEALTHY)
    slot.wait_for_done()
    assert slot.numbers[-10:] == list(range(8, 18))
    assert sorted(set(slot.numbers)) == slot.numbers


def test_an_abandoned_release_is_not_started_again(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1, "exit", after=1))
    slot.feed(6)
    slot.wait_for(NoticeKind.STOPPED_SERVING)
    slot.supervisor.abandon("act", 1)
    until(lambda: slot.lane.crew._again is None, what="the replacement to be called off")
    until(lambda: not slot.lane.crew.dying, what="burials")
    assert not slot.lane.crew.by_descriptor()


def test_an_abandoned_active_release_frees_the_candidate_from_comparison(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.try_out(releases.act(2, probation_frames=30, probation_seconds=0.0))
    slot.feed_on(0.005)
    slot.wait_for(NoticeKind.PROVEN)
    until(lambda: any(message.probation for message in slot.sink.messages), what="an output in probation")
    slot.supervisor.abandon("act", 1)
    slot.wait_for(NoticeKind.HEALTHY)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert slot.numbers == list(range(fed))


def test_a_restored_release_replaces_a_live_candidate(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.try_out(releases.act(2, probation_seconds=60.0))
    slot.feed_on(0.005)
    until(lambda: any(message.probation for message in slot.sink.messages), what="an output in probation")
    slot.run(releases.act(3))
    slot.wait_for_outputs(len(slot.sink.messages) + 5)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert slot.numbers == list(range(fed))
    assert slot.sink.messages[-1].release == "act@3"


def test_tunables_reach_the_filter(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1, tunables={"factor": 10}))
    slot.feed(3)
    slot.wait_for_done()
    assert [message.values["y"] for message in slot.sink.messages] == [0.0, 10.0, 20.0]


def test_cleanup_runs_once_in_every_worker_that_is_let_go(
    slot: Slot, releases: Releases, caplog: pytest.LogCaptureFixture
) -> None:
    def traces() -> list[str]:
        return [line.partition(": ")[2] for line in caplog.messages if ": trace: " in line]

    caplog.set_level(logging.INFO)
    slot.run(releases.act(1, note="trace"))
    first = slot.active_pid
    slot.run(releases.act(2, note="trace"))
    until(lambda: not slot.lane.crew.dying, what="the burial")
    assert traces() == [f"trace: cleanup {first}"]
    second = slot.active_pid
    slot.supervisor.stop()
    assert traces() == [f"trace: cleanup {first}", f"trace: cleanup {second}"]
