"""What the publisher must know of an ONNX file without the `onnx` package: operator sets, and weights kept elsewhere.

A minimal protobuf reader over the few fields of `ModelProto` that matter (field numbers from
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). It checks no graph; onnxruntime does that in the self-test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edge_agent.contract.manifest import BESIDE_MAX, is_inner_path

__all__ = ["Header", "read_header"]

_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET_IMPORT, _MODEL_FUNCTION = 1, 7, 8, 25
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
# Which fields of a message may lead to tensors, and what they hold.
_INNER = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_FUNCTION: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DEPTH_MAX = 64
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_EXTERNAL = 1
_OPSETS_MAX = 64


class Header(NamedTuple):
    """What a model asks for: `opsets` by domain (`""` is `ai.onnx`), and the files that its weights lie in.

    `beside` are paths relative to the model's own, `/` between their parts, none of them leading out of its directory.
    """

    opsets: dict[str, int]
    beside: tuple[str, ...] = ()


def read_header(data: bytes) -> Header:
    """Return what an ONNX model asks for.

    Raises `ValueError` when `data` is no ONNX model, or keeps weights where they cannot be shipped from.
    """
    opsets: dict[str, int] = {}
    versioned = False
    for field, value in _fields(memoryview(data)):
        if field == _MODEL_IR_VERSION and isinstance(value, int):
            versioned = True
        elif field == _MODEL_OPSET_IMPORT and isinstance(value, memoryview):
            domain, version = _opset(value)
            opsets[domain] = max(version, opsets.get(domain, 0))
    beside = sorted(set(_external("model", memoryview(data), 0)))
    if not versioned or not opsets or len(opsets) > _OPSETS_MAX:
        raise ValueError("not an ONNX model: no version or no operator sets in it")
    if len(beside) > BESIDE_MAX:
        raise ValueError(f"it keeps its weights in {len(beside)} files, {BESIDE_MAX} at the most can be shipped")
    return Header(opsets, tuple(beside))


def _opset(message: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for field, value in _fields(message):
        if field == _OPSET_DOMAIN and isinstance(value, memoryview):
            domain = str(value, "utf-8")
        elif field == _OPSET_VERSION and isinstance(value, int):
            version = value
    return ("" if domain == "ai.onnx" else domain), version


def _external(kind: str, message: memoryview, depth: int) -> Iterator[str]:
    """Yield where the tensors in a message of `kind` keep their weights, if that is elsewhere."""
    if depth > _DEPTH_MAX:
        raise ValueError(f"its graphs lie more than {_DEPTH_MAX} deep in each other")
    if kind == "tensor":
        yield from _location(message)
        return
    inner = _INNER[kind]
    for field, value in _fields(message):
        if field in inner and isinstance(value, memoryview):
            yield from _external(inner[field], value, depth + 1)


def _location(tensor: memoryview) -> Iterator[str]:
    name, elsewhere, entries = "", False, {}
    for field, value in _fields(tensor):
        if field == _TENSOR_DATA_LOCATION:
            elsewhere = value == _EXTERNAL
        elif field == _TENSOR_NAME and isinstance(value, memoryview):
            name = str(value, "utf-8", "replace")
        elif field == _TENSOR_EXTERNAL_DATA and isinstance(value, memoryview):
            pair = {key: str(text, "utf-8") for key, text in _fields(value) if isinstance(text, memoryview)}
            entries[pair.get(1, "")] = pair.get(2, "")
    if not elsewhere:
        return
    where = entries.get("location", "").removeprefix("./")
    if not is_inner_path(where):
        raise ValueError(
            f"it keeps its weights ({name or 'a tensor'}) in {where[:200]!r}: that must be a file in its own directory "
            "or below; save it again with onnx.save(model, path, save_as_external_data=True, location='weights.bin')"
        )
    yield where


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield field numbers with their value: an int (wire type 0) or the bytes (all others)."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, wire = key >> 3, key & 7
        if wire == 0:
            number, position = _varint(message, position)
            yield field, number
            continue
        if wire == 2:
            size, position = _varint(message, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"not an ONNX model: wire type {wire} at byte {position}")
        if field == 0 or position + size > len(message):
            raise ValueError(f"not an ONNX model, or truncated at byte {position}")
        yield field, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError(f"not an ONNX model, or truncated at byte {position}")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"not an ONNX model: number too long at byte {position}")
