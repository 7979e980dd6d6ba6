"""What `edge-agent doctor` and `status` say when the broker is gone or refuses, by its cause: a real mosquitto."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge_agent.cli import main
from edge_agent.cli.reach import look
from edge_agent.config import load
from edge_agent.transport.client import Client
from edge_agent.update.recovery import open_store
from tests.simulators.broker import EXECUTABLE, Mosquitto, free_port
from tests.simulators.certificates import Certificates

pytestmark = pytest.mark.skipif(not Path(EXECUTABLE).exists(), reason="mosquitto is not installed")

_CONFIG = """
[device]
id = "d1"
fleet = "plant"
state = "state"

[broker]
{broker}

[channel.staging]
root = "root.json"

[slot.meter]
channel = "staging"
input = {{ source = "mqtt", topic = "in", columns = {{ x = "x" }} }}
output = {{ sink = "mqtt", topic = "out" }}
"""
Configure = Callable[..., Path]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Write a device's configuration with these keys under [broker]."""

    def write(**broker: object) -> Path:
        (tmp_path / "root.json").write_text('{"signed": {"version": 1, "expires": "2036-01-01T00:00:00Z"}}')
        path = tmp_path / "agent.toml"
        path.write_text(_CONFIG.format(broker="\n".join(f'{key} = "{value}"' for key, value in broker.items())))
        return path

    return write


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with Mosquitto() as running:
        yield running


def last(config: Path) -> tuple[str, str, str, str]:
    """Return what the last step found: name, state, words, advice."""
    return list(look(load(config)))[-1]


def say(url: str, topic: str) -> None:
    with Client(url, "publisher", clean_start=True) as client:
        client.wait_connected(30)
        client.publish(topic, b"trust", retain=True).wait(30)


def test_all_is_well(configure: Configure, broker: Mosquitto) -> None:
    say(broker.url, "fieldcast/plant/channel/staging/trust")
    found = list(look(load(configure(url=broker.url))))
    assert [state for _, state, _, _ in found] == ["ok", "ok", "ok"]
    assert found[-1][2] == "channel staging: the broker holds its trust"


def test_nobody_listens_on_the_port(configure: Configure) -> None:
    port = free_port()
    name, state, words, advice = last(configure(url=f"mqtt://127.0.0.1:{port}"))
    assert (name, state) == ("network", "fail")
    assert f"127.0.0.1:{port}" in words
    assert "refused" in words
    assert "its address" in advice


def test_a_name_that_does_not_resolve(configure: Configure) -> None:
    name, state, words, _ = last(configure(url="mqtt://no-such-host.invalid"))
    assert (name, state) == ("network", "fail")
    assert "cannot be resolved" in words


def test_tls_is_spoken_to_a_broker_without(configure: Configure, broker: Mosquitto, tmp_path: Path) -> None:
    ca = Certificates(tmp_path / "ca").ca
    name, state, _, advice = last(configure(url=f"mqtts://localhost:{broker.port}", ca=ca))
    assert (name, state) == ("tls", "fail")
    assert "check ca, cert and key" in advice


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mosquitto, Certificates]]:
    """A broker that wants a certificate of its own authority."""
    certificates = Certificates(tmp_path_factory.mktemp("tls"))
    server = certificates.issue("server")
    config = f"cafile {certificates.ca}\ncertfile {server.cert}\nkeyfile {server.key}\nrequire_certificate true"
    with Mosquitto(config) as running:
        yield running, certificates


def test_the_broker_has_a_certificate_of_another_authority(
    configure: Configure, secured: tuple[Mosquitto, Certificates], tmp_path: Path
) -> None:
    stranger = Certificates(tmp_path / "other").ca
    name, state, words, _ = last(configure(url=f"mqtts://localhost:{secured[0].port}", ca=stranger))
    assert (name, state) == ("tls", "fail")
    assert "its certificate is not accepted" in words


def test_the_broker_takes_no_device_without_a_certificate(
    configure: Configure, secured: tuple[Mosquitto, Certificates]
) -> None:
    name, state, words, advice = last(configure(url=f"mqtts://localhost:{secured[0].port}", ca=secured[1].ca))
    assert (name, state) == ("mqtt", "fail"), words
    assert "certificate" in words + advice


