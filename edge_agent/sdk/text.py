"""One operation on texts, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edge_agent.sdk.cells import change_cells
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame

__all__ = ["Text"]

_OPERATIONS: dict[str, Callable[[str], Any]] = {
    "upper": str.upper,
    "lower": str.lower,
    "length": len,
    "words": str.split,
    "reverse": lambda text: text[::-1],
}


class Text(Filter):
    """Apply `operation` to the texts in `columns` (None: all); other columns stay.

    `upper` and `lower` change case, `length` counts characters, `words` is the list of words between blanks, `reverse`
    turns the text round. Raises `ValueError` for an unknown operation.
    """

    def __init__(self, operation: str, columns: Sequence[str] | None = None) -> None:
        if operation not in _OPERATIONS:
            raise ValueError(f"Text: there is no operation {operation!r}: {', '.join(_OPERATIONS)}")
        if isinstance(columns, str):
            raise TypeError(f"Text: columns must be a list of names: write columns=[{columns!r}]")
        super().__init__(operation=operation, columns=None if columns is None else list(columns))
        self.operation: str
        self.columns: list[str] | None

    def predict(self, x: Any, *, frame: Frame) -> Frame:
        """Return the rows with the result in place of the texts. Raises `TypeError` for a cell that is no text."""
        operation = _OPERATIONS[self.operation]

        def change(cell: Any) -> Any:
            if not isinstance(cell, str):
                raise TypeError(
                    f"Text: {cell!r} is a {type(cell).__name__}, not a text: name the columns that hold texts"
                )
            return operation(cell)

        return change_cells(frame, self.columns, change)
