"""Wait for a condition with a deadline, never for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["until"]


def until(
    condition: Callable[[], object], seconds: float = 30.0, what: str = "the condition", *, pause_seconds: float = 0.005
) -> None:
    """Return as soon as `condition()` is true; fail the test when it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        time.sleep(pause_seconds)
