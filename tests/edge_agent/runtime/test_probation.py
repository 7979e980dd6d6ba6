"""Pairing of answers, and when a trial is decided."""

from __future__ import annotations

from array import array

import pytest

from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime import wire
from edge_agent.runtime.answers import Answer, Batch
from edge_agent.runtime.health import VerdictKind
from edge_agent.runtime.probation import PAIRS_MAX, Mode, Probation
from edge_agent.runtime.samples import Samples

POLICY = HealthPolicy(shadow_frames=3, probation_frames=4, probation_seconds=10.0)
CANDIDATE, ACTIVE = 2, 1


def batch(number: int) -> Batch:
    return Batch(number, Samples(("x",), array("q", [number]), array("q", [number]), array("d", [0.0])), 0.0)


def good(number: int) -> Answer:
    return Answer(batch=number, rows=[[1.0]])


def bad(number: int) -> Answer:
    failure = wire.Failure(reason=Reason(code=ReasonCode.ERRORS, message="boom"), traceback=f"frame {number}")
    return Answer(batch=number, failure=failure)


def test_a_pair_is_judged_when_both_answered_in_either_order() -> None:
    trial = Probation(Mode.SHADOW, CANDIDATE, ACTIVE, POLICY, 0.0)
    for number, first, second in ((1, ACTIVE, CANDIDATE), (2, CANDIDATE, ACTIVE)):
        trial.expect(batch(number))
        assert trial.hear(good(number), first, 1.0) is None
        found = trial.hear(good(number), second, 1.0)
        assert found is not None
        assert found.kind is VerdictKind.UNDECIDED
    trial.expect(batch(3))
    trial.hear(good(3), ACTIVE, 1.0)
    found = trial.hear(good(3), CANDIDATE, 1.0)
    assert found is not None
    assert found.kind is VerdictKind.HEALTHY


def test_an_answer_to_what_was_not_expected_says_nothing() -> None:
    trial = Probation(Mode.SHADOW, CANDIDATE, ACTIVE, POLICY, 0.0)
    assert trial.hear(good(7), CANDIDATE, 1.0) is None


def test_failures_of_the_candidate_alone_condemn_and_keep_their_traceback() -> None:
    trial = Probation(Mode.SHADOW, CANDIDATE, ACTIVE, POLICY, 0.0)
    for number in range(1, 4):
        trial.expect(batch(number))
        trial.hear(good(number), ACTIVE, 1.0)
        found = trial.hear(bad(number), CANDIDATE, 1.0)
    assert found is not None
    assert found.kind is VerdictKind.FAILING
    assert trial.traceback == "frame 3"


def test_without_the_active_release_the_candidate_is_judged_alone() -> None:
    trial = Probation(Mode.SHADOW, CANDIDATE, ACTIVE, POLICY, 0.0)
    trial.expect(batch(1))
    trial.hear(good(1), CANDIDATE, 1.0)
    trial.forget_reference()
    assert trial.hear(good(1), ACTIVE, 1.0) is None
    trial.expect(batch(2))
    assert trial.hear(good(2), CANDIDATE, 1.0) is not None


def test_pairs_that_nobody_completes_are_dropped_oldest_first() -> None:
    trial = Probation(Mode.SHADOW, CANDIDATE, None, POLICY, 0.0)
    for number in range(PAIRS_MAX + 1):
        trial.expect(batch(number))
    assert trial.hear(good(0), CANDIDATE, 1.0) is None
    assert trial.hear(good(1), CANDIDATE, 1.0) is not None


def test_live_probation_ends_by_count_and_time() -> None:
    trial = Probation(Mode.LIVE, CANDIDATE, None, POLICY, 100.0)
    for number in range(4):
        trial.expect(batch(number))
        found = trial.hear(good(number), CANDIDATE, 101.0)
    assert found is not None
    assert found.kind is VerdictKind.UNDECIDED
    assert not trial.decided_by_time(109.9)
    assert trial.decided_by_time(110.0)
    assert not Probation(Mode.SHADOW, CANDIDATE, None, POLICY, 100.0).decided_by_time(200.0)


