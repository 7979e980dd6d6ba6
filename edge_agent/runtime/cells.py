"""Cells of every dtype in the agent's process and on the worker's socket (R1).

A number, truth value or text is held as it is; a vector or JSON cell as its MessagePack, which takes no more memory
than its bytes and travels on without being looked at again. `msgspec` knows no pickle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edge_agent.contract.dtypes import DEFAULT, CellTooLarge, is_scaled
from edge_agent.runtime.samples import BadPayload

if TYPE_CHECKING:
    from edge_agent.config import Column

__all__ = ["NOT_A_NUMBER", "TOO_LARGE", "WRONG_TYPE", "decode_cells", "encode_cells", "held_cell"]

NOT_A_NUMBER = "not a number"
WRONG_TYPE = "wrong type"
TOO_LARGE = "too large"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list).decode


def held_cell(column: Column, make: Callable[[str, Any], Any], value: Any) -> Any:
    """Return the cell that `make(dtype, value)` gives, scaled and as samples hold it.

    Raises `BadPayload` with the reason in words; where the value lies, the caller must say.
    """
    try:
        cell = make(column.dtype, value)
    except CellTooLarge as error:
        raise BadPayload(TOO_LARGE, str(error)) from None
    except ValueError as error:
        raise BadPayload(NOT_A_NUMBER if column.dtype == DEFAULT else WRONG_TYPE, str(error)) from None
    if is_scaled(column.dtype):
        cell = _scaled(column, cell)
    return _encode(cell) if column.dtype in ("vector", "json") else cell


def _scaled(column: Column, cell: Any) -> Any:
    scale, offset = column.scale, column.offset
    numbers = [one * scale + offset for one in cell] if isinstance(cell, list) else [cell * scale + offset]
    if not all(map(math.isfinite, numbers)):
        raise BadPayload(NOT_A_NUMBER, "it is not finite, or too large for a float once scaled")
    return numbers if isinstance(cell, list) else numbers[0]


def encode_cells(cells: Sequence[Any]) -> bytes:
    """Return cells as samples hold them as one MessagePack list."""
    return _encode([msgspec.Raw(cell) if type(cell) is bytes else cell for cell in cells])


def decode_cells(data: memoryview, count: int) -> list[Any]:
    """Return `count` cells as plain values. Raises `ValueError` for anything else."""
    try:
        cells = _decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"cells of a frame cannot be read: {error}") from None
    if len(cells) != count:
        raise ValueError(f"a frame of {count} cells brought {len(cells)}")
    return cells
