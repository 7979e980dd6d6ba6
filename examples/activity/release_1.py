"""First release: a small neural network looks at the raw samples of ten seconds."""

from __future__ import annotations

from decision import Decision
from demands import ANSWER, PROBATION, SELF_TEST, WATCH

from edge_agent import OnnxModel, Pipeline, Window

pipeline = Pipeline(
    "activity",
    [Window(100), OnnxModel("mlp_raw.onnx"), Decision()],
    input=WATCH,
    output=ANSWER,
    self_test=SELF_TEST,
    health=PROBATION,
)
