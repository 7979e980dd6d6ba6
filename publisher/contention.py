"""Two workstations at once: the loser of a commit signs again on top of the winner's, a bounded number of times (T7).

Decides how often and after which pause. Signing again reads the record anew, so it builds on what the winner left; it
must be safe to repeat, as everything that ends in `Conflict` is: nothing of it is visible.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from publisher.record import Conflict

__all__ = ["ATTEMPTS_MAX", "rebased"]

ATTEMPTS_MAX = 8
PAUSE_SECONDS = 0.05
PAUSE_SECONDS_MAX = 2.0

T = TypeVar("T")


def rebased(
    sign: Callable[[], T],
    *,
    on_conflict: Callable[[], None] = lambda: None,
    pause: Callable[[float], None] = time.sleep,
    draw: Callable[[], float] = random.random,
) -> T:
    """Return what `sign` returns, called again after each `Conflict`, up to `ATTEMPTS_MAX` times in all.

    Before each further call, `on_conflict` may object by raising. Pauses double and are drawn at random below their
    bound, so that two losers do not meet again in step. Raises `Conflict`, which is worth retrying, when all were lost.
    """
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return sign()
        except Conflict as error:
            if attempt == ATTEMPTS_MAX:
                raise Conflict(
                    f"{attempt} times somebody else published first ({error}); nothing of ours is visible: "
                    "run it again when it is quieter"
                ) from None
        on_conflict()
        pause(draw() * min(PAUSE_SECONDS_MAX, PAUSE_SECONDS * 2**attempt))
    raise AssertionError("unreachable")
