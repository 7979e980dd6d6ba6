"""One arithmetic operation on numbers, column by column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_agent.sdk.cells import column_of, places_of
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame

__all__ = ["Arithmetic"]

_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "remainder": np.remainder,
    "minimum": np.minimum,
    "maximum": np.maximum,
}
_UNARY: dict[str, Callable[..., Any]] = {
    "absolute": np.abs,
    "negative": np.negative,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "round": np.round,
}


class Arithmetic(Filter):
    """Apply `operation` to the cells of `columns` (None: all); other columns stay.

    `add`, `subtract`, `multiply`, `divide`, `power`, `remainder`, `minimum`, `maximum` take an `operand`: a number, a
    list with one for each of the columns, or the name of a column. `absolute`, `negative`, `sqrt`, `exp`, `log` and
    `round` take none. What has no result, as a division by zero, is infinite or NaN and never a valid output.

    Raises `ValueError` for an unknown operation, and for an operand that is missing or too many.
    """

    def __init__(
        self,
        operation: str,
        operand: float | Sequence[float] | str | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        if operation not in _BINARY and operation not in _UNARY:
            raise ValueError(f"Arithmetic: there is no operation {operation!r}: {', '.join([*_BINARY, *_UNARY])}")
        if (operand is None) == (operation in _BINARY):
            raise ValueError(f"Arithmetic: {operation} takes {'an' if operation in _BINARY else 'no'} operand")
        if isinstance(columns, str):
            raise TypeError(f"Arithmetic: columns must be a list of names: write columns=[{columns!r}]")
        kept = None if columns is None else list(columns)
        super().__init__(
            operation=operation,
            operand=list(operand) if isinstance(operand, list | tuple) else operand,
            columns=kept,
        )
        self.operation: str
        self.operand: Any
        self.columns: list[str] | None

    def predict(self, x: Any, *, frame: Frame) -> Frame:
        """Return the rows with the result in place of the cells. Raises `TypeError` for rows that are not numbers."""
        values = np.asarray(x)
        if values.dtype.kind not in "biufc":
            raise TypeError(f"Arithmetic needs rows of numbers, got {values.dtype}: choose them with Code or columns")
        with np.errstate(all="ignore"):
            if self.columns is None:
                return frame.with_values(self._result(values, frame), frame.columns)
            places = places_of(frame.columns, self.columns)
            result = self._result(values[..., places], frame)
            whole = values.astype(np.result_type(values, result))
            whole[..., places] = result
        return frame.with_values(whole, frame.columns)

    def _result(self, cells: Any, frame: Frame) -> Any:
        if self.operation in _UNARY:
            return _UNARY[self.operation](cells)
        operand = self.operand
        if isinstance(operand, str):
            column = np.asarray(column_of(frame, operand))
            operand = column[..., np.newaxis] if cells.ndim > column.ndim else column
        elif isinstance(operand, list) and len(operand) != cells.shape[-1]:
            raise ValueError(f"Arithmetic: {len(operand)} operands for {cells.shape[-1]} columns")
        return _BINARY[self.operation](cells, operand)
