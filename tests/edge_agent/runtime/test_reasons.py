"""Every health reason provoked by a real release in a real worker, and every environment reason, which condemns nobody.

One committed release runs the whole time; each case is a candidate beside it. `docs/HEALTH.md` names these cases.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.errors import Blame, ReasonCode
from edge_agent.runtime.crew import Notice, NoticeKind
from tests.simulators.release import Releases
from tests.simulators.slot import Slot
from tests.simulators.waiting import until

# what the release does, its health policy (or when it begins to), and what it is condemned for
REASONS: dict[str, tuple[str, dict[str, Any], ReasonCode]] = {
    "raises": ("raise always", {}, ReasonCode.ERRORS),
    "hangs": ("hang", {"heartbeat_seconds": 1.0}, ReasonCode.HEARTBEAT),
    "hangs in start": ("hang in load", {"start_seconds": 2.0}, ReasonCode.START),
    "raises in start": ("raise in load", {}, ReasonCode.START),
    "leaks": ("leak", {"probation_seconds": 1.5}, ReasonCode.MEMORY),
    "uses too much": ("leak", {"memory_mb_max": 150.0}, ReasonCode.MEMORY),
    "slow by its budget": ("burn", {"latency_ms_max": 10.0}, ReasonCode.LATENCY),
    "slow beside the active": ("slow", {"probation_seconds": 30.0}, ReasonCode.LATENCY),
    "NaN": ("nan", {}, ReasonCode.OUTPUT),
    "wrong shape": ("wide", {}, ReasonCode.OUTPUT),
    "wrong length": ("one row more", {}, ReasonCode.ERRORS),
    "forks": ("fork", {}, ReasonCode.ERRORS),
    "out of range": ("too large", {}, ReasonCode.OUTPUT),
    "exits": ("exit", {}, ReasonCode.EXITED),
    "segfaults": ("segfault", {}, ReasonCode.EXITED),
    "floods rows": ("many rows", {}, ReasonCode.FLOOD),
    "floods the log": ("print much", {}, ReasonCode.FLOOD),
    "refuses": ("veto", {}, ReasonCode.VETO),
    "disagrees": ("shift", {"disagreement_max": 0.1}, ReasonCode.DISAGREEMENT),
    "fills the disk": ("fill file", {}, ReasonCode.ERRORS),
    "breaks while live": ("nan", {"after": 40, "probation_frames": 10_000}, ReasonCode.OUTPUT),
}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def slot(releases: Releases) -> Iterator[Slot]:
    """A slot whose active release does well on everything."""
    with Slot() as made:
        made.run(releases.act(1))
        made.feed_on(0.01)
        yield made


@pytest.fixture(scope="module")
def keys() -> Iterator[int]:
    return iter(range(2, 1000))


def failed(slot: Slot, key: int) -> Notice:
    return slot.wait_for(NoticeKind.FAILED, key, 60.0)


@pytest.mark.parametrize("case", REASONS)
def test_a_bad_release_is_condemned_for_what_it_does(
    slot: Slot, releases: Releases, keys: Iterator[int], tmp_path: Path, case: str
) -> None:
    how, options, code = REASONS[case]
    key = next(keys)
    options = {"probation_frames": 10_000, "shadow_frames": 30, "note": str(tmp_path / "file"), **options}
    slot.try_out(releases.act(key, how, **options))
    notice = failed(slot, key)
    assert notice.reason is not None
    assert (notice.reason.code, notice.reason.blame) == (code, Blame.RELEASE), notice.words
    assert any(character.isdigit() for character in notice.reason.message) or code is not ReasonCode.ERRORS
    seen = len(slot.sink.messages)
    until(lambda: len(slot.sink.messages) > seen + 5, 30, "the active release to answer on")
    assert slot.sink.messages[-1].release == "act@1"


def test_a_verdict_brings_evidence_traceback_and_the_frames_that_failed(
    slot: Slot, releases: Releases, keys: Iterator[int]
) -> None:
    key = next(keys)
    slot.try_out(releases.act(key, "raise always", probation_frames=10_000))
    notice = failed(slot, key)
    assert 'raise RuntimeError("broken filter")' in notice.traceback
    assert notice.evidence["failed_frames"] >= 3
    assert notice.evidence["active_p99_ms"] > 0
    assert 1 < len(notice.frames) <= 9
    newest = notice.frames[1].sequences[-1]
    assert notice.frames[0].sequences[0] <= newest
    assert notice.frames[2].sequences[-1] < newest


# --- nobody's fault -------------------------------------------------------------------------------------------------


def committed(slot: Slot, key: int) -> None:
    slot.wait_for(NoticeKind.HEALTHY, key, 60.0)
    until(lambda: slot.lane._candidate is None, 30, "the commit")
    assert NoticeKind.FAILED not in [one.kind for one in slot.notices if one.key == key]


def test_a_warm_up_is_no_leak(slot: Slot, releases: Releases, keys: Iterator[int]) -> None:
    key = next(keys)
    slot.try_out(releases.act(key, "warm up", probation_seconds=1.5, memory_growth_mb_max=8.0))
    committed(slot, key)


def test_a_full_disk_condemns_nobody(slot: Slot, releases: Releases, keys: Iterator[int]) -> None:
    key = next(keys)
    slot.try_out(releases.act(key, "no space"))
    slot.wait_for(NoticeKind.LOADED, key)
    seen = len(slot.sink.messages)
    until(lambda: len(slot.sink.messages) > seen + 60, 30.0)
    assert [one.kind for one in slot.notices if one.key == key] == [NoticeKind.LOADED]
    probation = slot.lane._probation
    assert probation is not None
    assert probation.evidence.blameless > 10
    assert "No space left" in probation.judge(0.0).words
    slot.supervisor.abandon("act", key)


def test_an_overloaded_machine_condemns_nobody(releases: Releases) -> None:
    """With more to do than there are processors, a frame's wall time is a multiple of its own time."""
    burner = [sys.executable, "-I", "-c", "import time\nend = time.time() + 40\nwhile time.time() < end: pass"]
    with Slot() as slot:
        slot.run(releases.act(1))
        slot.try_out(releases.act(2, "burn", latency_ms_max=60.0, probation_seconds=1.0))
        slot.wait_for(NoticeKind.LOADED)
        burners = [subprocess.Popen(burner) for _ in range(8)]
        try:
            slot.feed_on(0.15)
            healthy = slot.wait_for(NoticeKind.HEALTHY, 2, 60.0)
        finally:
            for one in burners:
                one.kill()
                one.wait()
        assert healthy.evidence["waited_micros"] > healthy.evidence["own_micros"] / 2
        assert NoticeKind.FAILED not in [one.kind for one in slot.notices]


