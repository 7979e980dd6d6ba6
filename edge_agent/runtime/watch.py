"""The committed release under watch: does it fail now, though it was healthy when it was committed? (§10) Pure.

It is judged against its own budgets by Page's test (`sequential`), which forgets a long good past. An alarm has the
release started anew; another one soon after asks whether the release before it does better on the same frames, since
garbage from a sensor makes every release fail. Only if it does, the committed one has to go.
"""

from __future__ import annotations

import math

from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime.evidence import LATENCY_BLOCK, READINGS, Outcome
from edge_agent.runtime.sequential import Page

__all__ = ["Comparison", "Watch"]

# Between false alarms of a release within its budget lie 10¹² frames on average: 300 years at 100 a second.
ALARM = math.log(1e12)
LATE_SHARE_MAX = 0.01
CALM_SECONDS = 600.0
BETTER, COMPARED_MAX, PAIRS_MAX = 8, 200, 64
_QUIET = Page()


class Watch:
    """What the active release made of its last frames. Alarms within `CALM_SECONDS` of each other are counted."""

    def __init__(self, policy: HealthPolicy) -> None:
        self._policy = policy
        self._errors, self._wrong, self._slow = Page(), Page(), Page()
        self._heavy, self._last = 0, ""
        self._alarms, self._alarmed_at = 0, -math.inf
        self.outcome = Outcome()

    @property
    def quiet(self) -> bool:
        """Whether one more sound frame would change nothing: no test is under way, time and memory have no limit."""
        limited = self._policy.latency_ms_max or self._policy.memory_mb_max
        return not limited and self._errors == _QUIET == self._wrong

    def add(self, outcome: Outcome) -> None:
        """Take what came of one frame."""
        policy, self.outcome = self._policy, outcome
        if outcome.environment:
            return
        self._errors = self._errors.add(bool(outcome.error), policy.error_rate_max, policy.block_frames)
        if outcome.rows:
            self._wrong = self._wrong.add(outcome.invalid > 0, policy.error_rate_max, policy.block_frames)
        if policy.latency_ms_max and not outcome.error:
            self._slow = self._slow.add(outcome.micros > policy.latency_ms_max * 1000, LATE_SHARE_MAX, LATENCY_BLOCK)
        if policy.memory_mb_max and outcome.memory_kb:
            self._heavy = self._heavy + 1 if outcome.memory_kb > policy.memory_mb_max * 1024 else 0
        self._last = outcome.error or outcome.words or self._last

    def alarm(self) -> Reason | None:
        """Return what the release fails by, None while all is well."""
        policy = self._policy
        if self._errors.value > ALARM:
            words = f"{self._errors.failed} of the last {self._errors.trials} frames failed, last: {self._last}"
            return Reason(code=ReasonCode.ERRORS, message=f"{words} (budget {policy.error_rate_max:.1%})")
        if self._wrong.value > ALARM:
            words = f"{self._wrong.failed} of the last {self._wrong.trials} frames gave invalid results, last:"
            message = f"{words} {self._last} (budget {policy.error_rate_max:.1%})"
            return Reason(code=ReasonCode.OUTPUT, message=message)
        if self._slow.value > ALARM:
            words = f"{self._slow.failed} of the last {self._slow.trials} blocks of frames took longer than"
            return Reason(code=ReasonCode.LATENCY, message=f"{words} {policy.latency_ms_max:g} ms (1 % may)")
        if self._heavy >= READINGS:
            words = f"uses {self.outcome.memory_kb / 1024:.0f} MiB of memory, {policy.memory_mb_max:g} MiB are allowed"
            return Reason(code=ReasonCode.MEMORY, message=words)
        return None

    def restart(self, now: float) -> int:
        """Begin anew after an alarm; return how many there were in a row, this one included."""
        self._alarms = 1 if now - self._alarmed_at > CALM_SECONDS else self._alarms + 1
        self._alarmed_at = now
        self._errors, self._wrong, self._slow, self._heavy = Page(), Page(), Page(), 0
        return self._alarms


class Comparison:
    """The committed release beside the one before it, frame by frame: whose fault is it?

    `better` frames the older release did well that the committed one failed; of `same` both made as much, or the older
    one less.
    """

    def __init__(self, policy: HealthPolicy) -> None:
        self._policy = policy
        self.better = self.same = self.fine = 0
        self._waiting: dict[int, tuple[bool, Outcome]] = {}

    def hear(self, batch: int, outcome: Outcome, *, older: bool) -> bool | None:
        """Take what one of them made of a batch; return True if the older does better, False if not, None to go on."""
        found = self._waiting.pop(batch, None)
        if found is None or found[0] == older:
            self._waiting[batch] = older, outcome
            if len(self._waiting) > PAIRS_MAX:
                del self._waiting[next(iter(self._waiting))]
            return None
        return self._weigh(found[1], outcome) if older else self._weigh(outcome, found[1])

    def _weigh(self, active: Outcome, older: Outcome) -> bool | None:
        if not self._bad(active):
            self.fine += 1
        elif self._bad(older):
            self.same += 1
        else:
            self.better += 1
        if self.better >= BETTER and self.better > 3 * self.same:
            return True
        done = self.same >= BETTER or self.better + self.same + self.fine >= COMPARED_MAX
        return False if done else None

    def _bad(self, outcome: Outcome) -> bool:
        slow = self._policy.latency_ms_max and outcome.micros > self._policy.latency_ms_max * 1000
        heavy = self._policy.memory_mb_max and outcome.memory_kb > self._policy.memory_mb_max * 1024
        return bool(outcome.error or outcome.invalid or slow or heavy)

    @property
    def words(self) -> str:
        """What was found, in words."""
        return f"the release before it did {self.better} of {self.better + self.same} such frames well"

    def numbers(self) -> dict[str, float]:
        """Return what was found, in numbers."""
        return {"better": self.better, "same": self.same, "fine": self.fine}
