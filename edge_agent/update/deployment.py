"""What becomes of one release on one slot, as a pure state machine (U2).

`TRANSITIONS`, `IGNORED` and `RESTART` below *are* the specification: which event moves which state where, what is
written in the same transaction, and which effects follow once it is durable; which events mean nothing in a state; and
what a state found at start means. Every state and event stands in exactly one of the first two. This module decides;
it reads no clock, disk or network, and it does not know what an effect does.
"""

from __future__ import annotations

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.update.states import ENDED, UNDER_WAY, Effect, EventKind, Found, Row, State, Write

__all__ = [
    "ATTEMPTS_MAX",
    "ENDED",
    "IGNORED",
    "REBOOTS_MAX",
    "RESTART",
    "RETRY_SECONDS",
    "RETRY_SECONDS_MAX",
    "TRANSITIONS",
    "UNDER_WAY",
    "Deployment",
    "Effect",
    "Event",
    "EventKind",
    "Found",
    "Row",
    "State",
    "Step",
    "Write",
    "step",
]

ATTEMPTS_MAX = 3
REBOOTS_MAX = 10
RETRY_SECONDS = 5.0
RETRY_SECONDS_MAX = 3600.0
HELD_SECONDS_MIN = 1.0


S, E, W, F = State, EventKind, Write, Effect

