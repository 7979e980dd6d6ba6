"""A real agent process is killed with SIGKILL at every row of the transition, restart and effect tables (U2, U3, §12).

After each kill the disk is looked at from outside: what the table says is there, or nothing of it. Then the agent is
started until it settles, and what should run is worked out from the signed metadata and the quarantine alone.
`make crash` kills at every moment of every row; the suite at one moment of each, another one every day.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_agent.update.deployment import RESTART, TRANSITIONS
from edge_agent.update.states import Effect, EventKind, Row, State, Write
from tests.crash.device import Device, Scene
from tests.crash.points import ALL, CHOSEN, PLACES, Point, effects, restarts

E = EventKind
Make = Callable[..., Device]


def test_every_row_has_a_point() -> None:
    rows = {(row.state, row.event) for row in TRANSITIONS}
    assert {(one.state, one.event) for one in ALL if one.row is not None} == rows
    moments = {(one.state, one.event, one.moment) for one in ALL if one.row is not None}
    for row in TRANSITIONS:
        wanted = {"before", "after", *(f"done {number}" for number in range(len(row.effects)))}
        assert {moment for state, event, moment in moments if (state, event) == (row.state, row.event)} == wanted
    assert effects(ALL) == set(Effect)
    assert len(restarts()) == 2 * len(RESTART) == 2 * len(State)
    assert {one.moment for one in ALL} >= set(PLACES)
    assert {(one.state, one.event) for one in CHOSEN if one.row is not None} == rows


@pytest.mark.parametrize("point", CHOSEN, ids=lambda point: point.name)
def test_killed_at(point: Point, device: Make, scene: Scene) -> None:
    one = device(point.committed)
    floors = one.floors()
    announce = scene.envelope(point.announced).hex() if point.announced else ""
    if point.found is not None:
        _die_earlier(one, point, announce)
    lines = len(one.journal())
    one.start(**point.plan, announce=announce)
    one.reach()
    one.kill()
    one.require_sound()
    if point.row is not None:
        _require_what_the_table_says(one, point, point.row, scene, lines)
    if point.state is None and point.found is not None:
        _require_what_the_restart_table_says(one, point)
    _require_settled(one, point, scene, floors, announce)


def _die_earlier(one: Device, point: Point, announce: str) -> None:
    """Bring the device into the state that is found at start."""
    assert point.found is not None
    say = {} if point.say.get(point.found[0].value) is None else point.say
    one.start(
        state=point.found[0].value,
        event=point.found[1].value,
        moment="after" if point.name != "announced found after a death" else "before",
        say={**say},
        announce=announce,
    )
    one.reach()
    one.kill()
    one.require_sound()
    if point.rebooted:
        one.write("update note set value = 'an earlier boot' where key = 'life'")


def _require_what_the_table_says(one: Device, point: Point, row: Row, scene: Scene, lines: int) -> None:
    """Nothing of the row is there before its commit; all of it is after. `lines` were in the journal before."""
    written = [line for line in one.journal()[lines:] if line[1:3] == (row.state.value, row.event.value)]
    states = dict(one.rows("select id, state from deployment"))
    if point.moment == "before":
        assert not written, f"half of the transition is there\n{one.facts()}"
        assert row.state.value in states.values(), f"it left {row.state} all the same\n{one.facts()}"
        assert not one.condemned()
        return
    assert len(written) == 1, f"the transition is not written\n{one.facts()}"
    key, _, _, after = written[0]
    assert after == row.next.value
    condemned = {scene.digest(2)} if Write.QUARANTINE in row.writes or row.event is E.RESTORED else set()
    assert one.condemned() == condemned
    if point.moment == "after":
        assert states[key] == row.next.value


def _require_what_the_restart_table_says(one: Device, point: Point) -> None:
    state = next(state for state in RESTART if point.name.startswith(f"{state.value} "))
    fed = RESTART[state].rebooted if point.rebooted else RESTART[state].killed
    found = {event for _, before, event, _ in one.journal() if before == state.value}
    assert not found & {E.CRASHED.value, E.REBOOTED.value} - ({fed.value} if fed else set())
    assert fed is None or fed.value in found


def _require_settled(one: Device, point: Point, scene: Scene, floors: dict[str, float], announce: str) -> None:
    """Started again, the device ends with what is wanted and not condemned, and keeps nothing half."""
    newest = point.announced or point.committed
    one.start(announce=announce)  # the broker keeps it
    one.settle(newest - 1 if _will_be_condemned(one, point, scene, newest) else newest)
    one.until_tidy()
    one.stop()
    one.require_sound()
    one.require_tidy()
    after = one.floors()
    assert all(after[key] >= value for key, value in floors.items()), "a floor fell"
    for (attempts,) in one.rows("select attempts from deployment"):
        assert 0 <= attempts <= 3


def _will_be_condemned(one: Device, point: Point, scene: Scene, newest: int) -> bool:
    """An operator's rollback that was asked for and not done yet is done after the restart."""
    return scene.digest(newest) in one.condemned() or bool(one.rows("select 1 from request where answer is null"))
