"""What enters a pipeline: arrays, lists, tables and CSV files on the workstation, and a device's cells, become frames.

It refuses shapes and cells that the declared columns do not fit, naming both in the message. Which form rows have is
decided by the declared dtypes alone, in one place, `arranged`, so that a filter sees on a device what its author saw.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.contract.dtypes import as_cell, parse_cell
from edge_agent.contract.manifest import InputSpec
from edge_agent.sdk.frame import Frame, Values, as_values, evenly
from edge_agent.sdk.place import resolve

__all__ = ["arranged", "read_self_test", "to_frame"]

_ARRAYS: dict[str, type] = {"float64": np.float64, "int64": np.int64, "bool": np.bool_}


def to_frame(x: Any, spec: InputSpec, pipeline: str) -> Frame:
    """Return `x` as a frame with the columns and rate of `spec`; a `Frame` stays as it is.

    A table with named columns (pandas) is read by name. Raises `ValueError` if the columns do not fit.
    """
    if isinstance(x, Frame):
        return x
    if spec.typed:
        return evenly(arranged(_rows(x, spec, pipeline), spec), tuple(spec.columns), spec.rate_hz or 1.0)
    if type(x) is np.ndarray and x.ndim == 2 and x.shape[1] == len(spec.columns) and x.dtype.kind in "biufc":
        return evenly(x.copy(), tuple(spec.columns), spec.rate_hz or 1.0)
    if spec.columns and hasattr(x, "columns") and hasattr(x, "to_numpy"):
        _require_columns(x.columns, spec, pipeline)
        x = x[list(spec.columns)].to_numpy()
    values = as_values(x)
    if isinstance(values, np.ndarray) and values.dtype.kind not in "biufc":
        values = values.tolist()  # texts and objects travel as lists
    if isinstance(values, np.ndarray):
        values = values.copy()  # a stage may work in place; the caller's data is the caller's
        if spec.columns:
            values = _shaped(values, spec.columns, pipeline)
    elif spec.columns:
        values = _listed(values, spec.columns, pipeline)
    return Frame.of(values, columns=spec.columns, rate_hz=spec.rate_hz or 1.0)


def arranged(rows: list[list[Any]], spec: InputSpec) -> Values:
    """Return rows of cells in the form that filters get: see `edge_agent.Input`.

    An array for columns of one dtype of numbers or truth values; bare texts for one column of them; otherwise rows,
    with vectors as arrays. Cells are expected to be of `spec`'s dtypes. Raises `ValueError` for those that cannot be.
    """
    dtypes = [spec.dtype_of(name) for name in spec.columns]
    if len(set(dtypes)) == 1 and dtypes[0] in _ARRAYS:
        return np.array(rows, _ARRAYS[dtypes[0]]).reshape(len(rows), len(dtypes))
    if dtypes == ["string"]:
        return [row[0] for row in rows]
    for place, dtype in enumerate(dtypes):
        if dtype in ("vector", "float64"):
            for row in rows:
                row[place] = np.array(row[place], np.float64) if dtype == "vector" else float(row[place])
    return rows


def _rows(x: Any, spec: InputSpec, pipeline: str) -> list[list[Any]]:
    """Return what an author gave as fresh rows of checked cells."""
    if hasattr(x, "columns") and hasattr(x, "to_numpy"):
        _require_columns(x.columns, spec, pipeline)
        x = [list(row) for row in zip(*(x[name].tolist() for name in spec.columns), strict=True)]
    if not isinstance(x, list | tuple | np.ndarray) or (isinstance(x, np.ndarray) and not x.ndim):
        raise TypeError(f"pipeline {pipeline!r} takes an array or a list of rows, not a {type(x).__name__}")
    return [_row(row, place, spec, pipeline) for place, row in enumerate(x)]


def _row(row: Any, place: int, spec: InputSpec, pipeline: str) -> list[Any]:
    cells = _cells(row, spec)
    if len(cells) != len(spec.columns):
        raise ValueError(
            f"pipeline {pipeline!r} takes rows of {len(spec.columns)} columns ({', '.join(spec.columns)}), "
            f"row {place} has {len(cells)}"
        )
    checked = []
    for name, cell in zip(spec.columns, cells, strict=True):
        try:
            checked.append(as_cell(spec.dtype_of(name), _plain(cell)))
        except ValueError as error:
            raise ValueError(f"pipeline {pipeline!r}, row {place}, column {name!r}: {error}") from None
    return checked


def _cells(row: Any, spec: InputSpec) -> list[Any]:
    """Return a row's cells: by name, in order, or the row itself as the bare cell of an only column."""
    if isinstance(row, dict) and set(spec.columns) <= set(row):
        return [row[name] for name in spec.columns]
    if isinstance(row, list | tuple | np.ndarray):
        numbers = all(isinstance(cell, int | float | np.number) for cell in row)
        bare = len(spec.columns) == 1 and spec.dtype_of(spec.columns[0]) == "vector" and numbers
        return [row] if bare else list(row)
    return [row]


