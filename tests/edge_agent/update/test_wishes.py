"""Pins, holds, retries, policy and collection on a device on the bench: what an operator asks, and what comes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import Blame, ReasonCode, StoreError, TransportError
from edge_agent.contract.window import parse_window
from edge_agent.update import admission, effects
from edge_agent.update.collection import Retention
from edge_agent.update.deployment import EventKind, State
from edge_agent.update.helper import Helper
from edge_agent.update.policy import SETTLE_SECONDS, Policy, Requirement
from edge_agent.update.ports import SlotSetup
from edge_agent.update.store import EVERY_SLOT
from tests.simulators.bench import CHANNEL, DAY_SECONDS, NOW, SLOT, Bench, Release, fault
from tests.simulators.waiting import until


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.crash()


def ask(bench: Bench, kind: str, argument: str = "", slot: str = SLOT) -> str:
    with bench.store.transaction():
        number = bench.store.ask(kind, slot, bench.now, argument)
    bench.settle()
    return bench.store.answer_of(number) or ""


def with_policy(bench: Bench, policy: Policy) -> None:
    bench.crash()
    bench.setup = SlotSetup(name=SLOT, channel=CHANNEL, columns=["x"], config_digest="c0", policy=policy)
    bench.restart(0.0)


def with_little_room(bench: Bench) -> None:
    bench.crash()
    bench.retention = Retention(keep=2, budget_bytes=0)
    bench.restart()


def three(bench: Bench) -> tuple[Release, Release, Release]:
    releases = bench.release("one"), bench.release("two"), bench.release("three")
    bench.commit(releases[0])
    bench.commit(releases[1], releases[0])
    bench.commit(releases[2], releases[1])
    return releases


def blobs(bench: Bench) -> set[str]:
    return {path.name for path in (bench.directory / "blobs").glob("??/*")}


def needs(*releases: Release) -> set[str]:
    """The blobs of releases, and their manifests, which are blobs too."""
    blobs = {ref.digest.hex for release in releases for ref in release.parsed.blobs()}
    return blobs | {release.info.digest.hex for release in releases}


# --- pins ------------------------------------------------------------------------------------------------------------


def test_a_pinned_slot_takes_up_nothing_else_until_it_is_unpinned(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    assert ask(bench, "pin") == "activity is pinned to activity@1"
    bench.announce(two, one)
    bench.crash()
    bench.restart()
    assert (bench.newest.release, bench.runs) == ("activity@1", "activity@1")
    assert ask(bench, "unpin") == "activity is no longer pinned to activity@1 and follows its channel"
    bench.tick_at(bench.now + SETTLE_SECONDS)
    assert bench.run_to(State.COMMITTED).release == "activity@2"
    assert ask(bench, "unpin").startswith("refused: activity is not pinned")


def test_a_slot_pinned_to_an_earlier_release_goes_there_through_probation_on_expired_metadata(bench: Bench) -> None:
    one, *_ = three(bench)
    bench.tick_at(bench.now + 30 * DAY_SECONDS)
    assert ask(bench, "pin", one.info.digest.hex[:12]).endswith("it goes there now, through probation")
    assert bench.newest.state is State.STARTING
    assert bench.run_to(State.COMMITTED).release == "activity@1"
    assert ask(bench, "rollback").startswith("refused: activity is pinned to activity@1")


def test_a_pin_stops_a_candidate_on_its_way(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    bench.announce(two, one)
    ask(bench, "pin")
    assert bench.newest.state is State.SUPERSEDED
    assert bench.newest.reasons[0].code is ReasonCode.PINNED
    assert bench.runtime.orders[-1] == ("abandon", "activity@2")


@pytest.mark.parametrize("name", ["activity@9", "activity@2", "", "abc"])
def test_only_what_was_committed_here_and_stands_can_be_pinned(bench: Bench, name: str) -> None:
    if name:
        condemned(bench)
    assert ask(bench, "pin", name).startswith("refused: ")
    assert bench.store.pin(SLOT) is None


def test_a_pinned_release_that_fails_gives_way_and_the_slot_is_stuck(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    bench.commit(two, one)
    ask(bench, "pin", "activity@2")
    bench.updater.stopped_serving(bench.newest.id, (fault(),), bench.now)
    bench.settle()
    assert bench.runs == "activity@1"
    assert bench.store.note(f"stuck/{SLOT}") == "stuck"
    assert len(bench.store.deployments()) == 2


# --- retry, stuck, security floor ------------------------------------------------------------------------------------


def condemned(bench: Bench) -> tuple[Release, Release]:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    bench.announce(two, one)
    bench.run_to(State.LIVE)
    bench.say(EventKind.FAILED, fault())
    assert bench.newest.state is State.ROLLED_BACK
    return one, two


def test_a_condemned_release_is_tried_again_when_an_operator_says_so(bench: Bench) -> None:
    condemned(bench)
    assert ask(bench, "retry", "activity@2") == "activity@2 may be tried again on activity"
    assert bench.run_to(State.COMMITTED).release == "activity@2"
    assert ask(bench, "retry", "activity@2") == "refused: activity@2 was not condemned on activity"
    assert ask(bench, "retry", "activity@7") == "refused: activity@7 is not known here"


def test_a_higher_retry_generation_lifts_it_everywhere_and_a_new_failure_stands(bench: Bench) -> None:
    one, two = condemned(bench)
    again = msgspec.structs.replace(two, info=msgspec.structs.replace(two.info, retry_generation=1))
    bench.announce(again, one)
    bench.run_to(State.LIVE)
    bench.say(EventKind.FAILED, fault())
    count = len(bench.store.deployments())
    bench.announce(again, one)
    bench.crash()
    bench.restart()
    assert len(bench.store.deployments()) == count
    assert bench.runs == "activity@1"


def test_it_is_stuck_when_every_permitted_release_is_condemned_and_runs_on(bench: Bench) -> None:
    one, two = condemned(bench)
    assert bench.store.note(f"stuck/{SLOT}") == ""
    bench.announce(two)
    assert bench.store.note(f"stuck/{SLOT}") == "stuck"
    assert bench.runs == "activity@1"
    bench.announce(bench.release("three"), one)
    assert bench.store.note(f"stuck/{SLOT}") == ""


def test_no_device_goes_back_below_a_security_floor(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    floored = msgspec.structs.replace(two, info=msgspec.structs.replace(two.info, security_floor=2))
    bench.commit(floored, one)
    assert bench.store.security_floors(SLOT) == {CHANNEL: 2}
    bench.announce(two, one)  # a later signature without it lowers nothing
    assert ask(bench, "rollback") == "refused: activity@2 has no earlier committed release on this device"
    bench.updater.stopped_serving(bench.newest.id, (fault(),), bench.now)
    assert bench.runs == "activity@2"


def floored_at_two(bench: Bench) -> tuple[Release, Release]:
    """A device that runs @2, which was signed with a security floor; @1 was committed before."""
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    floored = msgspec.structs.replace(two, info=msgspec.structs.replace(two.info, security_floor=2))
    bench.commit(floored, one)
    return one, floored


def test_security_floor_old_bytes_signed_again_under_a_new_sequence_are_refused(bench: Bench) -> None:
    one, _ = floored_at_two(bench)
    again = bench.sign(one.manifest, one.parsed)
    assert (again.info.sequence, again.info.digest) == (3, one.info.digest)
    bench.announce(again, one)
    assert bench.runs == "activity@2"
    assert (bench.newest.release, bench.newest.state) == ("activity@3", State.REJECTED)
    assert bench.newest.reasons[0].code is ReasonCode.OLDER
    assert "bytes of activity@1" in bench.newest.reasons[0].message
    bench.commit(bench.release("four"), again)
    assert bench.runs == "activity@4"


def test_security_floor_a_rollout_that_goes_back_below_it_changes_nothing(bench: Bench) -> None:
    """Who has the rollout key alone may choose any signed release, but none below the floor."""
    one, floored = floored_at_two(bench)
    bench.announce(floored, one, aborted=True)
    assert bench.runs == "activity@2"
    assert bench.store.note(f"stuck/{SLOT}") == "stuck"


def test_security_floor_what_already_runs_stays_under_its_new_name(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    floored = msgspec.structs.replace(two, info=msgspec.structs.replace(two.info, security_floor=2))
    bench.announce(floored, one, percent=0)
    assert bench.runs == "activity@1"
    assert bench.store.note(f"stuck/{SLOT}") == ""
    bench.announce(bench.sign(one.manifest, one.parsed), one)
    assert bench.runs == "activity@3"


# --- holds and windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", [SLOT, EVERY_SLOT])
def test_a_hold_defers_with_its_reason_and_ends_by_itself(bench: Bench, slot: str) -> None:
    one = bench.release("one")
    bench.commit(one)
    assert ask(bench, "hold", "7200", slot=slot).endswith("UTC")
    bench.announce(bench.release("two"), one)
    assert bench.newest.state is State.DEFERRED
    assert bench.newest.reasons[0].code is ReasonCode.HOLD
    assert bench.newest.postponements == 0
    bench.crash()
    bench.restart()
    bench.tick_at(NOW + 7100.0)
    assert bench.newest.state is State.DEFERRED
    bench.tick_at(NOW + 7210.0)
    assert bench.newest.state is State.STARTING


def test_lifting_a_hold_goes_on_at_once(bench: Bench) -> None:
    ask(bench, "hold")
    bench.announce(bench.release("one"))
    assert bench.newest.state is State.DEFERRED
    assert ask(bench, "hold", "off") == "activity is not held any more"
    assert bench.newest.state is State.STARTING


def test_a_hold_stops_no_probation_and_no_abort(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    bench.announce(two, one)
    ask(bench, "hold")
    assert bench.newest.state is State.STARTING
    bench.announce(two, one, aborted=True)
    assert bench.newest.state is State.SUPERSEDED
    assert bench.store.journal(SLOT)[0].event == "aborted"


@pytest.mark.parametrize("argument", ["soon", "nan", "-1", "1e12"])
def test_a_hold_of_nonsense_is_refused(bench: Bench, argument: str) -> None:
    assert ask(bench, "hold", argument).startswith("refused: ")
    assert bench.store.holds(SLOT, bench.now) == []


def test_fetch_and_activate_windows_are_kept_apart(bench: Bench) -> None:
    # NOW is 08:00 UTC.
    fetch, activate = parse_window("09:00-10:00 UTC"), parse_window("11:00-12:00 UTC")
    with_policy(bench, Policy(fetch=(fetch,), activate=(activate,)))
    one = bench.release("one")
    bench.announce(one)
    assert (bench.newest.state, bench.newest.reasons[0].code) == (State.DEFERRED, ReasonCode.WINDOW)
    assert blobs(bench) == set()
    bench.tick_at(bench.newest.due)
    assert (bench.now, bench.newest.state) == (NOW + 3600.0, State.DEFERRED)
    assert "activate window" in bench.newest.reasons[0].message
    assert blobs(bench) == needs(one)
    for _ in range(3):
        bench.tick_at(bench.newest.due or bench.now)
    assert (bench.now, bench.newest.state) == (NOW + 3 * 3600.0, State.STARTING)


def test_a_download_stops_when_its_window_closes_and_goes_on_in_the_next(bench: Bench) -> None:
    with_policy(bench, Policy(fetch=(parse_window("08:00-09:00 UTC"),)))
    bench.updater.announced(CHANNEL, bench.envelope(bench.release("one")), bench.now)
    bench.finish_work()
    bench.gate.clear()
    until(lambda: bench.updater.tick(bench.now) and bool(bench.store.deployments()), what="the verdict")
    assert bench.newest.state is State.FETCHING
    _, cancel = bench.updater._deployer.effects._fetching[SLOT]
    bench.now = NOW + 3600.0
    bench.updater.tick(bench.now)
    assert (bench.newest.state, bench.newest.reasons[0].code) == (State.DEFERRED, ReasonCode.WINDOW)
    assert cancel.is_set()
    bench.gate.set()
    bench.settle()
    assert bench.newest.state is State.DEFERRED
    while bench.newest.state is State.DEFERRED:
        bench.tick_at(bench.newest.due)
    assert (bench.now, bench.newest.state) == (NOW + DAY_SECONDS, State.STARTING)


def test_a_lock_file_and_a_battery_defer_until_they_allow(bench: Bench, tmp_path: Path) -> None:
    battery, lock = tmp_path / "capacity", tmp_path / "lock"
    battery.write_text("12")
    lock.touch()
    with_policy(bench, Policy(lock=str(lock), require=(Requirement(file=str(battery), minimum=40),)))
    bench.announce(bench.release("one"))
    codes = [reason.code for reason in bench.newest.reasons]
    assert (bench.newest.state, codes) == (State.DEFERRED, [ReasonCode.LOCKED, ReasonCode.CONDITION])
    lock.unlink()
    bench.tick_at(bench.newest.due)
    assert [reason.code for reason in bench.newest.reasons] == [ReasonCode.CONDITION]
    battery.write_text("80")
    bench.tick_at(bench.newest.due)
    assert bench.newest.state is State.STARTING


# --- after an unclean end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reboot", [False, True])
def test_after_an_unclean_end_the_committed_release_settles_first(bench: Bench, reboot: bool) -> None:
    one = bench.release("one")
    bench.commit(one)
    bench.announce(bench.release("two"), one)
    for number in (2, 3):
        bench.crash()
        bench.boot = f"boot {number}" if reboot else bench.boot
        bench.restart()
    assert bench.newest.state is State.STAGED
    bench.tick_at(bench.now + SETTLE_SECONDS - 0.5)
    assert bench.runtime.orders == [("run", "activity@1")]
    bench.tick_at(max(bench.newest.due, bench.now + 1.0))
    assert bench.runtime.orders[-1] == ("start", "activity@2")


def test_reboots_never_condemn_and_end_after_a_budget_of_their_own(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    bench.crash()
    bench.restart()
    bench.announce(two, one)
    bench.tick_at(bench.now + SETTLE_SECONDS)
    for number in range(10):
        assert (bench.newest.state, bench.newest.attempts) == (State.STARTING, 1)
        bench.crash()
        bench.boot = f"boot {number + 2}"
        bench.restart()
        bench.tick_at(max(bench.newest.due, bench.now + SETTLE_SECONDS))
    assert bench.newest.state is State.ROLLED_BACK
    assert bench.newest.reasons[0].blame is Blame.ENVIRONMENT
    assert "went down 10 times" in bench.newest.reasons[0].message
    assert bench.updater._deployer.quarantined(SLOT) == []
    assert bench.runs == "activity@1"


# --- collection ------------------------------------------------------------------------------------------------------


def test_the_last_n_committed_keep_their_blobs_and_the_rest_goes_over_budget(bench: Bench) -> None:
    with_little_room(bench)
    _, two, last = three(bench)
    assert blobs(bench) == needs(two, last)
    assert ask(bench, "gc", "all") == "removed 0 releases and 0 blobs of 0 bytes"


def test_within_the_budget_unneeded_blobs_stay_until_they_are_asked_away(bench: Bench) -> None:
    one, two, last = three(bench)
    four = bench.release("four")
    bench.commit(four, last)
    ask(bench, "gc")
    assert blobs(bench) == needs(one, two, last, four)
    ask(bench, "gc", "all")
    assert blobs(bench) == needs(two, last, four)


def test_a_pinned_release_is_kept_however_old(bench: Bench) -> None:
    with_little_room(bench)
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    ask(bench, "pin")
    bench.announce(two, one)
    ask(bench, "gc", "all")
    assert blobs(bench) == needs(one)
    assert (bench.directory / "releases" / one.info.digest.hex).is_dir()


def test_space_is_made_before_an_update_is_deferred_for_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, last = three(bench)
    bench.commit(bench.release("four"), last)
    seen: list[set[str]] = []
    plain = admission.space

    def space(*arguments: object, **values: object) -> object:
        seen.append(blobs(bench))
        return fault(Blame.ENVIRONMENT) if len(seen) == 1 else plain(*arguments, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(effects, "space", space)
    bench.announce(bench.release("five"), last)
    assert needs(one) <= seen[0]
    assert not (needs(one) - needs(two)) & seen[1]
    assert bench.newest.state is State.STARTING


def test_rows_are_bounded_and_what_is_needed_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.update.ledger.DEPLOYMENTS_MAX", 2)
    monkeypatch.setattr("edge_agent.update.ledger.JOURNAL_MAX", 20)
    one = bench.release("one")
    bench.commit(one)
    for number in range(5):
        bench.announce(bench.release(f"bad {number}"), one)
        bench.run_to(State.LIVE)
        bench.say(EventKind.FAILED, fault())
    ask(bench, "gc")
    assert len(bench.store.deployments(limit=1000)) <= 2 + 2
    assert len(bench.store.journal(limit=1000)) <= 20
    assert bench.runs == "activity@1"
    assert len(bench.store._rows("select digest from manifest")) <= 2 + 3


# --- a disk that refuses ---------------------------------------------------------------------------------------------


class FullDisk:
    """Lets transactions fail while `full`."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        plain = type(bench.store).transaction

        def transaction(store: object) -> object:
            if self.full:
                raise StoreError("the store refuses to write: database or disk is full")
            return plain(store)  # type: ignore[arg-type]

        monkeypatch.setattr(type(bench.store), "transaction", transaction)