def test_a_device_with_a_certificate_is_let_in(configure: Configure, secured: tuple[Mosquitto, Certificates]) -> None:
    device = secured[1].issue("d1")
    url = f"mqtts://localhost:{secured[0].port}"
    found = list(look(load(configure(url=url, ca=secured[1].ca, cert=device.cert, key=device.key))))
    assert [(name, state) for name, state, _, _ in found[:3]] == [("network", "ok"), ("tls", "ok"), ("mqtt", "ok")]


def test_plain_is_spoken_to_a_broker_with_tls(configure: Configure, secured: tuple[Mosquitto, Certificates]) -> None:
    name, state, words, _ = last(configure(url=secured[0].url))
    assert (name, state) == ("mqtt", "fail"), words


def test_the_broker_does_not_know_the_user(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("")
    (tmp_path / "passwords").chmod(0o644)
    with Mosquitto(f"allow_anonymous false\npassword_file {tmp_path}/passwords") as closed:
        name, state, words, advice = last(configure(url=closed.url))
    assert (name, state) == ("mqtt", "fail")
    assert "not authori" in words.lower()
    assert "user name, password" in advice


def test_the_access_list_keeps_the_channel_from_us(configure: Configure, tmp_path: Path) -> None:
    """mosquitto grants such a subscription and sends nothing, so that all a device can say is what may be the cause."""
    (tmp_path / "acl").write_text("topic write fieldcast/#\ntopic read other/#\n")
    (tmp_path / "acl").chmod(0o644)
    with Mosquitto(f"acl_file {tmp_path}/acl") as closed:
        say(closed.url, "fieldcast/plant/channel/staging/trust")
        name, state, words, advice = last(configure(url=closed.url))
    assert (name, state) in (("channel", "warn"), ("channel", "fail"))
    assert "fieldcast/plant/channel/staging/trust" in words
    assert "ACL" in advice


def test_a_wrong_fleet_is_named(configure: Configure) -> None:
    with Mosquitto() as running:
        say(running.url, "fieldcast/factory/channel/staging/trust")
        name, state, words, advice = last(configure(url=running.url))
    assert (name, state) == ("channel", "warn")
    assert "nothing for fleet plant, but for factory" in words
    assert "device.fleet" in advice


def test_nobody_has_pushed_yet(configure: Configure) -> None:
    with Mosquitto() as running:
        name, state, words, _ = last(configure(url=running.url))
    assert (name, state) == ("channel", "warn")
    assert "holds nothing on" in words


# --- the commands ----------------------------------------------------------------------------------------------------


def called(*arguments: str) -> tuple[int, Any]:
    result = CliRunner().invoke(main, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_doctor_and_status_work_with_the_broker_gone(configure: Configure) -> None:
    config = configure(url=f"mqtt://127.0.0.1:{free_port()}")
    state = load(config).device.state
    open_store(state / "agent.db", state / "releases", 1.0).close()
    code, found = called("doctor", "--config", str(config))
    assert code == 1
    assert {one["name"]: one["state"] for one in found}["network"] == "fail"
    assert {one["name"]: one["state"] for one in found}["database"] == "ok"
    code, found = called("status", "--config", str(config))
    assert (code, found["running"], found["slots"][0]["pipeline"]) == (0, False, "meter")


def test_looking_writes_nothing(configure: Configure) -> None:
    """Neither a log nor an index is made, and an older schema stays what it is."""
    config = configure(url=f"mqtt://127.0.0.1:{free_port()}")
    state = load(config).device.state
    open_store(state / "agent.db", state / "releases", 1.0).close()
    before = {path.name: path.read_bytes() for path in state.iterdir() if path.is_file()}
    for words in (("status",), ("release", "list"), ("doctor",)):
        called(*words, "--config", str(config))
    assert {path.name: path.read_bytes() for path in state.iterdir() if path.is_file()} == before


def test_a_database_that_is_not_whole_is_told(configure: Configure) -> None:
    config = configure(url=f"mqtt://127.0.0.1:{free_port()}")
    state = load(config).device.state
    open_store(state / "agent.db", state / "releases", 1.0).close()
    (state / "agent.db").write_bytes(b"rubbish" * 2000)
    _, found = called("doctor", "--config", str(config))
    told = next(one for one in found if one["name"] == "database")
    assert told["state"] == "fail"
    assert "not a database" in told["words"]
