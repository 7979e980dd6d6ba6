"""Who may do what at the fleet's broker, and the directory that says so to mosquitto."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_agent.contract.errors import ConfigError
from publisher.cli import main
from publisher.config import Home, load_home
from publisher.devices import broker_directory
from publisher.devices.authority import Authority
from publisher.devices.broker_config import YOURS, BrokerSetup, access_list, configuration, data_rule, default_data
from publisher.founding import init

NOW = 1_800_000_000.0
PASSPHRASE = "correct horse"
SETUP = BrokerSetup(hosts=["broker.example", "192.0.2.7"], port=8883, data=[], out="/out", at="/etc/mosquitto/plant")


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("founded") / "home"
    home = init("plant", "mqtt://127.0.0.1", passphrase=PASSPHRASE, channels=["staging"], home=place)
    Authority.open(home, PASSPHRASE, NOW)
    return place


@pytest.fixture
def home(founded: Path, tmp_path: Path) -> Home:
    shutil.copytree(founded, tmp_path / "home")
    return load_home(tmp_path / "home")


def config(home: Home, *arguments: str) -> Result:
    environment = {"FIELDCAST_HOME": str(home.path), "FIELDCAST_PASSPHRASE": PASSPHRASE}
    return CliRunner().invoke(main, ["broker", "config", *arguments], env=environment)


def test_nobody_gets_in_without_a_certificate_and_as_nobody_else() -> None:
    lines = configuration("plant", SETUP).splitlines()
    assert {
        "listener 8883",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
        "crlfile /etc/mosquitto/plant/revoked.pem",
        "set_tcp_nodelay true",
        "persistence true",
    } <= set(lines)
    for bounded in (
        "max_packet_size",
        "max_inflight_messages",
        "max_queued_messages",
        "max_queued_bytes",
        "max_keepalive",
    ):
        (value,) = [line.split()[1] for line in lines if line.startswith(f"{bounded} ")]
        assert int(value) > 0


def test_every_right_of_a_device_names_it_or_is_for_reading() -> None:
    lines = access_list("plant", [default_data("plant")]).splitlines()
    rules = [line.split() for line in lines if line.startswith("pattern ")]
    assert rules
    for _, access, pattern in rules:
        assert access == "read" or "%u" in pattern.split("/"), pattern
    assert ["pattern", "readwrite", "fieldcast/plant/data/%u/#"] in rules
    assert [line for line in lines if line.startswith("user ")] == ["user _publisher"], "a name that no device can have"
    assert not [rule for rule in rules if rule[1] != "read" and rule[2].endswith("/command")]


def test_who_has_no_good_certificate_is_denied_everything() -> None:
    lines = access_list("plant", [], {"b", "a"}).splitlines()
    at = lines.index("user a")
    assert lines[at : at + 2] == ["user a", "topic deny #"]
    assert "user b" in lines


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("write results/%u", "write results/%u"),
        (" read   plant/setpoints ", "read plant/setpoints"),
        ("sensors/%u/#", "readwrite sensors/%u/#"),
        ("fieldcast/plant/data/%u/+", "readwrite fieldcast/plant/data/%u/+"),
    ],
)
def test_a_rule_for_data_topics(text: str, rule: str) -> None:
    assert data_rule("plant", text) == rule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("write results", "name the device"),
        ("write results/+", "name the device"),
        ("readwrite #", "name the device"),
        ("read #", "first level"),
        ("write +/%u", "first level"),
        ("write %u/x", "first level"),
        ("read $SYS/#", "first level"),
        ("write fieldcast/plant/device/%u/#", "only fieldcast/plant/data/"),
        ("write fieldcast/other/data/%u", "only fieldcast/plant/data/"),
        ("write fieldcast/+/data/%u", "only fieldcast/plant/data/"),
        ("write a/x%u", "whole level"),
        ("write a/%c", "whole level"),
        ("own a/%u", "want"),
        ("write a/%u\nuser x", "want"),
        ("", "want"),
    ],
)
def test_a_rule_that_would_open_more_than_a_devices_own_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        data_rule("plant", text)


def test_the_directory_is_written_and_writing_it_again_changes_nothing(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "broker"
    first = config(home, "--out", str(out), "--host", "broker.example", "--host", "192.0.2.7", "--port", "9000")
    assert first.exit_code == 0, first.output
    assert "mqtts://broker.example:9000" in first.output
    assert 'url = "mqtts://broker.example:9000"' in first.output, "the lines to set are printed"
    before = {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in out.iterdir() if one.is_file()}
    assert before.keys() == {"mosquitto.conf", "acl", "ca.pem", "revoked.pem", "broker.pem", "broker.key"}
    for place in (out / "broker.key", out / "acl", home.path / "ca" / "publisher.key"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
    again = config(home)
    assert again.exit_code == 0, again.output
    assert "nothing new" in again.output
    assert {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in out.iterdir() if one.is_file()} == before


def test_other_hosts_give_a_new_certificate_and_what_is_yours_is_kept(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "broker"
    assert config(home, "--out", str(out)).exit_code == 0
    key, authority = (out / "broker.pem").read_bytes(), (out / "ca.pem").read_bytes()
    with (out / "acl").open("a") as file:
        file.write("user board\ntopic read fieldcast/plant/data/#\n")
    done = config(home, "--host", "broker.example", "--data-topic", "write results/%u", "--bind", "192.0.2.7")
    assert done.exit_code == 0, done.output
    assert "made     broker.pem for broker.example" in done.output
    assert (out / "broker.pem").read_bytes() != key
    assert (out / "ca.pem").read_bytes() == authority
    text = (out / "acl").read_text()
    assert "pattern write results/%u" in text
    assert text.endswith(f"{YOURS}\nuser board\ntopic read fieldcast/plant/data/#\n")
    assert "listener 8883 192.0.2.7" in (out / "mosquitto.conf").read_text()


def test_certificates_that_end_soon_are_renewed(home: Home, tmp_path: Path) -> None:
    authority = Authority.open(home, PASSPHRASE, NOW)
    setup = broker_directory.planned(home, out=tmp_path / "broker")
    listed = authority.revocation_list(1, {}, NOW)
    assert len(broker_directory.write(home, setup, authority, listed, (), NOW).certified) == 2
    assert broker_directory.write(home, setup, authority, listed, (), NOW + 700 * 86_400).certified == []
    assert len(broker_directory.write(home, setup, authority, listed, (), NOW + 800 * 86_400).certified) == 2


def test_somebody_elses_directory_is_never_touched(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "mosquitto"
    out.mkdir()
    (out / "passwd").write_text("theirs")
    done = config(home, "--out", str(out))
    assert (done.exit_code, "files that are not ours" in done.output) == (2, True)
    (out / "mosquitto.conf").write_text("listener 1883\n")
    done = config(home, "--out", str(out))
    assert (done.exit_code, "not of fleet plant" in done.output) == (2, True)
    assert {one.name for one in out.iterdir()} == {"passwd", "mosquitto.conf"}


def test_a_damaged_setup_is_named(home: Home) -> None:
    (home.path / "ca" / "broker.json").write_text("{")
    done = config(home)
    assert done.exit_code == 2
    assert "broker.json cannot be read" in done.output


def test_the_first_time_it_asks_where_to(home: Home) -> None:
    done = config(home)
    assert (done.exit_code, "--out DIR" in done.output) == (2, True)


def test_use_sets_the_homes_broker_and_leaves_its_other_lines(home: Home, tmp_path: Path) -> None:
    file = home.path / "publisher.toml"
    file.write_text(file.read_text().replace('# username = ""', 'username = "me"  # mine') + "\n")
    done = config(home, "--out", str(tmp_path / "broker"), "--use")
    assert done.exit_code == 0, done.output
    found = load_home(home.path)
    assert (found.broker.url, found.broker.ca) == ("mqtts://127.0.0.1:8883", "ca/ca.pem")
    assert (found.broker.cert, found.broker.key) == ("ca/publisher.pem", "ca/publisher.key")
    assert (found.broker.username, found.channels, found.record) == ("me", ["staging"], "record")
    text = file.read_text()
    assert config(home, "--use").exit_code == 0
    assert file.read_text() == text
    file.write_text('fleet = "plant"\nchannels = ["staging"]\nbroker = { url = "mqtt://h" }\n')
    done = config(home, "--use")
    assert (done.exit_code, "set it yourself" in done.output) == (2, True)


def test_a_directory_for_another_machine_says_where_it_belongs(home: Home, tmp_path: Path) -> None:
    done = config(home, "--out", str(tmp_path / "broker"), "--at", "/etc/mosquitto/plant")
    assert "/etc/mosquitto/plant on the broker's machine" in done.output
    assert "keyfile /etc/mosquitto/plant/broker.key" in (tmp_path / "broker" / "mosquitto.conf").read_text()


def test_a_fleet_founded_for_tls_is_told_the_next_step(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main,
        ["init", "--fleet", "plant", "--broker", "mqtts://broker.example", "--home", str(tmp_path / "home")],
        env={"FIELDCAST_PASSPHRASE": PASSPHRASE},
    )
    assert done.exit_code == 0, done.output
    assert "next: `publisher broker config --out DIR --use`" in done.output
