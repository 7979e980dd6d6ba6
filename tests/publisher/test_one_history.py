"""T7: two workstations push at once, and there is one history: in the record, on the broker, on every device.

`FIELDCAST_RACE_ROUNDS=100` runs the long form of the race.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import AuthorError, TransportError
from edge_agent.transport import envelope
from publisher import contention, uplink
from publisher.contention import ATTEMPTS_MAX, rebased
from publisher.pushing import rollback
from publisher.record import Conflict
from publisher.trust.repository import Channel
from publisher.uplink import Uplink, connect
from tests.simulators.broker import EXECUTABLE, Mosquitto
from tests.simulators.office import PASSPHRASE, Office, retained
from tests.simulators.racer import Device, Racer
from tests.simulators.s3 import INSTALLED, S3Server

pytestmark = pytest.mark.skipif(not Path(EXECUTABLE).exists(), reason="mosquitto is not installed")

ROUNDS = int(os.environ.get("FIELDCAST_RACE_ROUNDS", "2"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Mosquitto() as broker:
        yield broker.url


@pytest.fixture
def offices(tmp_path: Path, url: str) -> tuple[Office, Office]:
    """Two workstations with copies of the keys and one record, a directory."""
    first = Office.found(tmp_path / "one", url, record=str(tmp_path / "shared"))
    return first, first.copy(tmp_path / "two")


def on_broker(office: Office) -> bytes:
    with connect(office.home) as client:
        return envelope.unpack(retained(client, office.topics.trust("staging")))


def race(one: Office, two: Office, rounds: int, environment: dict[str, str] | None = None) -> int:
    """Let two push at once so many times; return how often one had to sign again."""
    again = 0
    with connect(one.home) as client, Racer(one, environment) as first, Racer(two, environment) as second:
        old = Device(one, "staging", client).listen()
        for number in range(rounds):
            for racer, marker in ((first, f"{number} one"), (second, f"{number} two")):
                racer.go(marker)
            found = [first.outcome(), second.outcome()]
            names = sorted((one["release"] for one in found), key=lambda name: int(name.partition("@")[2]))
            assert names == [f"meter@{2 * number + 1}", f"meter@{2 * number + 2}"], found
            again += sum(one["rebased"] for one in found)
            signed = one.channel().releases()
            assert envelope.unpack(retained(client, one.topics.trust("staging"))) == one.channel().envelope()
            old.settle(signed)
            fresh = Device(two, "staging", client).listen()
            fresh.settle(signed)
            fresh.leave()
            assert fresh.verified is not None
            assert old.verified is not None
            assert (fresh.verified.rollouts, fresh.refused) == (old.verified.rollouts, 0)
        old.leave()
    return again


def test_two_processes_push_at_once_and_every_device_converges(offices: tuple[Office, Office]) -> None:
    one, two = offices
    again = race(one, two, ROUNDS)
    signers = {info.signer for info in one.channel().releases()}
    assert signers == {str(one.home.path), str(two.home.path)}
    print(f"{ROUNDS} rounds, signed again {again} times")


@pytest.mark.skipif(not INSTALLED, reason="needs moto[server]")
def test_the_same_over_an_object_store(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        one = Office.found(tmp_path / "one", url, record=s3.bucket())
        race(one, one.copy(tmp_path / "two"), max(1, ROUNDS // 3), {**os.environ, **s3.environment})


def test_who_announces_late_does_not_put_an_older_history_in_place_of_a_newer(offices: tuple[Office, Office]) -> None:
    one, two = offices
    late = one.sign("a")  # committed, and then this process was slow
    two.push("b")
    with connect(one.home) as client:
        Uplink(client, one.channel()).announce(late.envelope)
    assert on_broker(one) == one.channel().envelope() != late.envelope


def test_whoever_commits_while_another_announces_is_announced_too(
    offices: tuple[Office, Office], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = offices
    retain, committed = uplink.Uplink._retain, []

    def retain_slowly(self: Uplink, data: bytes) -> int:
        if not committed:  # between the commit and the announcement of `one`
            committed.append(two.sign("b"))
        return retain(self, data)

    monkeypatch.setattr(uplink.Uplink, "_retain", retain_slowly)
    one.push("a")
    assert on_broker(one) == committed[0].envelope == one.channel().envelope()


def test_an_announcement_that_is_always_overtaken_ends_with_a_retryable_error(
    offices: tuple[Office, Office], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = offices
    monkeypatch.setattr(uplink, "ANNOUNCEMENTS_MAX", 2)
    monkeypatch.setattr(Channel, "envelope", lambda self: two.refresh())
    first = one.refresh()
    with connect(one.home) as client, pytest.raises(TransportError, match="2 times while we announced it"):
        Uplink(client, one.channel()).announce(first)


def overtaken(monkeypatch: pytest.MonkeyPatch, method: str, other: Office) -> None:
    """Let `other` commit right before the first call of a signing method, which therefore loses."""
    real, others = getattr(Channel, method), []

    def late(self: Channel, *arguments: object, **options: object) -> object:
        if not others:
            others.append(None)
            others[0] = other.sign("b", signer="bob")
            raise Conflict("timestamp/2.json was created by someone else")
        return real(self, *arguments, **options)

    monkeypatch.setattr(contention, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(Channel, method, late)


def test_the_loser_signs_on_top_and_says_whom_it_overtook(
    offices: tuple[Office, Office], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = offices
    told: list[str] = []
    overtaken(monkeypatch, "publish", two)
    result = one.push("a", progress=told.append)
    assert result.release == "meter@2"
    assert result.warnings == ["meter@1 by bob was published meanwhile; meter@2 is offered"]
    assert "somebody else published first: signing again on top of that" in told
    assert on_broker(one) == one.channel().envelope()


def test_a_rollback_does_not_undo_what_it_has_not_seen(
    offices: tuple[Office, Office], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = offices
    one.sign("x")
    one.sign("y")
    overtaken(monkeypatch, "republish", two)
    with pytest.raises(TransportError, match=r"meter@3 by bob was published meanwhile and nothing was rolled back"):
        rollback("meter", channel="staging", home=one.home.path, passphrase=PASSPHRASE, sequence=1)
    assert [info.name for info in one.channel().releases()] == ["meter@1", "meter@2", "meter@3"]


def test_another_history_of_the_same_keys_is_refused(offices: tuple[Office, Office], tmp_path: Path) -> None:
    one, _ = offices
    lost = one.copy(tmp_path / "three")
    lost.move_record(str(tmp_path / "elsewhere"), keep=True)
    one.push("a")
    other = Office(lost.reload())
    with pytest.raises(AuthorError, match="somebody pushed from another record"):
        other.push("b")
    other.sign("b")
    with pytest.raises(AuthorError, match="somebody pushed from another record"):  # as many, but not the same
        other.push("c")


def test_losing_is_tried_again_so_often_and_no_more() -> None:
    calls, pauses = [], []

    def lose() -> None:
        calls.append(1)
        raise Conflict("7.json was created by someone else")

    with pytest.raises(Conflict, match=f"{ATTEMPTS_MAX} times somebody else published first"):
        rebased(lose, pause=pauses.append, draw=lambda: 1.0)
    assert len(calls) == ATTEMPTS_MAX
    assert len(pauses) == ATTEMPTS_MAX - 1
    assert pauses == sorted(pauses)
    assert pauses[-1] == contention.PAUSE_SECONDS_MAX


def test_whoever_objects_ends_it() -> None:
    def object_() -> None:
        raise TransportError("look first")

    def lose() -> None:
        raise Conflict("taken")

    with pytest.raises(TransportError, match="look first"):
        rebased(lose, on_conflict=object_, pause=lambda seconds: pytest.fail("paused"))
