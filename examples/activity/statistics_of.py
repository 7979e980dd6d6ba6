"""Nine time-domain statistics of windows [k, size, channels], each [k, channels]."""

from __future__ import annotations

import numpy as np


def nine(windows: np.ndarray) -> np.ndarray:
    """Return [k, 9 x channels]: all channels of the first statistic, then of the second, …"""
    low, middle, high = np.percentile(windows, (25, 50, 75), axis=1)
    mean = windows.mean(axis=1)
    centred = windows - mean[:, None, :]
    spread = windows.std(axis=1)
    return np.concatenate(
        [
            mean,
            spread,
            windows.min(axis=1),
            windows.max(axis=1),
            middle,
            high - low,
            crossing_rate(centred),
            moment(centred, spread, 3),
            moment(centred, spread, 4),
        ],
        axis=1,
    )


def crossing_rate(centred: np.ndarray) -> np.ndarray:
    """Return the share of steps at which a channel crosses its mean."""
    return np.diff(np.signbit(centred), axis=1).mean(axis=1)


def moment(centred: np.ndarray, spread: np.ndarray, order: int) -> np.ndarray:
    """Return skewness (order 3) or kurtosis (order 4); zero for a channel that does not move at all."""
    return (centred**order).mean(axis=1) / np.where(spread > 0, spread, 1.0) ** order
