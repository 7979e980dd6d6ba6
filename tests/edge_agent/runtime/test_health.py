"""Evidence in, verdict out: when a candidate is condemned, passed or kept waiting."""

from __future__ import annotations

import random

import pytest

from edge_agent.contract.errors import ReasonCode
from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime.health import FALSE_ROLLBACK_MAX, Evidence, Outcome, VerdictKind, judge

POLICY = HealthPolicy(error_rate_max=0.01)
GOOD, BAD = Outcome(rows=1), Outcome(error="RuntimeError: broken")
INVALID = Outcome(rows=1, invalid=1, words="y = nan")


def verdict(evidence: Evidence, *, now: float = 10.0, samples: int = 1, seconds: float = 0.0) -> VerdictKind:
    return judge(evidence, POLICY, now, samples=samples, seconds=seconds).kind


def collected(candidate: list[Outcome], active: Outcome | None = None) -> Evidence:
    evidence = Evidence(since=0.0)
    for outcome in candidate:
        evidence = evidence.add(1, outcome, active)
    return evidence


# failed frames, all frames, whether that condemns under a budget of 1 %
TABLE = [
    (3, 5, True),
    (2, 5, False),
    (2, 2, False),
    (3, 3, True),
    (3, 10_000, False),
    (5, 10, True),
    (10, 1000, False),
    (400, 1000, True),
    (0, 1, False),
]


@pytest.mark.parametrize(("failed", "frames", "condemned"), TABLE)
def test_when_errors_condemn(failed: int, frames: int, condemned: bool) -> None:
    evidence = Evidence(since=0.0, samples=frames, frames=frames, failed_frames=failed, last_error="boom")
    found = judge(evidence, POLICY, 10.0, samples=1, seconds=0.0)
    assert (found.kind is VerdictKind.FAILING) == condemned
    if condemned:
        assert found.reason is not None
        assert found.reason.code is ReasonCode.ERRORS
        assert found.reason.message == f"{failed} of {frames} frames failed, last: boom (budget 1.0%)"


@pytest.mark.parametrize(("invalid", "answered", "condemned"), TABLE)
def test_when_invalid_results_condemn(invalid: int, answered: int, condemned: bool) -> None:
    evidence = Evidence(since=0.0, samples=9, answered_frames=answered, invalid_frames=invalid, last_invalid="y = nan")
    found = judge(evidence, POLICY, 10.0, samples=1, seconds=0.0)
    assert (found.kind is VerdictKind.FAILING) == condemned
    if condemned:
        assert found.reason is not None
        assert found.reason.code is ReasonCode.OUTPUT
        assert "results invalid, last: y = nan" in found.reason.message


def test_it_passes_by_count_and_time() -> None:
    evidence = collected([GOOD] * 10)
    assert verdict(evidence, samples=10, seconds=10.0) is VerdictKind.HEALTHY
    assert verdict(evidence, samples=11, seconds=10.0) is VerdictKind.UNDECIDED
    assert verdict(evidence, samples=10, seconds=10.1) is VerdictKind.UNDECIDED
    words = judge(evidence, POLICY, 10.0, samples=11, seconds=0.0).words
    assert words == "10 of 11 samples, 10.0 of 0.0 s"


def test_a_failure_that_is_not_cleared_keeps_it_waiting() -> None:
    evidence = collected([GOOD, BAD])
    assert verdict(evidence) is VerdictKind.UNDECIDED
    assert "not cleared yet" in judge(evidence, POLICY, 10.0, samples=1, seconds=0.0).words
    for _ in range(20):
        evidence = evidence.add(1, GOOD, None)
    assert verdict(evidence) is VerdictKind.HEALTHY


def test_a_budget_of_zero_condemns_the_first_error() -> None:
    found = judge(collected([BAD]), HealthPolicy(error_rate_max=0.0), 10.0, samples=1, seconds=0.0)
    assert found.kind is VerdictKind.FAILING


def test_a_frame_that_both_fail_counts_against_neither() -> None:
    evidence = collected([BAD] * 50, BAD)
    assert (evidence.samples, evidence.frames, evidence.failed_frames, evidence.blameless) == (50, 0, 0, 50)
    assert verdict(evidence) is VerdictKind.HEALTHY


def test_invalid_results_are_excused_as_far_as_the_active_release_has_them_too() -> None:
    evidence = collected([Outcome(rows=4, invalid=3, words="y = nan")], Outcome(rows=4, invalid=2))
    assert (evidence.outputs, evidence.invalid_outputs, evidence.blameless) == (2, 1, 2)
    assert (evidence.answered_frames, evidence.invalid_frames) == (1, 1)
    assert verdict(collected([INVALID] * 50, INVALID)) is VerdictKind.HEALTHY
    assert verdict(collected([INVALID] * 50, GOOD)) is VerdictKind.FAILING


def test_the_rows_of_one_frame_count_as_one_block() -> None:
    burst = Outcome(rows=500, invalid=500, words="y = nan")
    evidence = collected([burst, burst])
    assert (evidence.invalid_outputs, evidence.invalid_frames) == (1000, 2)
    assert verdict(evidence) is VerdictKind.UNDECIDED
    assert verdict(collected([burst] * 3)) is VerdictKind.FAILING


def test_its_own_veto_condemns_unless_the_active_release_says_no_too() -> None:
    veto = Outcome(rows=1, veto="drift 3.2 over 1.0")
    found = judge(collected([GOOD, veto]), POLICY, 1.0, samples=1, seconds=0.0)
    assert found.reason is not None
    assert found.reason.code is ReasonCode.VETO
    assert found.reason.message == "the release's own health check says: drift 3.2 over 1.0"
    assert verdict(collected([veto], veto)) is VerdictKind.HEALTHY
    assert verdict(collected([veto, GOOD])) is VerdictKind.HEALTHY  # it took it back before anybody asked


@pytest.mark.parametrize("active", [None, GOOD, INVALID])
def test_errors_that_the_active_release_has_not_count(active: Outcome | None) -> None:
    assert verdict(collected([BAD] * 3, active)) is VerdictKind.FAILING


def test_an_active_release_that_fails_alone_speaks_for_the_candidate() -> None:
    evidence = collected([GOOD] * 3, BAD)
    assert (evidence.frames, evidence.failed_frames) == (3, 0)


def test_words_remember_the_last_fault_of_each_kind() -> None:
    evidence = collected([BAD, INVALID, GOOD])
    assert (evidence.last_error, evidence.last_invalid) == ("RuntimeError: broken", "y = nan")


def false_rollbacks(rate: float, probations: int, frames: int) -> int:
    """Count probations that condemn a release which fails as often as its budget allows."""
    chance = random.Random(20_260)
    condemned = 0
    for _ in range(probations):
        failed = 0
        for frame in range(1, frames + 1):
            if chance.random() < rate:
                failed += 1
                evidence = Evidence(since=0.0, samples=frame, frames=frame, failed_frames=failed)
                if verdict(evidence) is VerdictKind.FAILING:  # the ratio only rises with a failure
                    condemned += 1
                    break
    return condemned


def test_a_release_within_its_budget_is_hardly_ever_condemned() -> None:
    """20,000 probations of 300 frames at exactly the budget: Ville's bound allows one on average, five with 0.4 %."""
    assert false_rollbacks(0.01, 20_000, 300) <= max(5, 20_000 * FALSE_ROLLBACK_MAX)


def test_a_release_that_fails_half_of_the_time_is_condemned_within_forty_frames() -> None:
    assert false_rollbacks(0.5, 500, 40) == 500