# fmt: off
TRANSITIONS: tuple[Row, ...] = (
    # state         event            next            written with it                 done after it
    Row(S.ANNOUNCED, E.ADMITTED,     S.ADMITTED,     (),                             (F.RESERVE,)),
    Row(S.ANNOUNCED, E.REFUSED,      S.REJECTED,     (),                             (F.COLLECT,)),
    Row(S.ANNOUNCED, E.POSTPONED,    S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.ANNOUNCED, E.NEWER,        S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.ANNOUNCED, E.ABORTED,      S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.ANNOUNCED, E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.ANNOUNCED, E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),

    Row(S.ADMITTED,  E.RESERVED,     S.FETCHING,     (),                             (F.FETCH,)),
    Row(S.ADMITTED,  E.REFUSED,      S.REJECTED,     (),                             (F.COLLECT,)),
    Row(S.ADMITTED,  E.POSTPONED,    S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.ADMITTED,  E.HELD,         S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.ADMITTED,  E.NEWER,        S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.ADMITTED,  E.ABORTED,      S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.ADMITTED,  E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.ADMITTED,  E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),

    Row(S.FETCHING,  E.FETCHED,      S.STAGED,       (),                             (F.LAY_OUT,)),
    Row(S.FETCHING,  E.REFUSED,      S.REJECTED,     (),                             (F.COLLECT,)),
    Row(S.FETCHING,  E.POSTPONED,    S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.FETCHING,  E.HELD,         S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.FETCHING,  E.NEWER,        S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.FETCHING,  E.ABORTED,      S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.FETCHING,  E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.FETCHING,  E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),

    Row(S.DEFERRED,  E.DUE,          S.ANNOUNCED,    (),                             (F.ADMIT,)),
    Row(S.DEFERRED,  E.NEWER,        S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.DEFERRED,  E.ABORTED,      S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.DEFERRED,  E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.DEFERRED,  E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),

    Row(S.STAGED,    E.BEGUN,        S.STARTING,     (W.COUNT_ATTEMPT,),             (F.START,)),
    Row(S.STAGED,    E.REFUSED,      S.REJECTED,     (),                             (F.COLLECT,)),
    Row(S.STAGED,    E.POSTPONED,    S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.STAGED,    E.HELD,         S.DEFERRED,     (),                             (F.WAIT,)),
    Row(S.STAGED,    E.FAILED,       S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),
    Row(S.STAGED,    E.NEWER,        S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.STAGED,    E.ABORTED,      S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.STAGED,    E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.COLLECT,)),
    Row(S.STAGED,    E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.COLLECT,)),

    Row(S.STARTING,  E.LOADED,       S.SHADOW,       (),                             (F.SHADOW,)),
    Row(S.STARTING,  E.LOADED_ALONE, S.LIVE,         (),                             (F.SERVE,)),
    Row(S.STARTING,  E.FAILED,       S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),
    Row(S.STARTING,  E.REFUSED,      S.REJECTED,     (W.REFUND_ATTEMPT,),            (F.ABANDON, F.COLLECT)),
    Row(S.STARTING,  E.POSTPONED,    S.DEFERRED,     (W.REFUND_ATTEMPT,),            (F.ABANDON, F.WAIT)),
    Row(S.STARTING,  E.CRASHED,      S.STAGED,       (),                             (F.LAY_OUT,)),
    Row(S.STARTING,  E.REBOOTED,     S.STAGED,       (W.COUNT_REBOOT,),              (F.LAY_OUT,)),
    Row(S.STARTING,  E.STOPPED,      S.STAGED,       (W.REFUND_ATTEMPT,),            ()),
    Row(S.STARTING,  E.NEWER,        S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.STARTING,  E.ABORTED,      S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.STARTING,  E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.STARTING,  E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),

    Row(S.SHADOW,    E.PROVEN,       S.LIVE,         (),                             (F.SERVE,)),
    Row(S.SHADOW,    E.FAILED,       S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),
    Row(S.SHADOW,    E.POSTPONED,    S.DEFERRED,     (W.REFUND_ATTEMPT,),            (F.ABANDON, F.WAIT)),
    Row(S.SHADOW,    E.CRASHED,      S.STAGED,       (),                             (F.LAY_OUT,)),
    Row(S.SHADOW,    E.REBOOTED,     S.STAGED,       (W.COUNT_REBOOT,),              (F.LAY_OUT,)),
    Row(S.SHADOW,    E.STOPPED,      S.STAGED,       (W.REFUND_ATTEMPT,),            ()),
    Row(S.SHADOW,    E.NEWER,        S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.SHADOW,    E.ABORTED,      S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.SHADOW,    E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.SHADOW,    E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),

    Row(S.LIVE,      E.HEALTHY,      S.COMMITTED,    (W.MAKE_ACTIVE,),               (F.KEEP, F.COLLECT)),
    Row(S.LIVE,      E.FAILED,       S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),
    Row(S.LIVE,      E.POSTPONED,    S.DEFERRED,     (W.REFUND_ATTEMPT,),            (F.ABANDON, F.WAIT)),
    Row(S.LIVE,      E.CRASHED,      S.STAGED,       (),                             (F.LAY_OUT,)),
    Row(S.LIVE,      E.REBOOTED,     S.STAGED,       (W.COUNT_REBOOT,),              (F.LAY_OUT,)),
    Row(S.LIVE,      E.STOPPED,      S.STAGED,       (W.REFUND_ATTEMPT,),            ()),
    Row(S.LIVE,      E.NEWER,        S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.LIVE,      E.ABORTED,      S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.LIVE,      E.WITHDRAWN,    S.SUPERSEDED,   (),                             (F.ABANDON, F.COLLECT)),
    Row(S.LIVE,      E.OPERATOR,     S.ROLLED_BACK,  (W.QUARANTINE,),                (F.ABANDON, F.COLLECT)),

    Row(S.COMMITTED, E.REPLACED,     S.SUPERSEDED,   (),                             ()),
    Row(S.COMMITTED, E.FAILED,       S.REVERTED,     (W.MAKE_PREVIOUS_ACTIVE, W.QUARANTINE), (F.RESTORE, F.COLLECT)),
    Row(S.COMMITTED, E.OPERATOR,     S.REVERTED,     (W.MAKE_PREVIOUS_ACTIVE, W.QUARANTINE), (F.RESTORE, F.COLLECT)),

    Row(S.SUPERSEDED, E.RESTORED,    S.COMMITTED,    (),                             ()),
)

