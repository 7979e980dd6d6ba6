"""Evidence in, verdict out: when a candidate is condemned, passed or kept waiting."""

from __future__ import annotations

import math
import random

import pytest

from edge_agent.contract.errors import Blame, ReasonCode
from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime.evidence import Evidence, Outcome
from edge_agent.runtime.health import ALPHA, FALSE_ROLLBACK_MAX, VerdictKind, judge
from edge_agent.runtime.sequential import Trials

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
    evidence = Evidence(
        since=0.0,
        samples=frames,
        frames=frames,
        failed_frames=failed,
        errors=Trials(failed, frames - failed),
        last_error="boom",
    )
    found = judge(evidence, POLICY, 10.0, samples=1, seconds=0.0)
    assert (found.kind is VerdictKind.FAILING) == condemned
    if condemned:
        assert found.reason is not None
        assert found.reason.code is ReasonCode.ERRORS
        assert found.reason.message == f"{failed} of {frames} frames failed, last: boom (budget 1.0%)"


@pytest.mark.parametrize(("invalid", "answered", "condemned"), TABLE)
def test_when_invalid_results_condemn(invalid: int, answered: int, condemned: bool) -> None:
    evidence = Evidence(since=0.0, samples=9, wrong=Trials(invalid, answered - invalid), last_invalid="y = nan")
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
    assert words == "10 of 11 samples"


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
    assert (evidence.wrong, evidence.invalid_frames) == (Trials(1, 0), 1)
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


# --- the other tests and limits -------------------------------------------------------------------------------------


def condemned_by(evidence: Evidence) -> ReasonCode | None:
    found = judge(evidence, evidence.policy, 10.0, samples=10**9, seconds=0.0)
    return found.reason.code if found.kind is VerdictKind.FAILING and found.reason is not None else None


def seen(
    policy: HealthPolicy, frames: int, candidate: Outcome, active: Outcome | None = None, **more: float
) -> Evidence:
    evidence = Evidence.begin(policy, 0.0)
    for number in range(frames):
        evidence = evidence.add(1, candidate, active, now=float(number), **more)
    return evidence


def test_the_tests_share_what_a_probation_may_get_wrong() -> None:
    assert math.fsum(ALPHA.values()) <= FALSE_ROLLBACK_MAX + 1e-12


def test_slower_than_its_own_budget_condemns_and_not_where_the_active_release_is_too() -> None:
    policy = HealthPolicy(latency_ms_max=20.0)
    slow, quick = Outcome(rows=1, micros=30_000), Outcome(rows=1, micros=1_000)
    assert condemned_by(seen(policy, 40, slow, quick)) is ReasonCode.LATENCY
    assert condemned_by(seen(policy, 40, slow)) is ReasonCode.LATENCY
    assert condemned_by(seen(policy, 400, slow, slow)) is None
    assert condemned_by(seen(policy, 400, quick)) is None
    found = judge(seen(policy, 40, slow, quick), policy, 1.0, samples=1, seconds=0.0)
    assert found.words == "40 of 40 frames took longer than 20 ms (1 % may)"


def test_much_slower_than_the_active_release_condemns() -> None:
    slow, quick = Outcome(rows=1, micros=120_000), Outcome(rows=1, micros=1_000)
    assert condemned_by(seen(HealthPolicy(), 40, slow, quick)) is ReasonCode.LATENCY
    assert condemned_by(seen(HealthPolicy(latency_ratio_max=0.0), 400, slow, quick)) is None
    assert condemned_by(seen(HealthPolicy(), 400, Outcome(rows=1, micros=45_000), quick)) is None
    assert condemned_by(seen(HealthPolicy(), 400, slow, Outcome(rows=1, micros=20_000))) is None
    assert condemned_by(seen(HealthPolicy(), 400, slow, None)) is None


def test_one_late_frame_in_a_hundred_is_what_p99_means() -> None:
    policy, chance = HealthPolicy(latency_ms_max=20.0), random.Random(7)
    evidence = Evidence.begin(policy, 0.0)
    for _ in range(5_000):
        late = chance.random() < 0.009
        evidence = evidence.add(1, Outcome(rows=1, micros=90_000 if late else 1_000), None)
        assert condemned_by(evidence) is None


def test_results_far_from_the_active_releases_condemn_only_where_the_author_set_a_bound() -> None:
    assert (
        condemned_by(seen(HealthPolicy(disagreement_max=0.1), 5, GOOD, GOOD, distance=0.5)) is ReasonCode.DISAGREEMENT
    )
    assert condemned_by(seen(HealthPolicy(disagreement_max=0.1), 500, GOOD, GOOD, distance=0.05)) is None
    assert condemned_by(seen(HealthPolicy(), 500, GOOD, GOOD, distance=math.inf)) is None


