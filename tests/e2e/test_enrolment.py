"""A fleet behind a mosquitto with mutual TLS and access lists, from `init` to a revoked device, by its commands."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from publisher.config import load_home
from publisher.pushing import Ending
from tests.e2e.conftest import require_mosquitto
from tests.simulators import author
from tests.simulators.agents import AgentProcess
from tests.simulators.broker import free_port
from tests.simulators.fleet import FleetSimulator
from tests.simulators.guarded import GuardedMosquitto, visiting
from tests.simulators.waiting import until

NOT_AUTHORIZED = 0x87

_SLOTS = """\
[slot.meter]
channel = "staging"

[slot.meter.input]
source = "csv"
path = "sensor.csv"
columns = { x = "x" }
rate_hz = 120
repeat = true

[slot.meter.output]
sink = "mqtt"
topic = "fieldcast/%s/data/%%u/results"
"""


class Guarded(FleetSimulator):
    """A fleet whose devices were enrolled, and its broker."""

    broker: GuardedMosquitto

    def run(self, *arguments: str) -> str:
        """Run `publisher` and return what it printed; it must succeed."""
        done = self.publisher(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def configure(self) -> None:
        """Write the broker's files and start it."""
        out = self.directory / "broker"
        self.run("broker", "config", "--out", str(out), "--bind", "127.0.0.1", "--use")
        self.home = load_home(self.home.path)
        self.broker = GuardedMosquitto(out, start=False)
        self.broker.start()

    def enroll(self, device: str) -> AgentProcess:
        """Enrol a device with the commands of both sides."""
        place = self.directory / device
        agent = AgentProcess(device, place / "agent.toml")
        request, answer, slots = self.directory / f"{device}.request", self.directory / f"{device}.answer", "slots.toml"
        self.write(slots, _SLOTS % self.home.fleet)
        place.mkdir()
        (place / "sensor.csv").write_text("x\n" + "".join(f"{i / 100}\n" for i in range(100)))
        asked = _done(agent.cli("enroll", "--id", device, "--fleet", self.home.fleet, "--out", str(request)))
        told = self.run(
            "device", "enroll", str(request), "--out", str(answer), "--slots", slots, "--label", "site=north"
        )
        assert "PRIVATE KEY" not in answer.read_text(), "the key never leaves the device"
        (words,) = [line.removeprefix("words    ") for line in asked.splitlines() if line.startswith("words")]
        assert words in told, "both sides show the same words"
        _done(agent.cli("enroll", "--install", str(answer), "--state", str(agent.state)))
        self.agents.append(agent)
        return agent

    def credentials(self, device: str) -> tuple[Path, Path, Path]:
        """Return authority, certificate and key of a device."""
        place = self.directory / device
        return place / "ca.pem", place / "device.pem", place / "device.key"


