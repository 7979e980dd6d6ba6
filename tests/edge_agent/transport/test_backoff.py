from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.transport.backoff import Backoff


@given(st.floats(0.01, 10), st.floats(1, 100), st.integers())
def test_every_wait_stays_within_base_and_cap(base: float, factor: float, seed: int) -> None:
    backoff = Backoff(base, base * factor, rng=random.Random(seed))
    waits = [backoff.next() for _ in range(50)]
    assert all(base * 0.999 <= wait <= base * factor * 1.001 for wait in waits)


def test_waits_grow_and_two_devices_do_not_wait_alike() -> None:
    first, second = Backoff(1, 1000, rng=random.Random(1)), Backoff(1, 1000, rng=random.Random(2))
    waits, others = [first.next() for _ in range(200)], [second.next() for _ in range(200)]
    assert waits != others
    assert max(waits) > 100 > 10 > max(waits[:2])


def test_reset_starts_over_at_the_base() -> None:
    backoff = Backoff(1, 1000, rng=random.Random(3))
    for _ in range(30):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 3


@pytest.mark.parametrize(("base", "cap"), [(0, 1), (-1, 1), (2, 1)])
def test_senseless_bounds_are_misuse(base: float, cap: float) -> None:
    with pytest.raises(ValueError, match="base"):
        Backoff(base, cap)
