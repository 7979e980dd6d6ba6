"""What a pipeline takes and gives, as authors write it down: columns, units, dtypes, rate, ranges.

Checks the author's spelling at once and turns it into the manifest's form. It does not judge data: `validity` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.contract.dtypes import DEFAULT, DTYPES, has_unit
from edge_agent.contract.manifest import InputSpec, OutputSpec

__all__ = ["Input", "Output"]


@dataclass(frozen=True)
class Input:
    """The logical input: `columns` in order, one `unit` for all or one a column, nominal `rate_hz` (0: irregular).

    `dtype`, one for all or one a column, is `float64` (the default), `int64`, `bool`, `string`, `vector` (a list of
    numbers in one cell) or `json` (anything JSON holds but null). Columns that are all float64, all int64 or all bool
    reach a filter as one array, texts of one column as a list of them, and anything else as a list of rows, each a list
    with one cell a column; a vector is an array.
    """

    columns: Sequence[str]
    unit: str | Mapping[str, str] | None = None
    rate_hz: float = 0.0
    dtype: str | Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        self.spec()

    def spec(self) -> InputSpec:
        """Return the manifest's form. Raises `TypeError` or `ValueError` for what cannot be meant."""
        columns = _columns("Input", self.columns)
        if isinstance(self.rate_hz, bool) or not isinstance(self.rate_hz, int | float):
            raise TypeError(f"Input: rate_hz must be a number, not {self.rate_hz!r}")
        if not (math.isfinite(self.rate_hz) and self.rate_hz >= 0):
            raise ValueError(f"Input: rate_hz must be 0 (irregular) or above, not {self.rate_hz!r}")
        dtypes = _dtypes(self.dtype, columns)
        units = _units("Input", self.unit, columns)
        for name in units:
            if name in dtypes and not has_unit(dtypes[name]):
                raise ValueError(f"Input: column {name!r} is {dtypes[name]}, which has no unit: leave it out of unit")
        return InputSpec(columns=columns, units=units, rate_hz=float(self.rate_hz), dtypes=dtypes)


@dataclass(frozen=True)
class Output:
    """The logical output: `columns` in order, units, and the closed `range` of valid values.

    `range` is one `(low, high)` for all columns or `{column: (low, high)}` for some. NaN is never valid.
    """

    columns: Sequence[str]
    unit: str | Mapping[str, str] | None = None
    range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        self.spec()

    def spec(self) -> OutputSpec:
        """Return the manifest's form. Raises `TypeError` or `ValueError` for what cannot be meant."""
        columns = _columns("Output", self.columns)
        ranges = self.range if isinstance(self.range, Mapping) else dict.fromkeys(columns, self.range)
        _known("Output", "range", ranges, columns)
        return OutputSpec(
            columns=columns,
            units=_units("Output", self.unit, columns),
            ranges={name: _range(name, given) for name, given in ranges.items() if given is not None},
        )


def _columns(where: str, columns: Any) -> list[str]:
    if isinstance(columns, str):
        raise TypeError(f"{where}: columns must be a list of names: write [{columns!r}]")
    names = list(columns)
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"{where}: a column's name must be a text, not {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"{where}: column {name!r} is named twice")
    if not names:
        raise ValueError(f"{where}: name at least one column")
    return names


def _units(where: str, unit: Any, columns: list[str]) -> dict[str, str]:
    if unit is None:
        return {}
    if isinstance(unit, str):
        return dict.fromkeys(columns, unit)
    if not isinstance(unit, Mapping):
        raise TypeError(f"{where}: unit must be a text for all columns or a dict of column to unit, not {unit!r}")
    _known(where, "unit", unit, columns)
    return {str(name): str(value) for name, value in unit.items()}


def _dtypes(dtype: Any, columns: list[str]) -> dict[str, str]:
    """Return the dtypes by column, without those that are float64 anyway."""
    if dtype is None:
        return {}
    if not isinstance(dtype, str | Mapping):
        raise TypeError(f"Input: dtype must be a text for all columns or a dict of column to dtype, not {dtype!r}")
    given = dict.fromkeys(columns, dtype) if isinstance(dtype, str) else dtype
    _known("Input", "dtype", given, columns)
    for name, one in given.items():
        if one not in DTYPES:
            raise ValueError(f"Input: the dtype of {name!r} must be one of {', '.join(DTYPES)}, not {one!r}")
    return {name: str(one) for name, one in given.items() if one != DEFAULT}


def _known(where: str, what: str, given: Mapping[str, Any], columns: list[str]) -> None:
    for name in given:
        if name not in columns:
            raise ValueError(f"{where}: {what} for {name!r}, but the columns are {', '.join(columns)}")


def _range(name: str, given: Any) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in given)
    except (TypeError, ValueError):
        raise TypeError(f"Output: the range of {name!r} must be (low, high), not {given!r}") from None
    if not low <= high:
        raise ValueError(f"Output: the range of {name!r} ends before it starts, or has NaN: {given!r}")
    return low, high
