"""One candidate's trial in the data path: pairs its answers with the active release's and asks `health` for a verdict.

It holds the evidence and says what was decided; the lane moves pointers and workers.
"""

from __future__ import annotations

import enum

from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime import health
from edge_agent.runtime.health import Evidence, Outcome, Verdict, VerdictKind
from edge_agent.runtime.member import Answer, Batch

__all__ = ["Mode", "Probation"]

PAIRS_MAX = 256


class Mode(enum.Enum):
    """Who answers: the active worker, it with the candidate shadowing, or the candidate with the old one behind it."""

    IDLE = "idle"
    SHADOW = "shadow"
    LIVE = "live"


class Probation:
    """The evidence of one probation, from `now` on. `reference` is the active release's key, if there is one.

    `traceback` is of the candidate's last failure.
    """

    def __init__(self, mode: Mode, key: int, reference: int | None, policy: HealthPolicy, now: float) -> None:
        self.mode, self.key, self.reference = mode, key, reference
        self.traceback = ""
        self._policy = policy
        self._evidence = Evidence(since=now)
        self._pairs: dict[int, Batch] = {}

    def expect(self, batch: Batch) -> None:
        """A batch was given to the candidate, and to the active release if there is one."""
        self._pairs[batch.number] = batch
        if len(self._pairs) > PAIRS_MAX:
            del self._pairs[next(iter(self._pairs))]

    def forget_reference(self) -> None:
        """The active release's worker is gone: judge by the candidate's answers alone from here on."""
        self.reference = None
        self._pairs.clear()

    def hear(self, answer: Answer, key: int, now: float) -> Verdict | None:
        """Take an answer of either release; return a verdict once the frame is complete."""
        batch = self._pairs.get(answer.batch)
        if batch is None:
            return None
        batch.answers[key] = answer
        if self.key not in batch.answers or (self.reference is not None and self.reference not in batch.answers):
            return None
        del self._pairs[answer.batch]
        failure = batch.answers[self.key].failure
        self.traceback = failure.traceback if failure is not None else self.traceback
        reference = batch.answers.get(self.reference) if self.reference is not None else None
        self._evidence = self._evidence.add(
            batch.rows,
            _outcome(batch.answers[self.key]),
            _outcome(reference) if reference is not None else None,
        )
        return self.judge(now)

    def judge(self, now: float) -> Verdict:
        """Return what the evidence says at `now`: shadowing ends by count, live probation by count and time."""
        policy = self._policy
        if self.mode is Mode.LIVE:
            return health.judge(
                self._evidence, policy, now, samples=policy.probation_frames, seconds=policy.probation_seconds
            )
        return health.judge(self._evidence, policy, now, samples=policy.shadow_frames, seconds=0.0)

    def decided_by_time(self, now: float) -> bool:
        """Tell whether only time was missing, so that a verdict is due without another frame."""
        return self.mode is Mode.LIVE and self.judge(now).kind is VerdictKind.HEALTHY


def _outcome(answer: Answer) -> Outcome:
    if answer.failure is not None:
        return Outcome(error=answer.failure.reason.message)
    return Outcome(rows=len(answer.rows), invalid=answer.invalid, words=answer.words, veto=answer.veto)
