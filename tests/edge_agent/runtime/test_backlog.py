"""A worker that computes along is shown in one go what came while it was at something else."""

from __future__ import annotations

from array import array

import pytest

from edge_agent.runtime import backlog
from edge_agent.runtime.backlog import LAG_MAX, ROUNDS, ROWS_MAX, ROWS_MIN, Backlog
from edge_agent.runtime.crew import NoticeKind
from edge_agent.runtime.samples import Samples
from tests.simulators.release import Releases
from tests.simulators.slot import ScriptedSource, Slot


def samples(first: int, count: int = 1) -> Samples:
    numbers = array("q", range(first, first + count))
    return Samples(("x",), numbers, numbers, array("d", map(float, numbers)))


def test_few_unanswered_batches_are_no_reason_to_wait_and_nothing_overtakes_what_waits() -> None:
    late = Backlog()
    assert not late.takes(samples(1), LAG_MAX - 1)
    assert late.takes(samples(2), LAG_MAX)
    assert late.takes(samples(3), 0)
    taken = late.take()
    assert taken is not None
    assert list(taken.sequences) == [2, 3]
    assert late.take() is None
    assert not late.takes(samples(4), 0)


def test_ever_more_are_shown_in_one_go_and_never_too_many() -> None:
    late = Backlog()
    for number in range(4 * ROWS_MAX):
        late.takes(samples(number), LAG_MAX)
    sizes = [len(taken.sequences) for taken in iter(late.take, None)]
    assert sizes[:3] == [ROWS_MIN, 2 * ROWS_MIN, 4 * ROWS_MIN]
    assert max(sizes) <= ROWS_MAX
    assert sum(sizes) == 4 * ROWS_MAX


def test_who_is_never_quite_done_is_due_after_some_rounds_and_not_with_much_to_do() -> None:
    late = Backlog()
    for number in range(ROUNDS):
        assert not late.due
        late.takes(samples(number), 1, 1)
        late.take()
    assert late.due
    late.takes(samples(9, ROWS_MIN + 1), 1, 1)
    assert not late.due
    late.clear()
    assert (late.rows, late.rounds) == (0, 0)


@pytest.mark.parametrize("bound", ["BATCHES_MAX", "BYTES_MAX"])
def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(backlog, bound, 3)
    late = Backlog()
    assert not late.full
    for number in range(3):
        late.takes(samples(number), LAG_MAX)
    assert late.full


def test_a_release_that_takes_longer_than_from_one_sample_to_the_next_is_committed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """20 ms for a frame, a sample each 5 ms, beside a release that takes none: it serves several at once."""
    releases = Releases(tmp_path_factory.mktemp("releases"))
    with Slot(ScriptedSource(rows_per_take=64)) as slot:
        slot.run(releases.act(1))
        slot.feed_on(0.005)
        slot.try_out(releases.act(2, "burn", probation_seconds=0.5))
        slot.wait_for(NoticeKind.HEALTHY, 2, 40.0)
        assert NoticeKind.FAILED not in [one.kind for one in slot.notices]
        assert slot.lane.counters["shown_late"] > 0
