"""What becomes of one release on one slot, as a pure state machine (U2).

`TRANSITIONS` and `RESTART` below *are* the specification: which event moves which state where, what is written in the
same transaction, and which effects follow once it is durable. An event without a row is stale news from a worker or a
download that was already given up; it changes nothing. This module decides; it reads no clock, disk or network, and it
does not know what an effect does.
"""

from __future__ import annotations

import enum

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Blame, Reason, ReasonCode

__all__ = [
    "ATTEMPTS_MAX",
    "ENDED",
    "RESTART",
    "RETRY_SECONDS_MAX",
    "TRANSITIONS",
    "UNDER_WAY",
    "Deployment",
    "Effect",
    "Event",
    "EventKind",
    "Row",
    "State",
    "Step",
    "Write",
    "step",
]

ATTEMPTS_MAX = 3
RETRY_SECONDS = 5.0
RETRY_SECONDS_MAX = 3600.0


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
    DUE = "due"  # a postponement ended
    CRASHED = "crashed"  # the agent died with it under way
    STOPPED = "stopped"  # the agent is being stopped cleanly
    WITHDRAWN = "withdrawn"  # the channel no longer wants it here
    OPERATOR = "operator"  # somebody asked for rollback on the device
    REPLACED = "replaced"  # another release was committed


class Write(enum.Enum):
    """What is written in the transaction of the transition itself."""

    COUNT_ATTEMPT = "count attempt"
    REFUND_ATTEMPT = "refund attempt"
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


S, E, W, F = State, EventKind, Write, Effect

# fmt: off
TRANSITIONS: tuple[Row, ...] = (
    # state         event            next            written with it                 done after it
    Row(S.ANNOUNCED, E.ADMITTED,     S.ADMITTED,     (),                             (F.RESERVE,)),
    Row(S.ANNOUNCED, E.REFUSED,      S.REJECTED,     (),                             (F.COLLECT,)),
    Row(S.ANNOUNCED, E.POSTPONED,    S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.ANNOUNCED, E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.ANNOUNCED, E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),

    Row(S.ADMITTED,  E.RESERVED,     S.FETCHING,     (),                             (F.FETCH,)),
    Row(S.ADMITTED,  E.REFUSED,      S.REJECTED,     (),                             (F.COLLECT,)),
    Row(S.ADMITTED,  E.POSTPONED,    S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.ADMITTED,  E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.ADMITTED,  E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),

    Row(S.FETCHING,  E.FETCHED,      S.STAGED,       (),                             (F.LAY_OUT,)),
    Row(S.FETCHING,  E.REFUSED,      S.REJECTED,     (),                             (F.COLLECT,)),
    Row(S.FETCHING,  E.POSTPONED,    S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.FETCHING,  E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.FETCHING,  E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),

    Row(S.DEFERRED,  E.DUE,          S.ANNOUNCED,    (),                             (F.ADMIT,)),
    Row(S.DEFERRED,  E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.DEFERRED,  E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),

    Row(S.STAGED,    E.BEGUN,        S.STARTING,     (W.COUNT_ATTEMPT,),             (F.START,)),
    Row(S.STAGED,    E.REFUSED,      S.REJECTED,     (),                             (F.COLLECT,)),
    Row(S.STAGED,    E.POSTPONED,    S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.STAGED,    E.FAILED,       S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),
    Row(S.STAGED,    E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.STAGED,    E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),

    Row(S.STARTING,  E.LOADED,       S.SHADOW,       (),                             (F.SHADOW,)),
    Row(S.STARTING,  E.LOADED_ALONE, S.LIVE,         (),                             (F.SERVE,)),
    Row(S.STARTING,  E.FAILED,       S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),
    Row(S.STARTING,  E.REFUSED,      S.REJECTED,     (W.REFUND_ATTEMPT,),            (F.ABANDON, F.COLLECT)),
    Row(S.STARTING,  E.POSTPONED,    S.DEFERRED,     (W.REFUND_ATTEMPT,),            (F.ABANDON, F.WAIT)),
    Row(S.STARTING,  E.CRASHED,      S.STAGED,       (),                             (F.LAY_OUT,)),
    Row(S.STARTING,  E.STOPPED,      S.STAGED,       (W.REFUND_ATTEMPT,),            ()),
    Row(S.STARTING,  E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.STARTING,  E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),

    Row(S.SHADOW,    E.PROVEN,       S.LIVE,         (),                             (F.SERVE,)),
    Row(S.SHADOW,    E.FAILED,       S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),
    Row(S.SHADOW,    E.POSTPONED,    S.DEFERRED,     (W.REFUND_ATTEMPT,),            (F.ABANDON, F.WAIT)),
    Row(S.SHADOW,    E.CRASHED,      S.STAGED,       (),                             (F.LAY_OUT,)),
    Row(S.SHADOW,    E.STOPPED,      S.STAGED,       (W.REFUND_ATTEMPT,),            ()),
    Row(S.SHADOW,    E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.SHADOW,    E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),

    Row(S.LIVE,      E.HEALTHY,      S.COMMITTED,    (W.MAKE_ACTIVE,),               (F.KEEP, F.COLLECT)),
    Row(S.LIVE,      E.FAILED,       S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),
    Row(S.LIVE,      E.POSTPONED,    S.DEFERRED,     (W.REFUND_ATTEMPT,),            (F.ABANDON, F.WAIT)),
    Row(S.LIVE,      E.CRASHED,      S.STAGED,       (),                             (F.LAY_OUT,)),
    Row(S.LIVE,      E.STOPPED,      S.STAGED,       (W.REFUND_ATTEMPT,),            ()),
    Row(S.LIVE,      E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.LIVE,      E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),

    Row(S.COMMITTED, E.REPLACED,     S.SUPERSEDED,   (),                             ()),
    Row(S.COMMITTED, E.FAILED,       S.REVERTED,     (W.MAKE_PREVIOUS_ACTIVE, W.QUARANTINE), (F.RESTORE, F.COLLECT)),
    Row(S.COMMITTED, E.OPERATOR,     S.REVERTED,     (W.MAKE_PREVIOUS_ACTIVE, W.QUARANTINE), (F.RESTORE, F.COLLECT)),
)

