"""Evidence in, verdict out: may this candidate stay? (§10)

Pure. Evidence is comparative: a frame that the active release fails too counts against neither. Rates are judged by a
one-sided sequential likelihood ratio test (Wald 1945): the ratio of "fails half of the time" against "fails as often
as its budget allows". By Ville's inequality the chance that it *ever* passes 1/α while the release is within budget is
at most α, however long probation lasts; the two tests here share α = 10⁻⁴.
"""

from __future__ import annotations

import enum
import math

import msgspec

from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.contract.manifest import HealthPolicy

__all__ = ["Evidence", "Outcome", "Verdict", "VerdictKind", "judge"]

FALSE_ROLLBACK_MAX = 1e-4
_CONDEMN = math.log(2 / FALSE_ROLLBACK_MAX)
_BAD_RATE = 0.5


class VerdictKind(enum.Enum):
    """What the evidence says."""

    HEALTHY = "healthy"
    FAILING = "failing"
    UNDECIDED = "undecided"


class Verdict(msgspec.Struct, frozen=True):
    """A verdict with the evidence in words and numbers."""

    kind: VerdictKind
    words: str
    reason: Reason | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one release made of one frame.

    `rows` results came out, `invalid` of them outside the declared output; `error` is empty or says what was raised,
    `veto` what the release's own `health()` said against itself.
    """

    rows: int = 0
    invalid: int = 0
    words: str = ""
    error: str = ""
    veto: str = ""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Everything counted so far in one probation. Times are seconds on a monotonic clock.

    Rows of one frame are correlated, so the tests count frames: `answered_frames` gave results,
    `invalid_frames` some that were not valid.
    """

    since: float
    samples: int = 0
    frames: int = 0
    failed_frames: int = 0
    outputs: int = 0
    invalid_outputs: int = 0
    answered_frames: int = 0
    invalid_frames: int = 0
    blameless: int = 0
    veto: str = ""
    last_error: str = ""
    last_invalid: str = ""

    def add(self, samples: int, candidate: Outcome, active: Outcome | None) -> Evidence:
        """Return the evidence with one more frame of `samples` rows, as both releases saw it."""
        failed = bool(candidate.error)
        if active is not None and active.error and failed:
            return msgspec.structs.replace(self, samples=self.samples + samples, blameless=self.blameless + 1)
        excused = min(candidate.invalid, active.invalid) if active is not None else 0
        return msgspec.structs.replace(
            self,
            samples=self.samples + samples,
            frames=self.frames + 1,
            failed_frames=self.failed_frames + failed,
            outputs=self.outputs + candidate.rows - excused,
            invalid_outputs=self.invalid_outputs + candidate.invalid - excused,
            answered_frames=self.answered_frames + (candidate.rows > excused),
            invalid_frames=self.invalid_frames + (candidate.invalid > excused),
            blameless=self.blameless + excused,
            veto=candidate.veto if active is None or not active.veto else "",
            last_error=candidate.error or self.last_error,
            last_invalid=candidate.words or self.last_invalid,
        )


def judge(evidence: Evidence, policy: HealthPolicy, now: float, *, samples: int, seconds: float) -> Verdict:
    """Judge a candidate: condemn at once, or pass it after `samples` samples *and* `seconds` seconds, or wait.

    A rate that the tests have not cleared by then (more failures than the budget explains) keeps it waiting.
    """
    errors = _ratio(evidence.failed_frames, evidence.frames, policy.error_rate_max)
    invalid = _ratio(evidence.invalid_frames, evidence.answered_frames, policy.error_rate_max)
    if evidence.veto:
        return _failing(ReasonCode.VETO, f"the release's own health check says: {evidence.veto}", policy)
    if errors >= _CONDEMN:
        words = f"{evidence.failed_frames} of {evidence.frames} frames failed, last: {evidence.last_error}"
        return _failing(ReasonCode.ERRORS, words, policy)
    if invalid >= _CONDEMN:
        words = f"{evidence.invalid_outputs} of {evidence.outputs} results invalid, last: {evidence.last_invalid}"
        return _failing(ReasonCode.OUTPUT, words, policy)
    elapsed = now - evidence.since
    words = f"{evidence.samples} of {samples} samples, {elapsed:.1f} of {seconds:.1f} s"
    if evidence.samples < samples or elapsed < seconds:
        return Verdict(VerdictKind.UNDECIDED, words)
    if errors > 0 or invalid > 0:
        return Verdict(VerdictKind.UNDECIDED, f"{words}; failures are not cleared yet")
    return Verdict(VerdictKind.HEALTHY, words)


def _failing(code: ReasonCode, words: str, policy: HealthPolicy) -> Verdict:
    budget = "" if code is ReasonCode.VETO else f" (budget {policy.error_rate_max:.1%})"
    reason = Reason(code=code, message=f"{words}{budget}")
    return Verdict(VerdictKind.FAILING, words, reason)


def _ratio(failures: int, trials: int, budget: float) -> float:
    """Return the log likelihood ratio of a rate of one half against `budget`."""
    if trials == 0:
        return 0.0
    budget = min(max(budget, 1e-6), 0.4)
    good = math.log((1 - _BAD_RATE) / (1 - budget))
    return failures * math.log(_BAD_RATE / budget) + (trials - failures) * good
