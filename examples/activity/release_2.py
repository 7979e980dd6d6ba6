"""Second release: 54 statistics of the ten seconds and logistic regression."""

from __future__ import annotations

from decision import Decision
from demands import ANSWER, PROBATION, SELF_TEST, WATCH
from features import TimeDomain

from edge_agent import OnnxModel, Pipeline, Window

pipeline = Pipeline(
    "activity",
    [Window(100), TimeDomain(), OnnxModel("logistic_54.onnx"), Decision()],
    input=WATCH,
    output=ANSWER,
    self_test=SELF_TEST,
    health=PROBATION,
)
