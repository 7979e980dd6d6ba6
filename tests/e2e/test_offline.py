"""A device that never sees a network: releases come and commit by USB stick, and an older stick changes nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from publisher.export import Exported, export
from tests.simulators import author
from tests.simulators.agents import AgentProcess
from tests.simulators.fleet import CHANNEL, FleetSimulator
from tests.simulators.waiting import until

NOWHERE = "mqtt://127.0.0.1:9"
CONFIG = """\
[device]
id = "{device}"
fleet = "{fleet}"
state = "state"
{broker}
[channel.staging]
root = "staging.root.json"

[slot.meter]
policy = {{ settle_seconds = 0.5 }}
channel = "staging"

[slot.meter.input]
source = "csv"
path = "data.csv"
columns = {{ x = "x" }}
rate_hz = 120
repeat = true

[slot.meter.output]
sink = "sqlite"
path = "results.db"
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetSimulator]:
    """A fleet whose broker is nowhere: nothing here connects to one."""
    with FleetSimulator(tmp_path / "fleet", NOWHERE) as fleet:
        yield fleet


def device(fleet: FleetSimulator, *, broker: str = "") -> AgentProcess:
    """Enrol a device by hand: its root, its configuration, and a sensor that is a file."""
    name = f"d{len(fleet.agents) + 1}-{fleet.home.fleet}"
    place = fleet.directory / name
    place.mkdir()
    shutil.copy(fleet.home.device / "staging.root.json", place)
    (place / "data.csv").write_text("x\n" + "".join(f"{number % 7}\n" for number in range(2000)))
    config = place / "agent.toml"
    config.write_text(CONFIG.format(device=name, fleet=fleet.home.fleet, broker=broker))
    agent = AgentProcess(name, config)
    fleet.agents.append(agent)
    return agent


def stick(fleet: FleetSimulator, name: str) -> Exported:
    return export(CHANNEL, fleet.directory / name, home=fleet.home.path)


def imported(agent: AgentProcess, directory: str, *more: str) -> dict[str, Any]:
    done = agent.cli("import", directory, "--json", *more, seconds=60)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def results(agent: AgentProcess) -> set[str]:
    with sqlite3.connect(agent.directory / "results.db") as db:
        return {row[0] for row in db.execute("select distinct release from output")}


def test_a_device_without_network_is_updated_by_stick_and_an_older_stick_is_refused(fleet: FleetSimulator) -> None:
    fleet.sign(fleet.write("one.py", author.scale(2)))
    first = stick(fleet, "first")
    fleet.sign(fleet.write("two.py", author.scale(3)))
    second = stick(fleet, "second")
    agent = device(fleet)

    # The agent has not even run yet: what is imported is taken at its start.
    kept = imported(agent, first.directory)
    assert kept["answer"].startswith("kept")
    assert kept["copied"] == first.blobs
    agent.start(wait=False)
    agent.until_active("meter@1", 30)
    until(lambda: "meter@1" in results(agent), 30, "results of meter@1")

    found = imported(agent, second.directory, "--wait", "40")
    assert [(one["release"], one["ending"]) for one in found["outcomes"]] == [("meter@2", "committed")]
    assert agent.slot()["active"] == "meter@2"
    until(lambda: "meter@2" in results(agent), 30, "results of meter@2")

    older = agent.cli("import", first.directory)
    assert older.returncode == 1
    assert "older" in older.stderr
    assert agent.slot()["active"] == "meter@2"

    # The same stick again is no harm.
    again = imported(agent, second.directory, "--wait", "10")
    assert (again["copied"], again["outcomes"][0]["ending"]) == (0, "committed")
    assert agent.stop() == 0


def test_a_device_whose_broker_is_never_there_commits_all_the_same(fleet: FleetSimulator) -> None:
    fleet.sign(fleet.write("one.py", author.scale(2)))
    agent = device(fleet, broker=f'\n[broker]\nurl = "{NOWHERE}"\n')
    agent.start(wait=False)
    agent.until(lambda status: status, 30, "an answer at the doorbell")
    found = imported(agent, stick(fleet, "stick").directory, "--wait", "40")
    assert (found["accepted"], found["outcomes"][0]["ending"]) == (True, "committed")
    assert agent.status()["connection"].startswith("not connected")