# What a state found at start means: the event it is fed (None: it stays) and, if it stays, what is done again.
RESTART: dict[State, tuple[EventKind | None, tuple[Effect, ...]]] = {
    S.ANNOUNCED:   (None,      (F.ADMIT,)),
    S.ADMITTED:    (None,      (F.RESERVE,)),
    S.FETCHING:    (None,      (F.FETCH,)),
    S.DEFERRED:    (None,      (F.WAIT,)),
    S.STAGED:      (None,      (F.LAY_OUT,)),
    S.STARTING:    (E.CRASHED, ()),
    S.SHADOW:      (E.CRASHED, ()),
    S.LIVE:        (E.CRASHED, ()),
    S.COMMITTED:   (None,      ()),
    S.SUPERSEDED:  (None,      ()),
    S.REVERTED:    (None,      ()),
    S.ROLLED_BACK: (None,      ()),
    S.REJECTED:    (None,      ()),
}
# fmt: on

UNDER_WAY = frozenset({S.ANNOUNCED, S.ADMITTED, S.FETCHING, S.DEFERRED, S.STAGED, S.STARTING, S.SHADOW, S.LIVE})
ENDED = frozenset(S) - UNDER_WAY - {S.COMMITTED}
_TABLE = {(row.state, row.event): row for row in TRANSITIONS}


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One release on its way through one slot.

    `due` ends a postponement or a back-off, `updated` is the last transition; both in seconds UTC.
    """

    id: int
    slot: str
    channel: str
    release: str
    digest: Digest
    state: State
    attempts: int = 0
    postponements: int = 0
    reasons: tuple[Reason, ...] = ()
    due: float = 0.0
    updated: float = 0.0


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, with its reasons if it has any."""

    kind: EventKind
    reasons: tuple[Reason, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """The outcome of one event: the deployment as it is now, what to write with it and what to do after."""

    deployment: Deployment
    writes: tuple[Write, ...]
    effects: tuple[Effect, ...]


def step(deployment: Deployment, event: Event, now: float) -> Step | None:
    """Return what `event` makes of `deployment` at `now` (seconds UTC), or None when it means nothing any more."""
    event = _exhausted(deployment, event)
    row = _TABLE.get((deployment.state, event.kind))
    if row is None:
        return None
    writes = tuple(write for write in row.writes if write is not Write.QUARANTINE or _condemns(event))
    changed = msgspec.structs.replace(
        deployment,
        state=row.next,
        attempts=_attempts(deployment, writes),
        postponements=deployment.postponements + (event.kind is EventKind.POSTPONED),
        reasons=event.reasons or (deployment.reasons if row.next in UNDER_WAY else ()),
        due=_due(deployment, event, now),
        updated=now,
    )
    return Step(changed, writes, row.effects)


def _exhausted(deployment: Deployment, event: Event) -> Event:
    """Turn the crash that ends the last allowed attempt into a failure."""
    if event.kind is not EventKind.CRASHED or deployment.attempts < ATTEMPTS_MAX:
        return event
    words = f"the agent died {deployment.attempts} times while this release was starting or in probation"
    return Event(kind=EventKind.FAILED, reasons=(Reason(code=ReasonCode.ATTEMPTS, message=words), *event.reasons))


def _condemns(event: Event) -> bool:
    return any(reason.blame is not Blame.ENVIRONMENT for reason in event.reasons)


def _attempts(deployment: Deployment, writes: tuple[Write, ...]) -> int:
    if Write.COUNT_ATTEMPT in writes:
        return deployment.attempts + 1
    if Write.REFUND_ATTEMPT in writes:
        return max(0, deployment.attempts - 1)
    return deployment.attempts


def _due(deployment: Deployment, event: Event, now: float) -> float:
    """Return when to go on: doubling waits after postponements and after crashes, else at once."""
    if event.kind is EventKind.POSTPONED:
        return now + _back_off(deployment.postponements)
    if event.kind is EventKind.CRASHED:
        return now + _back_off(deployment.attempts - 1)
    return 0.0


def _back_off(tries: int) -> float:
    """Return the wait after `tries` earlier ones in seconds: doubling, bounded (weeks offline overflow a float)."""
    return min(RETRY_SECONDS * 2.0 ** min(max(tries, 0), 32), RETRY_SECONDS_MAX)
