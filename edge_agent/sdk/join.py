"""How the rows of parallel branches become one frame: rows that belong to one sample, by one of the named rules.

The rules' names are wire format: a manifest says which one a `Parallel` uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_agent.sdk.frame import Frame

__all__ = ["JOINS", "Part", "join_parts"]

Array = npt.NDArray[Any]


class Part(NamedTuple):
    """What one branch gave."""

    branch: str
    frame: Frame


def join_parts(rule: str, parts: Sequence[Part]) -> Frame:
    """Return one frame of all `parts`, by the rule named. Raises `ValueError` naming the branches that do not fit."""
    if rule == "first":
        return _first(parts)
    aligned = _aligned(parts)
    return JOINS[rule](aligned)


def _aligned(parts: Sequence[Part]) -> list[Part]:
    """Return the rows that every branch has, by their sequence numbers, all with the same times."""
    frames = [part.frame for part in parts]
    first = frames[0]
    if all(one.sequences is first.sequences for one in frames[1:]):
        return list(parts)
    if not all(np.array_equal(one.sequences, first.sequences) for one in frames[1:]):
        for part in parts:
            _check_unique(part)
        common = first.sequences
        for one in frames[1:]:
            common = np.intersect1d(common, one.sequences, assume_unique=True)
        frames = [_rows_of(one, common) for one in frames]
    firsts = np.minimum.reduce([one.firsts for one in frames])
    when = frames[0]
    return [
        Part(part.branch, Frame(one.values, when.timestamps, when.sequences, firsts, one.columns))
        for part, one in zip(parts, frames, strict=True)
    ]


def _rows_of(frame: Frame, numbers: Array) -> Frame:
    order = np.argsort(frame.sequences, kind="stable")
    return frame.take(order[np.searchsorted(frame.sequences[order], numbers)])


def _check_unique(part: Part) -> None:
    if len(np.unique(part.frame.sequences)) != len(part.frame):
        raise ValueError(
            f"branch {part.branch!r} gives several rows of one sample, so its rows cannot be matched with the others'"
        )


# --- rules ------------------------------------------------------------------------------------------------------------


def _first(parts: Sequence[Part]) -> Frame:
    """Of each sample the row of the earliest branch that has one, in the order of samples."""
    if len(parts[0].frame) and all(np.isin(part.frame.sequences, parts[0].frame.sequences).all() for part in parts[1:]):
        return parts[0].frame
    chosen = [part.frame for part in parts if len(part.frame)]
    if len(chosen) < 2:
        return chosen[0] if chosen else parts[0].frame
    for part in parts:
        _check_unique(part)
    seen: Array = np.empty(0, np.int64)
    kept = []
    for frame in chosen:
        kept.append(frame.take(~np.isin(frame.sequences, seen)))
        seen = np.concatenate((seen, kept[-1].sequences))
    order = np.argsort(seen, kind="stable")
    rows = _stacked([one.values for one in kept])
    joined = Frame(
        rows,
        np.concatenate([one.timestamps for one in kept]),
        np.concatenate([one.sequences for one in kept]),
        np.concatenate([one.firsts for one in kept]),
        chosen[0].columns,
    )
    return joined.take(order)


def _stacked(values: list[Any]) -> Any:
    if all(isinstance(one, np.ndarray) and one.shape[1:] == values[0].shape[1:] for one in values):
        return np.concatenate(values)
    return [row for one in values for row in (one.tolist() if isinstance(one, np.ndarray) else one)]


def _columns(parts: Sequence[Part]) -> Frame:
    names = _names(parts)
    values = [_column(part.frame.values) for part in parts]
    when = parts[0].frame
    if all(one is not None and one.shape[:-1] == values[0].shape[:-1] for one in values):
        return when.with_values(np.concatenate(values, axis=-1), names)
    rows = [_cells(part.frame.values) for part in parts]
    return when.with_values([[cell for row in line for cell in row] for line in zip(*rows, strict=True)], names)


def _column(values: Any) -> Any:
    """Return numbers as `[n, …, columns]`, None for anything else."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        return None
    return values[:, np.newaxis] if values.ndim == 1 else values


