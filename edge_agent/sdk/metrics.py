"""How well an output agrees with labels: the common metrics, with numpy alone.

Classification: `accuracy`, and `precision`, `recall`, `f1` as means over the classes (macro), each class counting the
same; a class that was never predicted, or never there, counts 0 where the formula divides by nothing. Regression:
`mae`, `mse`, `rmse`, `r2`, each the mean over columns. Definitions as in scikit-learn's `metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["METRICS", "Metric", "score"]

Array = npt.NDArray[Any]
Metric: TypeAlias = str | Callable[[Any, Any], float]
_CLASSES = ("accuracy", "precision", "recall", "f1")
_MEASUREMENTS = ("mae", "mse", "rmse", "r2")


def score(y: Any, predicted: Any, metrics: Sequence[Metric] | Mapping[str, Metric] | None = None) -> dict[str, float]:
    """Return each metric of labels `y` and output `predicted`, both with one row for each sample.

    `metrics` are names of `METRICS` or functions of both; None chooses by the kind of label. Raises `ValueError` for an
    unknown name, no rows, or other numbers of rows; `TypeError` for measurements that are no numbers.
    """
    truth, given = _flat(y), _flat(predicted)
    if len(truth) != len(given):
        raise ValueError(f"{len(truth)} labels for {len(given)} rows of output: give one for each")
    if not len(truth):
        raise ValueError("no rows to evaluate: windows need more samples before they give any")
    chosen = _chosen(metrics if metrics is not None else _fitting(truth))
    return {name: float(metric(truth, given)) for name, metric in chosen.items()}


def _chosen(metrics: Any) -> dict[str, Callable[[Any, Any], float]]:
    if isinstance(metrics, str):
        raise TypeError(f"metrics must be a list: write metrics=[{metrics!r}]")
    pairs = metrics.items() if isinstance(metrics, Mapping) else [(None, metric) for metric in metrics]
    chosen = {}
    for name, metric in pairs:
        if isinstance(metric, str):
            if metric not in METRICS:
                raise ValueError(f"there is no metric {metric!r}: {', '.join(METRICS)}")
            chosen[name or metric] = METRICS[metric]
        else:
            chosen[name or getattr(metric, "__name__", repr(metric))] = metric
    return chosen


def _fitting(truth: Array) -> tuple[str, ...]:
    return _MEASUREMENTS if truth.dtype.kind in "fc" else _CLASSES


def _flat(rows: Any) -> Array:
    """Return rows as an array, `[n]` where there is one column."""
    array = np.asarray(rows) if not isinstance(rows, list) else _array(rows)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _array(rows: list[Any]) -> Array:
    flat = [row[0] if isinstance(row, list | tuple) and len(row) == 1 else row for row in rows]
    kinds = {type(cell) for cell in flat}
    if str in kinds and len(kinds) > 1:  # numpy would make text of the numbers
        array = np.empty(len(flat), object)
        array[:] = flat
        return array
    return np.asarray(flat)


# --- classes ----------------------------------------------------------------------------------------------------------


def _accuracy(truth: Array, given: Array) -> float:
    same = truth == given
    return float(np.mean(same if same.ndim == 1 else same.reshape(len(same), -1).all(axis=1)))


def _counts(truth: Array, given: Array) -> tuple[Array, Array, Array]:
    """Return for each class how often it was rightly given, how often given, how often true."""
    if truth.ndim > 1 or given.ndim > 1:
        raise ValueError(f"classes need one column, not labels of shape {truth.shape} and output of {given.shape}")
    classes = list(dict.fromkeys([*truth.tolist(), *given.tolist()]))
    place = {name: index for index, name in enumerate(classes)}
    true = np.array([place[name] for name in truth.tolist()])
    found = np.array([place[name] for name in given.tolist()])
    right = np.bincount(true[true == found], minlength=len(classes))
    return right, np.bincount(found, minlength=len(classes)), np.bincount(true, minlength=len(classes))


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _precision(truth: Array, given: Array) -> float:
    right, found, _ = _counts(truth, given)
    return float(_ratio(right, found).mean())


def _recall(truth: Array, given: Array) -> float:
    right, _, true = _counts(truth, given)
    return float(_ratio(right, true).mean())


def _f1(truth: Array, given: Array) -> float:
    right, found, true = _counts(truth, given)
    return float(_ratio(2 * right, found + true).mean())


# --- measurements -----------------------------------------------------------------------------------------------------


def _errors(truth: Array, given: Array) -> tuple[Array, Array]:
    """Return labels and errors as float64 `[n, columns]`."""
    for what, array in (("labels", truth), ("output", given)):
        if array.dtype.kind not in "biuf":
            raise TypeError(f"measurements need numbers, the {what} are {array.dtype}: name metrics for classes")
    if truth.shape != given.shape:
        raise ValueError(f"labels of shape {truth.shape} for output of shape {given.shape}")
    flat = truth.reshape(len(truth), -1).astype(np.float64)
    return flat, given.reshape(len(given), -1).astype(np.float64) - flat


def _mae(truth: Array, given: Array) -> float:
    return float(np.abs(_errors(truth, given)[1]).mean())


def _mse(truth: Array, given: Array) -> float:
    return float(np.square(_errors(truth, given)[1]).mean())


def _rmse(truth: Array, given: Array) -> float:
    return float(np.sqrt(np.square(_errors(truth, given)[1]).mean(axis=0)).mean())


def _r2(truth: Array, given: Array) -> float:
    """Coefficient of determination; a constant column scores 1 if it is met exactly, else 0."""
    flat, errors = _errors(truth, given)
    if len(flat) < 2:
        raise ValueError("r2 needs at least two rows")
    missed = np.square(errors).sum(axis=0)
    spread = np.square(flat - flat.mean(axis=0)).sum(axis=0)
    score = np.where(missed == 0, 1.0, 0.0)
    np.divide(-missed, spread, out=score, where=spread > 0)
    return float(np.where(spread > 0, 1.0 + score, score).mean())


METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": _accuracy,
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
    "mae": _mae,
    "mse": _mse,
    "rmse": _rmse,
    "r2": _r2,
}
