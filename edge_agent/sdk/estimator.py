"""A scikit-learn estimator as a stage, just as it is (R7): anything with `get_params` and `predict` or `transform`.

Wrapped on the fly when it is put into a pipeline. What it learned travels as a pickle, which pins the version of
scikit-learn; a model that must run on many is better exported to ONNX (`OnnxModel`). scikit-learn is not imported here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_agent.sdk.filter import Filter
from edge_agent.sdk.step import accepts

__all__ = ["Estimator", "as_stage", "is_estimator"]

_METHODS = ("predict", "transform")


class Estimator(Filter):
    """The stage that a scikit-learn estimator becomes.

    `method` is what answers: `predict` where there is one, else `transform`, or a name such as `predict_proba`. Rows
    that are not flat (windows) are flattened: `[n, size, columns]` becomes `[n, size * columns]`.
    """

    def __init__(self, method: str = "") -> None:
        super().__init__(method=method)
        self.method = method
        self.estimator: Any = None

    @classmethod
    def of(cls, estimator: Any, method: str = "") -> Estimator:
        """Return `estimator` as a stage that answers with `method`. Raises `TypeError` for what is no estimator."""
        if not is_estimator(estimator):
            raise TypeError(
                f"a {type(estimator).__name__} is no estimator: it needs get_params, and predict or transform"
            )
        if method and not callable(getattr(estimator, method, None)):
            raise TypeError(f"{type(estimator).__name__} has no method {method!r}")
        made = cls(method)
        made.estimator = estimator
        return made

    @property
    def stem(self) -> str:
        """What the stage is called when its author gives no name."""
        return type(self.estimator).__name__.strip("_").lower()

    def __repr__(self) -> str:
        return f"Estimator({self.estimator!r})"

    def predict(self, x: Any) -> Any:
        """Return the estimator's answer, one row for each of `x`."""
        if self.estimator is None:
            raise ValueError("this stage holds no estimator: make it with Estimator.of(…)")
        method = self.method or next(name for name in _METHODS if hasattr(self.estimator, name))
        answer = getattr(self.estimator, method)(_flat(x))
        return answer.toarray() if hasattr(answer, "toarray") else answer  # sparse matrices have no rows to travel

    def fit(self, x: Any, y: Any = None) -> Estimator:
        """Fit the estimator on the workstation, with labels where it takes any."""
        if not hasattr(self.estimator, "fit"):
            return self
        self.estimator.fit(_flat(x), **({"y": y} if accepts(self.estimator.fit, "y") else {}))
        return self


def is_estimator(found: Any) -> bool:
    """Tell whether something that is no filter follows scikit-learn's conventions."""
    if isinstance(found, type | Filter):
        return False
    return callable(getattr(found, "get_params", None)) and any(hasattr(found, name) for name in _METHODS)


def as_stage(found: Any) -> Any:
    """Return an estimator as a stage, everything else as it is."""
    return Estimator.of(found) if is_estimator(found) else found


def _flat(x: Any) -> Any:
    """Return windows as flat rows; tables, lists and texts stay as they are."""
    return x.reshape(len(x), -1) if isinstance(x, np.ndarray) and x.ndim > 2 else x
