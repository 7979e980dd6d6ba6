"""What a device does about what is signed: verify, remember, head for it, and never away from what works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Blame, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.verification import Request, Verified
from edge_agent.update.deployment import EventKind, State
from edge_agent.update.ports import SlotSetup
from edge_agent.update.trust import verify
from tests.simulators.bench import CHANNEL, DAY_SECONDS, NOW, SLOT, Bench, Release, fault
from tests.simulators.channel import ChannelSimulator, sample_manifest


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.crash()


@pytest.fixture
def running(bench: Bench) -> tuple[Bench, Release]:
    """A device that runs a first release."""
    one = bench.release("one")
    bench.commit(one)
    bench.runtime.orders.clear()
    return bench, one


Running = tuple[Bench, Release]


def ask_rollback(bench: Bench, slot: str = SLOT, kind: str = "rollback") -> str:
    with bench.store.transaction():
        number = bench.store.ask(kind, slot, bench.now)
    bench.settle()
    return bench.store.answer_of(number) or ""


# --- trust -----------------------------------------------------------------------------------------------------------


def test_an_accepted_envelope_is_kept_with_its_floors_manifests_and_time(bench: Bench) -> None:
    one = bench.release("one")
    envelope = bench.announce(one, expires=DAY_SECONDS)
    kept = bench.store.trust(CHANNEL)
    assert kept is not None
    assert (kept.envelope, kept.accepted, kept.expires) == (envelope, NOW, NOW + DAY_SECONDS)
    assert bench.store.floors(CHANNEL) == [("timestamp", "k", 1)]
    assert bench.store.manifest(one.info.digest) == one.manifest
    assert bench.store.fact("clock") == NOW


def test_the_accepted_envelope_is_not_verified_again(bench: Bench) -> None:
    envelope = bench.announce(bench.release("one"))
    bench.deliver(envelope)
    assert bench.verified == [envelope]


def test_the_same_envelope_twice_in_a_row_is_verified_once(bench: Bench) -> None:
    envelope = bench.envelope(bench.release("one"))
    bench.gate.clear()
    for _ in range(3):
        bench.updater.announced(CHANNEL, envelope, bench.now)
    bench.gate.set()
    bench.settle()
    assert bench.verified == [envelope]


def test_a_refused_envelope_is_remembered_and_what_runs_goes_on(running: Running) -> None:
    bench, one = running
    accepted = bench.store.trust(CHANNEL)
    bad = bench.envelope(bench.release("two"), one)
    bench.verdicts[bad] = UpdateRejected.one(ReasonCode.SIGNATURE, "unknown key", blame=Blame.ENVIRONMENT)
    changes = bench.changes
    bench.deliver(bad)
    refusal = bench.store.refusal(CHANNEL)
    assert refusal is not None
    assert (refusal.digest, refusal.at) == (Digest.of(bad), bench.now)
    assert [reason.code for reason in refusal.reasons] == [ReasonCode.SIGNATURE]
    assert bench.store.trust(CHANNEL) == accepted
    assert (bench.runs, bench.runtime.orders) == ("activity@1", [])
    assert bench.changes > changes
    bench.tick_at(bench.now + DAY_SECONDS)
    assert bench.verified.count(bad) == 1
    bench.crash()
    bench.restart()
    assert bench.store.refusal(CHANNEL) == refusal
    bench.announce(bench.release("three"), one)
    assert bench.store.refusal(CHANNEL) is None


def test_an_envelope_that_could_not_even_be_unpacked_is_refused_too(running: Running) -> None:
    bench, _ = running
    bench.updater.refuse(CHANNEL, b"raw", UpdateRejected.one(ReasonCode.MALFORMED, "truncated"), bench.now)
    refusal = bench.store.refusal(CHANNEL)
    assert refusal is not None
    assert refusal.digest == Digest.of(b"raw")


@pytest.mark.parametrize(
    "verdict",
    [
        UpdateRejected.one(ReasonCode.EXPIRED, "expired", blame=Blame.ENVIRONMENT),
        StoreError("no room"),
        ValueError("?"),
    ],
    ids=["a clock that was wrong", "no room for the verifier", "a mistake of ours"],
)
def test_what_may_pass_later_is_tried_again(bench: Bench, verdict: Exception) -> None:
    envelope = bench.envelope(bench.release("one"))
    bench.verdicts[envelope] = verdict
    bench.deliver(envelope)
    assert bench.store.refusal(CHANNEL) is not None
    due = bench.updater.tick(bench.now)
    assert bench.now < due <= bench.now + 60.0
    bench.tick_at(due)
    assert bench.verified == [envelope] * 2
    bench.verdicts.clear()
    bench.tick_at(bench.now + 60.0)
    assert bench.newest.state is State.STARTING
    assert bench.store.refusal(CHANNEL) is None
    assert bench.updater.tick(bench.now) > bench.now + 60.0


def test_a_retry_of_what_was_accepted_meanwhile_does_not_spin(running: Running) -> None:
    bench, _ = running
    accepted = bench.store.trust(CHANNEL)
    assert accepted is not None
    bench.updater.refuse(CHANNEL, accepted.envelope, StoreError("no room"), bench.now)
    bench.tick_at(bench.now + 60.0)
    assert bench.updater.tick(bench.now) > bench.now


def test_a_newer_announcement_replaces_the_one_to_be_tried_again(bench: Bench) -> None:
    stale = bench.envelope(bench.release("one"))
    bench.verdicts[stale] = UpdateRejected.one(ReasonCode.EXPIRED, "expired")
    bench.deliver(stale)
    bench.announce(bench.release("two"))
    bench.tick_at(bench.now + DAY_SECONDS)
    assert bench.verified.count(stale) == 1


def test_an_older_envelope_that_overtakes_its_own_replacement_is_refused(bench: Bench) -> None:
    """Both are verified against what was accepted before either: the second verdict is worth nothing (T5)."""
    bench.announce(bench.release("one"))
    two, three = bench.release("two"), bench.release("three")
    older, newer = bench.envelope(two), bench.envelope(three)
    bench.gate.clear()
    bench.updater.announced(CHANNEL, newer, bench.now)
    bench.updater.announced(CHANNEL, older, bench.now)
    bench.gate.set()
    bench.settle()
    kept = bench.store.trust(CHANNEL)
    assert kept is not None
    assert kept.envelope == newer
    refusal = bench.store.refusal(CHANNEL)
    assert refusal is not None
    assert [reason.code for reason in refusal.reasons] == [ReasonCode.OLDER]
    assert bench.newest.release == "activity@3"


def test_the_request_carries_the_floor_clock_and_the_floors(bench: Bench) -> None:
    bench.announce(bench.release("one"))
    asked: list[Request] = []

    def spy(request: Request) -> Verified:
        asked.append(request)
        raise UpdateRejected.one(ReasonCode.SIGNATURE, "no")

    bench._verify = spy  # type: ignore[method-assign]
    bench.crash()
    bench.now = 1000.0
    bench.restart()
    bench.deliver(b"anything")
    assert asked[0].now == NOW
    assert [(floor.role, floor.version) for floor in asked[0].floors] == [("timestamp", 1)]
    assert (asked[0].fleet, asked[0].channel, asked[0].root) == ("plant", CHANNEL, b"root")
    assert asked[0].accepted is not None


def test_the_real_verifier_feeds_it(tmp_path: Path) -> None:
    """One road with real signatures: accepted, tampered, replayed."""
    channel = ChannelSimulator("plant", CHANNEL)
    bench = Bench(tmp_path)
    bench.now = channel.now
    bench._verify = verify  # type: ignore[method-assign, assignment]
    bench.crash()
    bench.restart()
    bench.updater._roots = {CHANNEL: channel.bootstrap}
    channel.release(SLOT, sample_manifest(SLOT, "1"))
    first = channel.envelope()
    bench.deliver(first)
    assert (bench.newest.release, bench.newest.state) == ("activity@1", State.STARTING)
    channel.release(SLOT, sample_manifest(SLOT, "2"))
    second = channel.envelope()
    bench.deliver(second[:-200] + b"\0" * 200)
    refusal = bench.store.refusal(CHANNEL)
    assert refusal is not None
    assert bench.newest.release == "activity@1"
    bench.deliver(second)
    assert bench.newest.release == "activity@2"
    bench.deliver(first)
    refusal = bench.store.refusal(CHANNEL)
    assert refusal is not None
    assert refusal.reasons[0].code is ReasonCode.OLDER
    assert bench.newest.release == "activity@2"
    bench.crash()


# --- expiry (T6) -----------------------------------------------------------------------------------------------------


def test_on_expired_metadata_nothing_changes_and_everything_runs(running: Running) -> None:
    bench, one = running
    two = bench.release("two")
    bench.announce(two, one, expires=DAY_SECONDS, percent=0.0)
    accepted = bench.store.trust(CHANNEL)
    assert accepted is not None
    with bench.store.transaction():
        bench.store.join(SLOT, "rollout 2")  # fresh metadata would now want the second release
    bench.stop()
    bench.restart(after_seconds=2 * DAY_SECONDS)
    assert bench.runtime.orders == [("run", "activity@1")]
    bench.deliver(accepted.envelope)
    assert bench.newest.release == "activity@1"
    bench.announce(two, one)
    assert bench.newest.release == "activity@2"


def test_expired_metadata_wants_nothing_after_a_restart_either(running: Running) -> None:
    bench, one = running
    bench.announce(bench.release("bad", requires=["scipy"]), one, expires=DAY_SECONDS)
    assert bench.newest.state is State.REJECTED
    for after, count in [(DAY_SECONDS / 2, 3), (DAY_SECONDS, 3)]:  # a rejection is judged anew at start, while fresh
        bench.crash()
        bench.restart(after_seconds=after)
        assert len(bench.store.deployments()) == count
    assert bench.runs == "activity@1"


def test_a_clock_set_back_does_not_make_expired_metadata_fresh(running: Running) -> None:
    bench, one = running
    two = bench.release("two")
    bench.announce(two, one, expires=DAY_SECONDS, percent=0.0)
    kept = bench.store.trust(CHANNEL)
    assert kept is not None
    with bench.store.transaction():
        bench.store.raise_fact("clock", NOW + 2 * DAY_SECONDS)
        bench.store.join(SLOT, "rollout 2")
    bench.crash()
    bench.now = NOW - DAY_SECONDS
    bench.restart()
    assert bench.newest.release == "activity@1"


def test_a_rollback_needs_no_fresh_metadata(running: Running) -> None:
    bench, one = running
    bench.announce(bench.release("two"), one, expires=DAY_SECONDS)
    bench.run_to(State.COMMITTED)
    bench.now += 2 * DAY_SECONDS
    bench.updater.stopped_serving(bench.newest.id, (fault(),), bench.now)
    assert bench.runs == "activity@1"


# --- what a slot heads for -------------------------------------------------------------------------------------------


def test_nothing_signed_and_nothing_stored_means_nothing_happens(bench: Bench) -> None:
    bench.updater.start(bench.now)
    bench.settle()
    assert bench.store.deployments() == []
    assert bench.runtime.orders == []


def test_a_release_that_rolled_back_is_quarantined_and_not_retried_but_a_new_one_is(running: Running) -> None:
    bench, one = running
    two = bench.release("two")
    envelope = bench.announce(two, one)
    bench.run_to(State.LIVE)
    bench.say(EventKind.FAILED, fault())
    assert bench.newest.state is State.ROLLED_BACK
    bench.deliver(envelope)
    bench.announce(two, one)
    assert len(bench.store.deployments()) == 2
    renamed = bench.sign(two.manifest, two.parsed)
    bench.announce(renamed, one)
    assert (bench.newest.release, bench.newest.state) == (renamed.info.name, State.REJECTED)
    (reason,) = bench.newest.reasons
    assert reason.code is ReasonCode.QUARANTINE
    assert "12 of 100 frames raised ValueError" in reason.message
    bench.crash()
    bench.restart()
    assert len(bench.store.deployments()) == 3
    assert bench.runs == "activity@1"
    three = bench.release("three")
    bench.announce(three, one)
    assert bench.newest.release == three.info.name
    assert bench.run_to(State.COMMITTED).release == three.info.name


def test_a_failure_of_the_environment_is_no_quarantine_but_the_same_release_is_not_tried_again(
    running: Running,
) -> None:
    bench, one = running
    two = bench.release("two")
    envelope = bench.announce(two, one)
    bench.run_to(State.LIVE)
    bench.say(EventKind.FAILED, fault(Blame.ENVIRONMENT))
    bench.deliver(envelope)
    assert len(bench.store.deployments()) == 2
    renamed = bench.sign(two.manifest, two.parsed)
    bench.announce(renamed, one)
    assert bench.newest.release == renamed.info.name
    assert bench.newest.state is State.STARTING


def test_after_a_failure_stable_is_taken_up_where_nothing_ran(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.announce(two, one)
    bench.run_to(State.LIVE)
    bench.say(EventKind.FAILED, fault())
    assert bench.newest.release == "activity@1"
    assert bench.run_to(State.COMMITTED).release == "activity@1"


def test_another_configuration_gives_a_condemned_release_another_chance(running: Running) -> None:
    bench, one = running
    bench.announce(bench.release("two"), one)
    bench.run_to(State.LIVE)
    bench.say(EventKind.FAILED, fault())
    bench.stop()
    bench.setup = SlotSetup(name=SLOT, channel=CHANNEL, columns=["x"], config_digest="c1")
    bench.restart()
    bench.announce(bench.release("three"), one)
    bench.run_to(State.COMMITTED)
    assert [entry.digest for entry in bench.updater._deployer.quarantined(SLOT)] == []


@pytest.mark.parametrize("state", [State.STARTING, State.SHADOW, State.LIVE])
def test_a_candidate_withdrawn_midway_gives_way_to_what_is_wanted(running: Running, state: State) -> None:
    bench, one = running
    two = bench.release("two")
    bench.announce(two, one)
    bench.run_to(state)
    withdrawn = bench.newest.id
    bench.announce(two, one, aborted=True)
    found = bench.store.deployment(withdrawn)
    assert found.state is State.SUPERSEDED
    assert [reason.code for reason in found.reasons] == [ReasonCode.WITHDRAWN]
    assert bench.runtime.orders[-1] == ("abandon", "activity@2")
    assert bench.runs == "activity@1"
    assert bench.updater._deployer.quarantined(SLOT) == []
    bench.announce(two, one, rollout_id="again")
    assert bench.run_to(State.COMMITTED).release == "activity@2"


def test_a_newer_release_overtakes_one_that_is_being_fetched(bench: Bench) -> None:
    one, two = bench.release("one"), bench.release("two")
    bench.updater.announced(CHANNEL, bench.envelope(one), bench.now)
    bench.finish_work()
    bench.gate.clear()
    bench.updater.tick(bench.now)
    assert bench.newest.state is State.FETCHING
    overtaken = bench.newest.id
    key, cancel = bench.updater._deployer.effects._fetching[SLOT]
    assert key == overtaken
    verified = bench.envelope(two)
    bench.gate.set()
    bench.deliver(verified)
    assert cancel.is_set()
    assert bench.store.deployment(overtaken).state is State.SUPERSEDED
    assert bench.newest.release == "activity@2"
    assert bench.run_to(State.COMMITTED).release == "activity@2"


def test_a_committed_candidate_that_is_aborted_gives_way_to_stable(running: Running) -> None:
    bench, one = running
    two = bench.release("two")
    bench.commit(two, one)
    bench.announce(two, one, aborted=True)
    assert bench.newest.release == "activity@1"
    assert bench.run_to(State.COMMITTED).release == "activity@1"


def test_the_same_bytes_under_a_new_name_are_adopted_without_a_restart(running: Running) -> None:
    bench, one = running
    renamed = bench.sign(one.manifest, one.parsed)
    changes = bench.changes
    bench.announce(renamed, one)
    assert bench.runs == renamed.info.name
    assert bench.runtime.orders == [("rename", renamed.info.name)]  # what it gives out has the new name as well
    assert len(bench.store.deployments()) == 1
    assert bench.journal()[-1] == ("committed", "adopted", "committed")
    assert bench.changes > changes
    journal = bench.journal()
    bench.announce(renamed, one)
    assert bench.journal() == journal


def test_a_candidate_under_way_takes_the_new_name_too(running: Running) -> None:
    bench, one = running
    two = bench.release("two")
    bench.announce(two, one)
    renamed = bench.sign(two.manifest, two.parsed)
    bench.announce(renamed, one)
    assert (bench.newest.release, bench.newest.state) == (renamed.info.name, State.STARTING)
    assert [verb for verb, _ in bench.runtime.orders] == ["start", "rename"]


def test_membership_is_kept_when_the_percentage_is_lowered_and_across_restarts(running: Running) -> None:
    bench, one = running
    two = bench.release("two")
    bench.commit(two, one)
    for fields in ({"percent": 0.0}, {"paused": True}):
        bench.announce(two, one, **fields)
        bench.crash()
        bench.restart()
        assert bench.runs == "activity@2"
    assert len(bench.store.deployments()) == 2


def test_outside_the_percentage_nothing_happens(running: Running) -> None:
    bench, one = running
    bench.announce(bench.release("two"), one, percent=0.0)
    assert len(bench.store.deployments()) == 1
    assert bench.store.joined(SLOT, ["rollout 1", "rollout 2"]) == {"rollout 1"}


def test_only_the_slots_of_the_channel_are_moved(tmp_path: Path) -> None:
    bench = Bench(tmp_path, setup=SlotSetup(name="other", channel=CHANNEL, columns=["x"]))
    bench.announce(bench.release("one"))
    assert bench.store.deployments() == []
    bench.crash()


# --- operators -------------------------------------------------------------------------------------------------------


def test_an_operator_rolls_back_what_runs(running: Running) -> None:
    bench, one = running
    two = bench.release("two")
    envelope = bench.announce(two, one)
    bench.run_to(State.COMMITTED)
    assert ask_rollback(bench) == "activity@2 rolled back; activity@1 runs"
    assert bench.runs == "activity@1"
    assert bench.runtime.orders[-1] == ("run", "activity@1")
    assert bench.store.deployment(2).state is State.REVERTED
    assert bench.store.deployment(2).reasons[0].blame is Blame.OPERATOR
    bench.deliver(envelope)
    bench.crash()
    bench.restart()
    assert bench.runs == "activity@1"
    assert len(bench.store.deployments()) == 2


def test_an_operator_stops_a_candidate(running: Running) -> None:
    bench, one = running
    bench.announce(bench.release("two"), one)
    assert ask_rollback(bench) == "activity@2 rolled back; activity@1 runs"
    assert bench.newest.state is State.ROLLED_BACK
    assert bench.runs == "activity@1"


def test_an_operator_stops_the_first_candidate(bench: Bench) -> None:
    bench.announce(bench.release("one"))
    assert ask_rollback(bench) == "activity@1 rolled back; nothing runs"
    assert bench.newest.state is State.ROLLED_BACK


@pytest.mark.parametrize(
    ("slot", "kind", "answer"),
    [
        (SLOT, "rollback", "refused: activity@1 has no earlier committed release on this device"),
        ("nowhere", "rollback", "refused: no slot 'nowhere' in the configuration"),
        (SLOT, "dance", "unknown request 'dance'"),
    ],
)
def test_what_cannot_be_done_is_answered(running: Running, slot: str, kind: str, answer: str) -> None:
    bench, _ = running
    assert ask_rollback(bench, slot, kind) == answer
    assert bench.runs == "activity@1"


def test_an_empty_slot_cannot_be_rolled_back(bench: Bench) -> None:
    assert ask_rollback(bench) == f"refused: nothing runs on {SLOT}"


def test_a_request_is_carried_out_once_though_the_agent_dies_in_the_middle(running: Running) -> None:
    bench, one = running
    two, three = bench.release("two"), bench.release("three")
    bench.commit(two, one)
    bench.commit(three, two)
    bench.runtime.broken["run"] = _Killed()
    with pytest.raises(_Killed):
        ask_rollback(bench)
    bench.crash()
    bench.restart()
    assert bench.runs == "activity@2"
    assert bench.store.requests() == []
    assert bench.store.answer_of(1) == "activity@3 rolled back; activity@2 runs"


def test_a_request_left_while_the_agent_was_down_is_done_at_start(running: Running) -> None:
    bench, one = running
    bench.commit(bench.release("two"), one)
    with bench.store.transaction():
        bench.store.ask("rollback", SLOT, bench.now)
    bench.stop()
    bench.restart()
    assert bench.runs == "activity@1"


class _Killed(BaseException):
    """Stands for the moment at which the process ends."""
