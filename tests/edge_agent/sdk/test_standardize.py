"""Standardize: fitted on rows or windows, plain arrays as state."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.sdk import state
from edge_agent.sdk.standardize import Standardize

X = np.random.default_rng(3).normal([1, -5, 100], [1, 2, 30], (200, 3))


def test_rows_come_out_with_mean_zero_and_deviation_one():
    found = Standardize().fit(X).predict(X)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(axis=0), 1)


def test_windows_are_scaled_by_column():
    fitted = Standardize().fit(X)
    windows = X.reshape(20, 10, 3)
    np.testing.assert_array_equal(fitted.predict(windows).reshape(200, 3), fitted.predict(X))
    np.testing.assert_allclose(Standardize().fit(windows).mean, fitted.mean)


def test_a_constant_column_is_only_centred():
    x = np.column_stack([X[:, 0], np.full(200, 0.1)])
    fitted = Standardize().fit(x)
    assert fitted.scale[1] == 1.0
    np.testing.assert_allclose(fitted.predict(x)[:, 1], 0, atol=1e-12)


def test_a_tiny_scale_is_kept():
    x = X * 1e-9
    np.testing.assert_allclose(Standardize().fit(x).predict(x), Standardize().fit(X).predict(X))


def test_state_is_two_arrays():
    fitted, fresh = Standardize().fit(X), Standardize()
    state.restore(fresh, state.capture(fitted))
    np.testing.assert_array_equal(fresh.predict(X), fitted.predict(X))
    assert state.capture(Standardize()) is None


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.empty((0, 3)), ValueError, "no rows"),
        (np.array([[1.0, np.nan], [1.0, 2.0]]), ValueError, r"NaN or infinity in columns \[1\]"),
        ([["a"]], TypeError, "rows of numbers"),
        (np.zeros(4), ValueError, r"not shape \(4,\)"),
    ],
)
def test_refused_when_fitting(x, error, message):
    with pytest.raises(error, match=message):
        Standardize().fit(x)


def test_refused_when_predicting():
    with pytest.raises(RuntimeError, match=r"not fitted yet: call pipeline.fit\(x\)"):
        Standardize().predict(X)
    with pytest.raises(ValueError, match="fitted on 3 columns, got 2"):
        Standardize().fit(X).predict(X[:, :2])
