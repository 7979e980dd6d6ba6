"""The supervisor's poll loop in small: drives sources and sinks until a condition holds."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

__all__ = ["pump"]


def pump(*ends: Any, until: Callable[[], Any], seconds: float = 30.0) -> None:
    """Poll `ends` as their `interest()` says and call `handle` until `until()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not until():
        now = time.monotonic()
        if now > deadline:
            problems = [getattr(end, "problem", "") for end in ends]
            raise AssertionError(f"condition not reached in {seconds} s; problems: {problems}")
        poll = select.poll()
        wait = 0.02  # the condition may depend on something outside
        due: list[Any] = []
        watched: dict[int, Any] = {}
        for end in ends:
            descriptor, events, at = end.interest()
            if descriptor >= 0:
                poll.register(descriptor, events)
                watched[descriptor] = end
            if at is not None:
                wait = min(wait, max(0.0, at - now))
                due.append((at, end))
        seen = dict(poll.poll(wait * 1000))
        now = time.monotonic()
        for descriptor, events in seen.items():
            watched[descriptor].handle(events, now)
        for at, end in due:
            if at <= now and end not in [watched[one] for one in seen]:
                end.handle(0, now)
