"""Pairing of answers, and when a trial is decided."""

from __future__ import annotations

from array import array

from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime import wire
from edge_agent.runtime.health import VerdictKind
from edge_agent.runtime.member import Answer, Batch
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
