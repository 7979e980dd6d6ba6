"""Runs of row numbers: done with in order, and what is missing told apart from what was dropped."""

from __future__ import annotations

import pytest

from edge_agent.runtime.runs import Gaps, Taken


def test_rows_are_done_with_in_the_order_they_were_taken_in() -> None:
    taken = Taken()
    taken.add(10, 3)
    taken.add(20, 2)
    taken.confirm(2)
    assert taken.start == 12
    taken.confirm(2)
    assert taken.start == 21
    taken.confirm(1)
    assert not taken
    with pytest.raises(ValueError, match="not taken"):
        taken.confirm(1)


def test_rows_that_are_missing_are_those_that_were_not_dropped() -> None:
    gaps = Gaps()
    gaps.add(10, 20)
    gaps.add(20, 30)
    gaps.add(50, 60)
    assert gaps.others(5, 25) == 5
    assert gaps.others(25, 40) == 10, "the rest of a run that began before is dropped, too"
    assert gaps.others(40, 55) == 10
    assert gaps.others(55, 70) == 10
    gaps.add(80, 90)
    gaps.clear()
    assert gaps.others(80, 90) == 10
