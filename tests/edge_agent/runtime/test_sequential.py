"""The sequential tests: what they bound, and how soon they see what is wrong."""

from __future__ import annotations

import math
import random

import pytest

from edge_agent.runtime.sequential import LOOKS_MAX, RISES, WARM_UP_BLOCKS, Growth, Page, Trials, log_ratio

ALPHA = 4e-5


def trials(*failed: bool, block: int = 1) -> Trials:
    found = Trials()
    for one in failed:
        found = found.add(one, block)
    return found


def test_nothing_failed_speaks_for_it() -> None:
    assert log_ratio(Trials(), 0.01) == 0.0
    assert log_ratio(trials(*[False] * 5), 0.01) == -math.inf


@pytest.mark.parametrize(
    ("failed", "passed", "condemned"),
    [(3, 2, True), (2, 3, False), (2, 0, False), (3, 9_997, False), (10, 990, False), (100, 900, True), (5, 5, True)],
)
def test_when_a_rate_is_over_a_budget_of_one_percent(failed: int, passed: int, condemned: bool) -> None:
    assert (log_ratio(Trials(failed, passed), 0.01) >= math.log(1 / ALPHA)) == condemned


def test_the_mixture_sums_to_a_likelihood_ratio_with_mean_one() -> None:
    """Over all outcomes of five trials at the budget the ratio's mean is 1: Ville's inequality asks for no more."""
    mean = 0.0
    for failed in range(6):
        chance = math.comb(5, failed) * 0.1**failed * 0.9 ** (5 - failed)
        ratio = math.exp(log_ratio(Trials(failed, 5 - failed), 0.1)) if failed else _none_failed(5, 0.1)
        mean += chance * ratio
    assert mean == pytest.approx(1.0)


def _none_failed(passed: int, budget: float) -> float:
    """What the ratio is where nothing failed; `log_ratio` says minus infinity, which is on the safe side."""
    rates = ((0.5, 0.8), (math.sqrt(0.5 * budget), 0.1), (min(3 * budget, 0.5), 0.1))
    return sum(weight * ((1 - rate) / (1 - budget)) ** passed for rate, weight in rates)


def test_neighbouring_failures_are_one_block() -> None:
    assert trials(*[True] * 10, block=10) == Trials(1, 0.0, 0)
    assert trials(*[True] * 11, block=10).failed == 2
    assert trials(True, False, False, True, False, block=3) == Trials(2, 0.0, 1)
    assert trials(True, False, True).failed == 2


def test_what_proves_little_weighs_little() -> None:
    found = Trials()
    for _ in range(100):
        found = found.add(False, weight=0.01)
    assert found.passed == pytest.approx(1.0)


def test_pages_test_forgets_a_long_good_past_and_a_single_failure() -> None:
    page = Page()
    for _ in range(10_000):
        page = page.add(False, 0.01)
    assert page == Page()
    page = page.add(True, 0.01)
    assert page.failed == page.trials == 1
    for _ in range(8):
        page = page.add(False, 0.01)
    assert page == Page()
    for _ in range(8):
        page = page.add(True, 0.01)
    assert page.value > math.log(1e12)
    assert page.add(True, 0.01, block=4).open == 3
    assert page.add(True, 0.01, block=4).add(True, 0.01, block=4).failed == page.failed + 1


def grown(readings: list[int], per_block: int = 2) -> Growth:
    growth = Growth(1.0)
    for number, reading in enumerate(readings):
        growth = growth.add(reading, 0.001 + number / per_block)
    return growth


def test_memory_that_rises_in_every_block_is_a_leak() -> None:
    growth = grown([1000 + 10 * number for number in range(2 * (RISES + WARM_UP_BLOCKS) + 2)])
    assert growth.leak_kb >= 10 * 2 * (RISES - 1)


@pytest.mark.parametrize("steps", [1, 4, 10, 20])
def test_a_warm_up_that_ends_is_no_leak(steps: int) -> None:
    assert grown([1000 + 500 * min(number, steps) for number in range(60)]).leak_kb == 0


def test_memory_is_looked_at_so_often_and_no_more() -> None:
    blocks = RISES + WARM_UP_BLOCKS + LOOKS_MAX
    assert grown(list(range(1, 2 * blocks + 1))).leak_kb > 0
    assert grown(list(range(1, 2 * blocks + 4))).leak_kb == 0
    assert LOOKS_MAX / math.factorial(RISES) <= 5e-6


def test_noise_in_memory_is_no_leak() -> None:
    chance = random.Random(5)
    for _ in range(200):
        assert grown([chance.randrange(1000, 2000) for _ in range(60)]).leak_kb == 0
