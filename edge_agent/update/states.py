"""The words of the deployment machine: its states, what can happen, what is written and what is done.

Only names. What they mean together stands in the tables of `edge_agent.update.deployment`.
"""

from __future__ import annotations

import enum

import msgspec

__all__ = ["ENDED", "UNDER_WAY", "Effect", "EventKind", "Found", "Row", "State", "Write"]


class State(enum.Enum):
    """Where a deployment stands. The values are stored and reported."""

    ANNOUNCED = "announced"
    ADMITTED = "admitted"
    FETCHING = "fetching"
    DEFERRED = "deferred"
    STAGED = "staged"
    STARTING = "starting"
    SHADOW = "shadow"
    LIVE = "live"
    COMMITTED = "committed"
    SUPERSEDED = "superseded"
    REVERTED = "reverted"
    ROLLED_BACK = "rolled_back"
    REJECTED = "rejected"


class EventKind(enum.Enum):
    """What can happen to a deployment."""

    ADMITTED = "admitted"  # it fits this device
    RESERVED = "reserved"  # there is room for it
    FETCHED = "fetched"  # every blob is here and is what its digest says
    BEGUN = "begun"  # files are laid out, an attempt is counted
    LOADED = "loaded"  # worker up, self-test passed, an active release is there to shadow
    LOADED_ALONE = "loaded alone"  # the same, nothing to shadow
    PROVEN = "proven"  # shadowing showed nothing against it
    HEALTHY = "healthy"  # live probation passed
    FAILED = "failed"  # evidence against it
    REFUSED = "refused"  # not acceptable as it is
    POSTPONED = "postponed"  # not now: environment
    HELD = "held"  # not now: an operator's hold or the device's policy
    DUE = "due"  # a postponement ended
    CRASHED = "crashed"  # the agent died with it under way
    REBOOTED = "rebooted"  # the machine went down with it under way
    STOPPED = "stopped"  # the agent is being stopped cleanly
    NEWER = "newer"  # another release was announced in its place
    ABORTED = "aborted"  # its rollout was aborted
    WITHDRAWN = "withdrawn"  # it is no longer wanted here: another pin, another membership
    OPERATOR = "operator"  # somebody asked for rollback on the device
    REPLACED = "replaced"  # another release was committed
    RESTORED = "restored"  # the release after it failed: it runs again


class Write(enum.Enum):
    """What is written in the transaction of the transition itself."""

    COUNT_ATTEMPT = "count attempt"
    REFUND_ATTEMPT = "refund attempt"
    COUNT_REBOOT = "count reboot"
    MAKE_ACTIVE = "make active"
    MAKE_PREVIOUS_ACTIVE = "make previous active"
    QUARANTINE = "quarantine"


class Effect(enum.Enum):
    """What is done after the transition is durable. Each can be repeated."""

    ADMIT = "admit"
    RESERVE = "reserve"
    FETCH = "fetch"
    LAY_OUT = "lay out"
    START = "start"
    SHADOW = "shadow"
    SERVE = "serve"
    KEEP = "keep"
    ABANDON = "abandon"
    RESTORE = "restore"
    WAIT = "wait"
    COLLECT = "collect"


class Row(msgspec.Struct, frozen=True):
    """One line of the specification."""

    state: State
    event: EventKind
    next: State
    writes: tuple[Write, ...] = ()
    effects: tuple[Effect, ...] = ()


class Found(msgspec.Struct, frozen=True):
    """What a state found at start means: the event it is fed, and what is done again if there is none."""

    killed: EventKind | None = None
    rebooted: EventKind | None = None
    effects: tuple[Effect, ...] = ()


UNDER_WAY = frozenset(
    {
        State.ANNOUNCED,
        State.ADMITTED,
        State.FETCHING,
        State.DEFERRED,
        State.STAGED,
        State.STARTING,
        State.SHADOW,
        State.LIVE,
    }
)
ENDED = frozenset(State) - UNDER_WAY - {State.COMMITTED}
