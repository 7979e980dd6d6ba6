"""From a model's answer to ours."""

from __future__ import annotations

from edge_agent import Filter


class Decision(Filter):
    """The label and how sure the model is of it: rows [label, probability, …] become [label, highest probability]."""

    def predict(self, x: list) -> list:
        return [[label, float(max(probabilities))] for label, *probabilities in x]
