"""What one input cell may be: the dtypes by name, how a value becomes a cell, and which dtype may stand for which (F4).

Both sides ask here, so that a cell means the same on the workstation and on a device. Nothing is guessed: a number is
no text, a text no number, and `null` is no value at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

__all__ = [
    "CELL_BYTES_MAX",
    "DEFAULT",
    "DEPTH_MAX",
    "DTYPES",
    "CellTooLarge",
    "Dtype",
    "as_cell",
    "described",
    "has_unit",
    "is_scaled",
    "parse_cell",
    "stands_for",
]

Dtype: TypeAlias = Literal["float64", "int64", "bool", "string", "vector", "json"]
DEFAULT: Dtype = "float64"
CELL_BYTES_MAX = 65_536
"""How large a text (UTF-8), vector or JSON cell (both as MessagePack) may be."""
DEPTH_MAX = 16
"""How deep lists and dicts of a JSON cell may be nested: as deep as an output may be."""
_INT64 = range(-(2**63), 2**63)
_TRUTH = {"true": True, "1": True, "false": False, "0": False}

_MEANING = {
    "float64": "a number",
    "int64": "a whole number of 64 bits",
    "bool": "true or false",
    "string": "a text",
    "vector": "a list of numbers",
    "json": "a value that JSON holds, not null",
}
DTYPES = tuple(_MEANING)


class CellTooLarge(ValueError):
    """A cell above `CELL_BYTES_MAX`."""


def described(dtype: str) -> str:
    """Return what a cell of `dtype` is, in words: "a text"."""
    return _MEANING[dtype]


def has_unit(dtype: str) -> bool:
    """Tell whether a cell is a quantity, which may have a unit."""
    return dtype in ("float64", "int64", "vector")


def is_scaled(dtype: str) -> bool:
    """Tell whether a device's configuration may scale and shift a cell: what is scaled becomes a fraction."""
    return dtype in ("float64", "vector")


def stands_for(delivered: str, wanted: str) -> bool:
    """Tell whether a device that delivers one dtype can serve a release that wants another.

    JSON holds any cell, and every whole number is a number. Nothing else is turned into something else.
    """
    return delivered == wanted or wanted == "json" or (delivered, wanted) == ("int64", "float64")


def as_cell(dtype: str, value: Any) -> Any:
    """Return `value`, as JSON or plain Python has it, as a cell of `dtype`.

    A vector becomes a list of floats, a float that is a whole number an int64. Raises `ValueError` saying what the
    value is instead or that it is nested too deeply, `CellTooLarge` for one above `CELL_BYTES_MAX`.
    """
    cell = _MAKERS[dtype](value)
    if cell is None:
        raise ValueError(f"{_shown(value)} is not {_MEANING[dtype]}")
    return cell


def parse_cell(dtype: str, text: str) -> Any:
    """Return a cell that a file holds as text. Raises `ValueError` as `as_cell` does.

    A number is as Python reads it, a truth value `true`, `false`, `1` or `0`; vectors and JSON are JSON.
    """
    if dtype == "string":
        return as_cell(dtype, text)
    if dtype == "bool":
        return as_cell(dtype, _TRUTH.get(text.strip().lower(), text))
    if dtype in ("vector", "json"):
        try:
            return as_cell(dtype, msgspec.json.decode(text.encode()))
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"{_shown(text)} is not JSON: {error}") from None
    try:
        return as_cell(dtype, int(text) if dtype == "int64" else float(text))
    except ValueError:
        raise ValueError(f"{_shown(text)} is not {_MEANING[dtype]}") from None


def _float(value: Any) -> float | None:
    if type(value) is not float and type(value) is not int:
        return None
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{_shown(value)} is too large for a float") from None


def _int(value: Any) -> int | None:
    if type(value) is float and math.isfinite(value) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value in _INT64 else None


def _bool(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _string(value: Any) -> str | None:
    if type(value) is not str:
        return None
    if 4 * len(value) > CELL_BYTES_MAX:
        _check_size(len(value.encode("utf-8", "surrogatepass")))
    return value


def _vector(value: Any) -> list[float] | None:
    if not isinstance(value, list | tuple):
        return None
    _check_size(9 * len(value) + 5)
    numbers = [_float(one) for one in value]
    for place, number in enumerate(numbers):
        if number is None:
            raise ValueError(f"{_shown(value[place])} at place {place} is not a number")
    return numbers  # type: ignore[return-value]


def _json(value: Any) -> Any:
    if value is None:
        return None
    _check_nested(value, 0)
    try:
        _check_size(len(msgspec.msgpack.encode(value)))
    except OverflowError:
        raise ValueError("it holds an integer beyond 64 bits") from None
    return value


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "float64": _float,
    "int64": _int,
    "bool": _bool,
    "string": _string,
    "vector": _vector,
    "json": _json,
}


def _check_size(size: int) -> None:
    if size > CELL_BYTES_MAX:
        raise CellTooLarge(f"{size} bytes are too large for one cell ({CELL_BYTES_MAX} at the most)")


def _check_nested(value: Any, depth: int) -> None:
    if isinstance(value, dict | list | tuple):
        if depth >= DEPTH_MAX:
            raise ValueError(f"it is nested more than {DEPTH_MAX} deep")
        if isinstance(value, dict) and not all(type(key) is str for key in value):
            raise ValueError("it has a key that is no text")
        for item in value.values() if isinstance(value, dict) else value:
            _check_nested(item, depth + 1)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise ValueError(f"it holds a {type(value).__name__}, which JSON does not")


def _shown(value: Any) -> str:
    """Return a value for a message, bounded."""
    if value is None or type(value) is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list | tuple):
        return "an object" if isinstance(value, dict) else "an array"
    if type(value) is int and value not in _INT64:
        return f"an integer of {value.bit_length()} bits"
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:40] + "…"