def _plain(cell: Any) -> Any:
    """Return numpy scalars and arrays, wherever they are, as Python's."""
    if isinstance(cell, np.generic | np.ndarray):
        return cell.tolist()
    if isinstance(cell, list | tuple):
        return [_plain(one) for one in cell]
    return {key: _plain(one) for key, one in cell.items()} if isinstance(cell, dict) else cell


def _require_columns(found: Any, spec: InputSpec, pipeline: str) -> None:
    missing = [name for name in spec.columns if name not in found]
    if missing:
        raise ValueError(f"pipeline {pipeline!r} takes the column {missing[0]!r}, which the table does not have")


def read_self_test(given: Any, spec: InputSpec, pipeline: str) -> Frame | None:
    """Return a pipeline's `self_test` as a frame: rows, a `Frame`, or a CSV file with column names in its first line.

    None where an author's module is imported on a device: the file is not there, and the release brings its own test.
    Raises `FileNotFoundError`, or `ValueError` with file and line for a missing column or a cell of another dtype.
    """
    if not isinstance(given, str | Path):
        return to_frame(given, spec, pipeline)
    path = resolve(given, "self_test")
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.DictReader(file)
        header = list(lines.fieldnames or ())
        missing = [name for name in spec.columns if name not in header]
        if missing:
            raise ValueError(f"self_test: {path.name} has no column {missing[0]!r} in its first line")
        try:
            rows = [[_parsed(line, name, spec) for name in spec.columns or header] for line in lines]
        except (TypeError, ValueError) as error:
            raise ValueError(f"self_test: {path.name}, line {lines.line_num}: {error}") from None
    if not rows:
        raise ValueError(f"self_test: {path.name} has no rows")
    return to_frame(rows if spec.typed else np.array(rows), spec, pipeline)


def _parsed(line: dict[str, Any], name: str, spec: InputSpec) -> Any:
    dtype = spec.dtype_of(name)
    if dtype == "float64" or line[name] is None:
        return float(line[name])
    return parse_cell(dtype, line[name])


def _listed(rows: list[Any], columns: list[str], pipeline: str) -> list[Any]:
    """Return rows that are not all numbers: lists of cells, or bare cells where there is one column."""
    for place, row in enumerate(rows):
        if isinstance(row, list | tuple) and len(row) != len(columns):
            raise ValueError(
                f"pipeline {pipeline!r} takes rows of {len(columns)} columns ({', '.join(columns)}), "
                f"row {place} has {len(row)}"
            )
    if len(columns) > 1:
        return rows
    return [row[0] if isinstance(row, list | tuple) else row for row in rows]


def _shaped(values: npt.NDArray[Any], columns: list[str], pipeline: str) -> npt.NDArray[Any]:
    if values.ndim == 1 and len(columns) == 1:
        return values[:, np.newaxis]
    if values.ndim < 2 or values.shape[-1] != len(columns):
        hint = ": for a single row write x[None, :]" if values.shape == (len(columns),) else ""
        raise ValueError(
            f"pipeline {pipeline!r} takes rows of {len(columns)} columns ({', '.join(columns)}), "
            f"got shape {values.shape}{hint}"
        )
    return values
