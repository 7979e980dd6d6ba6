"""The tables are the specification: these tests read them, and drive the machine through everything they allow."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.update.deployment import (
    ATTEMPTS_MAX,
    ENDED,
    IGNORED,
    REBOOTS_MAX,
    RESTART,
    RETRY_SECONDS_MAX,
    TRANSITIONS,
    UNDER_WAY,
    Deployment,
    Effect,
    Event,
    EventKind,
    State,
    Write,
    step,
)

NOW = 1000.0
TABLE = {(row.state, row.event): row for row in TRANSITIONS}
HAS_WORKER = (State.STARTING, State.SHADOW, State.LIVE)


def reason(blame: Blame) -> Reason:
    return Reason(code=ReasonCode.ERRORS, message="words", blame=blame)


def deployment(state: State, **fields: object) -> Deployment:
    values = {
        "id": 1,
        "slot": "s",
        "channel": "c",
        "release": "s@1",
        "digest": Digest.of(b"m"),
        "state": state,
        "updated": 1.0,
    }
    return Deployment(**{**values, **fields})  # type: ignore[arg-type]


# --- the tables themselves -------------------------------------------------------------------------------------------


def test_no_state_and_event_has_two_rows() -> None:
    assert len(TABLE) == len(TRANSITIONS)


def test_every_state_says_what_it_means_at_start() -> None:
    assert set(RESTART) == set(State)
    for state, found in RESTART.items():
        for event in (found.killed, found.rebooted):
            if event is not None:
                assert (state, event) in TABLE
                assert found.effects == ()
        if state in UNDER_WAY:
            assert found.killed is not None or found.effects, f"{state} found at start would stay for ever"
            assert (found.killed is None) == (found.rebooted is None)
        else:  # what was killed before it had collected collects then
            effects = (Effect.COLLECT,) if state in ENDED else ()
            assert (found.killed, found.rebooted, found.effects) == (None, None, effects)


def test_every_state_and_event_stands_in_exactly_one_table() -> None:
    ignored = [(state, event) for state, events in IGNORED.items() for event in events]
    assert len(set(ignored)) == len(ignored)
    assert not TABLE.keys() & set(ignored)
    assert TABLE.keys() | set(ignored) == set(itertools.product(State, EventKind))


def test_states_fall_into_under_way_committed_and_ended() -> None:
    assert UNDER_WAY | ENDED | {State.COMMITTED} == set(State)
    assert not UNDER_WAY & ENDED


@pytest.mark.parametrize("state", sorted(UNDER_WAY, key=lambda one: one.value))
@pytest.mark.parametrize("event", [EventKind.NEWER, EventKind.ABORTED, EventKind.WITHDRAWN, EventKind.OPERATOR])
def test_people_can_end_whatever_is_under_way(state: State, event: EventKind) -> None:
    row = TABLE[state, event]
    assert row.next is (State.ROLLED_BACK if event is EventKind.OPERATOR else State.SUPERSEDED)
    assert (Effect.ABANDON in row.effects) == (state in HAS_WORKER)
    assert Effect.COLLECT in row.effects


@pytest.mark.parametrize("state", HAS_WORKER)
@pytest.mark.parametrize(
    "event", [EventKind.FAILED, EventKind.POSTPONED, EventKind.CRASHED, EventKind.STOPPED, EventKind.WITHDRAWN]
)
def test_whatever_can_befall_a_candidate_has_a_row(state: State, event: EventKind) -> None:
    assert (state, event) in TABLE


def test_the_only_way_out_of_an_end_is_back_to_what_was_committed() -> None:
    assert [(row.state, row.event) for row in TRANSITIONS if row.state in ENDED] == [
        (State.SUPERSEDED, EventKind.RESTORED)
    ]


def test_only_what_was_live_is_committed() -> None:
    ways = [(row.state, row.event) for row in TRANSITIONS if row.next is State.COMMITTED]
    assert ways == [(State.LIVE, EventKind.HEALTHY), (State.SUPERSEDED, EventKind.RESTORED)]
    assert [row.next for row in TRANSITIONS if Write.MAKE_ACTIVE in row.writes] == [State.COMMITTED]


def test_every_state_can_be_reached_and_every_way_ends() -> None:
    follows = {state: {row.next for row in TRANSITIONS if row.state is state} for state in State}
    reached, front = {State.ANNOUNCED}, {State.ANNOUNCED}
    while front:
        front = set().union(*(follows[state] for state in front)) - reached
        reached |= front
    assert reached == set(State)


@pytest.mark.parametrize(("state", "kind"), list(itertools.product(State, EventKind)))
def test_an_event_does_what_its_row_says_or_nothing(state: State, kind: EventKind) -> None:
    before = deployment(state, attempts=1)
    found = step(before, Event(kind=kind, reasons=(reason(Blame.RELEASE),)), NOW)
    row = TABLE.get((state, kind))
    if row is None:
        assert found is None
        return
    assert found is not None
    assert (found.deployment.state, found.writes, found.effects) == (row.next, row.writes, row.effects)
    assert found.deployment.updated == NOW
    assert (found.deployment.id, found.deployment.digest) == (before.id, before.digest)


# --- blame -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blames", "condemned"),
    [
        ([Blame.RELEASE], True),
        ([Blame.OPERATOR], True),
        ([Blame.ENVIRONMENT], False),
        ([Blame.ENVIRONMENT, Blame.RELEASE], True),
        ([], False),
    ],
)
@pytest.mark.parametrize("state", [*HAS_WORKER, State.COMMITTED])
def test_only_blame_quarantines(state: State, blames: list[Blame], condemned: bool) -> None:
    found = step(deployment(state), Event(kind=EventKind.FAILED, reasons=tuple(map(reason, blames))), NOW)
    assert found is not None
    assert (Write.QUARANTINE in found.writes) is condemned
    assert (Write.MAKE_PREVIOUS_ACTIVE in found.writes) is (state is State.COMMITTED)


# --- attempts and back-off -------------------------------------------------------------------------------------------


def test_an_attempt_is_counted_before_the_start_and_refunded_on_a_clean_stop() -> None:
    begun = step(deployment(State.STAGED), Event(kind=EventKind.BEGUN), NOW)
    assert begun is not None
    assert begun.deployment.attempts == 1
    assert begun.effects == (Effect.START,)
    stopped = step(begun.deployment, Event(kind=EventKind.STOPPED), NOW)
    assert stopped is not None
    assert (stopped.deployment.state, stopped.deployment.attempts, stopped.effects) == (State.STAGED, 0, ())


def test_a_refund_never_goes_below_zero() -> None:
    found = step(deployment(State.LIVE, attempts=0), Event(kind=EventKind.POSTPONED), NOW)
    assert found is not None
    assert found.deployment.attempts == 0


@pytest.mark.parametrize("state", HAS_WORKER)
def test_the_third_crash_rolls_back_and_says_so(state: State) -> None:
    waits = []
    for attempt in range(1, ATTEMPTS_MAX):
        found = step(deployment(state, attempts=attempt), Event(kind=EventKind.CRASHED), NOW)
        assert found is not None
        assert (found.deployment.state, found.deployment.attempts) == (State.STAGED, attempt)
        waits.append(found.deployment.due - NOW)
    assert waits == sorted(waits)
    assert waits[0] > 0
    last = step(deployment(state, attempts=ATTEMPTS_MAX), Event(kind=EventKind.CRASHED), NOW)
    assert last is not None
    assert last.deployment.state is State.ROLLED_BACK
    assert Write.QUARANTINE in last.writes
    assert last.deployment.reasons[0].code is ReasonCode.ATTEMPTS
    assert "3 times" in last.deployment.reasons[0].message


@pytest.mark.parametrize("state", HAS_WORKER)
def test_a_reboot_refunds_the_attempt_and_draws_on_a_budget_of_its_own(state: State) -> None:
    waits = []
    for reboots in range(REBOOTS_MAX - 1):
        before = deployment(state, attempts=ATTEMPTS_MAX, reboots=reboots)
        found = step(before, Event(kind=EventKind.REBOOTED), NOW)
        assert found is not None
        assert (found.deployment.state, found.deployment.reboots) == (State.STAGED, reboots + 1)
        assert found.deployment.attempts == ATTEMPTS_MAX - 1
        waits.append(found.deployment.due - NOW)
    assert waits == sorted(waits)
    last = step(deployment(state, attempts=1, reboots=REBOOTS_MAX - 1), Event(kind=EventKind.REBOOTED), NOW)
    assert last is not None
    assert last.deployment.state is State.ROLLED_BACK
    assert last.deployment.reasons[0].code is ReasonCode.ATTEMPTS
    assert Write.QUARANTINE not in last.writes


@pytest.mark.parametrize("kind", [EventKind.CRASHED, EventKind.REBOOTED])
def test_after_an_unclean_end_it_waits_for_the_committed_release_to_settle(kind: EventKind) -> None:
    found = step(deployment(State.LIVE, attempts=1), Event(kind=kind, until=NOW + 100.0), NOW)
    assert found is not None
    assert found.deployment.due == NOW + 100.0


@pytest.mark.parametrize(
    ("until", "seconds"), [(0.0, 1.0), (NOW + 7.0, 7.0), (NOW + 1e9, RETRY_SECONDS_MAX), (NOW - 5.0, 1.0)]
)
def test_a_hold_ends_when_it_says_and_counts_as_no_postponement(until: float, seconds: float) -> None:
    found = step(deployment(State.STAGED), Event(kind=EventKind.HELD, until=until), NOW)
    assert found is not None
    assert (found.deployment.state, found.deployment.due) == (State.DEFERRED, NOW + seconds)
    assert (found.deployment.postponements, found.deployment.attempts) == (0, 0)


@pytest.mark.parametrize("state", HAS_WORKER)
def test_no_hold_stops_a_probation_that_has_begun(state: State) -> None:
    assert step(deployment(state), Event(kind=EventKind.HELD, until=NOW + 9.0), NOW) is None


@pytest.mark.parametrize(("postponed", "seconds"), [(0, 5.0), (1, 10.0), (4, 80.0), (9, 2560.0), (10, 3600.0)])
def test_postponements_double(postponed: int, seconds: float) -> None:
    found = step(deployment(State.FETCHING, postponements=postponed), Event(kind=EventKind.POSTPONED), NOW)
    assert found is not None
    assert found.deployment.due == NOW + seconds
    assert found.deployment.postponements == postponed + 1


@given(st.integers(0, 10**9))
def test_back_off_is_bounded_after_any_number_of_postponements(postponed: int) -> None:
    found = step(deployment(State.FETCHING, postponements=postponed), Event(kind=EventKind.POSTPONED), NOW)
    assert found is not None
    assert NOW < found.deployment.due <= NOW + RETRY_SECONDS_MAX


def test_reasons_stay_while_it_is_under_way_and_go_when_it_is_committed() -> None:
    deferred = step(
        deployment(State.FETCHING), Event(kind=EventKind.POSTPONED, reasons=(reason(Blame.ENVIRONMENT),)), NOW
    )
    assert deferred is not None
    again = step(deferred.deployment, Event(kind=EventKind.DUE), NOW)
    assert again is not None
    assert again.deployment.reasons == deferred.deployment.reasons
    live = deployment(State.LIVE, reasons=deferred.deployment.reasons)
    committed = step(live, Event(kind=EventKind.HEALTHY), NOW)
    assert committed is not None
    assert committed.deployment.reasons == ()


# --- any history -----------------------------------------------------------------------------------------------------

EVENTS = st.builds(
    lambda kind, blames: Event(kind=kind, reasons=tuple(map(reason, blames))),
    st.sampled_from(EventKind),
    st.lists(st.sampled_from(Blame), max_size=2),
)


@given(st.lists(EVENTS, max_size=60))
def test_invariants_hold_through_any_history(events: list[Event]) -> None:
    now = NOW
    current = deployment(State.ANNOUNCED)
    counted = refunded = 0
    for event in events:
        now += 1.0
        found = step(current, event, now)
        if found is None:
            continue
        before, current = current, found.deployment
        counted += Write.COUNT_ATTEMPT in found.writes
        refunded += Write.REFUND_ATTEMPT in found.writes or Write.COUNT_REBOOT in found.writes
        assert before.state not in ENDED or event.kind is EventKind.RESTORED
        assert current.reboots < REBOOTS_MAX
        assert (current.id, current.slot, current.digest, current.release) == (1, "s", before.digest, "s@1")
        assert 0 <= current.attempts <= ATTEMPTS_MAX
        assert current.attempts == counted - refunded
        assert current.due == 0.0 or now < current.due <= now + RETRY_SECONDS_MAX
        assert current.state is not State.DEFERRED or current.due > now
        if Write.QUARANTINE in found.writes:
            assert any(one.blame is not Blame.ENVIRONMENT for one in current.reasons)
            assert current.state in (State.ROLLED_BACK, State.REVERTED)
        assert msgspec.json.encode(current.reasons)


@given(st.lists(EVENTS, max_size=40))
def test_the_same_history_gives_the_same_end(events: list[Event]) -> None:
    def play() -> list[object]:
        current, seen = deployment(State.ANNOUNCED), []
        for event in events:
            found = step(current, event, NOW)
            seen.append(found)
            current = found.deployment if found is not None else current
        return seen

    assert play() == play()
