"""What the sections on local policy and limits mean for updates."""

from __future__ import annotations

import math

from edge_agent.config.limits import Condition, LocalPolicy, StoreLimits
from edge_agent.contract.window import parse_window
from edge_agent.update.collection import Retention
from edge_agent.update.policy import Policy, Requirement

__all__ = ["policy", "retention"]


def policy(section: LocalPolicy) -> Policy:
    """Return what the section means for updates."""
    return Policy(
        fetch=tuple(map(parse_window, section.fetch)),
        activate=tuple(map(parse_window, section.activate)),
        lock=str(section.lock) if section.lock is not None else "",
        require=tuple(map(_requirement, section.require)),
        settle_seconds=section.settle_seconds,
    )


def retention(section: StoreLimits) -> Retention:
    """Return what the section means for collection."""
    return Retention(keep=section.keep, budget_bytes=section.budget_mb * 1024 * 1024)


def _requirement(condition: Condition) -> Requirement:
    return Requirement(
        file=str(condition.file) if condition.file is not None else "",
        minimum=-math.inf if condition.minimum is None else condition.minimum,
        maximum=math.inf if condition.maximum is None else condition.maximum,
        command=tuple(condition.command),
        seconds=condition.seconds,
    )
