"""Is an output valid? As many cells as columns, no NaN or infinity, and within the declared ranges.

It counts and says the first fault in words; whether that condemns a release is for health to judge.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.contract.manifest import OutputSpec
from edge_agent.sdk.frame import Frame

__all__ = ["invalid_rows"]

_DEPTH_MAX = 16


def invalid_rows(spec: OutputSpec, frame: Frame) -> tuple[int, str]:
    """Return how many rows of `frame` are invalid and the first fault in words; `(0, "")` if none.

    A cell may be a number, a text, a truth value, or a list or dict of those. None is no valid cell, but within a list
    or dict it is what JSON calls null. Ranges are closed.
    """
    values = frame.values
    if not len(frame):
        return 0, ""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return _invalid_numbers(spec, values)
    faults = [_row_fault(spec, row) for row in (values.tolist() if isinstance(values, np.ndarray) else values)]
    found = [fault for fault in faults if fault]
    return len(found), found[0] if found else ""


def _invalid_numbers(spec: OutputSpec, values: npt.NDArray[Any]) -> tuple[int, str]:
    if values.ndim == 1:
        values = values[:, np.newaxis]
    if spec.columns and values.shape[1:] != (len(spec.columns),):
        return len(values), _width_fault(spec, "×".join(str(length) for length in values.shape[1:]))
    finite = np.isfinite(values)
    if not spec.ranges and np.logical_and.reduce(finite, axis=None):  # the rule, and worth the shorter way
        return 0, ""
    bad = ~finite
    for column, name in enumerate(spec.columns):
        if name in spec.ranges:
            low, high = spec.ranges[name]
            bad[:, column] |= (values[:, column] < low) | (values[:, column] > high)
    rows = bad.reshape(len(values), -1).any(axis=1)
    if not rows.any():
        return 0, ""
    first = int(rows.argmax())
    place = int(bad[first].reshape(-1).argmax())
    name = spec.columns[place] if spec.columns else f"column {place}"
    return int(rows.sum()), _cell_fault(spec, name, values[first].reshape(-1)[place].item())


def _row_fault(spec: OutputSpec, row: Any) -> str:
    cells = row if isinstance(row, list | tuple) else [row]
    if spec.columns and len(cells) != len(spec.columns):
        return _width_fault(spec, str(len(cells)))
    names = spec.columns or [f"column {place}" for place in range(len(cells))]
    return next(filter(None, (_cell_fault(spec, name, cell) for name, cell in zip(names, cells, strict=True))), "")


def _cell_fault(spec: OutputSpec, name: str, cell: Any) -> str:
    if not _sound(cell, 0):
        return f"{name} = {_shown(cell)}"
    if name not in spec.ranges:
        return ""
    low, high = spec.ranges[name]
    if not isinstance(cell, int | float) or not low <= cell <= high:
        return f"{name} = {_shown(cell)} outside [{low:g}, {high:g}]"
    return ""


def _sound(cell: Any, depth: int) -> bool:
    if isinstance(cell, float):
        return math.isfinite(cell)
    if isinstance(cell, list | tuple):
        return depth < _DEPTH_MAX and all(_sound(item, depth + 1) for item in cell)
    if isinstance(cell, dict):
        return depth < _DEPTH_MAX and all(_sound(item, depth + 1) for item in cell.values())
    if isinstance(cell, np.ndarray | np.generic):
        return _sound(cell.tolist(), depth + 1)
    return isinstance(cell, int | str | bytes) or (cell is None and depth > 0)


def _shown(cell: Any) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else repr(cell)[:80]


def _width_fault(spec: OutputSpec, found: str) -> str:
    return f"{found} columns, the pipeline declares {len(spec.columns)} ({', '.join(spec.columns)})"