def test_memory_over_the_limit_condemns_when_it_stays_there() -> None:
    policy = HealthPolicy(memory_mb_max=100.0)
    heavy = Outcome(rows=1, memory_kb=150 * 1024)
    assert condemned_by(seen(policy, 2, heavy)) is None
    assert condemned_by(seen(policy, 3, heavy)) is ReasonCode.MEMORY
    assert condemned_by(seen(HealthPolicy(), 3, heavy)) is None


def test_memory_that_grows_without_a_pause_condemns() -> None:
    policy = HealthPolicy(probation_seconds=12.0, memory_growth_mb_max=4.0)

    def evidence(step_kb: int) -> Evidence:
        found = Evidence.begin(policy, 0.0)
        for number in range(30):
            found = found.add(1, Outcome(rows=1, memory_kb=50_000 + step_kb * number), None, now=0.01 + number / 2)
        return found

    assert condemned_by(evidence(1024)) is ReasonCode.MEMORY
    assert condemned_by(evidence(10)) is None


def test_more_rows_than_anybody_wants_condemn_unless_the_active_release_gives_as_many() -> None:
    flood = Outcome(rows=500)
    assert condemned_by(seen(HealthPolicy(), 10, flood)) is ReasonCode.FLOOD
    assert condemned_by(seen(HealthPolicy(), 10, flood, flood)) is None
    assert condemned_by(seen(HealthPolicy(rows_ratio_max=0.0), 10, flood)) is None


def test_printing_without_end_condemns_and_what_was_printed_before_does_not() -> None:
    evidence = Evidence.begin(HealthPolicy(), 0.0)
    for printed in (5_000_000, 5_900_000):
        evidence = evidence.add(1, Outcome(rows=1, memory_kb=1, printed=printed), None)
        assert condemned_by(evidence) is None
    assert condemned_by(evidence.add(1, Outcome(rows=1, memory_kb=1, printed=6_100_000), None)) is ReasonCode.FLOOD


# --- blame ----------------------------------------------------------------------------------------------------------


def test_what_failed_for_want_of_disk_counts_against_nobody_and_commits_nothing() -> None:
    full = Outcome(error="OSError: No space left on device", environment=True)
    evidence = collected([GOOD, full, full, full, full])
    found = judge(evidence, POLICY, 99.0, samples=1, seconds=0.0)
    assert (found.kind, evidence.failed_frames) == (VerdictKind.UNDECIDED, 0)
    assert found.reason is not None
    assert (found.reason.code, found.reason.blame) == (ReasonCode.ENVIRONMENT, Blame.ENVIRONMENT)
    assert verdict(evidence.add(1, GOOD, None)) is VerdictKind.HEALTHY


def test_trouble_with_the_device_keeps_it_waiting_and_condemns_nobody() -> None:
    found = judge(collected([GOOD] * 9), POLICY, 99.0, samples=1, seconds=0.0, trouble="no broker")
    assert found.kind is VerdictKind.UNDECIDED
    assert "no broker" in found.words


def test_windows_that_are_not_due_prove_little() -> None:
    """A release that raises on every window, one frame in ten, must not hide behind the nine that give nothing."""
    evidence = Evidence.begin(HealthPolicy(), 0.0, history=100)
    for number in range(40):
        evidence = evidence.add(1, BAD if number % 10 == 9 else Outcome(), None)
    assert condemned_by(evidence) is ReasonCode.ERRORS


def test_shadow_and_live_are_one_probation() -> None:
    evidence = collected([BAD, BAD]).go_on(50.0)
    assert (evidence.since, evidence.samples, evidence.failed_frames) == (50.0, 0, 2)
    assert verdict(evidence.add(1, BAD, None), now=51.0) is VerdictKind.FAILING


def test_evidence_has_numbers() -> None:
    numbers = collected([GOOD, BAD]).numbers()
    assert (numbers["frames"], numbers["failed_frames"], numbers["samples_seen"]) == (2, 1, 2)
    assert all(isinstance(value, int | float) for value in numbers.values())


def false_rollbacks(rate: float, probations: int, frames: int) -> int:
    """Count probations that condemn a release which fails as often as its budget allows."""
    chance = random.Random(20_260)
    condemned = 0
    for _ in range(probations):
        failed = 0
        for frame in range(1, frames + 1):
            if chance.random() < rate:
                failed += 1
                evidence = Evidence(since=0.0, samples=frame, errors=Trials(failed, frame - failed))
                if verdict(evidence) is VerdictKind.FAILING:  # the ratio only rises with a failure
                    condemned += 1
                    break
    return condemned


def test_a_release_within_its_budget_is_hardly_ever_condemned() -> None:
    """20,000 probations of 300 frames at exactly the budget: Ville's bound allows one on average, five with 0.4 %."""
    assert false_rollbacks(0.01, 20_000, 300) <= max(5, 20_000 * FALSE_ROLLBACK_MAX)


def test_a_release_that_fails_half_of_the_time_is_condemned_within_forty_frames() -> None:
    assert false_rollbacks(0.5, 500, 40) == 500
