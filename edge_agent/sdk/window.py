"""Sliding windows over a stream of samples.

Where a window ends depends on sequence numbers alone, never on how samples were cut into batches or when the process
was started: two workers that have seen the same last `size` samples give the same windows from then on (R2, R3).
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import NANOSECONDS, Frame

__all__ = ["Window"]

Int64 = npt.NDArray[np.int64]


class Window(Filter):
    """Collect `size` rows into one, again every `hop` samples.

    Takes `[n, columns]`, gives `[k, size, columns]`; a window carries timestamp and sequence of its newest sample, and
    as `first` the oldest sample that the window before did not have. It ends at the first sample of every new block of
    `hop` sequence numbers, `(sequence + 1) // hop`, once `size` samples are there.

    `hop` defaults to `size` (no overlap) and counts samples of the pipeline's input, also behind another Window.
    Across a gap of more than `max_gap` seconds between timestamps, or back in time by as much, it starts anew. A sample
    whose number is already held (a resent one) is passed over; numbers from before the window start anew.
    """

    def __init__(self, size: int, hop: int | None = None, max_gap: float | None = None) -> None:
        for name, value in (("size", size), ("hop", hop)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"Window: {name} must be a number of samples, at least 1, not {value!r}")
        if max_gap is not None and not max_gap > 0:
            raise ValueError(f"Window: max_gap must be above 0 seconds, not {max_gap!r}")
        super().__init__(size=size, hop=size if hop is None else hop, max_gap=max_gap)
        self.size: int
        self.hop: int
        self.max_gap: float | None
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._held: _Rows | None = None

    def initialize(self) -> None:
        """Start with no samples: those seen on the workstation do not travel."""
        self.reset()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_held"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.reset()

    def predict(self, x: Any, *, frame: Frame) -> Frame:
        """Return the windows that end in `frame`, possibly none.

        Rows that are not all numbers give lists of rows, without column names. Raises `TypeError` for what has no rows,
        `ValueError` when the shape of numbers changes within a stream.
        """
        values = _as_rows(x, known=self._held is not None and self._held.values.dtype.kind == "O")
        if self._held is not None and values.dtype.kind == "O":
            self._held = self._held._replace(values=_objects(self._held.values.tolist()))
        if self._held is not None and values.shape[1:] != self._held.values.shape[1:]:
            raise ValueError(f"Window holds rows of shape {self._held.values.shape[1:]}, got {values.shape[1:]}")
        rows = _Rows(values, frame.timestamps, frame.sequences)
        if self._unbroken(rows):
            parts = [self._extend(rows)]
        else:
            parts = []
            for anew, chosen in self._cut(rows):
                if anew:
                    self.reset()
                parts.append(self._extend(rows.take(chosen)))
        found = [part for part in parts if part is not None]
        if values.dtype.kind == "O":
            return _listed(frame, found)
        if not found:
            empty = np.empty((0, self.size, *values.shape[1:]), values.dtype)
            return Frame(empty, frame.timestamps[:0], frame.sequences[:0], frame.firsts[:0], frame.columns)
        columns = [np.concatenate(column) if len(found) > 1 else column[0] for column in zip(*found, strict=True)]
        return Frame(columns[0], columns[1], columns[2], columns[3], frame.columns)

    def _unbroken(self, rows: _Rows) -> bool:
        """Tell whether `rows` simply go on: the common case, judged without a loop."""
        sequences, times = rows.sequences, rows.timestamps
        if self._held is not None:
            sequences = np.concatenate((self._held.sequences[-1:], sequences))
            times = np.concatenate((self._held.timestamps[-1:], times))
        if not (sequences[1:] > sequences[:-1]).all():
            return False
        return self.max_gap is None or bool((np.abs(np.diff(times)) <= self.max_gap * NANOSECONDS).all())

    def _cut(self, rows: _Rows) -> list[tuple[bool, list[int]]]:
        """Return runs of row numbers, each with whether it starts anew. Goes sample by sample."""
        held = self._held
        numbers = deque(() if held is None else held.sequences.tolist(), self.size)
        last_time = 0 if held is None else int(held.timestamps[-1])
        gap = float("inf") if self.max_gap is None else self.max_gap * NANOSECONDS
        runs: list[tuple[bool, list[int]]] = [(False, [])]
        for row, (number, time) in enumerate(zip(rows.sequences.tolist(), rows.timestamps.tolist(), strict=True)):
            if numbers and numbers[0] <= number <= numbers[-1]:
                continue
            if numbers and (number < numbers[0] or abs(time - last_time) > gap):
                numbers.clear()
                runs.append((True, []))
            numbers.append(number)
            last_time = time
            runs[-1][1].append(row)
        return [run for run in runs if run[1]]

    def _extend(self, rows: _Rows) -> tuple[Any, Int64, Int64, Int64] | None:
        """Take in `rows` and return values, timestamps, sequences and firsts of the windows that end in them."""
        held, size, hop = self._held, self.size, self.hop
        past = 0 if held is None else len(held.sequences)
        if held is not None:
            rows = held.joined(rows)
        if not len(rows.sequences):
            return None
        blocks = (rows.sequences + 1) // hop
        before = np.concatenate((rows.sequences[:1] // hop, blocks[:-1]))
        ends = np.flatnonzero(blocks > before)
        ends = ends[(ends >= past) & (ends >= size - 1)]
        # A copy: the batch may be a view into a receive buffer that is used again.
        self._held = rows.take(slice(-size, None)).copy()
        if not len(ends):
            return None
        values = rows.values[ends[:, None] + np.arange(1 - size, 1)]
        sequences = rows.sequences[ends]
        firsts = np.maximum(sequences - hop + 1, rows.sequences[ends - size + 1])
        return values, rows.timestamps[ends], sequences, firsts


def _as_rows(x: Any, *, known: bool) -> npt.NDArray[Any]:
    """Return an array with a row for each sample; of objects, one a row, where those are not numbers.

    `known` says that this stream has such rows: then numbers among them are no other kind.
    """
    try:
        values = np.asarray(x)
    except ValueError:  # rows of unequal length
        values = _objects(x)
    if not values.ndim:
        raise TypeError(f"Window needs rows, got a {type(x).__name__}")
    return (
        values if values.dtype.kind in "biufc" and not known else _objects(x if isinstance(x, list) else list(values))
    )


def _objects(rows: list[Any]) -> npt.NDArray[Any]:
    values = np.empty(len(rows), object)
    for place, row in enumerate(rows):  # at once, numpy would look into the rows
        values[place] = row
    return values


def _listed(frame: Frame, found: list[tuple[Any, Int64, Int64, Int64]]) -> Frame:
    windows = [list(window) for part in found for window in part[0]]
    nothing = frame.timestamps[:0]
    times, sequences, firsts = (np.concatenate([nothing, *(part[place] for part in found)]) for place in (1, 2, 3))
    return Frame(windows, times, sequences, firsts)


class _Rows(NamedTuple):
    """Samples with their times and numbers, without a frame's checks."""

    values: npt.NDArray[Any]
    timestamps: Int64
    sequences: Int64

    def take(self, rows: slice | list[int]) -> _Rows:
        return _Rows(self.values[rows], self.timestamps[rows], self.sequences[rows])

    def joined(self, after: _Rows) -> _Rows:
        return _Rows(*(np.concatenate(pair) for pair in zip(self, after, strict=True)))

    def copy(self) -> _Rows:
        return _Rows(*(column.copy() for column in self))
