"""Two enrolled devices on a mosquitto with TLS: their messages are their own, and commands are an operator's."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import AuthorError, TransportError
from edge_agent.contract.reports import Command, Report, encode, parse
from publisher.devices.commanding import CommandResult
from publisher.devices.commanding import send as send_command
from publisher.devices.overview import status
from tests.simulators import author
from tests.simulators.enrolled import EnrolledFleet
from tests.simulators.waiting import until


@pytest.fixture(scope="module")
def fleet() -> Iterator[EnrolledFleet]:
    with tempfile.TemporaryDirectory() as directory, EnrolledFleet(Path(directory) / "fleet") as found:
        found.enrol("d1")
        found.enrol("d2")
        found.operator("olga", "ping", "report", "rollback")
        found.release(found.write("first.py", author.scale(2)))
        for agent in found.agents:
            agent.until_active("meter@1", 30)
        yield found


@contextlib.contextmanager
def overheard(fleet: EnrolledFleet, topic: str) -> Iterator[list[bytes]]:
    heard: list[bytes] = []
    with fleet.client.listening(lambda said, payload, _: heard.append(payload) if said == topic else None):
        fleet.client.subscribe([topic])
        yield heard
        fleet.client.unsubscribe([topic])


def standings(fleet: EnrolledFleet) -> dict[str, tuple[str, bool]]:
    found = status(home=fleet.home.path)
    assert not found.unsigned_count
    return {one.device: (one.standing.value, one.counts) for one in found.devices}


def retained(fleet: EnrolledFleet, device: str) -> tuple[bytes, Report]:
    message = fleet.retained(fleet.topics.report(device))
    return message, parse(message, Report)[0]


def send(fleet: EnrolledFleet, device: str, kind: str, *arguments: str) -> CommandResult:
    return send_command(device, kind, arguments, home=fleet.home.path, passphrase=fleet.passphrase, timeout_seconds=60)


def test_reports_that_count_are_the_devices_own(fleet: EnrolledFleet) -> None:
    """Unsigned, another device's and an old one: shown for what they are, and never counted."""
    assert standings(fleet) == {"d1": ("verified", True), "d2": ("verified", True)}
    old, report = retained(fleet, "d1")
    answer = send(fleet, "d1", "report")
    assert (answer.ending, answer.standing and answer.standing.value) == ("done", "verified")
    until(lambda: retained(fleet, "d1")[1].counter > report.counter, 30)
    assert standings(fleet)["d1"] == ("verified", True)
    other, _ = retained(fleet, "d2")
    for message, standing in ((old, "replayed"), (encode(report), "unsigned"), (other, "foreign")):
        fleet.put(fleet.topics.report("d1"), message)
        assert standings(fleet)["d1"] == (standing, False)
    said = fleet.publisher("status").stdout
    assert "FOREIGN, its report does not count: it claims to be device d2" in said
    assert "Only verified reports count." in said
    with pytest.raises(TransportError, match=r"does not count \(foreign\)"):
        send(fleet, "d1", "ping")


def test_events_are_watched_and_a_rollback_by_command_is_done_once(fleet: EnrolledFleet) -> None:
    agent = fleet.devices["d2"]
    watching = fleet.started("watch", "--json", "--channel", "staging")
    try:
        until(lambda: "device/+/event (QoS 1)" in fleet.broker.log, 30)
        with overheard(fleet, fleet.topics.command("d2")) as commands:
            fleet.release(fleet.write("second.py", author.scale(3)))
            agent.until_active("meter@2")
            done = fleet.publisher("device", "send", "d2", "rollback", "meter")
            assert (done.returncode, done.stdout) == (0, "d2: done, meter@2 rolled back; meter@1 runs\n"), done.stderr
        agent.until(lambda status: status["slots"][0]["active"] == "meter@1")
        wanted = {("d1", "meter@2", "committed"), ("d2", "meter@2", "committed"), ("d2", "meter@2", "reverted")}
        seen: set[tuple[str, str, str]] = set()
        assert watching.stdout is not None
        while not wanted <= seen:
            one = json.loads(watching.stdout.readline())
            assert (one["standing"], one["counts"]) == ("verified", True)
            seen.add((one["device"], one["event"]["release"], one["event"]["after"]))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130
    finally:
        watching.kill()
        watching.communicate()
    replayed = commands[0]
    assert parse(replayed, Command)[0].type == "rollback"
    for restart in (False, True):
        if restart:
            agent.stop()
            agent.start()
        fleet.client.publish(fleet.topics.command("d2"), replayed).wait(30)
        agent.until(lambda status: status.get("refused_commands") == 1)
        assert "replayed" in agent.status()["refused_command"]
        assert agent.slot()["active"] == "meter@1"


def test_a_reboot_starts_the_counter_again_and_its_reports_count(fleet: EnrolledFleet) -> None:
    agent = fleet.devices["d2"]
    assert standings(fleet)["d2"] == ("verified", True)
    old, report = retained(fleet, "d2")
    agent.stop()
    agent.start()
    until(lambda: retained(fleet, "d2")[1].boot == report.boot + 1, 30)
    assert standings(fleet)["d2"] == ("verified", True)
    fleet.put(fleet.topics.report("d2"), old)
    assert standings(fleet)["d2"] == ("replayed", False)


def test_what_is_revoked_neither_counts_nor_commands(fleet: EnrolledFleet) -> None:
    fleet.expel("d1")
    fleet.devices["d1"].stop()  # its goodbye is a fresh report
    assert standings(fleet)["d1"] == ("revoked", False)
    fleet.dismiss("olga")
    with pytest.raises(AuthorError, match="listed: none"):
        send(fleet, "d2", "ping")
