"""A lane that goes on where a killed one was: nothing of a window is lost, and no result gets a second number."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from edge_agent.runtime.trail import Trail
from tests.simulators.release import Releases
from tests.simulators.slot import ScriptedSink, ScriptedSource, Slot
from tests.simulators.waiting import until

BOOT = b"B" * 16


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "act.trail"


def opened(path: Path) -> Trail:
    return Trail(path, b"L" * 32, BOOT)


def resumed(path: Path, source: ScriptedSource | None = None, fed: int = 0, **sink: bool) -> Slot:
    """Return a slot on a copy of the trail as a kill at this moment leaves it."""
    source = source or ScriptedSource()
    source.time = 10_000_000 * fed
    slot = Slot(source, ScriptedSink(**sink), trail=opened(path))
    slot._fed = fed
    return slot


def answers(*slots: Slot) -> dict[int, float]:
    found: dict[int, float] = {}
    for slot in slots:
        for message in slot.sink.messages:
            assert found.setdefault(message.sequence, message.values["y"]) == message.values["y"]
    return found


def sums(fed: int, size: int = 8, hop: int = 4) -> dict[int, float]:
    ends = range(size - 1, fed, hop)
    return {end: float(sum(range(end - size + 1, end + 1))) for end in ends}


def _done(slot: Slot, rows: int) -> bool:
    """Tell whether the source was told of so many rows, and of none that it did not give."""
    assert slot.source.acknowledged <= rows
    return slot.source.acknowledged == rows


@pytest.mark.parametrize("cut", [3, 8, 13, 18])
def test_a_window_under_way_is_finished_by_the_next_run(releases: Releases, path: Path, cut: int) -> None:
    with resumed(path) as first:
        first.run(releases.windows(1))
        first.feed(cut)
        first.wait_for_done()
        killed = path.with_name("killed")
        killed.write_bytes(path.read_bytes())
    before = list(first.numbers)
    with resumed(killed, fed=cut) as second:
        second.run(releases.windows(1))
        second.feed(20)
        second.wait_for_outputs(len(sums(cut + 20)) - len(before))
        until(functools.partial(_done, second, 20), what="all confirmed")
    assert answers(first, second) == sums(cut + 20)
    assert not set(before) & set(second.numbers), "confirmed results come once"


def test_what_the_sink_had_not_confirmed_is_computed_again_under_its_numbers(releases: Releases, path: Path) -> None:
    with resumed(path, confirms=False) as first:
        first.run(releases.windows(1))
        first.feed(14)
        first.wait_for_outputs(2)
        first.sink.confirm(1)
        until(lambda: first.source.acknowledged >= 8 and first.lane.counters["samples"] == 14, what="all taken up")
        until(lambda: first.lane._inflight is None, what="all computed")
        killed = path.with_name("killed")
        killed.write_bytes(path.read_bytes())
    with resumed(killed, fed=14) as second:
        second.run(releases.windows(1))
        second.feed(6)
        second.wait_for_outputs(3)
    assert answers(first, second) == sums(20)
    assert second.numbers[-1] == 19


def test_a_clean_stop_and_start_changes_nothing(releases: Releases, path: Path) -> None:
    slots, fed = [], 0
    for more in (5, 6, 30):
        with resumed(path, fed=fed) as slot:
            slot.run(releases.windows(1))
            slot.feed(more)
            slot.wait_for_outputs(len(sums(fed + more)) - len(sums(fed)))
            fed += more
            until(functools.partial(_done, slot, more), what="all confirmed")
        slots.append(slot)
    assert answers(*slots) == sums(fed)
    assert [number for slot in slots for number in slot.numbers] == sorted(sums(fed))


def test_a_stream_that_started_anew_while_nobody_looked_is_not_joined_to_the_old_one(
    releases: Releases, path: Path
) -> None:
    with resumed(path) as first:
        first.run(releases.windows(1))
        first.feed(6)
        first.wait_for_done()
    with resumed(path, fed=6) as second:
        second.run(releases.windows(1))
        second._fed = 0
        second.feed(8)
        second.wait_for_outputs(1)
        assert second.lane.counters["restarts"] == 1
    assert answers(second) == sums(8)
