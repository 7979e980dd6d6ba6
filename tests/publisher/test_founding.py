"""A fleet is founded whole or not at all, and what a device is given is a valid configuration."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from edge_agent import config as device_config
from edge_agent.contract.errors import AuthorError, ConfigError
from publisher import founding
from publisher.founding import init
from publisher.record import Record
from publisher.trust.repository import Channel

URL = "mqtt://broker.local"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_home_has_keys_a_record_and_what_a_device_needs(tmp_path: Path) -> None:
    home = init("plant", URL, passphrase="p", home=tmp_path / "home")
    assert home.channels == ["staging", "production"]
    assert names(tmp_path) == ["home"]
    assert names(home.path) == ["device", "keys", "publisher.toml", "record"]
    assert names(home.device) == ["agent.toml", "production.root.json", "staging.root.json"]
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700
    for name in home.channels:
        channel = Channel(Record(home.record_location), "plant", name)
        assert channel.exists()
        assert channel.root() == (home.device / f"{name}.root.json").read_bytes()
        assert channel.current() == {}


@pytest.mark.parametrize("channel", ["staging", "v1.2"])
def test_the_device_template_is_valid_as_it_is(tmp_path: Path, channel: str) -> None:
    home = init("plant", "mqtts://broker.local:1", passphrase="p", channels=[channel], home=tmp_path / "home")
    shutil.copytree(home.device, tmp_path / "copied")
    found = device_config.load(tmp_path / "copied" / "agent.toml")
    assert (found.device.fleet, found.broker.url) == ("plant", "mqtts://broker.local:1")
    assert list(found.channel) == [channel]


def test_the_place_is_named_by_the_environment_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FIELDCAST_HOME", raising=False)
    assert init("plant", URL, passphrase="p", channels=["s"]).path == tmp_path / ".fieldcast"
    monkeypatch.setenv("FIELDCAST_HOME", str(tmp_path / "deep" / "er"))
    assert init("plant", URL, passphrase="p", channels=["s"]).path == tmp_path / "deep" / "er"


REFUSED = {
    "fleet name": ({"fleet": "a/b"}, ConfigError, "fleet name"),
    "channel name": ({"channels": ["+"]}, ConfigError, "channel name"),
    "no channel": ({"channels": []}, ConfigError, "at least one"),
    "channel twice": ({"channels": ["a", "a"]}, ConfigError, "each once"),
    "broker": ({"broker": "broker.local"}, ConfigError, "broker URL"),
    "passphrase": ({"passphrase": ""}, AuthorError, "empty passphrase"),
    "nobody to ask": ({"passphrase": lambda: ""}, AuthorError, "empty passphrase"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_nothing(tmp_path: Path, case: str) -> None:
    wrong, kind, words = REFUSED[case]
    arguments = {"fleet": "plant", "broker": URL, "passphrase": "p", "channels": ["s"], **wrong}
    with pytest.raises(kind, match=words):
        init(home=tmp_path / "home", **arguments)  # type: ignore[arg-type] # wrong on purpose
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_what_exists_is_not_touched_and_nobody_is_asked(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "home"
    {
        "directory": place.mkdir,
        "file": place.touch,
        "dangling link": lambda: place.symlink_to(tmp_path / "nowhere"),
    }[kind]()
    with pytest.raises(ConfigError, match="exists already: nothing was changed"):
        init("plant", URL, passphrase=lambda: pytest.fail("asked"), home=place)
    assert names(tmp_path) == ["home"]


def test_a_place_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        init("plant", URL, passphrase="p", home=tmp_path / "file" / "home")


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = founding.create_channel, []

    def interrupted(*arguments: object, **more: object) -> Channel:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(founding, "create_channel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        init("plant", URL, passphrase="p", home=tmp_path / "home")
    assert names(tmp_path) == []
