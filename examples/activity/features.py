"""What the models look at."""

from __future__ import annotations

import numpy as np
from statistics_of import nine

from edge_agent import Filter


class TimeDomain(Filter):
    """Nine statistics of each channel: windows [k, size, 6] become features [k, 54]."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        return nine(x)
