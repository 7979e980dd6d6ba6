"""Deployments carried through the machine on a real store and disk: effects, failures, crashes at every state."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import Blame, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.manifest import InputSpec
from edge_agent.update import admission
from edge_agent.update.deployment import ATTEMPTS_MAX, RETRY_SECONDS_MAX, UNDER_WAY, EventKind, State
from edge_agent.update.ports import SlotSetup
from tests.simulators.bench import CHANNEL, DAY_SECONDS, NOW, SLOT, Bench, Release, fault

GOOD_ROAD = ["announced", "admitted", "fetching", "staged", "starting", "shadow", "live", "committed"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.crash()


def laid_out(bench: Bench) -> set[str]:
    """Hex of the manifests whose files lie in their place; waits for deletions that are under way."""
    bench.settle()
    return {path.name for path in (bench.directory / "releases").iterdir()}


def states(bench: Bench) -> list[str]:
    key = bench.newest.id
    rows = [row for row in reversed(bench.store.journal(SLOT)) if row.deployment == key]
    return [rows[0].before, *(row.after for row in rows)] if rows else [bench.newest.state.value]


# --- the good road ---------------------------------------------------------------------------------------------------


def test_the_first_release_goes_live_without_shadowing(bench: Bench) -> None:
    one = bench.release("one")
    bench.commit(one)
    assert states(bench) == [state for state in GOOD_ROAD if state != "shadow"]
    assert bench.runtime.orders == [("start", "activity@1"), ("serve", "activity@1"), ("keep", "activity@1")]
    root = bench.runtime.roots["activity@1"]
    assert (root / "manifest.json").read_bytes() == one.manifest
    assert bench.runs == "activity@1"
    assert bench.changes > 0


def test_the_second_shadows_and_replaces_the_first(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    first = bench.commit(one)
    bench.runtime.orders.clear()
    bench.commit(two, one)
    assert states(bench) == GOOD_ROAD
    assert [verb for verb, _ in bench.runtime.orders] == ["start", "shadow", "serve", "keep"]
    assert bench.runs == "activity@2"
    assert bench.store.deployment(first.id).state is State.SUPERSEDED
    assert bench.store.quarantined(SLOT, config="c0", profile="") == []


def test_every_transition_is_written_before_its_effect(bench: Bench) -> None:
    seen: list[tuple[str, State]] = []
    for verb in ("start", "shadow", "serve", "keep", "abandon"):
        kind = getattr(bench.runtime, verb)

        def spy(slot: str, key: int, *more: object, verb: str = verb, kind: object = kind) -> None:
            seen.append((verb, bench.store.deployment(key).state))
            assert not bench.store._db.conn.in_transaction
            kind(slot, key, *more)  # type: ignore[operator]

        setattr(bench.runtime, verb, spy)
    one = bench.release("one")
    bench.commit(one)
    bench.announce(bench.release("two"), one)
    bench.run_to(State.LIVE)
    bench.say(EventKind.FAILED, fault())
    assert seen == [
        ("start", State.STARTING),
        ("serve", State.LIVE),
        ("keep", State.COMMITTED),
        ("start", State.STARTING),
        ("shadow", State.SHADOW),
        ("serve", State.LIVE),
        ("abandon", State.ROLLED_BACK),
    ]


def test_stale_news_changes_nothing(bench: Bench) -> None:
    bench.commit(bench.release("one"))
    journal = bench.journal()
    for kind in (EventKind.LOADED, EventKind.FETCHED, EventKind.DUE, EventKind.CRASHED, EventKind.HEALTHY):
        bench.say(kind)
    assert bench.journal() == journal


# --- refusal ---------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_rejected_before_a_byte_is_fetched(bench: Bench) -> None:
    one = bench.release("one")
    bench.commit(one)
    bad = bench.release("bad", input=InputSpec(columns=["gyro"]), requires_python=">=3.13", requires=["scipy"])
    bench.announce(bad, one)
    assert bench.newest.state is State.REJECTED
    assert [reason.code for reason in bench.newest.reasons] == [
        ReasonCode.INTERPRETER,
        ReasonCode.REQUIREMENTS,
        ReasonCode.COLUMNS,
    ]
    bundle = bad.parsed.stages[0].bundle
    assert bundle is not None
    assert not bench.blob_path(bundle).exists()
    assert bench.runs == "activity@1"
    assert bench.runtime.orders[-1] == ("keep", "activity@1")


def test_a_rejection_stands_until_the_agent_starts_anew(bench: Bench) -> None:
    bad = bench.release("bad", input=InputSpec(columns=["gyro"]))
    envelope = bench.announce(bad)
    count = len(bench.store.deployments())
    bench.deliver(envelope)
    bench.announce(bad)
    assert len(bench.store.deployments()) == count
    bench.stop()
    bench.setup = SlotSetup(name=SLOT, channel=CHANNEL, columns=["gyro"], config_digest="c1")
    bench.restart()
    assert bench.run_to(State.COMMITTED).release == "activity@1"


def test_a_manifest_that_cannot_be_read_is_rejected(bench: Bench) -> None:
    one = bench.release("one")
    bench.announce(bench.sign(b'{"format":99}', one.parsed))
    assert bench.newest.state is State.REJECTED
    assert bench.newest.reasons[0].code is ReasonCode.FORMAT


def test_a_manifest_found_unreadable_after_admission_is_rejected(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UpdateRejected.one(ReasonCode.FORMAT, "this older program cannot read it")

    monkeypatch.setattr("edge_agent.update.effects.space", refuse)
    bench.announce(bench.release("one"))
    assert bench.newest.state is State.REJECTED


def test_a_bundle_that_lies_is_rejected_and_nothing_is_laid_out(bench: Bench) -> None:
    one = bench.release("one")
    stage = one.parsed.stages[0]
    other = bench.release("two", stages=[type(stage)(**{**_fields(stage), "target": "sample:Other"})])
    bench.announce(other)
    assert bench.newest.state is State.REJECTED
    assert "names sample:Other" in bench.newest.reasons[0].message
    assert laid_out(bench) == set()


def _fields(struct: object) -> dict[str, object]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}  # type: ignore[attr-defined]


# --- not now ---------------------------------------------------------------------------------------------------------


def test_a_broken_broker_postpones_with_back_off_and_condemns_nothing(bench: Bench) -> None:
    one = bench.release("one")
    broker, bench.broker = bench.broker, {}
    bench.announce(one)
    waits = []
    for _ in range(14):
        deferred = bench.newest
        assert deferred.state is State.DEFERRED
        assert deferred.reasons[0].code is ReasonCode.UNAVAILABLE
        waits.append(deferred.due - bench.now)
        bench.tick_at(deferred.due - 0.5)
        assert bench.newest.id == deferred.id
        assert bench.newest.postponements == deferred.postponements
        bench.tick_at(deferred.due)
    assert waits == sorted(waits)
    assert waits[:3] == [5.0, 10.0, 20.0]
    assert waits[-1] == RETRY_SECONDS_MAX
    bench.broker = broker
    bench.tick_at(bench.newest.due)
    assert bench.run_to(State.COMMITTED).release == "activity@1"


def test_a_chunk_damaged_on_the_way_is_fetched_again(bench: Bench) -> None:
    one = bench.release("one")
    state = one.parsed.stages[0].state
    assert state is not None
    bench.damaged[state.digest] = UpdateRejected.one(ReasonCode.CONTENT, "a flipped byte", blame=Blame.ENVIRONMENT)
    bench.announce(one)
    assert bench.newest.state is State.DEFERRED
    assert bench.newest.reasons[0].code is ReasonCode.CONTENT
    bench.damaged.clear()
    bench.tick_at(bench.newest.due)
    assert bench.newest.state is State.STARTING


def test_a_blob_that_the_publisher_got_wrong_is_rejected(bench: Bench) -> None:
    one = bench.release("one")
    state = one.parsed.stages[0].state
    assert state is not None
    bench.damaged[state.digest] = UpdateRejected.one(ReasonCode.SIZE, "larger than signed")
    bench.announce(one)
    assert bench.newest.state is State.REJECTED


def test_a_blob_that_rots_between_fetch_and_layout_is_fetched_again(bench: Bench) -> None:
    one = bench.release("one")
    state = one.parsed.stages[0].state
    assert state is not None
    rotten = [True]
    plain = bench.blob_path

    def blob_path(ref: BlobRef) -> Path:
        path = plain(ref)
        if ref == state and rotten and path.exists():
            path.write_bytes(b"rotten")
            rotten.clear()
        return path

    bench.updater._deployer.effects._ports = _replace(bench.updater._deployer.effects._ports, blob_path=blob_path)
    bench.announce(one)
    for _ in range(2):
        if bench.newest.state is State.DEFERRED:
            bench.tick_at(bench.newest.due)
    assert bench.newest.state is State.STARTING
    assert bench.newest.postponements == 1


def _replace(struct: object, **fields: object) -> object:
    return type(struct)(**{**_fields(struct), **fields})


def test_a_full_disk_defers_until_there_is_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(admission, "SPACE_RESERVE_BYTES", 1 << 62)
        bench.announce(bench.release("one"))
        assert bench.newest.state is State.DEFERRED
        assert bench.newest.reasons[0].code is ReasonCode.SPACE
        assert bench.newest.reasons[0].blame is Blame.ENVIRONMENT
    bench.tick_at(bench.newest.due)
    assert bench.newest.state is State.STARTING


def test_a_disk_that_refuses_while_laying_out_defers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("the disk refuses")

    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.update.effects.lay_out", refuse)
        bench.announce(bench.release("one"))
        assert bench.newest.state is State.DEFERRED
        assert bench.newest.attempts == 0
    bench.tick_at(bench.newest.due)
    assert bench.newest.state is State.STARTING


def test_a_mistake_of_ours_in_the_helper_thread_is_told_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> None:
        raise ValueError("embedded null byte")

    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.update.effects.lay_out", stumble)
        bench.announce(bench.release("one"))
        assert bench.newest.state is State.DEFERRED
        assert "embedded null byte" in bench.newest.reasons[0].message


def test_a_worker_that_cannot_even_be_asked_refunds_the_attempt(bench: Bench) -> None:
    bench.runtime.broken["start"] = OSError("manifest.json: permission denied")
    bench.announce(bench.release("one"))
    assert (bench.newest.state, bench.newest.attempts) == (State.DEFERRED, 0)
    bench.runtime.broken.clear()
    bench.tick_at(bench.newest.due)
    assert (bench.newest.state, bench.newest.attempts) == (State.STARTING, 1)


def test_a_start_that_this_program_must_refuse_is_a_rejection(bench: Bench) -> None:
    bench.runtime.broken["start"] = UpdateRejected.one(ReasonCode.FORMAT, "format 2")
    bench.announce(bench.release("one"))
    assert (bench.newest.state, bench.newest.attempts) == (State.REJECTED, 0)
    assert bench.runtime.orders[-1] == ("abandon", "activity@1")


def test_a_wait_ends_though_the_clock_was_set_back_by_years(bench: Bench) -> None:
    one = bench.release("one")
    broker, bench.broker = bench.broker, {}
    bench.announce(one)
    bench.broker = broker
    bench.crash()
    bench.now = 1000.0  # no battery, no network time
    bench.restart()
    assert bench.newest.state is State.STARTING, "no wait is that long: it was begun under another clock"


# --- failure in probation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.STARTING, State.SHADOW, State.LIVE])
@pytest.mark.parametrize("blame", [Blame.RELEASE, Blame.ENVIRONMENT])
def test_a_candidate_that_fails_leaves_what_ran(bench: Bench, state: State, blame: Blame) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    bench.announce(two, one)
    bench.run_to(state)
    bench.say(EventKind.FAILED, fault(blame))
    assert (bench.newest.state, bench.newest.reasons) == (State.ROLLED_BACK, (fault(blame),))
    assert bench.runs == "activity@1"
    assert bench.runtime.orders[-1] == ("abandon", "activity@2")
    condemned = {entry.digest for entry in bench.updater._deployer.quarantined(SLOT)}
    assert condemned == ({two.info.digest} if blame is Blame.RELEASE else set())
    assert laid_out(bench) == {one.info.digest.hex}


def test_a_first_release_that_fails_leaves_nothing_and_says_so(bench: Bench) -> None:
    bench.announce(bench.release("one"))
    bench.run_to(State.LIVE)
    bench.say(EventKind.FAILED, fault())
    assert bench.runs == ""
    assert bench.newest.state is State.ROLLED_BACK
    assert laid_out(bench) == set()


# --- a committed release that fails later ----------------------------------------------------------------------------


def three(bench: Bench) -> tuple[Release, Release, Release]:
    releases = bench.release("one"), bench.release("two"), bench.release("three")
    bench.commit(releases[0])
    bench.commit(releases[1], releases[0])
    bench.commit(releases[2], releases[1])
    return releases


def test_only_the_active_and_the_previous_release_stay_laid_out(bench: Bench) -> None:
    _, two, last = three(bench)
    assert laid_out(bench) == {two.info.digest.hex, last.info.digest.hex}


def test_a_committed_release_that_stops_serving_gives_way_to_the_one_before(bench: Bench) -> None:
    _, two, last = three(bench)
    bench.updater.stopped_serving(bench.newest.id, (fault(),), bench.now)
    bench.settle()
    assert bench.store.deployment(bench.newest.id).state is State.REVERTED
    assert bench.runs == "activity@2"
    assert bench.runtime.orders[-1] == ("run", "activity@2")
    assert bench.active is not None
    assert bench.active.state is State.COMMITTED
    assert bench.active.digest == two.info.digest
    assert {entry.digest for entry in bench.updater._deployer.quarantined(SLOT)} == {last.info.digest}
    assert len(bench.store.deployments()) == 3


@pytest.mark.parametrize("harm", ["all", "manifest.json", "bundles/*/sample.py"])
def test_a_committed_release_whose_files_were_harmed_is_laid_out_anew_and_not_given_up(bench: Bench, harm: str) -> None:
    _, _, last = three(bench)
    assert not bench.updater.mended(bench.newest.id, bench.now), "its files are whole"
    root = bench.directory / "releases" / last.info.digest.hex
    if harm == "all":
        shutil.rmtree(root)
    for path in root.glob(harm):
        path.write_bytes(b"rot")
    assert bench.updater.mended(bench.newest.id, bench.now)
    bench.settle()
    assert bench.runs == "activity@3"
    assert bench.runtime.orders[-1] == ("run", "activity@3")
    assert not bench.updater._deployer.quarantined(SLOT)
    assert not bench.updater.mended(bench.newest.id, bench.now), "and whole again"


def test_it_goes_back_step_by_step_and_stays_where_nothing_is_before(bench: Bench) -> None:
    three(bench)
    for expected in ("activity@2", "activity@1", "activity@1"):
        assert bench.active is not None
        bench.updater.stopped_serving(bench.active.id, (fault(),), bench.now)
        bench.settle()
        assert bench.runs == expected


def test_the_only_release_is_tried_again_for_ever(bench: Bench) -> None:
    bench.commit(bench.release("one"))
    journal = bench.journal()
    bench.updater.stopped_serving(bench.newest.id, (fault(),), bench.now)
    assert bench.runs == "activity@1"
    assert bench.journal() == journal


@pytest.mark.parametrize("kind", [EventKind.FAILED, EventKind.OPERATOR])
def test_a_committed_release_with_nothing_before_it_is_never_given_up(bench: Bench, kind: EventKind) -> None:
    bench.commit(bench.release("one"))
    journal = bench.journal()
    bench.say(kind, fault())
    assert bench.runs == "activity@1"
    assert bench.runtime.orders[-1] == ("keep", "activity@1")
    assert bench.journal() == journal


# --- files of a committed release that are gone ----------------------------------------------------------------------


def test_a_committed_release_whose_files_are_gone_is_laid_out_from_its_blobs(bench: Bench) -> None:
    bench.commit(bench.release("one"))
    bench.crash()
    shutil.rmtree(bench.directory / "releases")
    bench.restart()
    assert bench.runtime.orders == [("run", "activity@1")]
    assert bench.newest.reasons == ()


def test_a_committed_release_whose_blobs_are_gone_too_is_fetched_again_and_says_why(bench: Bench) -> None:
    bench.commit(bench.release("one"))
    bench.crash()
    shutil.rmtree(bench.directory / "releases")
    shutil.rmtree(bench.directory / "blobs")
    broker, bench.broker = bench.broker, {}
    bench.restart()
    assert bench.runtime.orders == []
    assert bench.newest.state is State.COMMITTED
    assert "cannot run" in bench.newest.reasons[0].message
    assert bench.newest.reasons[0].blame is Blame.ENVIRONMENT
    bench.tick_at(bench.now + 60.0)
    assert bench.runtime.orders == []
    bench.broker = broker
    for _ in range(2):
        bench.tick_at(bench.now + 60.0)
    assert bench.runtime.orders == [("run", "activity@1")]
    assert bench.newest.reasons == ()
    events = [event for _, event, _ in bench.journal()]
    assert (events.count("damaged"), events.count("mended")) == (1, 1)


def test_one_damaged_release_does_not_keep_the_candidate_from_its_way(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    bench.announce(two, one)
    bench.crash()
    shutil.rmtree(bench.directory / "releases" / one.info.digest.hex)
    shutil.rmtree(bench.directory / "blobs")
    bench.restart()
    bench.tick_at(bench.newest.due or bench.now)
    assert bench.newest.release == "activity@2"
    assert bench.newest.state in UNDER_WAY


# --- the agent ends at any state -------------------------------------------------------------------------------------

WHERE = [State.DEFERRED, State.FETCHING, State.STAGED, State.STARTING, State.SHADOW, State.LIVE]


def bring_to(bench: Bench, state: State, release: Release, stable: Release | None) -> None:
    """Bring a release to `state` and leave it there."""
    if state is State.DEFERRED:
        broker, bench.broker = bench.broker, {}
        bench.announce(release, stable)
        bench.broker = broker
    elif state in (State.FETCHING, State.STAGED):
        envelope = bench.envelope(release, stable)
        bench.updater.announced(CHANNEL, envelope, bench.now)
        deadline = 1000
        while bench.store.under_way(SLOT) is None or bench.newest.state is not state:
            bench.finish_work()
            if state is State.FETCHING:
                bench.gate.clear()
            bench.updater.tick(bench.now)
            deadline -= 1
            assert deadline, f"stuck in {bench.newest.state}"
    else:
        bench.announce(release, stable)
        bench.run_to(state)
    assert bench.newest.state is state


@pytest.mark.parametrize(
    ("state", "committed"),
    [*((state, True) for state in WHERE), *((state, False) for state in WHERE if state is not State.SHADOW)],
)
def test_killed_in_any_state_it_ends_committed(bench: Bench, state: State, committed: bool) -> None:
    stable = bench.release("one") if committed else None
    if stable is not None:
        bench.commit(stable)
    release = bench.release("two")
    bring_to(bench, state, release, stable)
    key = bench.newest.id
    bench.crash()
    bench.restart()
    if stable is not None:
        assert bench.runtime.orders[0] == ("run", stable.info.name)
        assert bench.runs == stable.info.name
    bench.tick_at(max(bench.now, bench.newest.due))
    assert bench.run_to(State.COMMITTED).id == key
    assert bench.runs == release.info.name
    assert bench.active is not None
    assert bench.active.attempts == (2 if state in (State.STARTING, State.SHADOW, State.LIVE) else 1)
    assert len(bench.store.deployments()) == (2 if committed else 1)


@pytest.mark.parametrize("state", WHERE)
def test_stopped_cleanly_in_any_state_no_attempt_is_lost(bench: Bench, state: State) -> None:
    stable = bench.release("one")
    bench.commit(stable)
    bring_to(bench, state, bench.release("two"), stable)
    bench.stop()
    bench.restart()
    bench.tick_at(max(bench.now, bench.newest.due))
    assert bench.run_to(State.COMMITTED).attempts == 1


def test_after_a_crash_the_committed_release_runs_first_and_the_candidate_waits(bench: Bench) -> None:
    one = bench.release("one")
    bench.commit(one)
    bench.announce(bench.release("two"), one)
    bench.crash()
    bench.restart()
    assert bench.runtime.orders == [("run", "activity@1")]
    assert bench.newest.state is State.STAGED
    assert bench.updater.tick(bench.now) == bench.newest.due
    bench.tick_at(bench.newest.due - 0.1)
    assert bench.runtime.orders == [("run", "activity@1")]
    bench.tick_at(bench.newest.due)
    assert bench.runtime.orders[-1] == ("start", "activity@2")


def test_the_third_crash_rolls_back_and_is_not_tried_again(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    envelope = bench.announce(two, one)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        assert (bench.newest.state, bench.newest.attempts) == (State.STARTING, attempt)
        bench.crash()
        bench.restart()
        if attempt < ATTEMPTS_MAX:
            bench.tick_at(bench.newest.due)
    assert bench.newest.state is State.ROLLED_BACK
    assert bench.newest.reasons[0].code is ReasonCode.ATTEMPTS
    assert bench.runs == "activity@1"
    bench.deliver(envelope)
    bench.crash()
    bench.restart()
    assert len(bench.store.deployments()) == 2
    assert bench.runtime.orders == [("run", "activity@1")]


def test_a_crash_between_the_write_and_its_effect_is_made_good(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    bench.announce(two, one)
    bench.run_to(State.LIVE)
    for verb, event, runs in [("keep", EventKind.HEALTHY, "activity@2"), ("run", EventKind.FAILED, "activity@1")]:
        bench.runtime.broken[verb] = _Killed()
        with pytest.raises(_Killed):
            bench.say(event, fault())
        bench.crash()
        bench.restart()
        assert bench.runs == runs
        assert bench.runtime.orders[0] == ("run", runs)


def test_a_crash_in_the_middle_of_a_commit_commits_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench.release("one")
    bench.commit(one)
    bench.announce(bench.release("two"), one)
    bench.run_to(State.LIVE)
    journal = bench.journal()

    def kill(*_: object) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "set_active", kill)
        with pytest.raises(_Killed):
            bench.say(EventKind.HEALTHY)
    assert bench.journal() == journal
    assert bench.runtime.orders[-1] == ("serve", "activity@2")
    bench.crash()
    bench.restart()
    assert bench.runs == "activity@1"
    assert bench.newest.state is State.STAGED


class _Killed(BaseException):
    """Stands for the moment at which the process ends."""


def test_what_a_power_cut_left_half_made_is_cleared_at_start(bench: Bench) -> None:
    bench.commit(bench.release("one"))
    bench.crash()
    for name in (".dead.new", ".dead.old"):
        (bench.directory / "releases" / name).mkdir()
    bench.restart()
    assert len(laid_out(bench)) == 1


# --- expiry ----------------------------------------------------------------------------------------------------------


def test_a_postponed_release_is_not_taken_up_on_expired_metadata(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    broker, bench.broker = bench.broker, {}
    bench.announce(two, one, expires=DAY_SECONDS)
    bench.broker = broker
    bench.tick_at(NOW + 2 * DAY_SECONDS)
    assert bench.newest.state is State.DEFERRED
    assert bench.newest.reasons[0].code is ReasonCode.EXPIRED
    assert bench.runs == "activity@1"
    bench.announce(two, one)
    bench.tick_at(bench.newest.due)
    assert bench.run_to(State.COMMITTED).release == "activity@2"


# --- clocks that are set back ----------------------------------------------------------------------------------------


def test_a_wait_that_was_begun_before_the_clock_was_set_back_is_over(bench: Bench) -> None:
    release = bench.release("one")
    broker, bench.broker = bench.broker, {}
    bench.announce(release, expires=10_000 * DAY_SECONDS)
    assert bench.newest.state is State.DEFERRED
    bench.broker = broker
    bench.tick_at(NOW - 400 * DAY_SECONDS)
    assert bench.newest.state is State.STARTING


def test_a_back_off_that_was_written_before_the_clock_was_set_back_is_over(bench: Bench) -> None:
    bench.commit(bench.release("one"))
    bench.announce(bench.release("two"), expires=10_000 * DAY_SECONDS)
    bench.run_to(State.LIVE)
    bench.crash()
    bench.restart(after_seconds=400 * DAY_SECONDS)
    assert bench.newest.state is State.STAGED
    bench.crash()
    bench.restart(after_seconds=-400 * DAY_SECONDS)
    bench.tick_at(bench.now + 10.0)
    assert bench.newest.state is State.STARTING
