"""One JSON payload into one sample: which value belongs to which column, when it was measured, what its number is.

A payload is a JSON object or array; a path is dotted keys and indices (`acc.x`, `v.0`, `3`). What does not fit is
`BadPayload` with the column, the path and what the payload has instead. A missing value is never replaced, and none
is turned into another dtype: no sample is better than an invented one.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import msgspec

from edge_agent.config import Column, Timestamp
from edge_agent.config.tables import hint
from edge_agent.contract.dtypes import DEFAULT, as_cell
from edge_agent.runtime.cells import NOT_A_NUMBER, held_cell
from edge_agent.runtime.samples import BadPayload, Cells

__all__ = [
    "BAD_SEQUENCE",
    "BAD_TIMESTAMP",
    "MALFORMED",
    "MISSING",
    "NOT_A_NUMBER",
    "Layout",
    "dtypes_of",
    "nanoseconds",
]

MALFORMED = "malformed payload"
MISSING = "missing column"
BAD_TIMESTAMP = "bad timestamp"
BAD_SEQUENCE = "bad sequence"

UNIT_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
INT64_MAX = 2**63 - 1
PATHS_SHOWN = 12
DEPTH_MAX = 8
_NUMBERS = frozenset((int, float))
_decode = msgspec.json.Decoder().decode


class Layout:
    """Where a payload's values lie. `decode` is called once per message, so paths are compiled here.

    `dtypes` are the columns', as `Samples` has them: empty where all are float64.
    """

    def __init__(self, columns: Mapping[str, Column], timestamp: Timestamp | None = None, sequence: str = "") -> None:
        self.columns = tuple(columns)
        self.dtypes = dtypes_of(columns)
        self._columns = dict(columns)
        self._paths = {name: _steps(column.path) for name, column in columns.items()}
        parents = {path[:-1] for path in self._paths.values()}
        self._parent = parents.pop() if len(parents) == 1 else None
        leaves = [path[-1] for path in self._paths.values()]
        self._keys = _getter([key for key, _ in leaves])
        self._indices = None if any(index is None for _, index in leaves) else _getter([index for _, index in leaves])
        self._scales = None
        if any(column.scale != 1 or column.offset != 0 for column in columns.values()):
            self._scales = [(column.scale, column.offset) for column in columns.values()]
        self._timestamp = timestamp
        self._time_path = _steps(timestamp.path) if timestamp else ()
        self._sequence = sequence
        self._sequence_path = _steps(sequence) if sequence else ()
        self._sequence_key, self._time_key = _only_key(self._sequence_path), _only_key(self._time_path)
        self._factor = UNIT_NANOSECONDS[timestamp.unit] if timestamp else 1

    def decode(self, payload: bytes) -> tuple[int | None, int | None, Cells]:
        """Return sequence, timestamp in nanoseconds (None: not in the payload) and one value per column.

        Raises `BadPayload`.
        """
        try:
            body = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadPayload(MALFORMED, f"payload is not JSON: {error}") from None
        values = self._cells(body) if self.dtypes else self._numbers(body)
        sequence = time = None
        if type(body) is dict:  # whole numbers at the top are the rule, and worth the shorter way
            sequence, time = body.get(self._sequence_key), body.get(self._time_key)
        if type(sequence) is not int or not 0 <= sequence <= INT64_MAX:
            sequence = self._sequence_of(body)
        if type(time) is not int or not 0 <= (time := time * self._factor) <= INT64_MAX:
            time = self._time_of(body)
        return sequence, time, values

    def _numbers(self, body: Any) -> Cells:
        try:
            values = array("d", self._fast(body) or self._careful(body))
        except OverflowError:  # JSON's integers have no end
            values = array("d", self._careful(body))
        return values if self._scales is None else self._scaled(values)

    def _scaled(self, values: Cells) -> array[float]:
        assert self._scales is not None
        scaled = [value * scale + offset for value, (scale, offset) in zip(values, self._scales, strict=True)]
        for name, value in zip(self.columns, scaled, strict=True):
            if not math.isfinite(value):
                raise BadPayload(NOT_A_NUMBER, f"column '{name}': is too large for a float once scaled")
        return array("d", scaled)

    def _fast(self, body: Any) -> tuple[float, ...] | None:
        """All columns with one call, when they lie side by side; None when anything is unusual."""
        if self._parent is None:
            return None
        try:
            for key, index in self._parent:
                body = body[key] if type(body) is dict else body[index]
            getter = self._keys if type(body) is dict else self._indices
            if getter is None:
                return None
            found: tuple[Any, ...] = getter(body)
        except (LookupError, TypeError):
            return None
        return found if _NUMBERS.issuperset(map(type, found)) else None

    def _careful(self, body: Any) -> list[float]:
        _require_container(body)
        return [self._value(body, name, path) for name, path in self._paths.items()]

    def _cells(self, body: Any) -> list[Any]:
        _require_container(body)
        return [self._cell(body, name, path) for name, path in self._paths.items()]

    def _cell(self, body: Any, name: str, path: Path) -> Any:
        column = self._columns[name]
        value = _find(body, path, f"column '{name}': path '{column.path}'", MISSING)
        try:
            return held_cell(column, as_cell, value)
        except BadPayload as bad:
            raise BadPayload(bad.kind, f"column '{name}', path '{column.path}': {bad}") from None

    def _value(self, body: Any, name: str, path: Path) -> float:
        place = f"column '{name}': "
        value = _find(body, path, place + f"path '{self._columns[name].path}'", MISSING)
        if type(value) not in _NUMBERS:
            raise BadPayload(NOT_A_NUMBER, f"{place}{_show(value)} at '{self._columns[name].path}' is not a number")
        try:
            return float(value)
        except OverflowError:
            raise BadPayload(NOT_A_NUMBER, f"{place}{_show(value)} is too large for a float") from None

    def _time_of(self, body: Any) -> int | None:
        if self._timestamp is None:
            return None
        place = f"timestamp: path '{self._timestamp.path}'"
        return nanoseconds(_find(body, self._time_path, place, BAD_TIMESTAMP), self._timestamp.unit)

    def _sequence_of(self, body: Any) -> int | None:
        if not self._sequence:
            return None
        value = _find(body, self._sequence_path, f"sequence: path '{self._sequence}'", BAD_SEQUENCE)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not 0 <= value <= INT64_MAX:
            raise BadPayload(BAD_SEQUENCE, f"sequence: {_show(value)} is not a whole number from 0 to 2^63 - 1")
        return value


def dtypes_of(columns: Mapping[str, Column]) -> tuple[str, ...]:
    """Return the dtypes of columns in their order, nothing where all are float64."""
    dtypes = tuple(column.dtype for column in columns.values())
    return () if all(dtype == DEFAULT for dtype in dtypes) else dtypes


def nanoseconds(value: Any, unit: str) -> int:
    """Return a time in `unit` since 1970 as int64 nanoseconds. Raises `BadPayload`.

    The whole part is converted as an integer: a float holds seconds since 1970 to a quarter of a microsecond only.
    """
    factor = UNIT_NANOSECONDS[unit]
    if type(value) is int:
        time = value * factor
    elif type(value) is float and math.isfinite(value):
        whole = math.floor(value)
        time = whole * factor + round((value - whole) * factor)
    else:
        raise BadPayload(BAD_TIMESTAMP, f"timestamp: {_show(value)} is not a number")
    if not -INT64_MAX <= time <= INT64_MAX:
        raise BadPayload(BAD_TIMESTAMP, f"timestamp: {_show(value)} {unit} is outside the years 1678 to 2262")
    return time


Path = tuple[tuple[str, int | None], ...]


def _steps(path: str) -> Path:
    """A path as steps: the key for an object, the index for an array."""
    return tuple((step, int(step) if step.isascii() and step.isdigit() else None) for step in path.split("."))


def _only_key(path: Path) -> str | None:
    """Return the key of a value that lies at the top of a payload, None for one deeper (no payload has None as key)."""
    return path[0][0] if len(path) == 1 else None


def _getter(places: list[Any]) -> Callable[[Any], tuple[Any, ...]]:
    if len(places) == 1:
        return lambda found: (found[places[0]],)
    return itemgetter(*places) if places else tuple


def _walk(body: Any, path: Path) -> Any:
    """Follow a path; `LookupError` where it ends."""
    for key, index in path:
        if type(body) is dict:
            body = body[key]
        elif type(body) is list and index is not None:
            body = body[index]
        else:
            raise LookupError(key)
    return body


def _require_container(body: Any) -> None:
    if type(body) is not dict and type(body) is not list:
        raise BadPayload(MALFORMED, f"payload is {_show(body)}, not a JSON object or array")


def _find(body: Any, path: Path, what: str, kind: str) -> Any:
    try:
        return _walk(body, path)
    except LookupError:
        has = list(_paths(body))
        shown = ", ".join(has[:PATHS_SHOWN]) + (", …" if len(has) > PATHS_SHOWN else "")
        near = hint(".".join(key for key, _ in path), has)
        raise BadPayload(kind, f"{what} is not in the payload; it has: {shown or 'nothing'}{near}") from None


def _paths(body: Any, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """The paths of a payload's leaves, in order."""
    items: Iterator[tuple[Any, Any]] = iter(())
    if type(body) is dict:
        items = iter(body.items())
    elif type(body) is list:
        items = enumerate(body)
    elif prefix:
        yield prefix[1:]
    for key, value in items:
        if depth < DEPTH_MAX:
            yield from _paths(value, f"{prefix}.{key}", depth + 1)


def _show(value: Any) -> str:
    """A value for a message, bounded."""
    if type(value) in (dict, list):
        return "an object" if type(value) is dict else "an array"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) <= INT64_MAX else f"an integer of {value.bit_length()} bits"
    shown = msgspec.json.encode(value).decode()
    return shown if len(shown) <= 40 else shown[:40] + "…"
