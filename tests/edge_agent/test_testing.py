"""`roundtrip` lets filters pass that travel well and names what is wrong with the others."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk.code import Code
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.standardize import Standardize
from edge_agent.sdk.window import Window
from edge_agent.testing import roundtrip

ROWS = np.random.default_rng(5).normal(size=(8, 2))


class Learned(Filter):
    def __init__(self, gain=2.0, shape=(1, 2)):
        super().__init__(gain=gain, shape=shape)
        self._mean = None

    def fit(self, x):
        self._mean = x.mean(axis=0)

    def initialize(self):
        self.lock = threading.Lock()

    def predict(self, x):
        with self.lock:
            return (x - self._mean) * self.gain

    def cleanup(self):
        del self.lock


def test_what_travels_well_comes_back():
    learned = Learned(gain=3.0)
    learned.fit(ROWS)
    frame = Frame.of(ROWS, columns=("a", "b"), start=5)
    out = roundtrip(learned, frame)
    np.testing.assert_array_equal(out.values, (ROWS - ROWS.mean(axis=0)) * 3)
    assert out.sequences.tolist() == list(range(5, 13))
    assert not hasattr(learned, "lock")


def test_built_in_filters():
    assert roundtrip(Standardize().fit(ROWS), ROWS).values.shape == (8, 2)
    assert roundtrip(Window(4), ROWS).values.shape == (2, 4, 2)
    assert roundtrip(Code("a * 2"), Frame.of(ROWS, columns=("a", "b"))).values.shape == (8, 1)


class Shared:
    """Not plain: travels as a pickle."""

    def __init__(self):
        self.me = self


class Holding(Filter):
    def predict(self, x):
        assert self.held.me is self.held
        assert self.again is self.held
        return [["text", 1]] * len(x)


def test_cycles_and_what_is_shared_survive():
    holding = Holding()
    holding.held = holding.again = Shared()
    assert roundtrip(holding, ROWS).values[0] == ["text", 1]


class ByProcess(Filter):
    def predict(self, x):
        return x + (0 if hasattr(self, "known") else 1)

    def __getstate__(self):
        return {}


class Disturbed(Filter):
    def predict(self, x):
        return x

    def __getstate__(self):
        self.counted = getattr(self, "counted", 0) + 1
        return {"counted": self.counted}


class Fewer(Filter):
    def predict(self, x, *, frame):
        return frame.take(slice(getattr(self, "rows", 0), None))

    def __getstate__(self):
        return {"rows": 1} if "rows" in vars(self) else {}


def test_what_does_not_is_said():
    odd = ByProcess()
    odd.known = True
    with pytest.raises(AssertionError, match=r"ByProcess, row 0: .* when rebuilt"):
        roundtrip(odd, ROWS)
    with pytest.raises(AssertionError, match="serializing Disturbed changed its counted"):
        roundtrip(Disturbed(), ROWS)
    fewer = Fewer()
    fewer.rows = 0
    with pytest.raises(AssertionError, match="Fewer gives 8 rows, rebuilt 7"):
        roundtrip(fewer, ROWS)
    held = Learned()
    held.file = Path(os.devnull).open()  # noqa: SIM115
    try:
        with pytest.raises(AuthorError, match=r"Learned.file is an open file"):
            roundtrip(held, ROWS)
    finally:
        held.file.close()
