"""Fitting one filter on rows and their labels: which label belongs to which row, and how `fit` wants to be called."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.step import accepts, settle

__all__ = ["fit_filter", "labels_of"]


def fit_filter(member: Filter, rows: Frame, labels: Any) -> None:
    """Call `member.fit` with the rows, and with `y` and `frame` if it takes them. Raises `ValueError` for no rows."""
    if not len(rows):
        raise ValueError("no rows arrive here to fit on: give fit() more samples than the windows before it need")
    options = {"frame": rows} if accepts(member.fit, "frame") else {}
    if accepts(member.fit, "y"):
        options["y"] = labels
    settle(member.fit(rows.values, **options))


def labels_of(y: Any, rows: Frame, origin: Any) -> Any:
    """Return the labels of `rows`: `y` itself, or picked from it by the number of each row's newest sample.

    `origin` holds the numbers of the samples that `y` labels. Raises `ValueError` where lengths do not fit.
    """
    if len(y) == len(rows):
        return y
    if len(y) != len(origin):
        raise ValueError(f"{len(y)} labels for {len(rows)} rows here and {len(origin)} at the start: give one for each")
    places = np.searchsorted(origin, rows.sequences)
    return y[places] if isinstance(y, np.ndarray) else [y[place] for place in places]