def _done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A fleet with two running devices, `one` and `two`."""
    require_mosquitto()
    with Guarded(tmp_path_factory.mktemp("guarded") / "fleet", f"mqtts://127.0.0.1:{free_port()}") as fleet:
        fleet.configure()
        try:
            for device in ("one", "two"):
                fleet.enroll(device).start()
            yield fleet
        finally:
            for agent in fleet.agents:
                agent.kill()
            fleet.broker.__exit__(None, None, None)


def test_a_push_reaches_devices_that_were_enrolled(guarded: Guarded) -> None:
    pushed = guarded.push(guarded.write("first.py", author.scale(2)), wait=True, devices=2)
    assert (pushed.ending, pushed.release) == (Ending.COMMITTED, "meter@1")
    heard: list[str] = []
    results = [f"fieldcast/{guarded.home.fleet}/data/{device}/results" for device in ("one", "two")]
    with guarded.client.listening(lambda topic, _, __: heard.append(topic)):
        guarded.client.subscribe(results)
        until(lambda: set(heard) >= set(results), 30, "results of both devices over their data topics")


def test_a_device_can_write_nothing_but_its_own(guarded: Guarded) -> None:
    """Observed from outside: the reason code a plain client gets, and what another client hears."""
    fleet, topics = guarded.home.fleet, guarded.topics
    foreign = [
        *(topics.every(leaf).replace("+", "two") for leaf in ("online", "report", "event", "command")),
        topics.answer("two", "a"),
        f"fieldcast/{fleet}/device/two/incident/1/0",
        f"fieldcast/{fleet}/data/two/results",
        topics.trust("staging"),
        f"fieldcast/{fleet}/blob/{'0' * 64}/0",
        topics.command("one"),
        f"fieldcast/{fleet}/else",
        "fieldcast/other/device/one/report",
        "anything",
    ]
    own = [topics.event("one"), topics.answer("one", "a"), f"fieldcast/{fleet}/device/one/incident/1/0"]
    own.append(f"fieldcast/{fleet}/data/one/anything")
    heard: list[str] = []
    marked: list[str] = []
    client = guarded.client
    with client.listening(lambda topic, payload, _: (marked if payload == b"mine" else heard).append(topic)):
        client.subscribe([topics.everything()])
        with visiting(guarded.broker.port, *guarded.credentials("one"), client_id="visitor-one") as visitor:
            assert {topic: visitor.publish(topic, b"not mine") for topic in foreign} == dict.fromkeys(
                foreign, NOT_AUTHORIZED
            )
            assert {topic: visitor.publish(topic, b"mine") for topic in own} == dict.fromkeys(own, 0)
        until(lambda: set(marked) >= set(own), 30, "the publisher hears what the device may say")
        client.unsubscribe([topics.everything()])
    assert not [one for one in guarded.broker.log.splitlines() if "not mine" in one]
    assert guarded.retained(topics.trust("staging")) != b"not mine"


def test_a_device_reads_nothing_of_another(guarded: Guarded) -> None:
    topics = guarded.topics
    with visiting(guarded.broker.port, *guarded.credentials("one"), client_id="reader-one") as visitor:
        visitor.subscribe("#", "fieldcast/#", topics.report("two"), topics.command("two"), topics.command("one"))
        guarded.client.publish(topics.command("two"), b"secret").wait(30)
        guarded.client.publish(topics.command("one"), b"for one").wait(30)
        until(lambda: (topics.command("one"), b"for one") in visitor.heard, 30, "its own command")
        others = {topic for topic, _ in visitor.heard}
    assert not {topic for topic in others if "/device/" in topic and topic != topics.command("one")}
    assert not {topic for topic in others if "/data/two/" in topic}


def test_nobody_gets_in_without_a_certificate_of_the_fleet(guarded: Guarded, tmp_path: Path) -> None:
    ca, _, _ = guarded.credentials("one")
    with visiting(guarded.broker.port, ca, wait=False) as visitor:
        assert visitor.connected == []
    _stranger(tmp_path, "one", guarded.home.fleet)
    with visiting(guarded.broker.port, ca, tmp_path / "cert.pem", tmp_path / "key.pem", wait=False) as visitor:
        assert visitor.connected == []
    server = guarded.broker.written
    with visiting(guarded.broker.port, ca, server / "broker.pem", server / "broker.key", wait=False) as visitor:
        assert visitor.connected == [], "the broker's own certificate is no client's"


def _stranger(place: Path, device: str, fleet: str) -> None:
    """Make a certificate that says the same, of an authority that calls itself the same."""
    from publisher.devices.authority import Authority, new_key, private_pem

    key = new_key()
    authority = Authority.found(fleet, new_key(), 1_750_000_000)
    (place / "cert.pem").write_bytes(authority.client(device, key.public_key(), 1_750_000_000, 3650))
    (place / "key.pem").write_bytes(private_pem(key))


def test_reports_of_enrolled_devices_are_signed_with_their_key(guarded: Guarded) -> None:
    listed = {one["id"]: one for one in json.loads(guarded.run("device", "list", "--json"))}
    assert listed["one"]["labels"] == {"site": "north"}
    assert (listed["two"]["revoked"], listed["two"]["key_made_here"]) == (None, False)

    def standings() -> dict[str, str]:
        devices = json.loads(guarded.run("status", "--json"))["devices"]
        return {one["device"]: one["standing"] for one in devices}

    until(lambda: standings() == {"one": "verified", "two": "verified"}, 30, "both reports verify")


def test_a_revoked_device_cannot_connect_and_an_open_connection_is_of_no_use(guarded: Guarded) -> None:
    topics, broker = guarded.topics, guarded.broker
    guarded.enroll("three")
    credentials = guarded.credentials("three")
    with visiting(broker.port, *credentials, client_id="early") as early:
        assert early.publish(topics.event("three")) == 0
        assert "let mosquitto read them again" in guarded.run("device", "revoke", "three")
        broker.reload()
        with visiting(broker.port, *credentials, client_id="late", wait=False) as late:
            assert late.connected == []
        assert early.publish(topics.event("three")) == NOT_AUTHORIZED
        early.subscribe(topics.command("three"), topics.trust("staging"))
        guarded.client.publish(topics.command("three"), b"after").wait(30)
        assert early.publish(topics.event("three")) == NOT_AUTHORIZED, "and the broker has delivered what it would"
        assert early.heard == []
    broker.restart()
    with visiting(broker.port, *credentials, client_id="again", wait=False) as late:
        assert late.connected == []
    with visiting(broker.port, *guarded.credentials("one"), client_id="still") as other:
        assert other.publish(topics.event("one")) == 0
    refused = guarded.publisher("device", "revoke", "three")
    assert refused.returncode == 1
    assert "no certificate that is good" in refused.stderr
