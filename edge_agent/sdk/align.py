"""Inputs of different rates on one regular grid of times.

The grid is anchored at 1970, so every device, and every run of one, has the same. What comes out depends on the rows
and their order alone, never on how they were cut into batches. A value is never invented: a grid time for which some
column has none that is recent enough is left out.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import NANOSECONDS, Frame

__all__ = ["Align"]

Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
RATE_HZ_MAX = 1e6
TIMES_MAX = 10_000  # grid times within the tolerance, and so rows that one sample can bring about
TOLERANCE_SECONDS_MAX = 366 * 86_400.0
NEVER = np.iinfo(np.int64).min


class Align(Filter):
    """Give one row for each time of a grid of `rate_hz`, from rows of several inputs whose other columns are NaN.

    Takes `[n, columns]`, gives `[k, columns]` without NaN. A row holds, for every column, the newest value that is not
    NaN, stamped at or before the grid time and at most `tolerance` seconds older; where a column has none, the grid
    time is left out. Grid times are whole multiples of the period since 1970. One has passed, and its row is given, as
    soon as a sample stamped after it comes, or every column has a value stamped exactly then.

    A row's timestamp is the grid time; its sequence is the number of the sample with which that had passed, or one of
    those before that gave no row: no number is given twice, so there are never more rows than samples, and of several
    grid times for which numbers do not suffice the oldest are left out.

    A sample stamped more than `tolerance` before the newest one is passed over; when such samples alone come for longer
    than that (the clock was set back), everything starts anew, as it does with numbers that fall while time goes on.

    `samples_per_row` is how many samples of the pipeline's input there are to a row, at the most, all inputs together:
    how many past samples warm a fresh worker up follows from it.
    """

    def __init__(self, rate_hz: float, tolerance: float, samples_per_row: int = 10) -> None:
        if not _number(rate_hz) or not 0 < rate_hz <= RATE_HZ_MAX:
            raise ValueError(f"Align: rate_hz must be above 0 and at most {RATE_HZ_MAX:g}, not {rate_hz!r}")
        if not _number(tolerance) or not 0 < tolerance <= TOLERANCE_SECONDS_MAX:
            raise ValueError(
                f"Align: tolerance must be above 0 and at most {TOLERANCE_SECONDS_MAX:g} seconds, not {tolerance!r}"
            )
        if rate_hz * tolerance > TIMES_MAX:
            raise ValueError(
                f"Align: a tolerance of {tolerance:g} s is {rate_hz * tolerance:.0f} times at {rate_hz:g} Hz: "
                f"{TIMES_MAX} at the most, or a single sample could bring about as many rows"
            )
        if isinstance(samples_per_row, bool) or not isinstance(samples_per_row, int) or samples_per_row < 1:
            raise ValueError(f"Align: samples_per_row must be a number of samples, at least 1, not {samples_per_row!r}")
        super().__init__(rate_hz=rate_hz, tolerance=tolerance, samples_per_row=samples_per_row)
        self.rate_hz: float
        self.tolerance: float
        self.samples_per_row: int
        self.reset()

    @property
    def warmup_rows(self) -> int:  # type: ignore[override]
        """How many past samples hold a value of every column that may still be used."""
        return (math.ceil(self.rate_hz * self.tolerance) + 2) * self.samples_per_row

    def reset(self) -> None:
        """Forget all samples."""
        self._held: _Held | None = None
        self._behind: int | None = None

    def initialize(self) -> None:
        """Start with no samples: those seen on the workstation do not travel."""
        self.reset()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_held", "_behind")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.reset()

    def predict(self, x: Any, *, frame: Frame) -> Frame:
        """Return a row for each grid time that has passed with `frame`, possibly none.

        Raises `TypeError` for what are not rows of numbers, `ValueError` when their number changes within a stream.
        """
        values = _rows(x)
        if self._held is not None and values.shape[1] != len(self._held.values):
            raise ValueError(f"Align holds {len(self._held.values)} columns, got rows of {values.shape[1]}")
        times, numbers = frame.timestamps, frame.sequences
        if not len(values):
            return Frame(values, times, numbers, frame.firsts, frame.columns)
        parts = []
        for anew, chosen in self._runs(times, numbers):
            if anew:
                self._held = None
            parts.append(self._join(values[chosen], times[chosen], numbers[chosen]))
        if not parts:
            return Frame(values[:0], times[:0], numbers[:0], frame.firsts[:0], frame.columns)
        columns = [np.concatenate(column) if len(parts) > 1 else column[0] for column in zip(*parts, strict=True)]
        return Frame(columns[0], columns[1], columns[2], columns[3], frame.columns)

    # --- which rows go on ------------------------------------------------------------------------------------------

    @property
    def _patience(self) -> int:
        return round(self.tolerance * NANOSECONDS)

    def _runs(self, times: Int64, numbers: Int64) -> list[tuple[bool, Any]]:
        """Return runs of rows, each with whether it starts anew. All rows go on: the common case, without a loop."""
        held = self._held
        first = (times[:1], numbers[:1] - 1) if held is None else ([held.front], [held.number])
        fronts = np.maximum.accumulate(np.concatenate((first[0], times[:-1])))
        tops = np.maximum.accumulate(np.concatenate((first[1], numbers[:-1])))
        behind, fallen = times < fronts - self._patience, (numbers <= tops) & (times > fronts)
        if not (behind.any() or fallen.any()):
            self._behind = None
            return [(False, slice(None))]
        return self._cut(times.tolist(), numbers.tolist())

    def _cut(self, times: list[int], numbers: list[int]) -> list[tuple[bool, list[int]]]:
        """Return the same where something is out of order. Goes sample by sample."""
        held = self._held
        front, top = (times[0], numbers[0] - 1) if held is None else (held.front, held.number)
        runs: list[tuple[bool, list[int]]] = [(False, [])]
        for row, (time, number) in enumerate(zip(times, numbers, strict=True)):
            anew = number <= top and time > front
            if time < front - self._patience:
                since = time if self._behind is None else min(time, self._behind)
                anew = time - since > self._patience
                if not anew:
                    self._behind = since
                    continue
            self._behind = None
            if anew:
                runs.append((True, []))
                front, top = time, number
            front, top = max(front, time), max(top, number)
            runs[-1][1].append(row)
        return [run for run in runs if run[1]]

    # --- the grid --------------------------------------------------------------------------------------------------

    def _times_until(self, times: Int64) -> Int64:
        """Return the number of the last grid time at or before each of `times`."""
        period = _period(self.rate_hz)
        if period.denominator == 1:
            return times // period.numerator
        return np.array([time * period.denominator // period.numerator for time in times.tolist()], np.int64)

    def _time_of(self, places: Int64) -> Int64:
        """Return grid times by number, rounded up to whole nanoseconds."""
        period = _period(self.rate_hz)
        if period.denominator == 1:
            return places * period.numerator
        return np.array([-(-place * period.numerator // period.denominator) for place in places.tolist()], np.int64)

    def _join(self, values: Floats, times: Int64, numbers: Int64) -> tuple[Floats, Int64, Int64, Int64]:
        """Take in rows that go on and return values, timestamps, sequences and firsts of the grid times passed.

        Below, place 0 is before the first of these rows, and place `i` behind row `i - 1`.
        """
        held = self._held or self._begin(values.shape[1], int(times[0]), int(numbers[0]))
        fronts = np.maximum.accumulate(np.concatenate(([held.front], times)))
        tops = np.maximum.accumulate(np.concatenate(([held.number], numbers)))
        all_values = np.concatenate((held.values[np.newaxis], values))
        stamps, sources = _newest(held, values, times)
        oldest = stamps.min(axis=1)
        before = self._times_until(fronts - 1)  # the last grid time before each front
        whole = (oldest == fronts) & (self._time_of(before + 1) == fronts)
        passed = np.maximum.accumulate(np.maximum(before + whole, held.passed))
        # Passed by a sample stamped later: told by what was held before it. Stale from here on, none is looked at.
        usable = np.where(oldest == NEVER, held.passed, self._times_until(oldest + self._patience))
        counts = np.maximum(np.minimum(before[1:], usable[:-1]) - passed[:-1], 0)
        rows = np.repeat(np.arange(len(times)), counts)
        places = passed[rows] + 1 + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        # Passed since everything is there: told by what is held now.
        done = np.flatnonzero(passed[1:] > np.maximum(passed[:-1], before[1:]))
        causes, states = np.concatenate((rows, done)), np.concatenate((rows, done + 1))
        places = np.concatenate((places, passed[1:][done]))
        order = np.argsort(places, kind="stable")
        causes, states, places = causes[order], states[order], places[order]
        marks = np.maximum.accumulate(np.where(passed > np.concatenate(([held.passed], passed[:-1])), tops, held.mark))
        sequences, firsts, kept = _numbered(causes, tops, marks)
        columns = np.arange(values.shape[1])
        self._held = _Held(
            all_values[sources[-1], columns],
            stamps[-1],
            int(fronts[-1]),
            int(tops[-1]),
            int(passed[-1]),
            int(marks[-1]),
        )
        return all_values[sources[states[kept]], columns], self._time_of(places[kept]), sequences, firsts

    def _begin(self, width: int, time: int, number: int) -> _Held:
        """Return what is held before the first sample: no value, and no grid time before it."""
        passed = int(self._times_until(np.array([time - 1]))[0])
        return _Held(np.full(width, np.nan), np.full(width, NEVER), time, number - 1, passed, number - 1)


class _Held(NamedTuple):
    """What is known after a sample: each column's newest value and its stamp, and how far everything has come.

    `front` is the newest stamp, `number` the highest sequence, `passed` the last grid time passed, and `mark` the
    highest sequence when that was.
    """

    values: Floats
    stamps: Int64
    front: int
    number: int
    passed: int
    mark: int


@functools.lru_cache(maxsize=16)
def _period(rate_hz: float) -> Fraction:
    """Return the grid's period in nanoseconds, of the rate as it is written: 0.1 is a tenth."""
    return NANOSECONDS / Fraction(str(rate_hz))


