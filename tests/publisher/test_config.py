"""A publisher's home: where it is found, what a good file says, and one line for each way to get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.contract.errors import ConfigError
from publisher.config import Home, access_arguments, find_home, load_home, write_home

GOOD = """
fleet = "plant"
channels = ["staging", "production"]

[broker]
url = "mqtt://broker.local"
"""

WRONG = {
    "no TOML": ("fleet =", "Invalid value"),
    "misspelt key": (GOOD.replace("fleet", "fleat"), "fleat: unknown key; did you mean 'fleet'?"),
    "misspelt broker key": (GOOD + 'usrname = "x"', "broker.usrname: unknown key; did you mean 'username'?"),
    "a key like no other": (GOOD + 'zzz = "x"', "broker.zzz: unknown key; use url, ca, cert"),
    "missing key": (GOOD.replace('fleet = "plant"', ""), "fleet: missing"),
    "missing URL": (GOOD.replace("url", "ca"), "broker.url: missing"),
    "wrong type": (GOOD.replace('"plant"', "7"), "fleet: Expected str, got int"),
    "wrong type deeper": (GOOD.replace('"mqtt://broker.local"', "1883"), "broker.url: Expected str, got int"),
    "wrong type in a list": (GOOD.replace('"production"', "2"), "Expected str, got int"),
    "broker is no table": ('fleet = "p"\nchannels = ["s"]\nbroker = "mqtt://h"', "broker: Expected object, got str"),
    "bad fleet name": (GOOD.replace('"plant"', '"a/b"'), "fleet name 'a/b' is not allowed"),
    "bad channel name": (GOOD.replace('"staging"', '"#"'), "channel name '#' is not allowed"),
    "no channel": (GOOD.replace('"staging", "production"', ""), "channels: name at least one, and each once"),
    "channel twice": (GOOD.replace("production", "staging"), "channels: name at least one, and each once"),
    "broker URL": (GOOD.replace("mqtt://", "http://"), "scheme 'http' is not known"),
}


def home(directory: Path, text: str = GOOD) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "publisher.toml").write_text(text)
    return directory


def test_a_good_file(tmp_path: Path) -> None:
    found = load_home(home(tmp_path))
    assert (found.fleet, found.channels, found.broker.url) == (
        "plant",
        ["staging", "production"],
        "mqtt://broker.local",
    )
    assert (found.keys, found.device) == (tmp_path / "keys", tmp_path / "device")
    assert found.record_location == tmp_path / "record"


def test_a_record_elsewhere(tmp_path: Path) -> None:
    assert load_home(home(tmp_path, 'record = "s3://bucket/x"\n' + GOOD)).record_location == "s3://bucket/x"


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line(tmp_path: Path, case: str) -> None:
    text, words = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        load_home(home(tmp_path, text))
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'publisher.toml'}: ")
    assert "\n" not in str(caught.value)
    assert "`" not in str(caught.value)


def test_what_is_not_text_or_cannot_be_read(tmp_path: Path) -> None:
    (home(tmp_path) / "publisher.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"publisher\.toml"):
        load_home(tmp_path)


def test_written_and_read_again(tmp_path: Path) -> None:
    written = write_home(tmp_path, fleet="plant", broker="mqtts://b:8883", channels=["a", "b"])
    assert written == load_home(tmp_path)
    assert (written.broker.url, written.channels) == ("mqtts://b:8883", ["a", "b"])


class TestFinding:
    def test_named(self, tmp_path: Path) -> None:
        assert find_home(home(tmp_path)) == tmp_path

    def test_by_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FIELDCAST_HOME", str(home(tmp_path / "there")))
        assert find_home() == tmp_path / "there"

    def test_in_a_directory_above(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FIELDCAST_HOME", raising=False)
        expected = home(tmp_path / ".fieldcast")
        (tmp_path / "a" / "b").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "a" / "b")
        assert find_home() == expected

    def test_nowhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FIELDCAST_HOME", raising=False)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match="publisher init"):
            find_home()

    def test_named_but_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is no publisher's home"):
            find_home(tmp_path)


class TestAccess:
    def with_broker(self, directory: Path, more: str) -> Home:
        return load_home(home(directory, GOOD + more))

    def test_nothing_more_than_the_url(self, tmp_path: Path) -> None:
        assert set(access_arguments(self.with_broker(tmp_path, "")).values()) == {None}

    def test_files_are_relative_to_the_home(self, tmp_path: Path) -> None:
        (tmp_path / "pw").write_text("secret\n")
        found = access_arguments(
            self.with_broker(tmp_path, 'ca = "ca.pem"\nusername = "u"\npassword_file = "pw"\ncert="/etc/c"')
        )
        assert found["ca"] == tmp_path / "ca.pem"
        assert found["cert"] == Path("/etc/c")
        assert (found["username"], found["password"]) == ("u", "secret")

    @pytest.mark.parametrize(("content", "words"), [(None, "No such file"), (b"\xff", "not text")])
    def test_an_unreadable_password(self, tmp_path: Path, content: bytes | None, words: str) -> None:
        if content is not None:
            (tmp_path / "pw").write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            access_arguments(self.with_broker(tmp_path, 'password_file = "pw"'))


def test_an_unknown_channel_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown channel 'x': fleet plant has staging, production"):
        load_home(home(tmp_path)).require_channel("x")
