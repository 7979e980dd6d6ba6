"""A stage that does nothing: a branch that keeps the rows, or a first pipeline to try the road with."""

from __future__ import annotations

from typing import Any

from edge_agent.sdk.filter import Filter

__all__ = ["PassThrough"]


class PassThrough(Filter):
    """Return the rows as they came."""

    def predict(self, x: Any) -> Any:
        """Return `x`."""
        return x
