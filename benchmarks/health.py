"""How often probation condemns a release that keeps its budgets, and how soon it condemns one that does not.

    .venv/bin/python benchmarks/health.py [--json] [--probations N]

The counts and thresholds are those of `edge_agent.runtime.sequential` and `health`; only the frames are made up, many
probations at a time. Failures come at exactly the budget of 1 %: independent, or in bursts (a Gilbert–Elliott chain
that enters a bad state and stays there for some frames on average; every frame fails meanwhile). Latencies are
heavy-tailed (Pareto, a = 1.5) with their 99th percentile exactly at the budget, independent or with slow phases. A
burst that has the active release fail too counts for nothing, up to the frames that only the candidate loses.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.runtime.evidence import LATENCY_BLOCK
from edge_agent.runtime.health import ALPHA, FALSE_ROLLBACK_MAX
from edge_agent.runtime.sequential import Trials, log_ratio

BUDGET, FRAMES, BURST, FAILED_MAX = 0.01, 1000, 5.0, 64
RNG = np.random.default_rng(20_260)
Flags = NDArray[np.bool_]
Chain = Callable[[int], Callable[[], Flags]]


def condemning(alpha: float) -> NDArray[np.bool_]:
    """Return for each (failed, passed) whether the test condemns."""
    table = np.zeros((FAILED_MAX + 1, FRAMES + 1), dtype=bool)
    for failed in range(1, FAILED_MAX + 1):
        for passed in range(FRAMES + 1):
            table[failed, passed] = log_ratio(Trials(failed, passed), BUDGET) >= math.log(1 / alpha)
    return table


TABLES = {name: condemning(alpha) for name, alpha in {"errors": ALPHA["errors"], "slow": ALPHA["slow"]}.items()}


def run(step: Callable[[], Flags], probations: int, test: str, block: int) -> NDArray[np.int64]:
    """Return the frame at which each probation condemned, 0 for those that did not."""
    failed, passed, still = (np.zeros(probations, dtype=np.int64) for _ in range(3))
    ended = np.zeros(probations, dtype=np.int64)
    for frame in range(1, FRAMES + 1):
        bad, free = step(), still == 0
        failed += bad & free
        passed += ~bad & free
        still = np.where(free, np.where(bad, block - 1, 0), still - 1)
        over = TABLES[test][np.minimum(failed, FAILED_MAX), passed]
        ended = np.where((ended == 0) & over, frame, ended)
    return ended


def independent(rate: float) -> Chain:
    return lambda count: lambda: RNG.random(count) < rate


def bursts(rate: float, length: float) -> Chain:
    """Return a Gilbert–Elliott chain that is bad for `rate` of the time, `length` frames at a time."""
    leave, enter = 1 / length, rate / (1 - rate) / length

    def chain(count: int) -> Callable[[], Flags]:
        state = RNG.random(count) < rate

        def step() -> Flags:
            nonlocal state
            state = np.where(state, RNG.random(count) >= leave, RNG.random(count) < enter)
            return state

        return step

    return chain


def shared(rate: float, length: float, leak: float) -> Chain:
    """Return bursts that the active release has too, save for the share `leak` of their frames."""

    def chain(count: int) -> Callable[[], Flags]:
        step = bursts(rate, length)(count)
        return lambda: step() & (RNG.random(count) < leak)

    return chain


def late(slow_phases: bool) -> Chain:
    """Return frames beyond a heavy-tailed latency's own 99th percentile; in slow phases all are."""
    shape = 1.5
    budget = 0.01 ** (-1 / shape)  # of a Pareto distribution from 1 on

    def chain(count: int) -> Callable[[], Flags]:
        phase = bursts(0.005, 3.0)(count)
        tail = 0.005 ** (-1 / shape)

        def step() -> Flags:
            latency = RNG.pareto(shape, count) + 1
            return phase() | (latency > tail) if slow_phases else latency > budget

        return step

    return chain


FALSE: dict[str, tuple[Chain, str, int]] = {
    "errors, independent": (independent(BUDGET), "errors", 1),
    "errors in bursts of 5, both releases, 5 % the candidate's alone": (shared(0.05, BURST, 0.05), "errors", 1),
    "errors in bursts of 5, the candidate's alone, block_frames = 40": (bursts(BUDGET, BURST), "errors", 40),
    "errors in bursts of 5, the candidate's alone, block_frames = 1": (bursts(BUDGET, BURST), "errors", 1),
    "latency, heavy-tailed, p99 at the budget": (late(False), "slow", LATENCY_BLOCK),
    "latency, heavy-tailed with slow phases, p99 at the budget": (late(True), "slow", LATENCY_BLOCK),
}
BAD: dict[str, tuple[Chain, str, int]] = {
    "fails every frame": (independent(1.0), "errors", 1),
    "fails every second frame": (independent(0.5), "errors", 1),
    "fails one frame in ten": (independent(0.1), "errors", 1),
    "fails 3 of 100 frames": (independent(0.03), "errors", 1),
    "fails half of the time, in bursts of 20": (bursts(0.5, 20.0), "errors", 1),
    "late at every frame": (independent(1.0), "slow", LATENCY_BLOCK),
    "late at every fifth frame": (independent(0.2), "slow", LATENCY_BLOCK),
}


def false_rollbacks(probations: int) -> list[dict[str, Any]]:
    found = []
    for name, (chain, test, block) in FALSE.items():
        condemned = int((run(chain(probations), probations, test, block) > 0).sum())
        found.append({"what": name, "condemned": condemned, "probations": probations, "bound": ALPHA[test]})
    return found


def delays(probations: int) -> list[dict[str, Any]]:
    found = []
    for name, (chain, test, block) in BAD.items():
        ended = run(chain(probations), probations, test, block)
        seen = np.where(ended == 0, FRAMES + 1, ended)
        found.append(
            {
                "what": name,
                "condemned_share": float((ended > 0).mean()),
                "frames_p50": int(np.percentile(seen, 50)),
                "frames_p95": int(np.percentile(seen, 95)),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--probations", type=int, default=200_000)
    asked = parser.parse_args()
    wrong, slow = false_rollbacks(asked.probations), delays(max(200, asked.probations // 100))
    if asked.json:
        print(json.dumps({"false": wrong, "delays": slow, "promise": FALSE_ROLLBACK_MAX}))
        return
    print(f"false rollbacks, {FRAMES} frames a probation (promise for all tests together: {FALSE_ROLLBACK_MAX:g})")
    for one in wrong:
        share = one["condemned"] / one["probations"]
        print(f"  {one['what']:66} {one['condemned']:6} of {one['probations']}  {share:.1e}  bound {one['bound']:.0e}")
    print("frames until a bad release is condemned")
    for one in slow:
        print(
            f"  {one['what']:42} median {one['frames_p50']:5}  95 % {one['frames_p95']:5}  {one['condemned_share']:.1%}"
        )


if __name__ == "__main__":
    main()
