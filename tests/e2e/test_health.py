"""Releases that fail on a real agent, one after the other, and what is kept of them; and what condemns nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.simulators import author
from tests.simulators.agents import AgentProcess, Counting
from tests.simulators.fleet import FleetSimulator
from tests.simulators.waiting import until

LONG = "shadow_frames=20, probation_frames=100_000, probation_seconds=60"


def raising(after: int, health: str = author.PROBATION) -> str:
    """Return a release whose every process works for `after` frames and raises from then on."""
    body = f"""
class Raising(Filter):
    def initialize(self):
        self.seen = 0

    def predict(self, x):
        self.seen += 1
        if self.seen > {after}:
            raise ValueError("bearing table is empty")
        return x * 3
"""
    return author.module(body, "Raising()", health)


KILLING = """
import os, signal

class Killing(Filter):
    def initialize(self):
        self.seen = 0

    def predict(self, x):
        self.seen += 1
        if self.seen > 10:
            os.kill(os.getppid(), signal.SIGKILL)
            raise RuntimeError("it lives")
        return x
"""


def incidents(agent: AgentProcess) -> list[dict[str, Any]]:
    done = agent.cli("incident", "list", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def shown(agent: AgentProcess, number: int) -> dict[str, Any]:
    done = agent.cli("incident", "show", str(number), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_failures_leave_incidents_and_the_slot_goes_back(
    found: Callable[..., FleetSimulator], mosquitto_url: str, tmp_path: Path
) -> None:
    fleet = found(mosquitto_url)
    agent, counter = fleet.settled()
    _rolled_back(fleet, agent, tmp_path)
    _reverted_after_its_commit(fleet, agent, counter)
    _kills_its_parent(fleet, agent)
    agent.until_active("meter@1", 30.0)
    counter.until_flows("meter@1")


def _rolled_back(fleet: FleetSimulator, agent: AgentProcess, directory: Path) -> None:
    fleet.release(fleet.write("second.py", raising(30, LONG)))
    agent.until_ended("meter@2", "rolled_back", 30.0)
    [listed] = incidents(agent)
    assert (listed["release"], listed["state"], listed["reason"]["code"]) == ("meter@2", "rolled_back", "errors")
    kept = shown(agent, listed["number"])
    assert 'raise ValueError("bearing table is empty")' in kept["traceback"]
    assert {"agent", "python", "numpy"} <= kept["versions"].keys()
    assert kept["evidence"]["failed_frames"] >= 3
    assert kept["evidence"]["active_p99_ms"] > 0
    assert "raising" in kept["stages"]
    assert 0 < len(kept["frames"]) <= 8
    assert kept["frames"][0]["columns"] == ["x"]
    text = json.dumps(kept)
    assert "127.0.0.1" not in text, "the configuration must not be in it"
    until(lambda: fleet.report(agent)["slots"][0].get("incident") == listed["number"], 30)
    file = directory / "incident.json"
    assert agent.cli("incident", "export", str(listed["number"]), str(file)).returncode == 0
    assert json.loads(file.read_text())["frames"] == kept["frames"]


def _reverted_after_its_commit(fleet: FleetSimulator, agent: AgentProcess, counter: Counting) -> None:
    fleet.release(fleet.write("third.py", raising(300)))
    agent.until(lambda status: status["slots"][0].get("active") == "meter@3", 30.0, "meter@3 is committed")
    agent.until_ended("meter@3", "reverted", 40.0)
    newest = incidents(agent)[0]
    assert (newest["release"], newest["state"], newest["reason"]["code"]) == ("meter@3", "reverted", "errors")
    assert "the release before it did" in newest["reason"]["message"]
    counter.until_flows("meter@1")


def _kills_its_parent(fleet: FleetSimulator, agent: AgentProcess) -> None:
    """Where the sandbox lets a worker kill the agent, three ended attempts are the evidence."""
    fleet.release(fleet.write("fourth.py", author.module(KILLING, "Killing()", LONG)))

    def ended() -> bool:
        if agent.process is not None and agent.process.poll() is not None:
            agent.kill()
            agent.start(wait=False)
        slots = agent.status().get("slots") or [{}]
        return (slots[0].get("last"), slots[0].get("state")) == ("meter@4", "rolled_back")

    until(ended, 60.0, "meter@4 is rolled back")
    newest = incidents(agent)[0]
    assert newest["release"] == "meter@4"
    assert newest["reason"]["code"] in ("errors", "attempts")


def test_malformed_payloads_condemn_nobody(found: Callable[..., FleetSimulator], mosquitto_url: str) -> None:
    fleet = found(mosquitto_url)
    agent, counter = fleet.settled()
    for number in range(40):
        fleet.client.publish(f"sensors/{agent.device}", b'{"t": 1, "id": %d, "x": "broken"}' % number)
    fleet.release(fleet.write("second.py", author.scale(3)))
    for number in range(40):
        fleet.client.publish(f"sensors/{agent.device}", b"\xff no JSON %d" % number)
    agent.until_active("meter@2", 30.0)
    counter.until_flows("meter@2")
    assert agent.status()["slots"][0]["counters"]["rejected"] >= 80
    assert incidents(agent) == []
