"""A frame: a batch of samples on its way through a pipeline, with the time and number of each.

It decides what rows are (the first axis) and that every row has a timestamp and a sequence number. It does not judge
the values: `validity` does.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.sdk import plain

__all__ = ["Frame", "Values", "row_count"]

Values = npt.NDArray[Any] | list[Any]
Int64 = npt.NDArray[np.int64]
_FORMAT = 1
NANOSECONDS = 1_000_000_000
_CLOCK_ROWS_MAX = 4096


class _Open:
    """A frame's slots while they can still be written to: `_trusted` fills them, then makes it a `Frame`."""

    __slots__ = ("columns", "firsts", "sequences", "timestamps", "values")

    values: Values
    timestamps: Int64
    sequences: Int64
    firsts: Int64
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False, init=False)
class Frame(_Open):
    """Rows of values with their times and numbers.

    `values` is an array whose first axis is rows, or a list of rows. `timestamps` are int64 nanoseconds since 1970 UTC,
    `sequences` the rows' numbers in their stream. `firsts` is the oldest sample new to each row (a window's row is made
    of many): it defaults to `sequences`. `columns` names the last axis, or is empty.

    Raises `TypeError` for values without rows or times that are not integers, `ValueError` for unequal lengths.
    """

    __slots__ = ()

    values: Values
    timestamps: Int64
    sequences: Int64
    firsts: Int64
    columns: tuple[str, ...]

    def __init__(
        self,
        values: Values,
        timestamps: npt.ArrayLike,
        sequences: npt.ArrayLike,
        firsts: npt.ArrayLike | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        rows = row_count(values)
        numbers = {"timestamps": timestamps, "sequences": sequences, "firsts": sequences if firsts is None else firsts}
        object.__setattr__(self, "values", values)
        for name, given in numbers.items():
            column = _int64(name, given)
            if len(column) != rows:
                raise ValueError(f"a frame of {rows} rows cannot have {len(column)} {name}")
            object.__setattr__(self, name, column)
        object.__setattr__(self, "columns", _names(columns))

    def __len__(self) -> int:
        return len(self.timestamps)

    def __reduce__(self) -> tuple[Any, ...]:
        return _trusted, (self.values, self.timestamps, self.sequences, self.firsts, self.columns)

    def __repr__(self) -> str:
        shape = f"{self.values.shape} {self.values.dtype}" if isinstance(self.values, np.ndarray) else "list"
        span = f", sequences {self.sequences[0]}–{self.sequences[-1]}" if len(self) else ""
        return f"<Frame of {len(self)} rows, {shape}{span}, columns {list(self.columns)}>"

    @classmethod
    def of(cls, values: Any, *, columns: Sequence[str] = (), rate_hz: float = 1.0, start: int = 0) -> Frame:
        """Return a frame of evenly spaced samples, for trying things out.

        Row `i` gets the sequence number `start + i` and the timestamp `(start + i) / rate_hz` seconds. Lists of numbers
        become arrays; other lists stay lists.
        """
        if not rate_hz > 0:
            raise ValueError(f"rate_hz must be above 0, not {rate_hz!r}")
        rows = as_values(values)
        timestamps, sequences = _ticks(row_count(rows), rate_hz, start)
        return cls(rows, timestamps, sequences, None, columns)

    def with_values(self, values: Any, columns: Sequence[str] | None = None) -> Frame:
        """Return a frame of other `values` at the same times. The number of rows must be the same (`ValueError`).

        Column names are kept where they still fit the last axis, unless `columns` gives new ones.
        """
        rows = row_count(values)
        if rows != len(self):
            raise ValueError(
                f"{rows} rows of values for a frame of {len(self)}: choose rows with frame.take(…) first, "
                "or build a Frame with timestamps and sequences of its own"
            )
        names = fitting(self.columns, values) if columns is None else tuple(columns)
        return Frame(values, self.timestamps, self.sequences, self.firsts, names)

    def successor(self, values: Values, columns: tuple[str, ...] | None = None) -> Frame:
        """Return `with_values(values, columns)` without its checks: for callers that have counted the rows."""
        return _trusted(
            values,
            self.timestamps,
            self.sequences,
            self.firsts,
            fitting(self.columns, values) if columns is None else columns,
        )

    def take(self, rows: Any) -> Frame:
        """Return the frame of some rows, chosen by a number, a slice, a boolean mask or an array of row numbers."""
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        values = self.values[chosen] if isinstance(self.values, np.ndarray) else [self.values[i] for i in chosen]
        return Frame(values, self.timestamps[chosen], self.sequences[chosen], self.firsts[chosen], self.columns)

    def to_bytes(self) -> bytes:
        """Return the frame as MessagePack. Raises `TypeError` if values are not plain data."""
        content = {
            "format": _FORMAT,
            "values": self.values,
            "timestamps": self.timestamps,
            "sequences": self.sequences,
            "firsts": self.firsts,
            "columns": list(self.columns),
        }
        return plain.encode(content, "frame")

    @classmethod
    def from_bytes(cls, data: bytes) -> Frame:
        """Return the frame that `to_bytes` wrote. Raises `ValueError` for anything else."""
        content = plain.decode(data)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError("not a frame, or one of a format that this version does not read")
        try:
            return cls(
                content["values"],
                content["timestamps"],
                content["sequences"],
                content["firsts"],
                tuple(content["columns"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a frame: {error}") from None


def _trusted(values: Values, timestamps: Int64, sequences: Int64, firsts: Int64, columns: tuple[str, ...]) -> Frame:
    # A fifth of the time that `object.__setattr__` takes, and this happens for every batch.
    frame = _Open()
    frame.values = values
    frame.timestamps = timestamps
    frame.sequences = sequences
    frame.firsts = firsts
    frame.columns = columns
    frame.__class__ = Frame
    return frame  # type: ignore[return-value]


def received(values: Values, timestamps: Int64, sequences: Int64, columns: tuple[str, ...]) -> Frame:
    """Return `Frame(values, timestamps, sequences, columns=columns)` for what is known to be good."""
    return _trusted(values, timestamps, sequences, sequences, columns)


def evenly(values: Values, columns: tuple[str, ...], rate_hz: float) -> Frame:
    """Return `Frame.of(values, columns=columns, rate_hz=rate_hz)` for values that are known to be good."""
    rows = len(values)
    timestamps, sequences = _clock(rows, rate_hz) if rows <= _CLOCK_ROWS_MAX else _ticks(rows, rate_hz, 0)
    return _trusted(values, timestamps, sequences, sequences, columns)


@functools.lru_cache(maxsize=32)
def _clock(rows: int, rate_hz: float) -> tuple[Int64, Int64]:
    """Return timestamps and sequences from 0 on, shared by all who ask, hence not to be written to."""
    timestamps, sequences = _ticks(rows, rate_hz, 0)
    timestamps.flags.writeable = sequences.flags.writeable = False
    return timestamps, sequences


def _ticks(rows: int, rate_hz: float, start: int) -> tuple[Int64, Int64]:
    sequences = np.arange(start, start + rows, dtype=np.int64)
    return np.rint(sequences * (NANOSECONDS / rate_hz)).astype(np.int64), sequences


def row_count(values: Any) -> int:
    """Return the number of rows of an array or list. Raises `TypeError` for what has no rows."""
    if isinstance(values, np.ndarray):
        if values.ndim == 0:
            raise TypeError("a single number has no rows: write [[value]]")
        return len(values)
    if isinstance(values, list):
        return len(values)
    raise TypeError(f"values must be an array or a list of rows, not {type(values).__name__}")


def as_values(given: Any) -> Values:
    """Return an array where `given` holds only numbers or booleans, a list of rows otherwise."""
    if isinstance(given, np.ndarray):
        return given
    if not isinstance(given, list | tuple) and not hasattr(given, "__array__"):
        raise TypeError(f"values must be an array or a list of rows, not {type(given).__name__}")
    try:
        array = np.asarray(given)
    except ValueError:  # ragged rows
        return list(given)
    return array if array.dtype.kind in "biufc" and array.ndim else list(given)


def fitting(columns: tuple[str, ...], values: Any) -> tuple[str, ...]:
    """Return `columns` if they can still name the last axis of `values` (the first row of a list), else nothing."""
    if isinstance(values, np.ndarray):
        width = values.shape[-1] if values.ndim > 1 else 1
    else:
        first = values[0] if values else ()
        width = len(first) if isinstance(first, list | tuple) else 0 if isinstance(first, dict) else 1
    return columns if width == len(columns) else ()


def _int64(name: str, given: Any) -> Int64:
    numbers = np.asarray(given)
    if numbers.dtype == np.int64 and numbers.ndim == 1:
        return numbers
    if numbers.ndim != 1:
        raise TypeError(f"{name} must be a flat array of integers, not of shape {numbers.shape}")
    if numbers.size and numbers.dtype.kind not in "iu":
        hint = " (nanoseconds: multiply seconds by 1e9 and round)" if name == "timestamps" else ""
        raise TypeError(f"{name} must be int64{hint}, not {numbers.dtype}")
    return numbers.astype(np.int64)


def _names(columns: Any) -> tuple[str, ...]:
    if type(columns) is tuple:
        return columns
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list of names: write [{columns!r}]")
    return tuple(columns)
