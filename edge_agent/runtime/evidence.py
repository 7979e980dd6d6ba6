"""What has been seen of a release: outcomes of frames, and everything counted of them so far (§10). Pure data.

Evidence is comparative: a frame that the active release fails too counts against neither, nor does one on which it is
too slow as well, and what failed for want of disk counts against nobody. `health` judges.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime.sequential import RISES, WARM_UP_BLOCKS, Growth, Trials

__all__ = ["LATENCY_BLOCK", "SLOWER_MICROS", "Evidence", "Outcome"]

LATENCY_BLOCK = 8
# As much slower as the old worker waits before it steps in: less harms nobody.
SLOWER_MICROS = 50_000
READINGS = 3
# Of memory in a probation: two more than a leak needs to show, as readings come a little late.
BLOCKS = WARM_UP_BLOCKS + RISES + 2


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one release made of one frame.

    `rows` results came out, `invalid` of them outside the declared output; `error` is empty or says what was raised,
    `environment` that the device is to blame for it, `veto` what the release's own `health()` said against itself. It
    took `micros` microseconds of its own and `waited` for a processor; `memory_kb` and `printed` are 0 when not told.
    """

    rows: int = 0
    invalid: int = 0
    words: str = ""
    error: str = ""
    environment: bool = False
    veto: str = ""
    micros: int = 0
    waited: int = 0
    memory_kb: int = 0
    printed: int = 0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Everything counted so far in one probation. Times are seconds on a monotonic clock.

    Rows of one frame are correlated, so the tests count frames. `errors`, `wrong`, `slow`, `slower` and `apart` are the
    tests' own counts of frames that failed, gave invalid results, took longer than the budget, were slower than the
    active release allows, and gave other results than it; the rest is for words and absolute limits.
    """

    since: float
    policy: HealthPolicy = HealthPolicy()
    history: int = 0
    samples: int = 0
    frames: int = 0
    failed_frames: int = 0
    outputs: int = 0
    invalid_outputs: int = 0
    invalid_frames: int = 0
    slow_frames: int = 0
    slower_frames: int = 0
    apart_frames: int = 0
    apart_most: float = 0.0
    blameless: int = 0
    environment: str = ""
    errors: Trials = Trials()
    wrong: Trials = Trials()
    slow: Trials = Trials()
    slower: Trials = Trials()
    apart: Trials = Trials()
    growth: Growth = Growth(0.0)
    rows: int = 0
    rows_active: int = 0
    samples_seen: int = 0
    own_micros: int = 0
    waited_micros: int = 0
    memory_kb: int = 0
    heavy: int = 0
    printed: int = 0
    printed_before: int = -1
    veto: str = ""
    last_error: str = ""
    last_invalid: str = ""

    @classmethod
    def begin(cls, policy: HealthPolicy, now: float, history: int = 0) -> Evidence:
        """Return no evidence yet."""
        blocks = max(policy.probation_seconds, 0.6) / BLOCKS
        return cls(since=now, policy=policy, history=history, growth=Growth(blocks))

    def go_on(self, now: float) -> Evidence:
        """Return this for the next part of the same probation: samples and time count anew, the tests go on.

        A fresh test would double the probability of a false rollback.
        """
        return msgspec.structs.replace(self, since=now, samples=0)

    def add(
        self, samples: int, candidate: Outcome, active: Outcome | None, *, now: float = 0.0, distance: float = 0.0
    ) -> Evidence:
        """Return the evidence with one more frame of `samples` rows, as both releases saw it.

        `distance` is how far the results lie apart at most.
        """
        seen: dict[str, Any] = {"samples": self.samples + samples, "samples_seen": self.samples_seen + samples}
        seen["own_micros"] = self.own_micros + candidate.micros
        seen["waited_micros"] = self.waited_micros + candidate.waited
        seen |= self._gauges(candidate, now)
        if candidate.environment or (candidate.error and active is not None and active.error):
            words = candidate.error if candidate.environment else ""
            return msgspec.structs.replace(self, **seen, blameless=self.blameless + 1, environment=words)
        seen |= self._results(samples, candidate, active)
        if not candidate.error:
            seen |= self._times(candidate, active)
        if self.policy.disagreement_max and active is not None and not (candidate.error or active.error):
            apart = distance > self.policy.disagreement_max
            seen["apart"] = self.apart.add(apart, self.policy.block_frames)
            seen["apart_frames"] = self.apart_frames + apart
            seen["apart_most"] = max(self.apart_most, distance)
        veto = candidate.veto if active is None or not active.veto else ""
        return msgspec.structs.replace(self, **seen, veto=veto, environment="")

    def _results(self, samples: int, candidate: Outcome, active: Outcome | None) -> dict[str, Any]:
        failed, block = bool(candidate.error), self.policy.block_frames
        excused = min(candidate.invalid, active.invalid) if active is not None else 0
        answered, wrong = candidate.rows > excused, candidate.invalid > excused
        # Between two windows nothing is due, which proves little: it counts as the part of a window that it is.
        quiet = self.history > 0 and not failed and not candidate.rows and not (active is not None and active.rows)
        weight = min(1.0, samples / self.history) if quiet else 1.0
        return {
            "frames": self.frames + 1,
            "failed_frames": self.failed_frames + failed,
            "errors": self.errors.add(failed, block, weight),
            "outputs": self.outputs + candidate.rows - excused,
            "invalid_outputs": self.invalid_outputs + candidate.invalid - excused,
            "invalid_frames": self.invalid_frames + wrong,
            "wrong": self.wrong.add(wrong, block) if answered else self.wrong,
            "rows": self.rows + candidate.rows,
            "rows_active": self.rows_active + (active.rows if active is not None else 0),
            "blameless": self.blameless + excused,
            "last_error": candidate.error or self.last_error,
            "last_invalid": candidate.words or self.last_invalid,
        }

    def _times(self, candidate: Outcome, active: Outcome | None) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        budget, ratio = self.policy.latency_ms_max * 1000, self.policy.latency_ratio_max
        compared = active is not None and not active.error
        if budget:
            slow = candidate.micros > budget
            if not (slow and active is not None and active.micros > budget):
                seen["slow"] = self.slow.add(slow, LATENCY_BLOCK)
                seen["slow_frames"] = self.slow_frames + slow
        if ratio and compared and active is not None:
            slower = candidate.micros > max(ratio * active.micros, active.micros + SLOWER_MICROS)
            seen["slower"] = self.slower.add(slower, LATENCY_BLOCK)
            seen["slower_frames"] = self.slower_frames + slower
        return seen

    def _gauges(self, candidate: Outcome, now: float) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        if candidate.memory_kb:
            limit = self.policy.memory_mb_max * 1024
            seen["memory_kb"] = candidate.memory_kb
            seen["heavy"] = self.heavy + 1 if limit and candidate.memory_kb > limit else 0
            seen["growth"] = self.growth.add(candidate.memory_kb, now)
            before = candidate.printed if self.printed_before < 0 else self.printed_before
            seen["printed_before"], seen["printed"] = before, candidate.printed - before
        return seen

    @property
    def overloaded(self) -> bool:
        """Whether the release waited for a processor longer than it had one: the machine has too much to do."""
        return self.waited_micros > self.own_micros

    def numbers(self) -> dict[str, float]:
        """Return the evidence in numbers, for reports and incidents."""
        names = (
            *("samples_seen", "frames", "failed_frames", "outputs", "invalid_outputs", "invalid_frames"),
            *(
                "slow_frames",
                "slower_frames",
                "apart_frames",
                "apart_most",
                "blameless",
                "own_micros",
                "waited_micros",
                "rows",
                "memory_kb",
                "printed",
            ),
        )
        return {name: getattr(self, name) for name in names} | {"memory_growth_kb": self.growth.leak_kb}
