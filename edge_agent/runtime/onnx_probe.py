"""Ask onnxruntime what it offers; run as a script in a process of its own, prints one JSON object.

onnxruntime tells its newest supported operator sets nowhere, but refuses to load a model that asks for a newer one. So
a model with one Identity node is offered with ever other versions, by bisection. The model is written by hand
(protobuf wire format, field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) to need no `onnx`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial

__all__ = ["DISTRIBUTIONS", "main"]

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn")
DOMAINS = ("", "ai.onnx.ml", "com.microsoft", "ai.onnx.training", "ai.onnx.preview.training")
OPSET_MAX = 128
OPSET_OF_IDENTITY = 13


def main() -> None:
    """Print `{"providers": […], "opsets": {domain: newest version}}`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1

    def loads(domain: str, version: int) -> bool:
        try:
            onnxruntime.InferenceSession(_model(domain, version), options, providers=["CPUExecutionProvider"])
        except Exception:  # noqa: BLE001 - its exceptions have no common type, and every one means no
            return False
        return True

    opsets = {domain: _newest(partial(loads, domain)) for domain in DOMAINS}
    offer = {
        "providers": onnxruntime.get_available_providers(),
        "opsets": {domain: version for domain, version in opsets.items() if version},
    }
    sys.stdout.write(json.dumps(offer))


def _newest(loads: Callable[[int], bool]) -> int:
    """The largest version up to which `loads` says yes, 0 for none."""
    low, high = 0, OPSET_MAX
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if loads(middle) else (low, middle - 1)
    return low


def _model(domain: str, version: int) -> bytes:
    """A ModelProto of one Identity node on a float tensor, importing `domain` in `version`."""
    shape = _field(2, _field(1, b"\x08\x01"))  # one dimension of 1
    kind = _field(2, _field(1, b"\x08\x01" + shape))  # float
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    graph = _field(1, node) + _field(2, b"g") + _field(11, _field(1, b"x") + kind) + _field(12, _field(1, b"y") + kind)
    opsets = {"": OPSET_OF_IDENTITY, domain: version}
    imports = b"".join(_field(8, _field(1, name.encode()) + b"\x10" + _varint(one)) for name, one in opsets.items())
    return b"\x08\x07" + _field(7, graph) + imports


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


if __name__ == "__main__":
    main()
