"""Tensors of the Open Inference Protocol v2 (JSON) to rows of a slot's columns, and results back to tensors. Pure.

A column is a tensor of its own, shape [n] or [n, 1] (a vector: [n, k]); columns that are numbers may come together as
one tensor `input` of shape [n, columns]. What does not fit is `BadTensor` naming tensor and place: nothing is guessed.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edge_agent.config import Column
from edge_agent.config.tables import hint, listing
from edge_agent.contract.dtypes import DEFAULT, as_cell, parse_cell
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.cells import held_cell
from edge_agent.runtime.samples import BadPayload, Cells

__all__ = ["MATRIX", "BadTensor", "Tensor", "datatype_of", "input_metadata", "rows_of", "tensors_of"]

MATRIX = "input"
_INTEGERS = {
    f"{sign}INT{bits}": (0 if sign else -(2 ** (bits - 1)), 2 ** (bits if sign else bits - 1) - 1)
    for bits in (8, 16, 32, 64)
    for sign in ("", "U")
}
_NUMBERS = ("FP64", "FP32", *_INTEGERS)
# Which datatypes may stand for a column of a dtype; the first is what metadata says.
_DATATYPES: dict[str, tuple[str, ...]] = {
    "float64": _NUMBERS,
    "int64": ("INT64", *(name for name in _INTEGERS if name != "INT64")),
    "bool": ("BOOL",),
    "string": ("BYTES",),
    "vector": _NUMBERS,
    "json": ("BYTES",),
}
_IN_MATRIX = ("float64", "int64")


class BadTensor(ValueError):
    """A tensor that is not what the model takes, in words."""


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of a request, as JSON has it: `data` flat in row-major order, or nested as `shape` says."""

    name: str
    shape: list[int]
    datatype: str
    data: Any
    parameters: dict[str, Any] = {}


def input_metadata(columns: Mapping[str, Column]) -> list[dict[str, Any]]:
    """Return the inputs as the protocol's metadata has them."""
    return [
        {
            "name": column.path,
            "datatype": _DATATYPES[column.dtype][0],
            "shape": [-1, -1] if column.dtype == "vector" else [-1],
        }
        for column in columns.values()
    ]


def takes_matrix(columns: Mapping[str, Column]) -> bool:
    """Tell whether all columns may come as one tensor."""
    own = any(column.path == MATRIX for column in columns.values())
    return not own and all(column.dtype in _IN_MATRIX for column in columns.values())


def rows_of(tensors: Sequence[Tensor], columns: Mapping[str, Column]) -> tuple[int, Cells]:
    """Return how many rows these are and their cells row by row, as `Samples` has them. Raises `BadTensor`."""
    found = _by_name(tensors, columns)
    if MATRIX in found and takes_matrix(columns):
        rows, ordered = _split(found[MATRIX], columns)
    else:
        ordered = [found[column.path] for column in columns.values()]
        rows = ordered[0].shape[0] if ordered[0].shape else 0
    cells = [_cells(tensor, column, rows) for tensor, column in zip(ordered, columns.values(), strict=True)]
    width = len(cells)
    if all(isinstance(one, array) for one in cells):
        numbers = array("d", bytes(8 * rows * width))
        for place, one in enumerate(cells):
            numbers[place::width] = one  # type: ignore[call-overload]
        return rows, numbers
    together: list[Any] = [None] * (rows * width)
    for place, one in enumerate(cells):
        together[place::width] = one
    return rows, together


def _by_name(tensors: Sequence[Tensor], columns: Mapping[str, Column]) -> dict[str, Tensor]:
    """Return the tensors by name, every one that is wanted and no other, each with as many cells as its shape says."""
    wanted = [column.path for column in columns.values()]
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.name in found:
            raise BadTensor(f"input {_shown(tensor.name)} is there twice: send each once")
        if tensor.name not in wanted and not (tensor.name == MATRIX and takes_matrix(columns)):
            words = f"there is no input {_shown(tensor.name)}{hint(tensor.name, wanted)}"
            raise BadTensor(f"{words}; the model takes: {listing(wanted)}")
        if set(tensor.parameters) & {"binary_data_size"}:
            raise BadTensor(f"input {_shown(tensor.name)}: binary tensors are not supported: send data as JSON")
        found[tensor.name] = msgspec.structs.replace(tensor, data=_flat(tensor))
    if MATRIX in found and MATRIX not in wanted:
        if len(found) > 1:
            raise BadTensor(f"input {MATRIX!r} holds all columns: send it alone, or one tensor per column")
        return found
    for name in wanted:
        if name not in found:
            raise BadTensor(f"input {name!r} is missing; the model takes: {listing(wanted)}")
    return found


def _split(matrix: Tensor, columns: Mapping[str, Column]) -> tuple[int, list[Tensor]]:
    """Return one tensor for each column of one that holds all."""
    width = len(columns)
    if len(matrix.shape) != 2 or matrix.shape[1] != width:
        names = listing(columns)
        raise BadTensor(f"input {MATRIX!r} has shape {matrix.shape}: [n, {width}] is needed, for the columns {names}")
    rows = matrix.shape[0]
    return rows, [
        msgspec.structs.replace(matrix, name=f"{MATRIX}[:, {place}]", shape=[rows], data=matrix.data[place::width])
        for place in range(width)
    ]


