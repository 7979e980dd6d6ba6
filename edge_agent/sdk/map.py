"""Values looked up in a table, cell by cell: codes to names, classes to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.sdk.cells import change_cells
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame

__all__ = ["Map"]

_UNKNOWN = ("refuse", "keep", "default")


class Map(Filter):
    """Replace each cell of `columns` (None: all) by what `mapping` has for it; other columns stay.

    A cell that `mapping` does not have is, by `unknown`: an error (`refuse`), left as it is (`keep`), or replaced by
    `default`. Whole numbers match their like in floating point.
    """

    def __init__(
        self,
        mapping: Mapping[Any, Any],
        columns: Sequence[str] | None = None,
        *,
        unknown: str = "refuse",
        default: Any = None,
    ) -> None:
        if not isinstance(mapping, Mapping):
            raise TypeError(f"Map takes a dict of value to value, not {mapping!r}")
        if unknown not in _UNKNOWN:
            raise ValueError(f"Map: unknown must be one of {', '.join(_UNKNOWN)}, not {unknown!r}")
        if isinstance(columns, str):
            raise TypeError(f"Map: columns must be a list of names: write columns=[{columns!r}]")
        super().__init__(
            mapping=dict(mapping),
            columns=None if columns is None else list(columns),
            unknown=unknown,
            default=default,
        )
        self.mapping: dict[Any, Any]
        self.columns: list[str] | None
        self.unknown: str
        self.default: Any

    def predict(self, x: Any, *, frame: Frame) -> Frame:
        """Return the rows with the values found. Raises `ValueError` for a value that is unknown and refused."""
        return change_cells(frame, self.columns, self._look_up)

    def _look_up(self, cell: Any) -> Any:
        try:
            return self.mapping[cell]
        except TypeError:
            raise TypeError(f"Map: {cell!r} is a {type(cell).__name__}, which cannot be looked up") from None
        except KeyError:
            if self.unknown == "refuse":
                raise ValueError(
                    f"Map: nothing is known for {cell!r}: add it, or say unknown='keep' or unknown='default'"
                ) from None
            return cell if self.unknown == "keep" else self.default
