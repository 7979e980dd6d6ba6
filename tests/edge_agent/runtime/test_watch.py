"""The committed release under watch: alarms, and whose fault it is."""

from __future__ import annotations

import random

import pytest

from edge_agent.contract.errors import ReasonCode
from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime.evidence import Outcome
from edge_agent.runtime.watch import CALM_SECONDS, COMPARED_MAX, PAIRS_MAX, Comparison, Watch

GOOD, BAD = Outcome(rows=1, micros=1_000, memory_kb=50_000), Outcome(error="boom")
INVALID, SLOW = Outcome(rows=1, invalid=1, words="y = nan"), Outcome(rows=1, micros=90_000)
HEAVY, FULL = Outcome(rows=1, memory_kb=300_000), Outcome(error="No space left on device", environment=True)
POLICY = HealthPolicy(latency_ms_max=20.0, memory_mb_max=200.0)


def alarm(outcome: Outcome, frames: int) -> ReasonCode | None:
    watch = Watch(POLICY)
    for _ in range(10_000):
        watch.add(GOOD)
    for _ in range(frames):
        watch.add(outcome)
    reason = watch.alarm()
    return reason.code if reason is not None else None


@pytest.mark.parametrize(
    ("outcome", "code", "few", "many"),
    [
        (BAD, ReasonCode.ERRORS, 7, 8),
        (INVALID, ReasonCode.OUTPUT, 7, 8),
        (SLOW, ReasonCode.LATENCY, 50, 60),
        (HEAVY, ReasonCode.MEMORY, 2, 3),
    ],
)
def test_after_a_long_good_past_few_bad_frames_are_an_alarm(
    outcome: Outcome, code: ReasonCode, few: int, many: int
) -> None:
    assert alarm(outcome, few) is None
    assert alarm(outcome, many) is code


@pytest.mark.parametrize("outcome", [BAD, INVALID])
def test_a_watch_is_quiet_while_a_sound_frame_changes_nothing(outcome: Outcome) -> None:
    watch = Watch(HealthPolicy())
    watch.add(GOOD)
    assert watch.quiet
    watch.add(outcome)
    assert not watch.quiet
    for _ in range(100):
        watch.add(GOOD)
    assert watch.quiet
    assert not Watch(HealthPolicy(latency_ms_max=20.0)).quiet
    assert not Watch(HealthPolicy(memory_mb_max=200.0)).quiet


def test_a_full_disk_is_no_alarm() -> None:
    assert alarm(FULL, 1000) is None


def test_a_release_within_its_budget_raises_no_alarm() -> None:
    watch, chance = Watch(POLICY), random.Random(3)
    for _ in range(100_000):
        watch.add(BAD if chance.random() < 0.01 else GOOD)
        assert watch.alarm() is None


def test_alarms_in_a_row_are_counted_and_forgotten_after_calm() -> None:
    watch = Watch(POLICY)
    assert [watch.restart(at) for at in (0.0, 10.0, 20.0)] == [1, 2, 3]
    assert watch.restart(21.0 + CALM_SECONDS) == 1
    watch.add(BAD)
    assert watch.alarm() is None


def compared(*pairs: tuple[Outcome, Outcome]) -> bool | None:
    comparison, found = Comparison(POLICY), None
    for number, (active, older) in enumerate(pairs):
        assert comparison.hear(number, older, older=True) is None
        found = comparison.hear(number, active, older=False)
        if found is not None:
            break
    return found


def test_only_a_release_that_does_the_same_frames_well_is_better() -> None:
    assert compared(*[(BAD, GOOD)] * 8) is True
    assert compared(*[(BAD, GOOD)] * 7) is None
    assert compared(*[(BAD, BAD)] * 8) is False
    assert compared(*[(BAD, GOOD), (BAD, BAD)] * 8) is False
    assert compared(*[(GOOD, GOOD)] * COMPARED_MAX) is False
    assert compared(*[(SLOW, GOOD)] * 8) is True
    assert compared(*[(SLOW, SLOW)] * 8) is False


def test_a_frame_counts_once_both_have_answered() -> None:
    comparison = Comparison(POLICY)
    for number in range(PAIRS_MAX + 1):
        assert comparison.hear(number, BAD, older=False) is None
    assert comparison.hear(0, GOOD, older=True) is None  # forgotten
    assert comparison.numbers() == {"better": 0, "same": 0, "fine": 0}
    comparison.hear(5, GOOD, older=True)
    assert comparison.words == "the release before it did 1 of 1 such frames well"
