"""Validity counts invalid rows and says the first fault in words."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.contract.manifest import OutputSpec
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.validity import invalid_rows

SPEC = OutputSpec(columns=["label", "confidence"], ranges={"confidence": (0.0, 1.0)})
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("wrap", [np.array, list], ids=["array", "list"])
@pytest.mark.parametrize(
    ("rows", "count", "words"),
    [
        ([[1, 0.0], [2, 1.0]], 0, ""),
        ([[1, NAN], [2, 0.5]], 1, "confidence = nan"),
        ([[1, 0.5], [INF, 0.5]], 1, "label = inf"),
        ([[1, 1.7], [2, -0.1], [3, 0.5]], 2, "confidence = 1.7 outside [0, 1]"),
        ([[1, 0.5, 3]], 1, "3 columns, the pipeline declares 2 (label, confidence)"),
        ([[1]], 1, "1 columns, the pipeline declares 2 (label, confidence)"),
    ],
)
def test_numbers(wrap, rows, count, words):
    assert invalid_rows(SPEC, Frame.of(wrap(rows))) == (count, words)


@pytest.mark.parametrize(
    ("rows", "count", "words"),
    [
        ([["walk", 0.5], ["run", True]], 0, ""),
        ([["walk", None]], 1, "confidence = None"),
        ([["walk", "high"]], 1, "confidence = 'high' outside [0, 1]"),
        ([[{"a": [1, NAN]}, 0.5]], 1, "label = {'a': [1, nan]}"),
        ([[{"a": [1, "x", None]}, 0.5]], 0, ""),
        ([[object(), 0.5]], 1, "label = <object object"),
        ([[np.float32(NAN), 0.5]], 1, "label = "),
        (["walk"], 1, "1 columns"),
    ],
)
def test_rows_of_mixed_type(rows, count, words):
    found, text = invalid_rows(SPEC, Frame(rows, [0] * len(rows), [*range(len(rows))]))
    assert found == count
    assert text.startswith(words)


def test_endless_nesting_is_not_valid():
    loop: list = []
    loop.append(loop)
    assert invalid_rows(OutputSpec(columns=[]), Frame([[loop]], [0], [0]))[0] == 1


def test_other_shapes():
    one = OutputSpec(columns=["a"], ranges={"a": (0.0, 5.0)})
    assert invalid_rows(one, Frame.of(np.array([1, 6, 3]))) == (1, "a = 6 outside [0, 5]")
    assert invalid_rows(one, Frame.of(np.zeros((0, 9)))) == (0, "")
    assert invalid_rows(SPEC, Frame.of(np.zeros((2, 3, 2)))) == (
        2,
        "3×2 columns, the pipeline declares 2 (label, confidence)",
    )
    assert invalid_rows(OutputSpec(columns=[]), Frame.of(np.array([[1, NAN]]))) == (1, "column 1 = nan")
    assert invalid_rows(OutputSpec(columns=[]), Frame.of(["a", "b"])) == (0, "")
    assert invalid_rows(SPEC, Frame.of(np.array([["walk", 0.5]], dtype=object))) == (0, "")