def _cells(values: Any) -> list[list[Any]]:
    rows = values.tolist() if isinstance(values, np.ndarray) else values
    return [list(row) if isinstance(row, list | tuple) else [row] for row in rows]


def _names(parts: Sequence[Part]) -> tuple[str, ...]:
    """Return the columns' names, all with their branch before them where two branches use one name."""
    found: list[str] = []
    longer: list[str] = []
    for branch, frame in parts:
        width = _width(frame.values)
        if len(frame.columns) == width:
            names = list(frame.columns)
            longer += [f"{branch}.{name}" for name in names]
        else:
            names = [branch] if width == 1 else [f"{branch}.{place}" for place in range(width)]
            longer += names
        found += names
    return tuple(found if len(set(found)) == len(found) else longer)


def _width(values: Any) -> int:
    if isinstance(values, np.ndarray):
        return 1 if values.ndim == 1 else int(values.shape[-1])
    return len(values[0]) if len(values) and isinstance(values[0], list | tuple) else 1


def _numbers(parts: Sequence[Part]) -> Array:
    """Return all branches' values as `[branches, n, …]`. Raises `ValueError` for other than numbers in one shape."""
    values = [_column(part.frame.values) for part in parts]
    for part, one in zip(parts, values, strict=True):
        if one is None:
            raise ValueError(f"branch {part.branch!r} gives no array of numbers: join by 'vote', 'first' or 'columns'")
        if one.shape != values[0].shape:
            raise ValueError(
                f"branch {part.branch!r} gives shape {one.shape}, branch {parts[0].branch!r} {values[0].shape}: "
                "join by 'columns'"
            )
    return np.stack(values)


def _reduced(by: Callable[..., Any]) -> Callable[[Sequence[Part]], Frame]:
    def join(parts: Sequence[Part]) -> Frame:
        return parts[0].frame.with_values(by(_numbers(parts), axis=0), parts[0].frame.columns)

    return join


def _vote(parts: Sequence[Part]) -> Frame:
    rows = [_cells(part.frame.values) for part in parts]
    for part, one in zip(parts, rows, strict=True):
        if [len(row) for row in one] != [len(row) for row in rows[0]]:
            raise ValueError(f"branch {part.branch!r} gives rows of other lengths than branch {parts[0].branch!r}")
    # Counter keeps the order in which values were met, and `most_common` is stable: the earliest branch wins ties.
    won = [
        [Counter(cells).most_common(1)[0][0] for cells in zip(*lines, strict=True)] for lines in zip(*rows, strict=True)
    ]
    if all(isinstance(part.frame.values, np.ndarray) and part.frame.values.dtype.kind in "biuf" for part in parts):
        shape = (len(won), -1) if won else (0, _width(parts[0].frame.values))
        kind = np.result_type(*(part.frame.values for part in parts))
        return parts[0].frame.with_values(np.array(won, kind).reshape(shape), parts[0].frame.columns)
    return parts[0].frame.with_values(won, parts[0].frame.columns)


def _dict(parts: Sequence[Part]) -> Frame:
    rows = [part.frame.values for part in parts]
    names = [part.branch for part in parts]
    return parts[0].frame.with_values([dict(zip(names, line, strict=True)) for line in zip(*rows, strict=True)], ())


JOINS: dict[str, Callable[[Sequence[Part]], Frame]] = {
    "columns": _columns,
    "first": _first,
    "mean": _reduced(np.mean),
    "median": _reduced(np.median),
    "sum": _reduced(np.sum),
    "min": _reduced(np.min),
    "max": _reduced(np.max),
    "vote": _vote,
    "dict": _dict,
}
