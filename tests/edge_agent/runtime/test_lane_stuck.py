"""A `predict` that never comes back, sync or async, with real workers: killed, tried once more, skipped and told."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from tests.simulators.release import Releases
from tests.simulators.slot import Slot


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def slot(releases: Releases) -> Iterator[Slot]:
    with Slot() as made:
        yield made


@pytest.mark.parametrize("how", ["Stuck", "AsyncStuck", "Swallowing"])
def test_a_stuck_predict_is_killed_its_frame_tried_once_more_and_skipped(
    slot: Slot, releases: Releases, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    given_up: list[tuple[list[int], str]] = []
    slot.lane.skipped = lambda samples, words: given_up.append((list(samples.sequences), words))
    slot.run(releases.stages(1, [getattr(releases.module, how)()], heartbeat_seconds=0.5))
    first = slot.active_pid
    with caplog.at_level(logging.WARNING):
        slot.feed(7)
        slot.wait_for_done()
        slot.feed(1)  # the seventh is number 7
        slot.wait_for_done()
        slot.feed(4)
        slot.wait_for_done()
    assert slot.numbers == [number for number in range(12) if number != 7]
    assert (slot.lane.counters["crashes"], slot.lane.counters["skipped"]) == (2, 1)
    assert given_up == [([7], "two workers ended over it, one after the other")]
    told = [record.getMessage() for record in caplog.records]
    lost = [re.search(r"active worker lost .*no answer to a frame for ([\d.]+) s", line) for line in told]
    seconds = [float(one[1]) for one in lost if one is not None]
    assert len(seconds) == 2, told
    assert min(seconds) >= 0.5, "its deadline; time without a processor may come on top"
    assert sum("frame given up slot=act samples=7-7" in line for line in told) == 1, told
    assert slot.active_pid not in (0, first)


def test_async_filters_beside_sync_ones_answer_in_one_loop(slot: Slot, releases: Releases) -> None:
    module = releases.module
    slot.run(releases.stages(1, [module.Doubled(), module.Looped(), module.Doubled()], heartbeat_seconds=5))
    for _ in range(3):
        slot.feed(2)
        slot.wait_for_done()
    assert slot.numbers == list(range(6))
    values = [message.values["y"] for message in slot.sink.messages]
    assert values == [(number * 2 + 1) * 2 for number in range(6)], "Looped adds how many loops it has seen"
