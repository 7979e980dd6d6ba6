"""Columns and cells of a batch by name, whatever the rows are: arrays, lists, dicts, or bare values of one column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_agent.sdk.frame import Frame, as_values

__all__ = ["change_cells", "column_of", "places_of", "stacked"]


def column_of(frame: Frame, name: str) -> Any:
    """Return one column: an array where its cells are numbers, else a list. Raises `ValueError` if there is none."""
    values = frame.values
    if isinstance(values, list) and values and isinstance(values[0], dict):
        if not all(name in row for row in values):
            raise ValueError(f"a row has no {name!r}: its keys are {', '.join(map(str, values[0]))}")
        return as_values([row[name] for row in values])
    (place,) = places_of(frame.columns, [name])
    if isinstance(values, np.ndarray):
        return values if values.ndim == 1 else values[..., place]
    if len(frame.columns) == 1:  # of one column, rows may be bare values
        return as_values([row[place] if isinstance(row, list | tuple) else row for row in values])
    return as_values([row[place] for row in values])


def places_of(columns: Sequence[str], chosen: Sequence[str]) -> list[int]:
    """Return where the `chosen` columns stand. Raises `ValueError` for one that is not there."""
    for name in chosen:
        if name not in columns:
            words = f"the columns here are {', '.join(columns)}" if columns else "the rows here have no column names"
            raise ValueError(f"there is no column {name!r}: {words}")
    return [list(columns).index(name) for name in chosen]


def change_cells(frame: Frame, chosen: Sequence[str] | None, change: Callable[[Any], Any]) -> Frame:
    """Return the frame with `change(cell)` for each cell of the `chosen` columns, None for all; rows keep their form.

    Where all cells are numbers afterwards, the rows are an array.
    """
    values = frame.values
    rows = values.tolist() if isinstance(values, np.ndarray) else values
    if rows and isinstance(rows[0], dict):
        return frame.with_values(_changed_dicts(rows, chosen, change), ())
    places = None if chosen is None else set(places_of(frame.columns, chosen))
    wide = bool(rows) and isinstance(rows[0], list | tuple)
    if wide:
        changed = [
            [change(cell) if places is None or place in places else cell for place, cell in enumerate(row)]
            for row in rows
        ]
    else:
        changed = [change(cell) for cell in rows]
        if len(frame.columns) == 1 and any(isinstance(cell, list | tuple | dict) for cell in changed):
            changed = [[cell] for cell in changed]  # a bare one would pass for a row of several
            wide = True
    result = as_values(changed) if changed else changed
    grown = isinstance(result, np.ndarray) and result.ndim > 1 + wide  # cells that became lists of numbers stay lists
    return frame.with_values(changed if grown else result, frame.columns)


def _changed_dicts(rows: list[Any], chosen: Sequence[str] | None, change: Callable[[Any], Any]) -> list[dict[Any, Any]]:
    keys = None if chosen is None else set(chosen)
    return [{key: change(cell) if keys is None or key in keys else cell for key, cell in row.items()} for row in rows]


def stacked(columns: Sequence[Any], rows: int) -> Any:
    """Return columns side by side: an array where all are numbers, else a list of rows.

    A value that is no column fills one. Raises `ValueError` for a column of another length than `rows`.
    """
    full = [column if _is_column(column) else [column] * rows for column in columns]
    for place, column in enumerate(full):
        if len(column) != rows:
            raise ValueError(f"column {place} has {len(column)} values for {rows} rows")
    arrays = [as_values(column) for column in full]
    if all(isinstance(one, np.ndarray) and one.dtype.kind in "biuf" and one.ndim == 1 for one in arrays):
        return np.column_stack(arrays)
    listed = [one.tolist() if isinstance(one, np.ndarray) else one for one in arrays]
    return [list(row) for row in zip(*listed, strict=True)]


def _is_column(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 0)
