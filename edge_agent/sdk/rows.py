"""What leaves a pipeline: rows with one cell for each output column, an array where all cells are numbers.

It gives shape, it does not judge: what does not fit the declared columns leaves as it is, and `validity` counts it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_agent.sdk.frame import Frame, Values

__all__ = ["row_values", "to_rows"]


def to_rows(values: Values, times: Frame, columns: tuple[str, ...]) -> Frame:
    """Return `values`, at the times of the frame `times`, as rows of `columns`.

    Flat values become one column, text and object arrays become lists, dicts are read by column name, numpy values in
    lists become Python's. Raises `ValueError` for a dict without one of the columns.
    """
    values = row_values(values, columns)
    if isinstance(values, np.ndarray):
        return times.successor(values, columns if values.shape[-1] == len(columns) else None)
    return times.successor(values, columns if all(len(row) == len(columns) for row in values) else ())


def row_values(values: Values, columns: tuple[str, ...]) -> Values:
    """Return the values of `to_rows` alone. Raises as it does."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        if not len(values):
            return np.empty((0, len(columns)))
        return values[:, np.newaxis] if values.ndim == 1 else values
    rows = [_row(row, columns) for row in (values.tolist() if isinstance(values, np.ndarray) else values)]
    return rows or np.empty((0, len(columns)))


def _row(row: Any, columns: tuple[str, ...]) -> list[Any]:
    if isinstance(row, dict) and columns:
        missing = [name for name in columns if name not in row]
        if missing:
            raise ValueError(f"a row has no {missing[0]!r}: its keys are {', '.join(map(str, row))}")
        return [_cell(row[name]) for name in columns]
    if isinstance(row, np.ndarray | np.generic):
        row = row.tolist()
    return [_cell(cell) for cell in row] if isinstance(row, list | tuple) else [_cell(row)]


def _cell(cell: Any) -> Any:
    return cell.tolist() if isinstance(cell, np.ndarray | np.generic) else cell
