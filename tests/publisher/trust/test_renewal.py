"""Refreshing moves the expiry, offers nothing new, and is announced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.contract.errors import AuthorError, ConfigError, TransportError
from publisher.cli import main
from publisher.config import Home
from publisher.founding import init
from publisher.record import Record
from publisher.trust.renewal import refresh
from publisher.trust.repository import Channel
from publisher.uplink import Uplink, connect
from tests.simulators.broker import Mosquitto


def versions(home: Home, name: str) -> str:
    return json.dumps(sorted(Record(home.record_location).walk(f"channel/{name}")))


def test_every_channel_is_signed_anew_and_announced(tmp_path: Path) -> None:
    with Mosquitto() as broker:
        home = init("fleet", f"mqtt://127.0.0.1:{broker.port}", passphrase="p", home=tmp_path / "home")
        before = Channel(Record(home.record_location), "fleet", "staging").envelope()
        found = refresh(home=home.path, passphrase="p")
        channel = Channel(Record(home.record_location), "fleet", "staging")
        assert set(found) == {"staging", "production"}
        assert found["staging"] == min(channel.expiries().values())
        assert channel.envelope() != before
        assert channel.releases() == []
        with connect(home) as client:
            announced = Uplink(client, channel)._announced()
        assert announced is not None


def test_the_command_says_until_when(tmp_path: Path) -> None:
    with Mosquitto() as broker:
        home = init("fleet", f"mqtt://127.0.0.1:{broker.port}", passphrase="p", home=tmp_path / "home")
        arguments = ["refresh", "-c", "staging", "--home", str(home.path)]
        told = CliRunner().invoke(main, arguments, env={"FIELDCAST_PASSPHRASE": "p"})
        assert told.exit_code == 0, told.output
        assert told.output.startswith("channel staging: metadata good until 2")
        listed = CliRunner().invoke(main, [*arguments, "--json"], env={"FIELDCAST_PASSPHRASE": "p"})
        assert list(json.loads(listed.output)) == ["staging"]


def test_nothing_is_signed_for_a_wrong_word_or_without_a_broker(tmp_path: Path) -> None:
    home = init("fleet", "mqtt://127.0.0.1:9", passphrase="p", home=tmp_path / "home")
    before = versions(home, "staging")
    with pytest.raises(ConfigError, match="unknown channel 'stagin'"):
        refresh(("stagin",), home=home.path, passphrase="p")
    with pytest.raises(AuthorError, match="wrong passphrase"):
        refresh(home=home.path, passphrase="q")
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:9"):
        refresh(home=home.path, passphrase="p")
    assert versions(home, "staging") == before
