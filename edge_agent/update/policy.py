"""May an update take its next step now? Local policy (U5), judged from values only: the clock and readings are given.

Two steps ask: before the first byte is fetched, and before a candidate is started. A step that may not be taken yet is
deferred with a reason and a time at which to ask again; a deferral ends by itself. What has begun its probation is
never stopped by policy.
"""

from __future__ import annotations

import datetime
import enum
import math
from collections.abc import Sequence

import msgspec

from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.contract.window import DAY_SECONDS, Window
from edge_agent.update.wishes import Hold

__all__ = ["Act", "Deferral", "Policy", "Reading", "Requirement", "may"]

ASK_AGAIN_SECONDS = 30.0
SETTLE_SECONDS = 10.0


class Act(enum.Enum):
    """What asks for permission."""

    FETCH = "fetch"
    ACTIVATE = "activate"


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """One condition: the number in `file` lies within bounds, or `command` exits with 0 within `seconds`."""

    file: str = ""
    minimum: float = -math.inf
    maximum: float = math.inf
    command: tuple[str, ...] = ()
    seconds: float = 5.0

    def __str__(self) -> str:
        return self.file or " ".join(self.command)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner of the device allows: no window means at any time, no lock and no requirement always.

    `settle_seconds` is how long a committed release runs alone after an unclean end before a candidate is tried again.
    """

    fetch: tuple[Window, ...] = ()
    activate: tuple[Window, ...] = ()
    lock: str = ""
    require: tuple[Requirement, ...] = ()
    settle_seconds: float = SETTLE_SECONDS

    @property
    def needs_reading(self) -> bool:
        """Whether something outside has to be looked at."""
        return bool(self.lock or self.require)


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What was found outside: whether the lock file exists, and a value or a problem for each requirement.

    A command's value is its exit code.
    """

    locked: bool = False
    values: tuple[float | str, ...] = ()


class Deferral(msgspec.Struct, frozen=True):
    """Not now: why, and when to ask again (seconds UTC)."""

    reasons: tuple[Reason, ...]
    until: float


def may(
    act: Act, policy: Policy, *, holds: Sequence[Hold], reading: Reading, now: float, offset_seconds: float
) -> Deferral | None:
    """Return why `act` may not be done at `now` (seconds UTC), with every reason, or None when it may."""
    found = [*_held(holds, now), *_closed(act, policy, now, offset_seconds), *_locked(policy, reading, now)]
    found += [
        (reason, now + ASK_AGAIN_SECONDS)
        for requirement, value in zip(policy.require, reading.values, strict=False)
        if (reason := _unmet(requirement, value)) is not None
    ]
    if not found:
        return None
    return Deferral(tuple(reason for reason, _ in found), max(until for _, until in found))


def _held(holds: Sequence[Hold], now: float) -> list[tuple[Reason, float]]:
    return [
        (
            _reason(
                ReasonCode.HOLD,
                f"an operator holds {hold.slot or 'every slot'}"
                + (f" until {_utc(hold.until)}" if hold.until else "")
                + ": `edge-agent hold --off` lifts it",
            ),
            hold.until or now + DAY_SECONDS,
        )
        for hold in holds
        if hold.holds(now)
    ]


def _closed(act: Act, policy: Policy, now: float, offset_seconds: float) -> list[tuple[Reason, float]]:
    windows = policy.fetch if act is Act.FETCH else policy.activate
    waits = [window.opens_in(now, offset_seconds) for window in windows]
    if not waits or 0.0 in waits:
        return []
    until = now + min(waits)
    words = f"outside the {act.value} window ({', '.join(map(str, windows))}); it opens {_utc(until)}"
    return [(_reason(ReasonCode.WINDOW, words), until)]


def _locked(policy: Policy, reading: Reading, now: float) -> list[tuple[Reason, float]]:
    if not (policy.lock and reading.locked):
        return []
    return [(_reason(ReasonCode.LOCKED, f"the lock file {policy.lock} is there"), now + ASK_AGAIN_SECONDS)]


def _unmet(requirement: Requirement, value: float | str) -> Reason | None:
    if isinstance(value, str):
        return _reason(ReasonCode.CONDITION, f"{requirement}: {value}")
    if requirement.command:
        return _reason(ReasonCode.CONDITION, f"{requirement} exited with {value:g}") if value else None
    if requirement.minimum <= value <= requirement.maximum:
        return None
    bound = f"at least {requirement.minimum:g}" if value < requirement.minimum else f"at most {requirement.maximum:g}"
    return _reason(ReasonCode.CONDITION, f"{requirement} is {value:g}, must be {bound}")


def _reason(code: ReasonCode, words: str) -> Reason:
    return Reason(code=code, message=words, blame=Blame.ENVIRONMENT)


def _utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