def _newest(held: _Held, values: Floats, times: Int64) -> tuple[Int64, Int64]:
    """Return, by place and column, the stamp of the newest value so far and the place where it came; 0 is `held`."""
    given = np.where(np.isnan(values), NEVER, times[:, np.newaxis])
    stamps = np.maximum.accumulate(np.concatenate((held.stamps[np.newaxis], given)), axis=0)
    places = np.arange(len(values) + 1)[:, np.newaxis]
    newer = np.zeros(stamps.shape, bool)
    newer[1:] = (given >= stamps[:-1]) & (given != NEVER)
    return stamps, np.maximum.accumulate(np.where(newer, places, 0), axis=0)


def _numbered(causes: Int64, tops: Int64, marks: Int64) -> tuple[Int64, Int64, npt.NDArray[np.bool_]]:
    """Return sequences and firsts of the rows that get a number, and which those are.

    `causes` says by which sample each has passed, in order. The last row of a sample gets its number, those before it
    the numbers before, down to `marks`, the last sample that any grid time had passed with until then.
    """
    last = np.searchsorted(causes, causes, side="right") - 1
    sequences = tops[causes + 1] - (last - np.arange(len(causes)))
    least = marks[causes] + 1
    kept = sequences >= least
    sequences, least, causes = sequences[kept], least[kept], causes[kept]
    opens = np.ones(len(causes), bool)
    opens[1:] = causes[1:] != causes[:-1]
    return sequences, np.where(opens, least, sequences), kept


def _rows(x: Any) -> Floats:
    try:
        values = np.asarray(x)
    except ValueError:  # rows of unequal length
        values = np.empty(0, object)
    if values.dtype.kind not in "biuf" or values.ndim != 2:
        raise TypeError("Align takes rows of numbers, [n, columns]: put it before stages that give anything else")
    return values.astype(np.float64)  # a copy: the batch may be a view into a receive buffer that is used again


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
