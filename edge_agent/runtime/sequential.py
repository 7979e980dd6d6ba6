"""Sequential tests: is a failure rate within its budget, does memory grow without end? Good for a look at every frame.

**Rates** are judged by a likelihood ratio against a mixture of alternatives: Wald's sequential test (A. Wald,
"Sequential Tests of Statistical Hypotheses", Ann. Math. Stat. 16, 1945) with Robbins' mixture (H. Robbins, "Statistical
Methods Related to the Law of the Iterated Logarithm", Ann. Math. Stat. 41, 1970). By Ville's inequality the ratio of a
release within its budget *ever* passes 1/α with a probability of α at most, however long one looks.

**Blocks.** The bound asks that a trial fails within budget whatever came before. Neighbouring failures are not of that
kind, so a failure opens a block: the `block - 1` trials after it count for nothing, failed or not.

**A committed release** is watched for years, which uses up any α. There the ratio is Page's (E. S. Page, "Continuous
Inspection Schemes", Biometrika 41, 1954): it never falls below 0, and between false alarms lie e^h frames on average.

**Memory** grows without end when the minima of `RISES` equal blocks of time, after a warm-up, rise every time. If their
order means nothing, that happens in one of `RISES`! looks.
"""

from __future__ import annotations

import math

import msgspec

__all__ = ["RISES", "WARM_UP_BLOCKS", "Growth", "Page", "Trials", "log_ratio"]

RISES = 10
WARM_UP_BLOCKS = 2
LOOKS_MAX = 18
BUDGET_MIN, BUDGET_MAX = 1e-6, 0.4


class Trials(msgspec.Struct, frozen=True):
    """Blocks that failed, trials that did not, and how many more trials belong to the open block."""

    failed: int = 0
    passed: float = 0.0
    open: int = 0

    def add(self, failed: bool, block: int = 1, weight: float = 1.0) -> Trials:
        """Return these with one more trial; one that passed may weigh less than 1."""
        if self.open:
            return Trials(self.failed, self.passed, self.open - 1)
        if failed:
            return Trials(self.failed + 1, self.passed, max(block, 1) - 1)
        return Trials(self.failed, self.passed + weight)


def log_ratio(trials: Trials, budget: float) -> float:
    """Return the logarithm of the mixture's likelihood ratio against a failure rate of `budget`."""
    if not trials.failed:
        return 0.0 if not trials.passed else -math.inf
    budget = min(max(budget, BUDGET_MIN), BUDGET_MAX)
    logs = [
        math.log(weight) + trials.failed * math.log(rate / budget) + trials.passed * math.log((1 - rate) / (1 - budget))
        for rate, weight in _alternatives(budget)
    ]
    top = max(logs)
    return top + math.log(sum(math.exp(one - top) for one in logs))


def _alternatives(budget: float) -> tuple[tuple[float, float], ...]:
    """Return what a failing release may fail at, and how much of the mixture that is."""
    return (0.5, 0.8), (math.sqrt(0.5 * budget), 0.1), (min(3 * budget, 0.5), 0.1)


class Page(msgspec.Struct, frozen=True):
    """Page's statistic against a failure rate of one half, for what is watched without end.

    `failed` of `trials` blocks failed since it last was 0.
    """

    value: float = 0.0
    failed: int = 0
    trials: int = 0
    open: int = 0

    def add(self, failed: bool, budget: float, block: int = 1) -> Page:
        """Return this after one more trial."""
        if self.open:
            return msgspec.structs.replace(self, open=self.open - 1)
        if not failed and not self.value:
            return self
        budget = min(max(budget, BUDGET_MIN), BUDGET_MAX)
        value = self.value + (math.log(0.5 / budget) if failed else math.log(0.5 / (1 - budget)))
        if value <= 0:
            return Page()
        return Page(value, self.failed + failed, self.trials + 1, max(block, 1) - 1 if failed else 0)


class Growth(msgspec.Struct, frozen=True):
    """Readings of memory (KiB) in blocks of `seconds`: the minimum of each of the last `RISES`, and of the open one."""

    seconds: float
    until: float = 0.0
    blocks: int = 0
    minima: tuple[int, ...] = ()
    lowest: int = 0

    def add(self, reading: int, now: float) -> Growth:
        """Return this with one more reading; a block without any is left out."""
        if not self.until:
            return msgspec.structs.replace(self, until=now + self.seconds, lowest=reading)
        if now < self.until:
            return msgspec.structs.replace(self, lowest=min(self.lowest, reading)) if reading < self.lowest else self
        kept = (*self.minima, self.lowest)[-RISES:] if self.blocks >= WARM_UP_BLOCKS else ()
        # On the old raster, or the readings' lateness adds up and no leak shows before the commit.
        until = max(self.until + self.seconds, now + self.seconds / 2)
        return Growth(self.seconds, until, self.blocks + 1, kept, reading)

    @property
    def leak_kb(self) -> int:
        """By how much memory rose, if it rose every time; 0 otherwise, and once it was looked at often enough."""
        if len(self.minima) < RISES or self.blocks >= WARM_UP_BLOCKS + RISES + LOOKS_MAX:
            return 0
        rises = all(one < other for one, other in zip(self.minima, self.minima[1:], strict=False))
        return self.minima[-1] - self.minima[0] if rises else 0