# What the deployer's own work says, what a worker says, what happens to the agent, what others want.
_WORK = (E.ADMITTED, E.RESERVED, E.FETCHED, E.BEGUN)
_WORKER = (E.LOADED, E.LOADED_ALONE, E.PROVEN, E.HEALTHY)
_AGENT = (E.CRASHED, E.REBOOTED, E.STOPPED)
_OTHERS = (E.NEWER, E.ABORTED, E.WITHDRAWN)

# What changes nothing: news of a worker or a download that was given up; an end of the agent while nothing ran; a hold
# of what needs no permission (admission) or has begun its probation, which ends by itself; wishes about what ended.
IGNORED: dict[State, tuple[EventKind, ...]] = {
    S.ANNOUNCED:   (E.RESERVED, E.FETCHED, E.BEGUN, *_WORKER, E.FAILED, E.HELD, E.DUE, *_AGENT, E.REPLACED, E.RESTORED),
    S.ADMITTED:    (E.ADMITTED, E.FETCHED, E.BEGUN, *_WORKER, E.FAILED, E.DUE, *_AGENT, E.REPLACED, E.RESTORED),
    S.FETCHING:    (E.ADMITTED, E.RESERVED, E.BEGUN, *_WORKER, E.FAILED, E.DUE, *_AGENT, E.REPLACED, E.RESTORED),
    S.DEFERRED:    (*_WORK, *_WORKER, E.FAILED, E.REFUSED, E.POSTPONED, E.HELD, *_AGENT, E.REPLACED, E.RESTORED),
    S.STAGED:      (E.ADMITTED, E.RESERVED, E.FETCHED, *_WORKER, E.DUE, *_AGENT, E.REPLACED, E.RESTORED),
    S.STARTING:    (*_WORK, E.PROVEN, E.HEALTHY, E.HELD, E.DUE, E.REPLACED, E.RESTORED),
    S.SHADOW:      (*_WORK, E.LOADED, E.LOADED_ALONE, E.HEALTHY, E.REFUSED, E.HELD, E.DUE, E.REPLACED, E.RESTORED),
    S.LIVE:        (*_WORK, E.LOADED, E.LOADED_ALONE, E.PROVEN, E.REFUSED, E.HELD, E.DUE, E.REPLACED, E.RESTORED),
    S.COMMITTED:   (*_WORK, *_WORKER, E.REFUSED, E.POSTPONED, E.HELD, E.DUE, *_AGENT, *_OTHERS, E.RESTORED),
    S.SUPERSEDED:  (*_WORK, *_WORKER, E.FAILED, E.REFUSED, E.POSTPONED, E.HELD, E.DUE, *_AGENT, *_OTHERS, E.OPERATOR,
                    E.REPLACED),
    S.REVERTED:    tuple(E),
    S.ROLLED_BACK: tuple(E),
    S.REJECTED:    tuple(E),
}


RESTART: dict[State, Found] = {
    # state              after the agent died   after the machine went down   done again
    S.ANNOUNCED:   Found(None,                  None,                         (F.ADMIT,)),
    S.ADMITTED:    Found(None,                  None,                         (F.RESERVE,)),
    S.FETCHING:    Found(None,                  None,                         (F.FETCH,)),
    S.DEFERRED:    Found(None,                  None,                         (F.WAIT,)),
    S.STAGED:      Found(None,                  None,                         (F.LAY_OUT,)),
    S.STARTING:    Found(E.CRASHED,             E.REBOOTED,                   ()),
    S.SHADOW:      Found(E.CRASHED,             E.REBOOTED,                   ()),
    S.LIVE:        Found(E.CRASHED,             E.REBOOTED,                   ()),
    S.COMMITTED:   Found(None,                  None,                         ()),
    S.SUPERSEDED:  Found(None,                  None,                         (F.COLLECT,)),
    S.REVERTED:    Found(None,                  None,                         (F.COLLECT,)),
    S.ROLLED_BACK: Found(None,                  None,                         (F.COLLECT,)),
    S.REJECTED:    Found(None,                  None,                         (F.COLLECT,)),
}
# fmt: on

