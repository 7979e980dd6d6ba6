"""How long to wait before the next attempt: decorrelated jitter, bounded at both ends.

A fleet that lost its broker must not come back in step. Source of the formula: Marc Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015 ("decorrelated"). It knows no clock; whoever waits, waits.
"""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """A growing, random wait between `base_seconds` and `cap_seconds`.

    Raises `ValueError` unless 0 < base <= cap. `rng` is for tests.
    """

    def __init__(
        self, base_seconds: float = 0.5, cap_seconds: float = 60.0, *, rng: random.Random | None = None
    ) -> None:
        if not 0 < base_seconds <= cap_seconds:
            raise ValueError(f"want 0 < base <= cap, got base {base_seconds} s and cap {cap_seconds} s")
        self._base, self._cap = base_seconds, cap_seconds
        # Jitter is no secret: a fast generator does.
        self._rng = rng or random.Random()
        self._last = base_seconds

    def next(self) -> float:
        """Return the seconds to wait now; the next wait tends to be longer."""
        self._last = min(self._cap, self._rng.uniform(self._base, self._last * 3))
        return self._last

    def reset(self) -> None:
        """Start over at the base: the last attempt held."""
        self._last = self._base
