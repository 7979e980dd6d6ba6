"""An imported envelope goes the way of one from the broker, and whoever brought it learns what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import Blame, ReasonCode, UpdateRejected
from edge_agent.contract.verification import Verified
from edge_agent.offline.outcome import Outcome, outcomes
from edge_agent.update.deployment import EventKind, State
from edge_agent.update.imports import AGAIN_SECONDS, argument_of
from edge_agent.update.intake import FREE_REFUSALS
from tests.simulators.bench import CHANNEL, NOW, SLOT, Bench, Release, decode_msgpack, fault


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.crash()


def ask(bench: Bench, envelope: bytes, channel: str = CHANNEL) -> int:
    with bench.store.transaction():
        return bench.store.ask("import", channel, bench.now, argument_of(envelope))


def brought(bench: Bench, envelope: bytes, channel: str = CHANNEL) -> str:
    number = ask(bench, envelope, channel)
    bench.settle()
    return bench.store.answer_of(number) or ""


def test_what_is_imported_is_accepted_and_commits(bench: Bench) -> None:
    envelope = bench.envelope(bench.release("one"))
    assert brought(bench, envelope) == f"accepted: channel {CHANNEL}"
    bench.run_to(State.COMMITTED)
    assert bench.runs == f"{SLOT}@1"
    row = bench.store._rows("select argument from request")[0]
    assert row["argument"] == "", "the envelope is kept once"
    assert brought(bench, envelope) == f"accepted: channel {CHANNEL}"
    assert bench.verified == [envelope]


def test_what_is_older_than_the_accepted_is_refused_with_its_reason(bench: Bench) -> None:
    old = bench.envelope(bench.release("one"))
    bench.commit(bench.release("two"))
    assert brought(bench, old) == "refused: older: an older envelope"
    assert bench.runs == f"{SLOT}@2"


def test_an_import_outlives_the_agent(bench: Bench) -> None:
    number = ask(bench, bench.envelope(bench.release("one")))
    bench.crash()
    bench.restart()
    assert bench.store.answer_of(number) == f"accepted: channel {CHANNEL}"
    bench.run_to(State.COMMITTED)


def test_an_earlier_refusal_of_the_same_envelope_is_no_answer(bench: Bench) -> None:
    envelope = bench.envelope(bench.release("one"))
    bench.verdicts[envelope] = fault_of("expired")
    assert brought(bench, envelope) == "refused: expired: for now"
    del bench.verdicts[envelope]
    bench.now += 1
    assert brought(bench, envelope) == f"accepted: channel {CHANNEL}"


def fault_of(code: str) -> Exception:
    return UpdateRejected.one(ReasonCode(code), "for now", blame=Blame.ENVIRONMENT)


def test_an_import_that_was_pushed_aside_is_judged_later(bench: Bench) -> None:
    bench.gate.clear()
    first, second = bench.envelope(bench.release("one")), bench.envelope(bench.release("two"))
    bench.updater.announced(CHANNEL, first, bench.now)
    number = ask(bench, second)
    bench.updater.tick(bench.now)
    third = bench.envelope(bench.release("three"))
    bench.updater.announced(CHANNEL, third, bench.now)  # only the newest waits
    bench.gate.set()
    bench.settle()
    assert bench.store.answer_of(number) is None
    bench.tick_at(bench.now + AGAIN_SECONDS + 1)
    assert bench.store.answer_of(number) == "refused: older: an older envelope"


def test_a_flood_of_refusals_delays_an_import_and_loses_it_not(bench: Bench) -> None:
    for number in range(FREE_REFUSALS + 2):
        rubbish = bench.envelope(bench.release(f"r{number}"))
        bench.verdicts[rubbish] = fault_of("signature")
        bench.deliver(rubbish)
    envelope = bench.envelope(bench.release("good"))
    number = ask(bench, envelope)
    bench.settle()
    assert bench.store.answer_of(number) is None
    bench.tick_at(bench.now + 400)
    assert bench.store.answer_of(number) == f"accepted: channel {CHANNEL}"


def test_a_foreign_channel_and_a_damaged_request_are_refused(bench: Bench) -> None:
    envelope = bench.envelope(bench.release("one"))
    assert brought(bench, envelope, "other") == "refused: no channel 'other' in the configuration"
    assert brought(bench, b"") == "refused: the request is damaged, import again"
    with bench.store.transaction():
        number = bench.store.ask("import", CHANNEL, bench.now, "§")
    bench.settle()
    assert (bench.store.answer_of(number) or "").startswith("refused: the request is damaged")


def test_what_waited_for_blobs_is_taken_up_at_once_when_they_are_brought(bench: Bench) -> None:
    release = bench.release("one")
    bench.broker, lacking = {}, bench.broker
    envelope = bench.announce(release)
    assert bench.newest.state is State.DEFERRED
    bench.broker = lacking
    assert brought(bench, envelope).startswith("accepted")
    bench.run_to(State.COMMITTED)
    assert bench.now == NOW


# --- how an import ends, seen from outside ---------------------------------------------------------------------------


def outcome(bench: Bench, envelope: bytes, before: int = 0) -> Outcome:
    verified = decode_msgpack(envelope, Verified)
    (found,) = outcomes(
        bench.store, [SLOT], verified, CHANNEL, envelope=envelope, before=before, since=bench.now, deadline=0.0
    )
    return found


def two(bench: Bench) -> tuple[Release, Release]:
    first, second = bench.release("one"), bench.release("two")
    bench.commit(first)
    return first, second


def test_a_slot_under_way_committed_and_unchanged_is_told_apart(bench: Bench) -> None:
    first, second = two(bench)
    later = bench.envelope(second, first)
    assert (outcome(bench, later).ending, outcome(bench, later).release) == ("under_way", f"{SLOT}@1")
    brought(bench, later)
    assert (outcome(bench, later).ending, outcome(bench, later).release) == ("under_way", f"{SLOT}@2")
    bench.run_to(State.COMMITTED)
    assert outcome(bench, later) == Outcome(slot=SLOT, release=f"{SLOT}@2", ending="committed")
    nobody = bench.envelope(bench.release("three"), second, percent=0.0)
    brought(bench, nobody)
    assert (outcome(bench, nobody).ending, outcome(bench, nobody).words) == ("unchanged", f"goes on with {SLOT}@2")


def test_a_slot_that_rolled_back_or_refused_says_why(bench: Bench) -> None:
    first, second = two(bench)
    later = bench.envelope(second, first)
    brought(bench, later)
    bench.run_to(State.SHADOW)
    bench.say(EventKind.FAILED, fault())
    found = outcome(bench, later)
    assert (found.ending, found.release, "errors" in found.words) == ("rolled_back", f"{SLOT}@2", True)
    foreign = bench.envelope(bench.release("three", requires=["nosuch>=1"]), first)
    brought(bench, foreign)
    found = outcome(bench, foreign)
    assert (found.ending, found.release, "nosuch" in found.words) == ("refused", f"{SLOT}@3", True)


def test_an_envelope_that_the_agent_refused_meanwhile_is_told(bench: Bench) -> None:
    old = bench.envelope(bench.release("one"))
    bench.commit(bench.release("two"))
    brought(bench, old)
    with pytest.raises(UpdateRejected, match="older"):
        outcome(bench, old)