def timed(number: int, micros: int, *values: float) -> Answer:
    return Answer(
        batch=number, rows=[[value] for value in values], note=wire.Note(micros=micros, stages={"act": micros})
    )


DISTANCES = {
    "equal": ([1.0], [1.0], False),
    "near": ([1.0], [1.05], False),
    "far": ([1.0], [1.2], True),
    "fewer rows": ([1.0], [1.0, 2.0], True),
    "NaN": ([float("nan")], [1.0], True),
}


@pytest.mark.parametrize("case", DISTANCES)
def test_results_are_compared_where_the_author_set_a_bound(case: str) -> None:
    mine, theirs, apart = DISTANCES[case]
    policy = HealthPolicy(disagreement_max=0.1)
    trial = Probation(Mode.SHADOW, CANDIDATE, ACTIVE, policy, 0.0)
    trial.expect(batch(1))
    trial.hear(timed(1, 5, *theirs), ACTIVE, 1.0)
    trial.hear(timed(1, 5, *mine), CANDIDATE, 1.0)
    assert trial.evidence.apart_frames == apart


def test_texts_agree_or_do_not() -> None:
    policy = HealthPolicy(disagreement_max=0.1)
    for mine, theirs, apart in (("a", "a", 0), ("a", "b", 1)):
        trial = Probation(Mode.SHADOW, CANDIDATE, ACTIVE, policy, 0.0)
        trial.expect(batch(1))
        trial.hear(Answer(batch=1, rows=[[theirs]]), ACTIVE, 1.0)
        trial.hear(Answer(batch=1, rows=[[mine]]), CANDIDATE, 1.0)
        assert trial.evidence.apart_frames == apart


def test_it_tells_percentiles_stages_and_the_frame_that_failed_last() -> None:
    trial = Probation(Mode.SHADOW, CANDIDATE, ACTIVE, POLICY, 0.0)
    assert "candidate_p99_ms" not in trial.numbers()
    for number in range(1, 101):
        trial.expect(batch(number))
        trial.hear(timed(number, 1_000, 1.0), ACTIVE, 1.0)
        trial.hear(timed(number, number * 100, 1.0), CANDIDATE, 1.0)
    numbers = trial.numbers()
    assert (numbers["candidate_p50_ms"], numbers["candidate_p99_ms"], numbers["active_p99_ms"]) == (5.1, 9.9, 1.0)
    assert trial.stages == {"act": 10_000}
    assert trial.failed is None
    failing = batch(101)
    trial.expect(failing)
    trial.hear(good(101), ACTIVE, 1.0)
    trial.hear(bad(101), CANDIDATE, 1.0)
    assert trial.failed is failing


def test_the_live_part_goes_on_with_the_evidence_of_the_shadow() -> None:
    shadow = Probation(Mode.SHADOW, CANDIDATE, None, POLICY, 0.0)
    for number in (1, 2):
        shadow.expect(batch(number))
        shadow.hear(bad(number), CANDIDATE, 1.0)
    live = Probation(Mode.LIVE, CANDIDATE, None, POLICY, 5.0, before=shadow.evidence)
    live.expect(batch(3))
    found = live.hear(bad(3), CANDIDATE, 5.1)
    assert found is not None
    assert found.kind is VerdictKind.FAILING


def test_only_who_needs_the_broker_waits_for_it() -> None:
    for needs, kind in ((True, VerdictKind.UNDECIDED), (False, VerdictKind.HEALTHY)):
        policy = HealthPolicy(probation_frames=1, probation_seconds=0.0, needs_broker=needs)
        trial = Probation(Mode.LIVE, CANDIDATE, None, policy, 0.0)
        trial.expect(batch(1))
        found = trial.hear(good(1), CANDIDATE, 1.0, "no broker")
        assert found is not None
        assert found.kind is kind
