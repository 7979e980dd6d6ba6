"""What the publisher must know of an ONNX file without the `onnx` package: operator sets, and weights kept elsewhere.

A minimal protobuf reader over the few fields of `ModelProto` that matter (field numbers from
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). It checks no graph; onnxruntime does that in the self-test.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["read_opsets"]

_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET_IMPORT = 1, 7, 8
_GRAPH_INITIALIZER = 5
_TENSOR_NAME, _TENSOR_DATA_LOCATION = 8, 14
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_EXTERNAL = 1
_OPSETS_MAX = 64


def read_opsets(data: bytes) -> dict[str, int]:
    """Return the operator sets an ONNX model imports, domain to version (`""` is `ai.onnx`).

    Raises `ValueError` when `data` is no ONNX model or keeps weights in a file beside it, which would not be shipped.
    """
    opsets: dict[str, int] = {}
    versioned = False
    for field, value in _fields(memoryview(data)):
        if field == _MODEL_IR_VERSION and isinstance(value, int):
            versioned = True
        elif field == _MODEL_GRAPH and isinstance(value, memoryview):
            _refuse_external_weights(value)
        elif field == _MODEL_OPSET_IMPORT and isinstance(value, memoryview):
            domain, version = _opset(value)
            opsets[domain] = max(version, opsets.get(domain, 0))
    if not versioned or not opsets or len(opsets) > _OPSETS_MAX:
        raise ValueError("not an ONNX model: no version or no operator sets in it")
    return opsets


def _opset(message: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for field, value in _fields(message):
        if field == _OPSET_DOMAIN and isinstance(value, memoryview):
            domain = str(value, "utf-8")
        elif field == _OPSET_VERSION and isinstance(value, int):
            version = value
    return ("" if domain == "ai.onnx" else domain), version


def _refuse_external_weights(graph: memoryview) -> None:
    for field, tensor in _fields(graph):
        if field != _GRAPH_INITIALIZER or not isinstance(tensor, memoryview):
            continue
        name = ""
        for part, value in _fields(tensor):
            if part == _TENSOR_NAME and isinstance(value, memoryview):
                name = str(value, "utf-8", "replace")
            elif part == _TENSOR_DATA_LOCATION and value == _EXTERNAL:
                raise ValueError(
                    f"its weights ({name or 'a tensor'}) lie in another file: save the model with "
                    "onnx.save(model, path, save_as_external_data=False)"
                )


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
