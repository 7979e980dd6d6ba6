"""A push goes the whole way or leaves no trace; what is sent, signed and waited for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import AuthorError, ConfigError, FieldcastError, TransportError
from edge_agent.transport import blobs, envelope
from publisher import pushing, uplink
from publisher.devices.fleet import DeviceOutcome, Outcome
from publisher.devices.overview import status
from publisher.pushing import Ending, ending_of
from publisher.record import Record
from publisher.trust.repository import Channel
from tests.simulators import author
from tests.simulators.broker import EXECUTABLE, Mosquitto, free_port
from tests.simulators.fleet import CHANNEL, FleetSimulator

pytestmark = pytest.mark.skipif(not Path(EXECUTABLE).exists(), reason="mosquitto is not installed")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Mosquitto() as broker:
        yield broker.url


@pytest.fixture
def fleet(tmp_path: Path, url: str) -> Iterator[FleetSimulator]:
    with FleetSimulator(tmp_path / "fleet", url) as found:
        yield found


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FleetSimulator]:
    """A fleet whose broker does not answer."""
    monkeypatch.setattr(uplink, "CONNECT_SECONDS", 0.5)
    with FleetSimulator(tmp_path / "nowhere", f"mqtt://127.0.0.1:{free_port()}") as found:
        yield found


def snapshot(fleet: FleetSimulator) -> dict[str, bytes]:
    """Everything in the home, by path."""
    return {str(path): path.read_bytes() for path in sorted(fleet.home.path.rglob("*")) if path.is_file()}


def test_a_push_leaves_blobs_and_an_envelope_on_the_broker(fleet: FleetSimulator) -> None:
    told: list[str] = []
    result = fleet.push(
        fleet.write("one.py", author.scale(2)), tag="v1", message="first", progress=told.append, wait=False
    )
    assert (result.ending, result.release, result.sequence) == (Ending.PUBLISHED, "meter@1", 1)
    assert "2 rows in, 2 out" in result.preflight
    assert told == [
        "packing",
        "preflight in a clean process",
        "sending blobs",
        "signing",
        "published meter@1",
    ]
    announced = fleet.retained(fleet.topics.trust(CHANNEL))
    assert envelope.unpack(announced) == fleet.channel.envelope()
    _, info = fleet.channel.current()["meter"]
    assert (info.digest, info.tag, info.message) == (result.digest, "v1", "first")
    assert "@" in info.signer
    for name in fleet.channel.record.names("blob"):
        assert name


def test_only_what_the_broker_lacks_is_sent(fleet: FleetSimulator) -> None:
    first = fleet.push(fleet.write("one.py", author.scale(2)), wait=False)
    again = fleet.push(fleet.write("one.py", author.scale(2)), wait=False)
    assert again.digest == first.digest
    assert again.sequence == 2
    assert again.sent_bytes < first.sent_bytes
    assert again.sent_bytes >= len(fleet.retained(fleet.topics.trust(CHANNEL))) - 64


def test_a_dry_run_needs_neither_broker_nor_passphrase_and_leaves_nothing(nowhere: FleetSimulator) -> None:
    target, before = nowhere.write("one.py", author.scale(2)), snapshot(nowhere)
    with nowhere._imports():
        result = pushing.push(
            target, channel=CHANNEL, home=nowhere.home.path, dry_run=True, passphrase=lambda: pytest.fail("asked")
        )
    assert (result.ending, result.release) == (Ending.DRY_RUN, "")
    assert result.digest == Digest(result.digest)
    assert snapshot(nowhere) == before


def test_without_a_broker_nothing_is_signed(nowhere: FleetSimulator) -> None:
    target, before = nowhere.write("one.py", author.scale(2)), snapshot(nowhere)
    with pytest.raises(TransportError, match="cannot be reached") as caught:
        nowhere.push(target)
    assert "\n" not in str(caught.value)
    assert snapshot(nowhere) == before


EARLY = {
    "channel": ({"channel": "nope"}, ConfigError, "unknown channel 'nope'"),
    "tag with a newline": ({"tag": "a\nb"}, ConfigError, "tag name"),
    "tag like a sequence number": ({"tag": "12"}, ConfigError, "sequence number or a channel"),
    "tag like a channel": ({"tag": CHANNEL}, ConfigError, "sequence number or a channel"),
    "message with a newline": ({"message": "a\nb"}, ConfigError, "one line"),
    "message with an escape": ({"message": "\x1b[2J"}, ConfigError, "printable"),
    "message too long": ({"message": "x" * 501}, ConfigError, "500"),
    "target": ({"target": "nope.py"}, AuthorError, "there is no file"),
    "passphrase": ({"passphrase": "wrong"}, AuthorError, "wrong passphrase"),
    "nobody gives the right one": ({"passphrase": lambda: "wrong"}, AuthorError, "wrong passphrase"),
}


@pytest.mark.parametrize("case", EARLY)
def test_what_is_cheap_to_find_wrong_is_found_before_anything_is_done(nowhere: FleetSimulator, case: str) -> None:
    wrong, kind, words = EARLY[case]
    told: list[str] = []
    arguments: dict[str, Any] = {
        "target": nowhere.write("one.py", author.scale(2)),
        "channel": CHANNEL,
        "passphrase": nowhere.passphrase,
        **wrong,
    }
    before = snapshot(nowhere)
    with nowhere._imports(), pytest.raises(kind, match=words):
        pushing.push(home=nowhere.home.path, progress=told.append, **arguments)
    assert told == []
    assert snapshot(nowhere) == before


def test_a_record_without_its_channel(nowhere: FleetSimulator) -> None:
    record = nowhere.home.path / "record"
    record.rename(record.with_name("elsewhere"))
    with pytest.raises(ConfigError, match="not in the record"):
        nowhere.push("one.py")


def test_an_announcement_that_is_not_taken_says_that_the_release_is_signed(
    fleet: FleetSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> int:
        raise TransportError("broker gone")

    monkeypatch.setattr(uplink.Uplink, "announce", lost)
    with pytest.raises(TransportError, match=r"meter@1 is signed, but .* broker gone; push again"):
        fleet.push(fleet.write("one.py", author.scale(2)), wait=False)


class TestHistory:
    def test_a_newer_history_on_the_broker_is_not_overwritten(self, fleet: FleetSimulator, tmp_path: Path) -> None:
        target = fleet.write("one.py", author.scale(2))
        subprocess.run(["cp", "-r", fleet.home.path, tmp_path / "copy"], check=True)
        fleet.push(target, wait=False)
        announced = fleet.retained(fleet.topics.trust(CHANNEL))
        with fleet._imports(), pytest.raises(AuthorError, match="somebody pushed from another record"):
            pushing.push(target, channel=CHANNEL, home=tmp_path / "copy", passphrase=fleet.passphrase)
        assert fleet.retained(fleet.topics.trust(CHANNEL)) == announced
        assert not Channel(Record(tmp_path / "copy" / "record"), fleet.home.fleet, CHANNEL).current()

    def test_an_older_history_is_replaced(self, fleet: FleetSimulator) -> None:
        target = fleet.write("one.py", author.scale(2))
        fleet.push(target, wait=False)
        older = fleet.retained(fleet.topics.trust(CHANNEL))
        fleet.push(target, wait=False)
        fleet.announce(older)
        assert fleet.push(target, wait=False).sequence == 3

    def test_rubbish_is_replaced(self, fleet: FleetSimulator) -> None:
        fleet.announce(b"rubbish")
        assert fleet.push(fleet.write("one.py", author.scale(2)), wait=False).sequence == 1

    def test_a_missing_blob_is_sent_again(self, fleet: FleetSimulator) -> None:
        signed = fleet.release(fleet.write("one.py", author.scale(2)))
        ref = uplink.BlobRef.of(signed.blobs[0])
        fleet.put(fleet.topics.chunk(ref.digest, 0), b"")
        assert blobs.missing(fleet.client, fleet.topics, ref, 0.3)
        fleet.push(str(fleet.author / "one.py"), wait=False)
        assert not blobs.missing(fleet.client, fleet.topics, ref)


class TestRollback:
    def test_there_is_nothing_to_go_back_to(self, fleet: FleetSimulator) -> None:
        with pytest.raises(ConfigError, match="no releases yet"):
            fleet.rollback()
        fleet.release(fleet.write("one.py", author.scale(2)))
        with pytest.raises(AuthorError, match="nothing to go back to"):
            fleet.rollback()

    def test_back_to_the_newest_with_other_bytes(self, fleet: FleetSimulator) -> None:
        one = fleet.release(fleet.write("one.py", author.scale(2)))
        for _ in range(2):
            fleet.release(fleet.write("two.py", author.scale(3)))
        result = fleet.rollback(message="too warm", wait=False)
        assert (result.ending, result.release, result.digest) == (
            Ending.PUBLISHED,
            "meter@4",
            one.published.info.digest,
        )
        assert fleet.channel.current()["meter"][1].message == "too warm"

    def test_back_to_a_number(self, fleet: FleetSimulator) -> None:
        two = [fleet.release(fleet.write(f"{n}.py".replace("1", "one"), author.scale(n))) for n in (1,)]
        assert fleet.rollback(sequence=1, wait=False).digest == two[0].published.info.digest
        with pytest.raises(ConfigError, match="no release meter@9; it has meter@1, meter@2"):
            fleet.rollback(sequence=9)
        with pytest.raises(ConfigError, match="no pipeline 'other'; it has meter"):
            fleet.rollback(pipeline="other")


class TestWaiting:
    def test_nobody_listens(self, fleet: FleetSimulator) -> None:
        result = fleet.push(fleet.write("one.py", author.scale(2)), wait=True, timeout_seconds=0.3)
        assert (result.ending, result.devices) == (Ending.TIMED_OUT, [])

    def test_a_device_that_does_not_deliver_the_columns_refuses(self, fleet: FleetSimulator) -> None:
        agent = fleet.agent(columns='other = "x"')
        told: list[str] = []
        result = fleet.push(fleet.write("one.py", author.scale(2)), wait=True, progress=told.append)
        assert result.ending is Ending.REFUSED
        assert [(one.device, one.outcome, one.reasons[0].code.value) for one in result.devices] == [
            (agent.device, Outcome.REFUSED, "columns")
        ]
        assert told[-1] == f"{agent.device}: refused"
        found = status(home=fleet.home.path)
        assert [(one.device, one.online) for one in found.devices] == [(agent.device, True)]
        assert found.channels[CHANNEL].offered["meter"].name == "meter@1"

    def test_a_device_commits_and_then_rolls_back(self, fleet: FleetSimulator) -> None:
        agent, _ = fleet.settled()
        result = fleet.push(fleet.write("two.py", author.scale(3)), wait=True)
        assert (result.ending, result.release) == (Ending.COMMITTED, "meter@2")
        result = fleet.push(fleet.write("three.py", author.careless()), wait=True)
        assert result.ending is Ending.ROLLED_BACK
        assert result.devices[0].reasons
        assert agent.slot()["active"] == "meter@2"


C, B, R, P = Outcome.COMMITTED, Outcome.ROLLED_BACK, Outcome.REFUSED, Outcome.PENDING


@pytest.mark.parametrize(
    ("outcomes", "devices", "ending"),
    [
        ([], 0, Ending.TIMED_OUT),
        ([C], 0, Ending.COMMITTED),
        ([C], 2, Ending.TIMED_OUT),
        ([C, C], 2, Ending.COMMITTED),
        ([C, P], 0, Ending.TIMED_OUT),
        ([C, P, R], 0, Ending.REFUSED),
        ([C, P, R, B], 9, Ending.ROLLED_BACK),
    ],
)
def test_the_worst_ending_counts(outcomes: list[Outcome], devices: int, ending: Ending) -> None:
    found = [DeviceOutcome(device=f"d{number}", outcome=one) for number, one in enumerate(outcomes)]
    assert ending_of(found, devices) is ending


def test_outside_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert pushing._commit() == {}
    subprocess.run(["git", "init", "-q", "."], check=True)
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"], check=True
    )
    assert pushing._commit()["dirty"] is False
    (tmp_path / "new").touch()
    assert pushing._commit()["dirty"] is True


def test_the_python_interface_names_what_it_has() -> None:
    import publisher

    assert publisher.push is pushing.push
    assert set(publisher.__all__) <= set(dir(publisher))
    assert issubclass(FieldcastError, Exception)
    with pytest.raises(AttributeError, match="no attribute 'pusj'"):
        publisher.__getattr__("pusj")
