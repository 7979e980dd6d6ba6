"""Third release: the cadence joins the features, because steps tell walking from running at a glance."""

from __future__ import annotations

from cadence import TimeDomainAndCadence
from decision import Decision
from demands import ANSWER, PROBATION, SELF_TEST, WATCH

from edge_agent import OnnxModel, Pipeline, Window

pipeline = Pipeline(
    "activity",
    [Window(100), TimeDomainAndCadence(threshold=4.0), OnnxModel("logistic_55.onnx"), Decision()],
    input=WATCH,
    output=ANSWER,
    self_test=SELF_TEST,
    health=PROBATION,
)