_TABLE = {(row.state, row.event): row for row in TRANSITIONS}


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One release on its way through one slot.

    `due` ends a postponement or a back-off, `updated` is the last transition, `committed` the last commit (0: never);
    all in seconds UTC. `attempts` were ended by nobody knows what, `reboots` by the machine going down. `generation` is
    the signed retry generation under which it was taken up. `lifted`: an operator lets it be tried again.
    """

    id: int
    slot: str
    channel: str
    release: str
    digest: Digest
    state: State
    attempts: int = 0
    postponements: int = 0
    reboots: int = 0
    generation: int = 0
    committed: float = 0.0
    lifted: bool = False
    reasons: tuple[Reason, ...] = ()
    due: float = 0.0
    updated: float = 0.0


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, with its reasons if it has any. `until` is when to go on, if the event knows (seconds
    UTC): the end of a hold or a window, the end of the time to settle after a crash."""

    kind: EventKind
    reasons: tuple[Reason, ...] = ()
    until: float = 0.0


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
        reboots=deployment.reboots + (Write.COUNT_REBOOT in writes),
        postponements=deployment.postponements + (event.kind is EventKind.POSTPONED),
        committed=now if row.next is State.COMMITTED else deployment.committed,
        reasons=event.reasons or (deployment.reasons if row.next in UNDER_WAY else ()),
        due=_due(deployment, event, now),
        updated=now,
    )
    return Step(changed, writes, row.effects)


def _exhausted(deployment: Deployment, event: Event) -> Event:
    """Turn what ends the last allowed attempt into a failure. Only the release is to blame for the agent's death."""
    where = "while this release was starting or in probation"
    if event.kind is EventKind.CRASHED and deployment.attempts >= ATTEMPTS_MAX:
        words, blame = f"the agent died {deployment.attempts} times {where}", Blame.RELEASE
    elif event.kind is EventKind.REBOOTED and deployment.reboots + 1 >= REBOOTS_MAX:
        words, blame = f"the device went down {deployment.reboots + 1} times {where}", Blame.ENVIRONMENT
    else:
        return event
    if deployment.state not in (State.STARTING, State.SHADOW, State.LIVE):
        return event
    reason = Reason(code=ReasonCode.ATTEMPTS, message=words, blame=blame)
    return Event(kind=EventKind.FAILED, reasons=(reason, *event.reasons))


def _condemns(event: Event) -> bool:
    return any(reason.blame is not Blame.ENVIRONMENT for reason in event.reasons)


def _attempts(deployment: Deployment, writes: tuple[Write, ...]) -> int:
    if Write.COUNT_ATTEMPT in writes:
        return deployment.attempts + 1
    if Write.REFUND_ATTEMPT in writes or Write.COUNT_REBOOT in writes:
        return max(0, deployment.attempts - 1)
    return deployment.attempts


def _due(deployment: Deployment, event: Event, now: float) -> float:
    """Return when to go on: doubling waits after postponements, crashes and reboots, as told after a hold, else now."""
    if event.kind is EventKind.HELD:
        return min(max(event.until, now + HELD_SECONDS_MIN), now + RETRY_SECONDS_MAX)
    if event.kind is EventKind.POSTPONED:
        return now + _back_off(deployment.postponements)
    if event.kind is EventKind.CRASHED:
        return max(now + _back_off(deployment.attempts - 1), min(event.until, now + RETRY_SECONDS_MAX))
    if event.kind is EventKind.REBOOTED:
        return max(now + _back_off(deployment.reboots), min(event.until, now + RETRY_SECONDS_MAX))
    return 0.0


def _back_off(tries: int) -> float:
    """Return the wait after `tries` earlier ones in seconds: doubling, bounded (weeks offline overflow a float)."""
    return min(RETRY_SECONDS * 2.0 ** min(max(tries, 0), 32), RETRY_SECONDS_MAX)
