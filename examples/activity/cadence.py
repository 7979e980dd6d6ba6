"""Steps per second, seen in the swing of the wrist."""

from __future__ import annotations

import numpy as np
from statistics_of import nine

from edge_agent import Filter


class TimeDomainAndCadence(Filter):
    """The nine statistics of each channel and the cadence: windows [k, size, 6] become features [k, 55].

    A step is where the first axis rises through `threshold` (m/s²); the cadence is the number of steps per second,
    taken from the mean time between them.
    """

    def __init__(self, *, threshold: float = 4.0, rate_hz: float = 10.0) -> None:
        super().__init__(threshold=threshold, rate_hz=rate_hz)

    def predict(self, x: np.ndarray) -> np.ndarray:
        cadence = [self._cadence(window) for window in x[:, :, 0]]
        return np.column_stack([nine(x), cadence])

    def _cadence(self, swing: np.ndarray) -> float:
        above = swing >= self.threshold
        steps = np.flatnonzero(above[1:] & ~above[:-1])
        return self.rate_hz / np.diff(steps).mean()
