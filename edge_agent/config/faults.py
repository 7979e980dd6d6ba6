"""What is wrong with the sections on local policy and limits, though every value has the right type.

Each function yields (key, words) for `edge_agent.config`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from edge_agent.config.limits import Condition, LocalPolicy, StoreLimits
from edge_agent.contract.window import parse_window

__all__ = ["condition_faults", "limit_faults", "window_faults"]

WINDOWS_MAX = 24
CONDITIONS_MAX = 16
KEEP_MAX = 100
COMMAND_SECONDS_MAX = 30.0
SETTLE_SECONDS_MAX = 3_600.0


def window_faults(section: LocalPolicy) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with windows and the number of conditions."""
    for name in ("fetch", "activate"):
        windows = getattr(section, name)
        if len(windows) > WINDOWS_MAX:
            yield name, f"{len(windows)} windows are more than {WINDOWS_MAX}"
        for text in windows:
            try:
                parse_window(text)
            except ValueError as error:
                yield name, str(error)
    if len(section.require) > CONDITIONS_MAX:
        yield "require", f"{len(section.require)} conditions are more than {CONDITIONS_MAX}"
    if not 0 <= section.settle_seconds <= SETTLE_SECONDS_MAX:
        yield "settle_seconds", f"{section.settle_seconds:g} must be 0 to {SETTLE_SECONDS_MAX:g}"


def condition_faults(section: Condition) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with one condition; the key begins with a dot, or is empty for the whole."""
    bounds = [bound for bound in (section.minimum, section.maximum) if bound is not None]
    if (section.file is None) == (not section.command):
        yield "", "needs either file = … with minimum or maximum, or command = […]"
    elif section.file is not None and not bounds:
        yield "", "needs minimum or maximum: which numbers in the file are good?"
    elif section.command and bounds:
        yield "", "a command is judged by its exit code: leave minimum and maximum out"
    if any(not math.isfinite(bound) for bound in bounds) or (len(bounds) == 2 and bounds[0] > bounds[1]):
        yield "", f"no number lies between {section.minimum} and {section.maximum}"
    if not 0 < section.seconds <= COMMAND_SECONDS_MAX:
        yield ".seconds", f"{section.seconds:g} must be above 0 and at most {COMMAND_SECONDS_MAX:g}"


def limit_faults(section: StoreLimits) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the limits of the store."""
    if not 2 <= section.keep <= KEEP_MAX:
        yield "keep", f"{section.keep} must be 2 (the release that runs and the one to go back to) to {KEEP_MAX}"
    if section.budget_mb < 0:
        yield "budget_mb", f"{section.budget_mb} must be 0 (keep no blob without need) or more"