def test_a_sensor_that_is_unplugged_condemns_nobody(releases: Releases) -> None:
    with Slot() as slot:
        slot.run(releases.act(1))
        slot.try_out(releases.act(2, heartbeat_seconds=2.0, probation_seconds=0.2))
        slot.wait_for(NoticeKind.LOADED)
        slot.feed(3)
        slot.wait_for_done()
        until(lambda: slot.lane._probation is not None and slot.lane._probation.evidence.samples == 3)
        # Longer than the heartbeat and all of probation: nothing is judged by silence.
        later = time.monotonic() + 2.5
        until(lambda: time.monotonic() > later, 30)
        assert [one.kind for one in slot.notices] == [NoticeKind.LOADED]
        slot.feed_until(NoticeKind.HEALTHY)


def test_while_the_broker_is_gone_nothing_is_committed_and_nobody_condemned(releases: Releases) -> None:
    with Slot() as slot:
        slot.run(releases.act(1))
        slot.sink.problem = "broker 127.0.0.1:1883 does not answer"
        slot.feed_on(0.005)
        slot.try_out(releases.act(2, needs_broker=True))
        slot.wait_for(NoticeKind.PROVEN)
        until(lambda: slot.lane._probation is not None and slot.lane._probation.evidence.samples > 60)
        assert NoticeKind.HEALTHY not in [one.kind for one in slot.notices]
        slot.sink.problem = ""
        slot.wait_for(NoticeKind.HEALTHY)
        assert NoticeKind.FAILED not in [one.kind for one in slot.notices]


# --- after the commit -----------------------------------------------------------------------------------------------


def test_a_committed_release_that_breaks_is_started_anew_then_compared_then_has_to_go(releases: Releases) -> None:
    with Slot() as slot:
        slot.run(releases.act(3, "nan", after=10))
        first = slot.active_pid
        slot.feed_on(0.005)
        doubt = slot.wait_for(NoticeKind.DOUBTED)
        assert slot.lane.counters["alarms"] >= 2
        assert slot.active_pid != first
        assert doubt.reason is not None
        assert doubt.reason.code is ReasonCode.OUTPUT
        slot.supervisor.compare("act", releases.act(1))
        notice = slot.wait_for(NoticeKind.STOPPED_SERVING)
        assert notice.key == 3
        assert notice.reason is not None
        assert notice.reason.blame is Blame.RELEASE
        assert "the release before it did" in notice.reason.message
        assert notice.evidence["better"] >= 8
        assert notice.frames
        slot.run(releases.act(1))
        slot.wait_for_outputs(len(slot.sink.messages) + 10)
        assert slot.sink.messages[-1].release == "act@1"


def test_a_committed_release_stays_when_the_one_before_fails_the_same_frames(releases: Releases) -> None:
    with Slot() as slot:
        slot.run(releases.act(3, "raise always"))
        slot.feed_on(0.005)
        slot.wait_for(NoticeKind.DOUBTED)
        slot.supervisor.compare("act", releases.act(1, "raise always", factor=3.0))
        until(lambda: slot.lane._second is not None, 30)
        until(lambda: slot.lane._second is None, 30.0, "the comparison")
        assert NoticeKind.STOPPED_SERVING not in [one.kind for one in slot.notices]
        assert slot.active_pid


def test_a_frame_on_which_both_hang_condemns_nobody(releases: Releases) -> None:
    with Slot() as slot:
        slot.run(releases.act(1, "hang", after=3, heartbeat_seconds=0.8))
        slot.feed(3)
        slot.wait_for_done()
        slot.try_out(releases.act(2, "hang", after=1, heartbeat_seconds=0.8))  # one frame warms it up
        slot.wait_for(NoticeKind.LOADED)
        slot.feed(1)
        notice = slot.wait_for(NoticeKind.FAILED)
        assert notice.reason is not None
        assert (notice.reason.code, notice.reason.blame) == (ReasonCode.HEARTBEAT, Blame.ENVIRONMENT)
        assert "nor from another release" in notice.reason.message