def tick(bench: Bench) -> None:
    """As the agent does: what cannot be written is noted, and tried again."""
    try:
        bench.updater.tick(bench.now)
    except StoreError:
        return


@pytest.mark.parametrize("when", [State.FETCHING, State.STAGED, State.STARTING, State.SHADOW, State.LIVE])
def test_nothing_is_lost_while_the_disk_is_full(bench: Bench, monkeypatch: pytest.MonkeyPatch, when: State) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    disk = FullDisk(bench, monkeypatch)
    if when in (State.FETCHING, State.STAGED):
        bench.updater.announced(CHANNEL, bench.envelope(two, one), bench.now)
        bench.finish_work()
        if when is State.STAGED:
            bench.updater.tick(bench.now)
    else:
        bench.announce(two, one)
        bench.run_to(when)
    disk.full = True
    for _ in range(5):
        bench.now += 6.0
        bench.finish_work()
        tick(bench)
    assert bench.runs == "activity@1"
    assert "abandon" not in {verb for verb, _ in bench.runtime.orders}
    disk.full = False
    for _ in range(4):
        bench.tick_at(bench.now + 70.0)
    assert bench.run_to(State.COMMITTED).release == "activity@2"


def test_at_start_on_a_full_disk_what_is_committed_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.commit(one)
    bench.announce(two, one)
    bench.crash()
    with monkeypatch.context() as patch:
        FullDisk(bench, patch).full = True
        bench.now += 1.0
        bench._begin()
        bench.updater.start(bench.now)
        assert bench.runtime.orders == [("run", "activity@1")]
        with pytest.raises(StoreError):
            bench.updater.tick(bench.now)
    for _ in range(2):
        bench.tick_at(bench.now + 60.0)
    assert bench.run_to(State.COMMITTED).attempts == 2
    assert bench.runs == "activity@2"