def _flat(tensor: Tensor) -> list[Any]:
    """Return the data in row-major order. Raises `BadTensor` unless it is as many cells as the shape says."""
    name, shape, data = _shown(tensor.name), tensor.shape, tensor.data
    if not 1 <= len(shape) <= 2 or min(shape) < 0:
        raise BadTensor(f"input {name} has shape {shape[:8]}: [n] or [n, k] is needed")
    if not isinstance(data, list):
        raise BadTensor(f"input {name}: data is no array")
    if len(shape) == 2 and data and type(data[0]) is list:
        if len(data) != shape[0] or any(type(row) is not list or len(row) != shape[1] for row in data):
            raise BadTensor(f"input {name}: the rows of data are not of shape {shape}")
        data = [cell for row in data for cell in row]
    if len(data) != math.prod(shape):
        raise BadTensor(f"input {name} has {len(data)} values, its shape {shape} says {math.prod(shape)}")
    return data


def _cells(tensor: Tensor, column: Column, rows: int) -> Sequence[Any]:
    """Return one column's cells, an array where they are float64."""
    name, data, shape = _shown(tensor.name), tensor.data, tensor.shape
    if shape[0] != rows:
        raise BadTensor(f"input {name} has {shape[0]} rows, the first input has {rows}: all must have as many")
    allowed = _DATATYPES[column.dtype]
    if tensor.datatype not in allowed:
        near = hint(tensor.datatype, allowed)
        words = f"input {name} has datatype {_shown(tensor.datatype)}, {column.dtype} is needed"
        raise BadTensor(f"{words}: one of {listing(allowed)}{near}")
    vector = column.dtype == "vector"
    if vector != (len(shape) == 2) and not (len(shape) == 2 and shape[1] == 1):
        raise BadTensor(f"input {name} has shape {shape}: {'[n, k]' if vector else '[n] or [n, 1]'} is needed")
    if "BYTES" not in allowed and tensor.datatype != "BOOL":
        _require_numbers(name, tensor.datatype, data)
    if column.dtype == DEFAULT:
        return _floats(name, column, data)
    if vector:
        data = [data[at : at + shape[1]] for at in range(0, len(data), shape[1])] if shape[1] else [[]] * rows
    return [_held(name, row, column, cell) for row, cell in enumerate(data)]


def _require_numbers(name: str, datatype: str, data: list[Any]) -> None:
    kinds = set(map(type, data))
    if not kinds <= {int, float}:
        place = next(at for at, cell in enumerate(data) if type(cell) not in (int, float))
        raise BadTensor(f"input {name}: {_value(data[place])} at place {place} is not a number")
    if datatype not in _INTEGERS or not data:
        return
    low, high = _INTEGERS[datatype]
    if float in kinds or min(data) < low or max(data) > high:
        place = next(at for at, cell in enumerate(data) if type(cell) is float or not low <= cell <= high)
        raise BadTensor(f"input {name}: {_value(data[place])} at place {place} is no {datatype}")


def _floats(name: str, column: Column, data: list[Any]) -> array[float]:
    try:
        cells = array("d", data)
    except OverflowError:
        raise BadTensor(f"input {name}: a number is too large for a float") from None
    if column.scale != 1 or column.offset != 0:
        cells = array("d", [cell * column.scale + column.offset for cell in cells])
    if not all(map(math.isfinite, cells)):
        place = next(at for at, cell in enumerate(cells) if not math.isfinite(cell))
        raise BadTensor(f"input {name}: the number at place {place} is not finite, or too large once scaled")
    return cells


def _held(name: str, row: int, column: Column, cell: Any) -> Any:
    if column.dtype == "json" and type(cell) is not str:
        raise BadTensor(f"input {name}, row {row}: {_value(cell)} is no text that holds JSON")
    try:
        return held_cell(column, parse_cell if column.dtype == "json" else as_cell, cell)
    except BadPayload as bad:
        raise BadTensor(f"input {name}, row {row}: {bad}") from None


# --- results -------------------------------------------------------------------------------------------------------


def tensors_of(
    results: Sequence[OutputMessage], columns: Sequence[str], seen: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return one tensor for each of `columns`; `seen` are datatypes by column, for where there is no result now."""
    return [
        _tensor(name, [one.values.get(name) for one in results], (seen or {}).get(name, "FP64")) for name in columns
    ]


def _tensor(name: str, cells: list[Any], empty: str) -> dict[str, Any]:
    known = any(cell is not None for cell in cells)
    datatype, shape = datatype_of(cells) if known else empty, [len(cells)]
    if datatype == "BYTES":
        cells = [cell if type(cell) is str else msgspec.json.encode(cell).decode() for cell in cells]
    elif cells and type(cells[0]) is list:
        shape.append(len(cells[0]))
        cells = [number for row in cells for number in row]
    return {"name": name, "datatype": datatype, "shape": shape, "data": cells}


def datatype_of(cells: Sequence[Any]) -> str:
    """Return the datatype of a column of results: what is neither numbers nor truth values nor texts is JSON in BYTES.

    Lists of as many numbers each are rows of a tensor. None is a number that JSON has not: NaN or infinite.
    """
    kinds = set(map(type, cells))
    if kinds == {list}:
        numbers = {type(number) for row in cells for number in row}
        return "FP64" if numbers <= {int, float, type(None)} and len(set(map(len, cells))) == 1 else "BYTES"
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64" if all(-(2**63) <= cell < 2**63 for cell in cells) else "FP64"
    return "FP64" if kinds & {int, float} and kinds <= {int, float, type(None)} else "BYTES"


def _shown(name: str) -> str:
    return repr(name[:60])


def _value(value: Any) -> str:
    return msgspec.json.encode(value).decode()[:40] if type(value) not in (list, dict) else "an array or object"
