"""One candidate's trial in the data path: pairs its answers with the active release's and asks `health` for a verdict.

It holds the evidence and says what was decided; the lane moves pointers and workers.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from edge_agent.contract.errors import Blame
from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime import health
from edge_agent.runtime.answers import Answer, Batch
from edge_agent.runtime.evidence import Evidence, Outcome
from edge_agent.runtime.health import Verdict, VerdictKind

__all__ = ["Mode", "Probation", "outcome_of"]

# More than a worker may owe: one that falls behind is judged by what it did answer.
PAIRS_MAX = 1024
TIMES_MAX = 512


class Mode(enum.Enum):
    """Who answers: the active worker, it with the candidate shadowing, or the candidate with the old one behind it."""

    IDLE = "idle"
    SHADOW = "shadow"
    LIVE = "live"


class Probation:
    """The evidence of one probation, from `now` on. `reference` is the active release's key, if there is one.

    `history` is how many samples one result may be of. `before` is the evidence of the part before this one, which
    goes on. `traceback` is of the candidate's last failure, `failed` the batch that it failed, `stages` what its stages
    took last, in microseconds.
    """

    def __init__(
        self,
        mode: Mode,
        key: int,
        reference: int | None,
        policy: HealthPolicy,
        now: float,
        *,
        history: int = 0,
        before: Evidence | None = None,
    ) -> None:
        self.mode, self.key, self.reference = mode, key, reference
        self.traceback = ""
        self.failed: Batch | None = None
        self.stages: dict[str, int] = {}
        self._policy = policy
        self.evidence = before.go_on(now) if before is not None else Evidence.begin(policy, now, history)
        self._pairs: dict[int, Batch] = {}
        self._times: tuple[deque[int], deque[int]] = (deque(maxlen=TIMES_MAX), deque(maxlen=TIMES_MAX))

    def expect(self, batch: Batch) -> None:
        """A batch was given to the candidate, and to the active release if there is one."""
        self._pairs[batch.number] = batch
        if len(self._pairs) > PAIRS_MAX:
            del self._pairs[next(iter(self._pairs))]

    def forget_reference(self) -> None:
        """The active release's worker is gone: judge by the candidate's answers alone from here on."""
        self.reference = None
        self._pairs.clear()

    def hear(self, answer: Answer, key: int, now: float, trouble: str = "") -> Verdict | None:
        """Take an answer of either release; return a verdict once the frame is complete."""
        batch = self._pairs.get(answer.batch)
        if batch is None:
            return None
        batch.answers[key] = answer
        if self.key not in batch.answers or (self.reference is not None and self.reference not in batch.answers):
            return None
        del self._pairs[answer.batch]
        self._weigh(batch, now)
        return self.judge(now, trouble)

    def _weigh(self, batch: Batch, now: float) -> None:
        mine = batch.answers[self.key]
        reference = batch.answers.get(self.reference) if self.reference is not None else None
        if mine.failure is not None:
            self.traceback, self.failed = mine.failure.traceback, batch
        elif mine.invalid:
            self.failed = batch
        self.stages = mine.note.stages or self.stages
        self._times[0].append(mine.note.micros)
        if reference is not None:
            self._times[1].append(reference.note.micros)
        compared = self._policy.disagreement_max > 0 and reference is not None
        self.evidence = self.evidence.add(
            batch.rows,
            outcome_of(mine),
            outcome_of(reference) if reference is not None else None,
            now=now,
            distance=_distance(mine.rows, reference.rows) if compared and reference is not None else 0.0,
        )

    def judge(self, now: float, trouble: str = "") -> Verdict:
        """Return what the evidence says at `now`: shadowing ends by count, live probation by count and time."""
        policy = self._policy
        if self.mode is Mode.LIVE:
            samples, seconds = policy.probation_frames, policy.probation_seconds
            trouble = trouble if policy.needs_broker else ""
            return health.judge(self.evidence, policy, now, samples=samples, seconds=seconds, trouble=trouble)
        return health.judge(self.evidence, policy, now, samples=policy.shadow_frames, seconds=0.0)

    def decided_by_time(self, now: float, trouble: str = "") -> bool:
        """Tell whether only time was missing, so that a verdict is due without another frame."""
        return self.mode is Mode.LIVE and self.judge(now, trouble).kind is VerdictKind.HEALTHY

    def numbers(self) -> dict[str, float]:
        """Return the evidence in numbers, latencies (milliseconds, median and p99) included."""
        found = self.evidence.numbers()
        for name, times in zip(("candidate", "active"), self._times, strict=True):
            if times:
                ordered = sorted(times)
                found[f"{name}_p50_ms"] = ordered[len(ordered) // 2] / 1000
                found[f"{name}_p99_ms"] = ordered[math.ceil(0.99 * len(ordered)) - 1] / 1000
        return found


def outcome_of(answer: Answer) -> Outcome:
    """Return what an answer says of its release."""
    note = answer.note
    if answer.failure is not None:
        reason = answer.failure.reason
        return Outcome(
            error=reason.message,
            environment=reason.blame is Blame.ENVIRONMENT,
            memory_kb=note.memory_kb,
            printed=note.printed,
        )
    return Outcome(
        rows=len(answer.rows),
        invalid=answer.invalid,
        words=note.invalid,
        veto=note.veto,
        micros=note.micros,
        waited=note.waited,
        memory_kb=note.memory_kb,
        printed=note.printed,
    )


def _distance(mine: Sequence[Sequence[Any]], theirs: Sequence[Sequence[Any]]) -> float:
    """Return how far numbers lie apart at most; infinity where there are not as many, or other things differ."""
    if len(mine) != len(theirs):
        return math.inf
    most = 0.0
    for one, other in zip(mine, theirs, strict=True):
        if len(one) != len(other):
            return math.inf
        for a, b in zip(one, other, strict=True):
            numbers = isinstance(a, int | float) and isinstance(b, int | float)
            apart = abs(a - b) if numbers else (0.0 if a == b else math.inf)
            most = max(most, apart if not math.isnan(apart) else math.inf)
    return most
