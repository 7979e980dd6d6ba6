"""What no channel offers any more goes from the broker, and nothing that any device may still need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import AuthorError
from edge_agent.contract.messages import Way, Ways, encode_ways
from edge_agent.transport import blobs
from publisher import collection
from publisher.cli import main
from publisher.collection import Collection, collect
from publisher.uplink import connect
from tests.simulators.broker import EXECUTABLE, Mosquitto
from tests.simulators.office import Office, at_hand, blob_of, retained

pytestmark = pytest.mark.skipif(not Path(EXECUTABLE).exists(), reason="mosquitto is not installed")


@pytest.fixture(autouse=True, scope="module")
def verifier_at_hand() -> Iterator[None]:
    with at_hand():
        yield


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Mosquitto() as broker:
        yield broker.url


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, url: str) -> Office:
    return Office.found(tmp_path_factory.mktemp("office") / "home", url)


@pytest.fixture
def office(template: Office, tmp_path: Path) -> Office:
    return template.fresh(tmp_path / "home")


def put(office: Office, *contents: bytes) -> list[Digest]:
    """Put blobs on the broker, and nowhere else."""
    with connect(office.home) as client:
        for data in contents:
            blobs.publish(client, office.topics, data)
    return [Digest.of(data) for data in contents]


def swept(office: Office, **options: object) -> Collection:
    return collect(home=office.home.path, **options)  # type: ignore[arg-type]


def test_what_no_channel_offers_goes_and_what_any_needs_stays(office: Office) -> None:
    for marker in "abcd":
        office.push(marker, size=100_000)
    office.promote("meter@1")
    planned = swept(office, dry_run=True)
    assert [one.digest for one in planned.cleared] == [Digest.of(blob_of("b", 100_000))]
    assert office.lacks(*"abcd", size=100_000) == []
    found = swept(office)
    assert (found.cleared, found.kept, found.sent_again) == (planned.cleared, 3, 0)
    assert found.freed_bytes == sum(map(len, blobs.split(blob_of("b", 100_000))))
    # a: production's candidate; c: staging's stable; d: its candidate
    assert office.lacks(*"abcd", size=100_000) == ["b"]
    assert swept(office).cleared == []


def test_all_chunks_go(office: Office) -> None:
    import random

    noise = random.Random(1).randbytes(150_000)
    (digest,) = put(office, noise)
    found = swept(office)
    assert [(one.digest, one.chunks, one.why) for one in found.cleared] == [(digest, 3, "of no signed release")]
    with connect(office.home) as client:
        assert [retained(client, office.topics.chunk(digest, n), 0.2) for n in range(3)] == [b""] * 3


def test_what_is_on_its_way_into_a_release_stays_for_a_day(office: Office) -> None:
    data = b"sent, and not signed yet" * 20
    put(office, data)
    office.record.put_blob(data)
    assert swept(office).cleared == []
    assert [one.digest for one in swept(office, grace_seconds=0.0).cleared] == [Digest.of(data)]


def test_deltas_stay_with_what_they_make(office: Office) -> None:
    for marker in "abc":
        office.push(marker)
    deltas = [f"delta to {marker}".encode() * 50 for marker in "ac"]
    put(office, *deltas)
    with connect(office.home) as client:
        for marker, delta in zip("ac", deltas, strict=True):
            way = Way(base=Digest.of(blob_of("b")), delta=BlobRef.of(delta))
            hint = encode_ways(Ways(format=1, ways=[way]))
            client.publish(office.topics.ways(Digest.of(blob_of(marker))), hint, retain=True).wait(30)
    found = swept(office)
    assert {one.digest: one.why for one in found.cleared} == {
        Digest.of(blob_of("a")): "no longer offered",
        Digest.of(deltas[0]): "delta of a release no longer offered",
    }
    with connect(office.home) as client:
        assert retained(client, office.topics.ways(Digest.of(blob_of("a"))), 0.3) == b""
        assert retained(client, office.topics.ways(Digest.of(blob_of("c")))) != b""


def test_one_channel_only_gives_what_was_its_own(office: Office) -> None:
    put(office, b"unknown" * 100)
    for marker in "abc":
        office.push(marker)
        office.push(f"p{marker}", channel="production")
    found = swept(office, channel="production")
    assert [one.digest for one in found.cleared] == [Digest.of(blob_of("pa"))]


def test_an_older_release_can_be_offered_again_afterwards(office: Office) -> None:
    from publisher.pushing import rollback
    from tests.simulators.office import PASSPHRASE

    for marker in "abc":
        office.push(marker)
    swept(office)
    assert office.lacks("a") == ["a"]
    rollback("meter", channel="staging", sequence=1, home=office.home.path, passphrase=PASSPHRASE)
    assert office.lacks("a", "c") == []


def test_what_somebody_needs_again_meanwhile_is_sent_again(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    for marker in "abc":
        office.push(marker)
    clear, signed = collection._clear, []

    def clear_late(*arguments: object) -> None:
        if not signed:
            signed.append(office.sign("a"))  # looked before we cleared, and commits now
        clear(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(collection, "_clear", clear_late)
    assert swept(office).sent_again == 1
    assert office.lacks("a") == []


def test_a_record_that_is_behind_the_broker_clears_nothing(office: Office, tmp_path: Path) -> None:
    behind = office.copy(tmp_path / "behind")
    for marker in "abc":
        office.push(marker)
    with pytest.raises(AuthorError, match="somebody pushed from another record"):
        swept(behind)
    assert office.lacks(*"abc") == []


def test_the_command_says_how_much_it_frees(office: Office) -> None:
    for marker in "abc":
        office.push(marker)
    arguments = ["gc", "--home", str(office.home.path)]
    told = CliRunner().invoke(main, [*arguments, "--dry-run"])
    assert told.exit_code == 0, told.output
    assert "no longer offered" in told.output
    assert "would be freed; 2 blobs stay" in told.output
    parsed = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert (len(parsed["cleared"]), parsed["dry_run"]) == (1, False)
