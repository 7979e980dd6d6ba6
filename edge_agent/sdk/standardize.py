"""Column-wise standardization, fitted on the workstation; its state is two plain arrays and needs no pickle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.sdk.filter import Filter
from edge_agent.sdk.step import Quick, on_tables

__all__ = ["Standardize"]

Floats = npt.NDArray[np.float64]


def _on_tables(target: Any, width: int) -> Quick:
    """Return `target.predict` for float64 arrays `[n, width]`: without reading columns, half as long again."""
    mean = target.mean
    if mean is None or len(mean) != width:
        return target.predict  # type: ignore[no-any-return]

    def predict(x: Floats) -> Floats:
        if target.mean is not mean:  # fitted anew in the meantime
            return target.predict(x)  # type: ignore[no-any-return]
        result: Floats = x - mean
        result /= target.scale
        return result

    return predict


class Standardize(Filter):
    """Subtract each column's mean and divide by its standard deviation.

    Works on the last axis: `[n, columns]` as well as windows `[n, size, columns]`. A constant column is only centred.
    `mean` and `scale` are float64 arrays `[columns]` once fitted, None before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean: Floats | None = None
        self.scale: Floats | None = None

    def fit(self, x: Any, y: Any = None) -> Standardize:
        """Learn `mean` and `scale` (population standard deviation) over all axes but the last.

        Raises `ValueError` for no rows, or for NaN and infinities, naming the columns.
        """
        values = _columns(x)
        flat = values.reshape(-1, values.shape[-1])
        if not len(flat):
            raise ValueError("Standardize cannot be fitted on no rows")
        broken = np.flatnonzero(~np.isfinite(flat).all(axis=0))
        if len(broken):
            raise ValueError(f"Standardize cannot be fitted: NaN or infinity in columns {broken.tolist()}")
        self.mean = flat.mean(axis=0)
        scale = flat.std(axis=0)
        # Rounding leaves a constant column a deviation near zero instead of zero.
        self.scale = np.where(scale > 1e-12 * np.maximum(1.0, np.abs(self.mean)), scale, 1.0)
        return self

    @on_tables(_on_tables)
    def predict(self, x: Any) -> Floats:
        """Return `(x - mean) / scale`, shape unchanged. Raises `ValueError` for another number of columns."""
        if self.mean is None or self.scale is None:
            raise RuntimeError("Standardize is not fitted yet: call pipeline.fit(x) before predicting or pushing")
        values = _columns(x)
        if values.shape[-1] != len(self.mean):
            raise ValueError(f"Standardize was fitted on {len(self.mean)} columns, got {values.shape[-1]}")
        result: Floats = values - self.mean
        result /= self.scale
        return result


def _columns(x: Any) -> Floats:
    try:
        values = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError("Standardize needs rows of numbers, all of the same length") from None
    if values.ndim < 2:
        raise ValueError(f"Standardize needs rows of columns, [n, columns], not shape {values.shape}")
    return values
