"""Evidence in, verdict out: may this candidate stay? (§10)

Pure. Rates are judged by the sequential tests of `sequential`; they share `FALSE_ROLLBACK_MAX`, the probability that a
release within all its budgets is ever condemned in one probation, as `ALPHA` divides it (a union bound, so the tests
may depend on each other). Absolute limits (memory, floods, a veto) leave nothing to chance. Who is not condemned may
still have to wait: until the count and time are full, the evidence against it is gone, and the environment is well.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator

import msgspec

from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime.evidence import READINGS, SLOWER_MICROS, Evidence, Outcome
from edge_agent.runtime.sequential import Trials, log_ratio

__all__ = ["ALPHA", "FALSE_ROLLBACK_MAX", "Evidence", "Outcome", "Verdict", "VerdictKind", "judge"]

FALSE_ROLLBACK_MAX = 1e-4
# Errors and invalid results have the most: three in the first five frames must be enough. `growth` is spent by
# `sequential.LOOKS_MAX` looks of 1 in 10! each.
ALPHA = {"errors": 4e-5, "wrong": 4e-5, "slow": 5e-6, "slower": 5e-6, "apart": 5e-6, "growth": 5e-6}
LATE_SHARE_MAX = 0.01  # what p99 means
ROWS_ALWAYS = 1000
_LIMITS = {name: math.log(1 / alpha) for name, alpha in ALPHA.items()}


class VerdictKind(enum.Enum):
    """What the evidence says."""

    HEALTHY = "healthy"
    FAILING = "failing"
    UNDECIDED = "undecided"


class Verdict(msgspec.Struct, frozen=True):
    """A verdict with the evidence in words; `reason` is for failing, and for undecided because of the environment."""

    kind: VerdictKind
    words: str
    reason: Reason | None = None


def judge(
    evidence: Evidence, policy: HealthPolicy, now: float, *, samples: int, seconds: float, trouble: str = ""
) -> Verdict:
    """Judge a candidate: condemn at once, or pass it after `samples` samples *and* `seconds` seconds, or wait.

    A rate that the tests have not cleared by then (more failures than the budget explains) keeps it waiting, and so
    does `trouble`: what is wrong with the device in words.
    """
    reason = next(_faults(evidence, policy), None)
    if reason is not None:
        return Verdict(VerdictKind.FAILING, reason.message, reason)
    elapsed = now - evidence.since
    words = f"{evidence.samples} of {samples} samples"
    if seconds:
        words += f", {elapsed:.1f} of {seconds:.1f} s"
    environment = trouble or evidence.environment
    if environment:
        found = Reason(code=ReasonCode.ENVIRONMENT, message=environment, blame=Blame.ENVIRONMENT)
        return Verdict(VerdictKind.UNDECIDED, f"{words}; the environment: {environment}", found)
    if evidence.samples < samples or elapsed < seconds:
        return Verdict(VerdictKind.UNDECIDED, words)
    if any(log_ratio(trials, budget) > 0 for _, trials, budget in _tests(evidence, policy)):
        return Verdict(VerdictKind.UNDECIDED, f"{words}; failures are not cleared yet")
    return Verdict(VerdictKind.HEALTHY, words)


def _tests(evidence: Evidence, policy: HealthPolicy) -> Iterator[tuple[str, Trials, float]]:
    yield "errors", evidence.errors, policy.error_rate_max
    yield "wrong", evidence.wrong, policy.error_rate_max
    yield "slow", evidence.slow, LATE_SHARE_MAX
    yield "slower", evidence.slower, LATE_SHARE_MAX
    yield "apart", evidence.apart, policy.error_rate_max


def _faults(evidence: Evidence, policy: HealthPolicy) -> Iterator[Reason]:
    """Yield what the release is condemned for."""
    if evidence.veto:
        yield Reason(code=ReasonCode.VETO, message=f"the release's own health check says: {evidence.veto}")
    for name, trials, budget in _tests(evidence, policy):
        if trials.failed and log_ratio(trials, budget) >= _LIMITS[name]:
            yield _rate_fault(name, evidence, policy)
    yield from _limit_faults(evidence, policy)


def _rate_fault(name: str, evidence: Evidence, policy: HealthPolicy) -> Reason:
    frames, budget = evidence.frames, f" (budget {policy.error_rate_max:.1%})"
    if name == "errors":
        words = f"{evidence.failed_frames} of {frames} frames failed, last: {evidence.last_error}{budget}"
        return Reason(code=ReasonCode.ERRORS, message=words)
    if name == "wrong":
        words = f"{evidence.invalid_outputs} of {evidence.outputs} results invalid, last: {evidence.last_invalid}"
        return Reason(code=ReasonCode.OUTPUT, message=words + budget)
    if name == "slow":
        words = f"{evidence.slow_frames} of {frames} frames took longer than {policy.latency_ms_max:g} ms (1 % may)"
        return Reason(code=ReasonCode.LATENCY, message=words)
    if name == "slower":
        than = f"{policy.latency_ratio_max:g} times as long as the active release and {SLOWER_MICROS // 1000} ms longer"
        words = f"{evidence.slower_frames} of {frames} frames took {than} (1 % may; raise latency_ratio_max if meant)"
        return Reason(code=ReasonCode.LATENCY, message=words)
    words = f"{evidence.apart_frames} of {frames} frames lie further than {policy.disagreement_max:g} from the active"
    most = f" release's, {evidence.apart_most:g} at most"
    return Reason(code=ReasonCode.DISAGREEMENT, message=words + most + budget)


def _limit_faults(evidence: Evidence, policy: HealthPolicy) -> Iterator[Reason]:
    memory = f"{evidence.memory_kb / 1024:.0f} MiB"
    if evidence.heavy >= READINGS:
        words = f"uses {memory} of memory, {policy.memory_mb_max:g} MiB are allowed"
        yield Reason(code=ReasonCode.MEMORY, message=words)
    leak = evidence.growth.leak_kb / 1024
    if policy.memory_growth_mb_max and leak > policy.memory_growth_mb_max:
        seconds = evidence.growth.seconds * (len(evidence.growth.minima) - 1)
        words = f"memory grew without a pause by {leak:.0f} MiB in {seconds:.1f} s to {memory}"
        limit = f", {policy.memory_growth_mb_max:g} MiB are allowed"
        yield Reason(code=ReasonCode.MEMORY, message=words + limit)
    ratio = policy.rows_ratio_max
    if ratio and evidence.rows > max(ratio * evidence.samples_seen + ROWS_ALWAYS, 2 * evidence.rows_active):
        words = f"gave {evidence.rows} rows for {evidence.samples_seen}, {ratio:g} for each are allowed"
        yield Reason(code=ReasonCode.FLOOD, message=words)
    if policy.printed_kb_max and evidence.printed > policy.printed_kb_max * 1024:
        words = f"printed {evidence.printed // 1024} KiB, {policy.printed_kb_max:g} KiB are allowed in a probation"
        yield Reason(code=ReasonCode.FLOOD, message=words)
