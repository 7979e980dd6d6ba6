"""At what time is expiry judged, and can this device's clock be believed? (T4)

The floor clock is the highest of the machine's clock, the last trusted time and the day this program was made; nothing
is ever judged before it. A clock that runs ahead cannot be told from a clock that is right, but metadata that would
have expired more than a year ago is told as doubt, so that people look at the clock first. Pure.
"""

from __future__ import annotations

__all__ = ["BUILT_SECONDS", "DOUBT_SECONDS", "clock_doubt", "floor_clock"]

BUILT_SECONDS = 1_767_225_600.0
"""2026-01-01 UTC, before which this program did not exist; moved forward with a release of it."""

DOUBT_SECONDS = 366 * 86_400.0
"""Metadata is never signed for longer than a year; expired for longer than that means that the clock may be ahead."""

_BEHIND_SECONDS = 3_600.0


def floor_clock(now: float, trusted: float) -> float:
    """Return the time to judge at, seconds UTC; `trusted` is when metadata was last accepted."""
    return max(now, trusted, BUILT_SECONDS)


def clock_doubt(now: float, trusted: float, expires: float | None) -> str:
    """Return in words why the machine's clock cannot be right, or an empty text.

    `trusted` is the store's floor clock, `expires` when the newest metadata ends, if that is to be judged too.
    """
    if now + _BEHIND_SECONDS < trusted:
        days = (trusted - now) / 86_400
        return f"behind by {days:.1f} days: expiry is judged at the last trusted time; set the clock"
    if expires is not None and now - expires > DOUBT_SECONDS:
        days = (now - expires) / 86_400
        return f"perhaps ahead: the newest metadata would have expired {days:.0f} days ago; check the clock"
    return ""