# --- several slots ---------------------------------------------------------------------------------------------------


def test_a_download_that_hangs_delays_no_other_slot(bench: Bench) -> None:
    hanging = threading.Event()
    one, plain = bench.release("one"), bench._fetch

    def fetch(ref: BlobRef, cancel: threading.Event) -> Path:
        if ref.digest.hex in needs(one):
            hanging.set()
            cancel.wait(20.0)
            raise TransportError("stopped")
        return plain(ref, cancel)

    deployer = bench.updater._deployer
    slots = {SLOT: bench.setup, "other": msgspec.structs.replace(bench.setup, name="other")}
    deployer._slots = deployer.effects._slots = slots
    deployer.effects._workers["other"] = other = Helper("other", lambda: None)
    deployer.effects.helpers.append(other)
    deployer.effects._ports = msgspec.structs.replace(deployer.effects._ports, fetch=fetch)
    bench.updater.announced(CHANNEL, bench.envelope(one), bench.now)
    until(lambda: bench.updater.tick(bench.now) and hanging.is_set(), what="a download that hangs")
    second = bench.release("two", pipeline="other", self_test=None)
    with bench.store.transaction():
        bench.store.keep_manifest(second.info.digest, second.manifest)
    started = deployer.begin("other", msgspec.structs.replace(second.info, pipeline="other"), bench.now)
    until(
        lambda: bench.updater.tick(bench.now) and bench.store.deployment(started.id).state is State.STARTING,
        what="the other slot's start",
    )
    under_way = bench.store.under_way(SLOT)
    assert under_way is not None
    assert under_way.state is State.FETCHING
    deployer.effects.left(under_way)
