"""A daily span of time such as `22:00-05:00`, in local time or UTC, as a configuration writes it. Pure."""

from __future__ import annotations

import re

import msgspec

__all__ = ["DAY_SECONDS", "Window", "parse_window"]

DAY_SECONDS = 86_400
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)(\s+UTC)?")


class Window(msgspec.Struct, frozen=True):
    """A daily span in seconds since midnight, local time or UTC; it may run past midnight."""

    start: int
    end: int
    utc: bool = False

    def __str__(self) -> str:
        return f"{_clock(self.start)}-{_clock(self.end)}{' UTC' if self.utc else ''}"

    def opens_in(self, now: float, offset_seconds: float) -> float:
        """Return the seconds until it is open, 0 while it is. `offset_seconds` is local time's distance to UTC."""
        at = (now + (0.0 if self.utc else offset_seconds)) % DAY_SECONDS
        inside = self.start <= at < self.end if self.start < self.end else at >= self.start or at < self.end
        return 0.0 if inside else (self.start - at) % DAY_SECONDS


def parse_window(text: str) -> Window:
    """Parse `22:00-05:00` (local time) or `22:00-05:00 UTC`. Raises `ValueError`."""
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text[:40]!r} is not a window: write it as 22:00-05:00, or 22:00-05:00 UTC")
    hour, minute, end_hour, end_minute = map(int, found.groups()[:4])
    start, end = (hour * 60 + minute) * 60, (end_hour * 60 + end_minute) * 60
    if start == end:
        raise ValueError(f"{text[:40]!r} begins and ends at the same time: leave the window out for any time")
    return Window(start, end, found.group(5) is not None)


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}"
