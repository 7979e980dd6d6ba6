"""Three stages through a pipeline against the same numpy calls made directly, one row and 256 rows of 10 columns.

    .venv/bin/python benchmarks/pipeline.py [--json]

The stages standardize, multiply by a matrix and take the hyperbolic tangent. Each figure is the best of many rounds in
turn, in microseconds; `run` is what a worker calls for every batch, `predict` what an author calls for a stream of its
own.
"""

from __future__ import annotations

import json
import sys
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_agent import Filter, Frame, Input, Output, Pipeline, Standardize

ROUNDS = 1000
COLUMNS = [f"c{place}" for place in range(10)]
RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(10, 10))


class Mix(Filter):
    def predict(self, x: Any) -> Any:
        return x @ MATRIX


class Squash(Filter):
    def predict(self, x: Any) -> Any:
        return np.tanh(x)


def microseconds(calls: dict[str, Callable[[], Any]], count: int) -> dict[str, float]:
    """Time the calls in turn, round by round, so that a busy moment of the machine strikes all of them alike."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            found[name].append(timeit.timeit(call, number=count) / count * 1e6)
    return {name: min(times) for name, times in found.items()}


def measure(rows: int) -> dict[str, float]:
    x = RNG.normal(size=(rows, 10))
    scaler = Standardize().fit(RNG.normal(size=(500, 10)))
    mean, scale = scaler.mean, scaler.scale
    pipeline = Pipeline("bench", [scaler, Mix(), Squash()], input=Input(COLUMNS), output=Output(COLUMNS))
    pipeline.initialize()
    frame = Frame.of(x, columns=COLUMNS)
    np.testing.assert_array_equal(pipeline.predict(x), np.tanh(((x - mean) / scale) @ MATRIX))
    calls: dict[str, Callable[[], Any]] = {
        "direct": lambda: np.tanh(((x - mean) / scale) @ MATRIX),
        "run": lambda: pipeline.run(frame),
        "predict": lambda: pipeline.predict(x),
    }
    return {"rows": rows, **microseconds(calls, 200 if rows == 1 else 50)}


def main() -> None:
    found = [measure(rows) for rows in (1, 256)]
    if "--json" in sys.argv[1:]:
        print(json.dumps(found))
        return
    print(f"{'rows':>5} {'direct':>9} {'run':>9} {'predict':>9}   run/direct  predict/direct")
    for one in found:
        ratios = f"{one['run'] / one['direct']:10.2f} x {one['predict'] / one['direct']:13.2f} x"
        print(f"{one['rows']:5.0f} {one['direct']:9.2f} {one['run']:9.2f} {one['predict']:9.2f}  {ratios}")


if __name__ == "__main__":
    main()
