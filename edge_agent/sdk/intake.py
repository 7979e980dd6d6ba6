"""What enters a pipeline on the workstation: arrays, lists, tables and CSV files become input frames.

It refuses shapes that the declared columns do not fit, with the shape and the columns in the message.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.contract.manifest import InputSpec
from edge_agent.sdk.frame import Frame, as_values, evenly
from edge_agent.sdk.place import resolve

__all__ = ["read_self_test", "to_frame"]


def to_frame(x: Any, spec: InputSpec, pipeline: str) -> Frame:
    """Return `x` as a frame with the columns and rate of `spec`; a `Frame` stays as it is.

    A table with named columns (pandas) is read by name. Raises `ValueError` if the columns do not fit.
    """
    if isinstance(x, Frame):
        return x
    if type(x) is np.ndarray and x.ndim == 2 and x.shape[1] == len(spec.columns) and x.dtype.kind in "biufc":
        return evenly(x.copy(), tuple(spec.columns), spec.rate_hz or 1.0)
    if spec.columns and hasattr(x, "columns") and hasattr(x, "to_numpy"):
        missing = [name for name in spec.columns if name not in x.columns]
        if missing:
            raise ValueError(f"pipeline {pipeline!r} takes the column {missing[0]!r}, which the table does not have")
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


def read_self_test(given: Any, spec: InputSpec, pipeline: str) -> Frame | None:
    """Return a pipeline's `self_test` as a frame: rows, a `Frame`, or a CSV file with column names in its first line.

    None where an author's module is imported on a device: the file is not there, and the release brings its own test.
    Raises `FileNotFoundError`, or `ValueError` with file and line for a missing column or a cell that is no number.
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
            rows = [[float(line[name]) for name in spec.columns or header] for line in lines]
        except (TypeError, ValueError) as error:
            raise ValueError(f"self_test: {path.name}, line {lines.line_num}: {error}") from None
    if not rows:
        raise ValueError(f"self_test: {path.name} has no rows")
    return to_frame(np.array(rows), spec, pipeline)


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
