"""Modules as an author writes them, with the numbers that tests vary.

All make the pipeline `meter`: column `x` between 0 and 1 in, column `y` out. They are text on purpose: no test process
has the classes, only the files.
"""

from __future__ import annotations

__all__ = ["PROBATION", "careless", "crashing", "heavy", "scale", "slow"]

PROBATION = "shadow_frames=20, probation_frames=40, probation_seconds=0.4"

_PIPELINE = """
from edge_agent import Filter, Health, Input, Output, Pipeline

{body}

pipeline = Pipeline(
    "meter", [{stages}], input=Input(["x"]), output=Output(["y"], range=(0, 100)),
    self_test=[[0.1], [0.2]], health=Health({health}), {more}
)
"""


def module(body: str, stages: str, health: str = PROBATION, more: str = "") -> str:
    """Return a module with a pipeline `meter` of these stages."""
    return _PIPELINE.format(body=body, stages=stages, health=health, more=more)


def scale(factor: float, health: str = PROBATION) -> str:
    """Return a release that multiplies by `factor`: whoever sees its results knows which it is."""
    return module(f"class Scale(Filter):\n    def predict(self, x):\n        return x * {factor}", "Scale()", health)


def careless(health: str = PROBATION) -> str:
    """Return a release that passes its self-test and gives NaN for most of what the sensor delivers."""
    body = """
import numpy as np

class Careless(Filter):
    def predict(self, x):
        with np.errstate(invalid="ignore"):
            return np.sqrt(0.3 - x)
"""
    return module(body, "Careless()", health)


def crashing(where: str = "0.9") -> str:
    """Return a release whose process dies on the first value above `where`."""
    body = f"""
import os

class Crash(Filter):
    def predict(self, x):
        if x.max() > {where}:
            os._exit(7)
        return x
"""
    return module(body, "Crash()")


def slow(factor: float, seconds: float = 0.5, health: str = PROBATION) -> str:
    """Return a release that takes `seconds` to start, and multiplies by `factor`."""
    body = f"""
import time

class Slow(Filter):
    def initialize(self):
        time.sleep({seconds})

    def predict(self, x):
        return x * {factor}
"""
    return module(body, "Slow()", health)


def heavy(factor: float, file: str, health: str = PROBATION) -> str:
    """Return a release whose bundle carries `file`, so that it travels in several chunks."""
    body = f"class Heavy(Filter):\n    data = [{file!r}]\n\n    def predict(self, x):\n        return x * {factor}"
    return module(body, "Heavy()", health)
