"""One filter's call, made ready: how it wants to be called and what its answer means (R7).

`predict`, or `transform` where a class spells it so; with the frame where the method takes a keyword `frame`;
awaited where it is `async`. An answer of equal length inherits the times of what came in, an empty one says "nothing
yet", any other length must be a `Frame`. Everything else is refused with the filter's name and both counts.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_agent.sdk.awaiting import settle
from edge_agent.sdk.frame import Frame, Values

__all__ = ["Quick", "Step", "accepts", "on_tables", "settle"]

Quick = Callable[[Any], Any]

_METHODS = ("predict", "transform")


class Step:
    """A filter bound to its calling convention, looked up once and not per batch."""

    __slots__ = ("_call", "_wants_frame", "label", "leaves_input", "on_tables", "quick")

    def __init__(self, target: Any) -> None:
        method = _method_of(target)
        self.label = f"{type(target).__name__}.{method.__name__}"
        self._call: Callable[..., Any] = method
        self._wants_frame = accepts(method, "frame")
        self.quick = None if self._wants_frame else method
        """The method itself, where it takes values alone; an array of as many rows needs no judging."""
        made = getattr(method, "on_tables", None)
        self.on_tables: Callable[[int], Quick] | None = made and functools.partial(made, target)
        """Returns what may stand for `quick` where it gets nothing but float64 arrays `[n, width]`."""
        self.leaves_input = self.on_tables is not None
        """Whether the method neither writes to its input nor returns it, so that nobody need copy it before."""

    def __call__(self, frame: Frame) -> Frame:
        """Return the frame that comes out. Raises `TypeError` or `ValueError` for an answer that means nothing."""
        values, times = self.advance(frame.values, frame)
        return times if values is times.values else times.successor(values)

    def advance(self, values: Values, times: Frame) -> tuple[Values, Frame]:
        """Return what the filter makes of `values`, and a frame that has the times of its rows.

        A frame is built only where a filter asks for one: between plain stages the values travel alone.
        """
        if self._wants_frame:
            if values is not times.values:
                times = times.successor(values)
            result = self._call(values, frame=times)
        else:
            result = self._call(values)
        if type(result) is np.ndarray and result.ndim and len(result) == len(times):
            return result, times
        return self.settled(result, times)

    def settled(self, result: Any, times: Frame) -> tuple[Values, Frame]:
        """Return what an answer means, and a frame that has the times of its rows. Raises as calling does."""
        if type(result) is not Frame:
            result = self._judge(settle(result), len(times))
        if isinstance(result, Frame):
            return result.values, result
        if len(result) != len(times):  # `_judge` lets only an empty answer pass
            return result, times.take(slice(0, 0))
        return result, times

    def _judge(self, result: Any, rows: int) -> Values | Frame:
        if isinstance(result, Frame):
            return result
        if result is None:
            raise TypeError(
                f"{self.label} returned None: return one row for each row given, a Frame, or [] for 'nothing yet' "
                "(is a `return` missing?)"
            )
        if isinstance(result, tuple):
            result = list(result)
        elif not isinstance(result, list | np.ndarray) and hasattr(result, "__array__"):
            result = np.asarray(result)
        if not isinstance(result, list | np.ndarray) or (isinstance(result, np.ndarray) and not result.ndim):
            raise TypeError(
                f"{self.label} returned a {type(result).__name__} for {_rows(rows)}: "
                "return an array or list with one row for each, or a Frame"
            )
        if len(result) not in (rows, 0):
            raise ValueError(
                f"{self.label} returned {_rows(len(result))} for {_rows(rows)}, and nothing says which time belongs to "
                "which: take `*, frame` and return a Frame, for example frame.take(kept).with_values(result)"
            )
        return result


def on_tables(make: Callable[[Any, int], Quick]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a filter's method that never writes to its input and never returns it or a view of it.

    A first stage so marked gets the caller's own array. `make(filter, width)` returns a function that does what the
    method does to float64 arrays `[n, width]`, with the checks made beforehand. The mark is the method's: a subclass
    that defines another one loses it.
    """

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method.on_tables = make  # type: ignore[attr-defined]
        return method

    return mark


def accepts(method: Callable[..., Any], name: str) -> bool:
    """Tell whether `method` takes an argument `name` by keyword."""
    try:
        parameter = inspect.signature(method).parameters.get(name)
    except (TypeError, ValueError):  # built-in without a signature
        return False
    return parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _method_of(target: Any) -> Callable[..., Any]:
    from edge_agent.sdk.filter import Filter

    for name in _METHODS:
        method = getattr(target, name, None)
        # `Filter` defines `predict` only for the documentation's sake.
        if callable(method) and getattr(type(target), name, None) is not Filter.predict:
            return method  # type: ignore[no-any-return]
    raise TypeError(f"{type(target).__name__} has neither predict(self, x) nor transform(self, x): define one")
