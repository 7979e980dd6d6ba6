"""Promotion: the same bytes under another channel's keys, whatever became of the author's files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.contract.errors import ConfigError, UpdateRejected
from edge_agent.transport import envelope
from publisher.cli import main
from publisher.desk import MESSAGE_CHARACTERS_MAX, Ending
from publisher.promotion import _chosen, _words
from publisher.uplink import connect
from tests.simulators.broker import EXECUTABLE, Mosquitto
from tests.simulators.office import PASSPHRASE, Office, at_hand, manifest_of, retained

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
    """Two releases in staging, none in production."""
    office = Office.found(tmp_path_factory.mktemp("office") / "home", url)
    office.sign("a", tag="v1", message="first flight", commit="c0ffee", dirty=True, signer="ada@desk")
    office.sign("b", tag="v2", signer="ada@desk")
    return office


@pytest.fixture
def office(template: Office, tmp_path: Path) -> Office:
    return template.fresh(tmp_path / "home")


def test_the_same_bytes_are_signed_under_the_other_channels_keys(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDCAST_SIGNER", "bob@office")
    result = office.promote("meter@v1", message="two quiet days")
    assert (result.ending, result.release, result.channel) == (Ending.PUBLISHED, "meter@1", "production")
    _, info = office.channel("production").current()["meter"]
    assert info.digest == result.digest == office.channel().releases()[0].digest
    assert (info.tag, info.commit, info.dirty, info.signer) == ("v1", "c0ffee", True, "ada@desk")
    assert info.message == "two quiet days (from staging meter@1, promoted by bob@office)"
    assert office.channel("production").manifest(info.digest) == manifest_of("a")
    assert office.lacks("a") == []
    with connect(office.home) as client:
        message = retained(client, office.topics.trust("production"))
    assert envelope.unpack(message) == office.channel("production").envelope()
    assert result.warnings == ["staging offers meter@2 now, other bytes than meter@1"]


def test_a_release_is_named_in_every_way(office: Office) -> None:
    wanted = office.channel().releases()[1]
    for reference in ("meter@2", "meter@staging", "meter@v2", wanted.digest.hex[:12]):
        assert _chosen(reference, office.channel(), office.home) == wanted


def test_it_takes_the_next_number_of_the_other_channel(office: Office) -> None:
    office.sign("x", channel="production")
    office.promote("meter@1")
    rollout, info = office.channel("production").current()["meter"]
    assert (info.sequence, rollout.stable) == (2, 1)


def test_what_is_offered_already_is_not_signed_again(office: Office) -> None:
    told: list[str] = []
    office.promote("meter@2")
    before = office.channel("production").envelope()
    result = office.promote("meter@v2", progress=told.append)
    assert (result.ending, result.release, result.sequence) == (Ending.UNCHANGED, "meter@1", 1)
    assert told == ["production offers these bytes already, as meter@1"]
    assert office.channel("production").envelope() == before
    waited = office.promote("meter@v2", wait=True, timeout_seconds=0.2)
    assert waited.ending is Ending.TIMED_OUT


def test_a_release_of_another_channel_is_not_taken(office: Office) -> None:
    office.sign("x", channel="production", tag="v9")
    for reference in ("meter@v9", "meter@7", "meter@production", "other@1"):
        with pytest.raises(ConfigError, match="no release is called"):
            office.promote(reference)
    with pytest.raises(ConfigError, match="name two channels"):
        office.promote("meter@1", source="production")
    with pytest.raises(ConfigError, match="unknown channel 'prod'"):
        office.promote("meter@1", to="prod")


def test_what_the_source_channels_keys_did_not_sign_is_not_promoted(office: Office, tmp_path: Path, url: str) -> None:
    foreign = Office.found(tmp_path / "foreign", url, fleet=office.home.fleet)
    foreign.sign("evil")
    (office.home.keys / "staging.root.json").write_bytes((foreign.home.keys / "staging.root.json").read_bytes())
    with pytest.raises(UpdateRejected, match="signature"):
        office.promote("meter@1")
    assert office.channel("production").releases() == []


def test_where_it_came_from_is_said_within_bounds(office: Office) -> None:
    info = office.channel().releases()[0]
    assert _words(info, "", "bob") == "first flight (from staging meter@1, promoted by bob)"
    long = _words(info, "x" * MESSAGE_CHARACTERS_MAX, "bob")
    assert len(long) == MESSAGE_CHARACTERS_MAX
    assert long.endswith("… (from staging meter@1, promoted by bob)")
    assert _words(office.channel().releases()[1], "", "bob") == "from staging meter@2, promoted by bob"


def test_the_command_says_what_became_of_it(office: Office) -> None:
    arguments = ["promote", "meter@v1", "--to", "production", "--home", str(office.home.path)]
    done = CliRunner().invoke(main, arguments, env={"FIELDCAST_PASSPHRASE": PASSPHRASE})
    assert (done.exit_code, "meter@1 -> production: published" in done.output) == (0, True)
    again = CliRunner().invoke(main, arguments, env={"FIELDCAST_PASSPHRASE": PASSPHRASE})
    assert again.exit_code == 0
    assert "nothing was signed: the channel offers these bytes already" in again.output
