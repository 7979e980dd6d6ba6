"""How long a live candidate is waited for, by what it takes usually and by what it is at."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.runtime.hedge import PATIENCE_SECONDS_MAX, PATIENCE_SECONDS_MIN, Hedge
from edge_agent.runtime.wire import Note


class Live:
    def __init__(self, since: float | None = None) -> None:
        self.since = since

    def owes_since(self) -> float | None:
        return self.since


class Sent:
    sent_at = 10.0


def patience(hedge: Hedge, since: float | None = None) -> float:
    given: Any = Sent(), Live(since)
    return hedge.until(*given) - 10.0


@pytest.mark.parametrize(("millis", "given"), [(0.1, PATIENCE_SECONDS_MIN), (4.0, 0.008), (30.0, PATIENCE_SECONDS_MAX)])
def test_it_is_given_twice_what_it_usually_takes_within_bounds(millis: float, given: float) -> None:
    hedge = Hedge()
    hedge.note(Note(micros=int(millis * 600), waited=int(millis * 400)))
    assert patience(hedge) == pytest.approx(given)


def test_a_slow_start_is_forgotten() -> None:
    hedge = Hedge()
    hedge.note(Note(micros=20_000))
    for _ in range(100):
        hedge.note(Note(micros=100))
    assert patience(hedge) == pytest.approx(PATIENCE_SECONDS_MIN)


def test_while_it_is_stuck_at_one_batch_later_ones_do_not_wait_for_it() -> None:
    assert patience(Hedge(), since=5.0) < 0
    assert patience(Hedge(), since=10.0) == pytest.approx(PATIENCE_SECONDS_MIN)
