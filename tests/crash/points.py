"""Where an agent is killed: worked out from the literal tables, so that a new row brings its points along.

A road says how a real device is brought to a row: what was committed before, what is announced, and what is said from
outside. A row to which no road leads has no point, and the test that counts them fails.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field
from typing import Any

from edge_agent.update.deployment import ENDED, RESTART, TRANSITIONS
from edge_agent.update.states import Effect, EventKind, Row, State

__all__ = ["ALL", "CHOSEN", "PLACES", "SEED", "Point", "places", "restarts", "transitions"]

S, E = State, EventKind

# What happens by itself in a state when all goes well, or because of what was found at start.
BY_ITSELF = {
    (S.ANNOUNCED, E.ADMITTED),
    (S.ADMITTED, E.RESERVED),
    (S.FETCHING, E.FETCHED),
    (S.STAGED, E.BEGUN),
    (S.STARTING, E.LOADED),
    (S.STARTING, E.LOADED_ALONE),
    (S.SHADOW, E.PROVEN),
    (S.LIVE, E.HEALTHY),
    (S.DEFERRED, E.DUE),
    (S.COMMITTED, E.REPLACED),
}
# The row by which a device comes into a state, to be killed there.
ENTERED = {
    S.ADMITTED: (S.ANNOUNCED, E.ADMITTED),
    S.FETCHING: (S.ADMITTED, E.RESERVED),
    S.DEFERRED: (S.ANNOUNCED, E.POSTPONED),
    S.STAGED: (S.FETCHING, E.FETCHED),
    S.STARTING: (S.STAGED, E.BEGUN),
    S.SHADOW: (S.STARTING, E.LOADED),
    S.LIVE: (S.SHADOW, E.PROVEN),
    S.COMMITTED: (S.LIVE, E.HEALTHY),
    S.SUPERSEDED: (S.COMMITTED, E.REPLACED),
    S.REVERTED: (S.COMMITTED, E.FAILED),
    S.ROLLED_BACK: (S.LIVE, E.FAILED),
    S.REJECTED: (S.ANNOUNCED, E.REFUSED),
}
# Places inside effects, which take long enough to be killed in, and at start; with the row after which they come.
PLACES: dict[str, tuple[State, EventKind] | None] = {
    "half fetched": (S.ADMITTED, E.RESERVED),
    "half laid out": (S.FETCHING, E.FETCHED),
    "laid out": (S.FETCHING, E.FETCHED),
    "half collected": (S.LIVE, E.HEALTHY),
    "boot counted": None,
    "leftovers removed": None,
    "life written": None,
    "resumed": None,
}


@dataclass(frozen=True)
class Point:
    """One kill. `committed` releases run before it, `announced` comes then, `say` is what is said in a state.

    `found` is the state and event of an earlier kill, `rebooted` whether the machine went down with it.
    """

    name: str
    state: State | None
    event: EventKind | None
    moment: str
    committed: int = 1
    announced: int = 2
    say: dict[str, str] = field(default_factory=dict)
    found: tuple[State, EventKind] | None = None
    rebooted: bool = False
    row: Row | None = None

    @property
    def plan(self) -> dict[str, Any]:
        """The fields of the life that ends here."""
        return _plan(self.state, self.event, self.moment, self.say)


def _plan(state: State | None, event: EventKind | None, moment: str, say: dict[str, str]) -> dict[str, Any]:
    return {
        "state": state.value if state else "",
        "event": event.value if event else "",
        "moment": moment,
        "say": say,
    }


def road(state: State, event: EventKind) -> dict[str, Any]:
    """Return how to come to a row; raises `KeyError` when nobody knows."""
    if event in (E.CRASHED, E.REBOOTED):
        return {"found": ENTERED[state], "rebooted": event is E.REBOOTED}
    if event is E.LOADED_ALONE:
        return {"committed": 0, "announced": 1}
    if (state, event) == (S.SUPERSEDED, E.RESTORED):
        return {"committed": 2, "announced": 0, "say": {S.COMMITTED.value: E.FAILED.value}}
    say = {} if (state, event) in BY_ITSELF else {state.value: event.value}
    if state is S.DEFERRED:
        say = {S.ANNOUNCED.value: E.POSTPONED.value, **say}
    if state is S.COMMITTED and say:
        return {"committed": 2, "announced": 0, "say": say}
    if state in ENDED:
        raise KeyError(f"no road to {state} {event}")
    return {"say": say}


def transitions() -> list[Point]:
    """Every row of the transition table: before its commit, after it, and after each of its effects."""
    found = []
    for row in TRANSITIONS:
        moments = ["before", "after", *(f"done {number}" for number in range(len(row.effects)))]
        for moment in moments:
            name = f"{row.state.value} {row.event.value}, {moment}"
            found.append(Point(name, row.state, row.event, moment, row=row, **road(row.state, row.event)))
    return found


def restarts() -> list[Point]:
    """Every state found at start, after the agent died and after the machine went down: once its restart is done."""
    found = []
    for state in RESTART:
        for rebooted in (False, True):
            name = f"{state.value} found after {'a reboot' if rebooted else 'a death'}"
            entered = ENTERED.get(state)
            way = road(*entered) if entered else {"say": {}}
            way = {**way, "found": entered or (S.ANNOUNCED, E.ADMITTED), "rebooted": rebooted}
            found.append(Point(name, None, None, "resumed", **way))
    return found


def places() -> list[Point]:
    """Places inside effects and at start."""
    found = []
    for moment, row in PLACES.items():
        state, event = row if row else (None, None)
        more = {"committed": 2, "announced": 3} if moment == "half collected" else {}
        found.append(Point(moment, state, event, moment, **more))
    return found


def effects(points: list[Point]) -> set[Effect]:
    """Return the effects after which somebody is killed."""
    rows = [(one.row, one.moment) for one in points if one.row is not None and one.moment.startswith("done")]
    return {row.effects[int(moment.split()[1])] for row, moment in rows}


def chosen(points: list[Point], seed: int) -> list[Point]:
    """Return one moment of every row, another one with every seed, and everything that is no row."""
    by_row: dict[Any, list[Point]] = {}
    for point in points:
        by_row.setdefault((point.state, point.event) if point.row is not None else point.name, []).append(point)
    chance = random.Random(seed)
    return [chance.choice(several) for several in by_row.values()]


SEED = int(os.environ.get("FIELDCAST_SEED", str(int(time.time()) // 86_400)))  # the same in every worker of a run
ALL = [*transitions(), *restarts(), *places()]
CHOSEN = ALL if os.environ.get("FIELDCAST_CRASH") == "all" else chosen(ALL, SEED)
