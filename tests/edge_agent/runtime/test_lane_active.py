"""Every way in which a release can misbehave, as the active one, with real worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge_agent.runtime.crew import NoticeKind
from tests.simulators.release import Releases
from tests.simulators.slot import Slot


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def slot(releases: Releases) -> Iterator[Slot]:
    with Slot() as made:
        yield made


@pytest.mark.parametrize("how", ["nan", "too large", "wide", "flood", "raise in cleanup", "slow"])
def test_an_active_release_with_odd_outputs_goes_on(slot: Slot, releases: Releases, how: str) -> None:
    slot.run(releases.act(1, how))
    slot.feed(10)
    slot.wait_for_done()
    assert slot.numbers == list(range(10))
    assert slot.lane.counters["crashes"] == 0


@pytest.mark.parametrize("how", ["raise always", "one row more", "numbers ahead", "unprintable", "surrogate"])
def test_an_active_release_that_fails_frames_skips_and_counts_them(slot: Slot, releases: Releases, how: str) -> None:
    slot.run(releases.act(1, how, after=3))
    slot.feed(10)
    slot.wait_for_done()
    assert slot.numbers == [0, 1, 2]
    assert (slot.lane.counters["errors"], slot.lane.counters["skipped"]) == (7, 7)
    assert slot.lane.counters["crashes"] == 0


def test_an_active_release_fails_some_frames_and_gives_the_rest(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1, "raise on seven"))
    slot.feed(10)
    slot.wait_for_done()
    assert slot.numbers == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert slot.lane.counters["skipped"] == 1


def test_a_frame_that_kills_its_worker_is_tried_twice_and_skipped(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1, "exit on seven"))
    slot.feed(12)
    slot.wait_for_done()
    assert slot.numbers == [number for number in range(12) if number != 7]
    assert slot.lane.counters["crashes"] == 2
    assert slot.lane.counters["skipped"] == 1


@pytest.mark.parametrize("how", ["exit", "half close", "hang"])
def test_an_active_release_that_breaks_is_started_again_and_reported_at_the_third_time(
    slot: Slot, releases: Releases, how: str
) -> None:
    slot.run(releases.act(1, how, after=2, heartbeat_seconds=0.5))
    slot.feed(7)
    notice = slot.wait_for(NoticeKind.STOPPED_SERVING)
    assert notice.reason is not None
    assert "3 crashes within" in notice.reason.message
    assert slot.numbers[:4] == [0, 1, 2, 3]
    assert sorted(set(slot.numbers)) == slot.numbers


@pytest.mark.parametrize("how", ["raise in load", "exit in load", "hang in load"])
def test_an_active_release_that_does_not_load_is_tried_again_later_each_time(
    slot: Slot, releases: Releases, how: str
) -> None:
    slot.supervisor.run("act", releases.act(1, how, start_seconds=1.0 if how == "hang in load" else 30.0))
    slot.feed(3)
    slot.wait_for(NoticeKind.STOPPED_SERVING)
    assert slot.lane.counters["crashes"] == 3
    slot.run(releases.act(2))
    slot.wait_for_done()
    assert slot.numbers == [0, 1, 2]
