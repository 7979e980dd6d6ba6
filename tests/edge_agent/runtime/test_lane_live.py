"""Candidates that serve, well and badly, with real worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge_agent.contract.errors import ReasonCode
from edge_agent.runtime.crew import NoticeKind
from tests.simulators.release import Releases
from tests.simulators.slot import Slot
from tests.simulators.waiting import until


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def slot(releases: Releases) -> Iterator[Slot]:
    with Slot() as made:
        yield made


@pytest.mark.parametrize("how", ["good", "linger thread", "raise in cleanup", "words"])
def test_a_good_candidate_is_committed_without_loss_or_repetition(slot: Slot, releases: Releases, how: str) -> None:
    slot.run(releases.act(1))
    slot.feed_on(0.002)
    slot.try_out(releases.act(2, how))
    slot.wait_for(NoticeKind.HEALTHY)
    until(lambda: len({one.release for one in slot.sink.messages if not one.probation}) == 2)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert slot.numbers == list(range(fed))
    assert [notice.kind for notice in slot.notices] == [NoticeKind.LOADED, NoticeKind.PROVEN, NoticeKind.HEALTHY]


def test_a_frame_that_both_releases_fail_counts_against_neither(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1, "raise always", after=3))
    slot.feed(5)
    slot.wait_for_done()
    slot.try_out(releases.act(2, "raise always"))
    slot.wait_for(NoticeKind.LOADED)
    slot.feed_until(NoticeKind.PROVEN)
    assert NoticeKind.FAILED not in [one.kind for one in slot.notices]


def test_a_live_candidate_that_hangs_is_stepped_in_for_and_condemned(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.try_out(releases.act(2, "hang", after=60, heartbeat_seconds=1.0, probation_frames=10_000))
    slot.feed_on(0.01)
    notice = slot.wait_for(NoticeKind.FAILED)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert notice.reason is not None
    assert notice.reason.code is ReasonCode.HEARTBEAT
    assert slot.lane.counters["stepped_in"] >= 1
    assert slot.numbers == list(range(fed))
    assert any(message.probation for message in slot.sink.messages)


@pytest.mark.parametrize("how", ["exit", "segfault", "garbage", "nan", "raise always", "half close"])
def test_a_live_candidate_that_breaks_loses_nothing(slot: Slot, releases: Releases, how: str) -> None:
    slot.run(releases.act(1))
    slot.try_out(releases.act(2, how, after=60, probation_frames=10_000))
    slot.feed_on(0.005)
    slot.wait_for(NoticeKind.FAILED)
    slot.wait_for_outputs(len(slot.sink.messages) + 20)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert slot.numbers == list(range(fed))
    assert any(message.release == "act@2" and message.probation for message in slot.sink.messages)
    assert slot.sink.messages[-1].release == "act@1"
