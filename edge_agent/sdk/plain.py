"""Plain data as MessagePack: the one encoding of state, frames and self-tests. No pickle, in neither direction.

Plain is: None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, numpy arrays and
numpy scalars, nested. Everything else is refused by its path (`TypeError`). Equal values give equal bytes, so bytes
may be compared instead of values (NaN included). Bytes from elsewhere can at worst raise `ValueError`.
"""

from __future__ import annotations

import enum
import math
from typing import Any

import msgspec
import numpy as np

__all__ = ["ARRAY_KINDS", "DEPTH_MAX", "array_of", "decode", "encode"]

DEPTH_MAX = 64
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1
ARRAY_KINDS = frozenset("biufcSUMm")


class _Code(enum.IntEnum):
    """Extension codes of MessagePack; wire format."""

    TUPLE = 1
    SET = 2
    FROZENSET = 3
    DICT = 4  # with keys that are not all str: a list of pairs
    ARRAY = 5  # [dtype, shape, order, bytes]
    OBJECTS = 6  # an object array: [shape, elements]
    SCALAR = 7  # [dtype, bytes]
    INT = 8  # beyond 64 bits, in decimal
    COMPLEX = 9
    BYTEARRAY = 10


def encode(value: Any, where: str = "value") -> bytes:
    """Return the bytes of plain `value`.

    Raises `TypeError` naming the path below `where` of the first part that is not plain, contains itself, or is nested
    more than `DEPTH_MAX` deep.
    """
    return msgspec.msgpack.encode(_tag(value, where, ()))


def decode(data: bytes | bytearray | memoryview) -> Any:
    """Return the value that `encode` was given; arrays are fresh and writable. Raises `ValueError` on foreign bytes."""
    try:
        return msgspec.msgpack.decode(data, ext_hook=_untag)
    except (msgspec.DecodeError, TypeError, IndexError, RecursionError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"not plain data: {error}") from None


def array_of(dtype: str, shape: list[int], raw: bytes, order: str = "C") -> np.ndarray[Any, Any]:
    """Return a fresh, writable array. Raises `ValueError` for object types and for bytes that do not fill the shape."""
    kind = np.dtype(dtype)
    if kind.kind not in ARRAY_KINDS:
        raise ValueError(f"dtype {dtype!r} is not plain data")
    if any(length < 0 for length in shape) or math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes are no array of shape {shape} and dtype {dtype!r}")
    return np.ndarray(shape, kind, bytearray(raw), order="F" if order == "F" else "C")


def _pack(code: _Code, value: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(int(code), msgspec.msgpack.encode(value))


def _tag(value: Any, where: str, above: tuple[int, ...]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, float, str, bytes):
        return value
    if kind is int:
        return value if _INT64_MIN <= value <= _UINT64_MAX else _pack(_Code.INT, str(value))
    if kind is complex:
        return _pack(_Code.COMPLEX, [value.real, value.imag])
    if kind is bytearray:
        return _pack(_Code.BYTEARRAY, bytes(value))
    if id(value) in above:
        raise TypeError(f"{where} contains itself, which plain data cannot say")
    if len(above) >= DEPTH_MAX:
        raise TypeError(f"{where} is nested more than {DEPTH_MAX} deep")
    return _tag_container(value, where, (*above, id(value)))


def _tag_container(value: Any, where: str, above: tuple[int, ...]) -> Any:
    kind = type(value)
    if kind in (list, tuple):
        items = [_tag(item, f"{where}[{index}]", above) for index, item in enumerate(value)]
        return items if kind is list else _pack(_Code.TUPLE, items)
    if kind in (set, frozenset):
        # Iteration order of a set depends on the hash seed: sort by bytes.
        encoded = sorted(msgspec.msgpack.encode(_tag(item, f"{where}{{{item!r}}}", above)) for item in value)
        return _pack(_Code.SET if kind is set else _Code.FROZENSET, [msgspec.Raw(item) for item in encoded])
    if kind is dict:
        pairs = [
            (_tag(key, f"{where} key {key!r}", above), _tag(item, f"{where}[{key!r}]", above))
            for key, item in value.items()
        ]
        return dict(pairs) if all(type(key) is str for key in value) else _pack(_Code.DICT, pairs)
    if kind is np.ndarray:
        return _tag_array(value, where, above)
    if isinstance(value, np.generic) and value.dtype.kind in ARRAY_KINDS:
        return _pack(_Code.SCALAR, [value.dtype.str, value.tobytes()])
    raise TypeError(f"{where} is a {kind.__module__}.{kind.__qualname__}, which is not plain data")


def _tag_array(array: np.ndarray[Any, Any], where: str, above: tuple[int, ...]) -> msgspec.msgpack.Ext:
    shape = list(array.shape)
    if array.dtype.kind == "O":
        items = [_tag(item, f"{where}.flat[{index}]", above) for index, item in enumerate(array.ravel().tolist())]
        return _pack(_Code.OBJECTS, [shape, items])
    if array.dtype.kind not in ARRAY_KINDS:
        raise TypeError(f"{where} is an array of dtype {array.dtype}, which is not plain data")
    # The memory order is kept: matrix products may differ in the last bit between C and Fortran order.
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    return _pack(_Code.ARRAY, [array.dtype.str, shape, order, array.tobytes(order="F" if order == "F" else "C")])


def _untag(code: int, data: memoryview) -> Any:
    content = msgspec.msgpack.decode(data, ext_hook=_untag)
    match code:
        case _Code.TUPLE:
            return tuple(content)
        case _Code.SET:
            return set(content)
        case _Code.FROZENSET:
            return frozenset(content)
        case _Code.DICT:
            return dict(content)
        case _Code.ARRAY:
            dtype, shape, order, raw = content
            return array_of(dtype, shape, raw, order)
        case _Code.OBJECTS:
            shape, items = content
            array = np.empty(len(items), object)
            for index, item in enumerate(items):
                array[index] = item
            return array.reshape(shape)
        case _Code.SCALAR:
            dtype, raw = content
            return array_of(dtype, [], raw)[()]
        case _Code.INT:
            return int(content)
        case _Code.COMPLEX:
            return complex(*content)
        case _Code.BYTEARRAY:
            return bytearray(content)
    raise ValueError(f"extension code {code} is unknown: written by a newer fieldcast?")
