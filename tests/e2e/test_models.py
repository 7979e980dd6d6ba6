"""One release with all that an author brings: windows, a helper module, fitted state and an ONNX model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from publisher.pushing import Ending
from tests.simulators.fleet import FleetSimulator

SIZE = 5
WEIGHTS, BIAS = [0.5, -1.0, 2.0, 0.25, -0.75], 3.0
TRAINING = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]

HELPER = """
def flat(windows):
    return windows.reshape(len(windows), -1)
"""

STAGE = """
from edge_agent import Filter
from shapes.flattening import flat


class Flatten(Filter):
    def predict(self, x):
        return flat(x)
"""

# Fits when it is imported, so the class lies in a module of its own: this one stays at home.
RELEASE = """
import numpy as np
from flatten import Flatten

from edge_agent import Health, Input, OnnxModel, Output, Pipeline, Standardize, Window

pipeline = Pipeline(
    "meter",
    [Standardize(), Window(5), Flatten(), OnnxModel("linear.onnx")],
    input=Input(["x"]),
    output=Output(["y"], range=(-1000, 1000)),
    self_test=[[value / 10] for value in range(20)],
    health=Health(shadow_frames=20, probation_frames=40, probation_seconds=0.4),
)
pipeline.fit(np.array([[0.0], [0.2], [0.4], [0.6], [0.8], [1.0]]))
"""


def test_windows_helper_state_and_model_travel_in_one_release(fleet: FleetSimulator) -> None:
    fleet.write("shapes/__init__.py", "")
    fleet.write("shapes/flattening.py", HELPER)
    _write_linear(Path(fleet.write("linear.onnx", b"")))
    fleet.write("flatten.py", STAGE)
    target = fleet.write("with_model.py", RELEASE)
    agent = fleet.agent()
    counter = fleet.feed(agent, block=SIZE)
    result = fleet.push(target, wait=True)
    assert result.ending is Ending.COMMITTED, result
    counter.until_flows("meter@1")
    count = counter.final()
    assert (count["lost"], count["repeated"], count["redelivered"]) == (0, 0, 0), count
    last = count["last"]["meter@1"]
    assert last["sequence"] - last["first"] == SIZE - 1
    assert last["values"]["y"] == pytest.approx(_expected(last["first"]), rel=1e-4)


def _expected(first: int) -> float:
    """What the model makes of five samples, by arithmetic of our own."""
    mean = sum(TRAINING) / len(TRAINING)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in TRAINING) / len(TRAINING))
    window = [0.5 + 0.5 * math.sin(number / 7) for number in range(first, first + SIZE)]
    return BIAS + sum(weight * (x - mean) / deviation for weight, x in zip(WEIGHTS, window, strict=True))


def _write_linear(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, floating = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", floating, [None, SIZE])],
        [helper.make_tensor_value_info("y", floating, [None, 1])],
        [helper.make_tensor("w", floating, [SIZE, 1], WEIGHTS), helper.make_tensor("b", floating, [1], [BIAS])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
