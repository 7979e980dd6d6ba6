"""Rollback by hand, on the device and for the fleet; two agents on one device; a sensor that does not deliver."""

from __future__ import annotations

import json

from publisher.pushing import Ending
from tests.simulators import author
from tests.simulators.agents import AgentProcess, Counting
from tests.simulators.fleet import FleetSimulator
from tests.simulators.waiting import until


def _two_releases(fleet: FleetSimulator) -> tuple[AgentProcess, Counting]:
    agent, counter = fleet.settled()
    fleet.release(fleet.write("second.py", author.scale(3)))
    agent.until_active("meter@2")
    counter.until_flows("meter@2")
    return agent, counter


def test_release_rollback_on_a_running_device_goes_back_and_stays(fleet: FleetSimulator) -> None:
    agent, counter = _two_releases(fleet)
    done = agent.cli("release", "rollback", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"] == "meter@2 rolled back; meter@1 runs"
    counter.until_flows("meter@1")
    _require_stays_back(fleet, agent, counter)
    refused = agent.cli("release", "rollback")
    assert refused.returncode == 1
    assert "no earlier committed release" in refused.stdout
    count = counter.final()
    assert (count["lost"], count["repeated"]) == (0, 0), count


def test_release_rollback_on_a_stopped_device_is_done_at_its_start(fleet: FleetSimulator) -> None:
    agent, counter = _two_releases(fleet)
    assert agent.stop() == 0
    done = agent.cli("release", "rollback")
    assert done.returncode == 0, done.stderr
    assert "when it starts" in done.stdout
    agent.start()
    agent.until_active("meter@1")
    counter.until_flows("meter@1")
    _require_stays_back(fleet, agent, counter)


def _require_stays_back(fleet: FleetSimulator, agent: AgentProcess, counter: Counting) -> None:
    """The channel still offers meter@2; it is not taken up again, by no message and no restart."""
    slot = agent.slot()
    assert (slot["active"], slot["last"], slot["state"]) == ("meter@1", "meter@2", "reverted")
    assert [one["code"] for one in slot["reasons"]] == ["operator"]
    until(lambda: fleet.report(agent)["slots"][0].get("state") == "reverted", 30, "the report")
    accepted = agent.log.count("trust accepted")
    fleet.announce(fleet.refresh())
    until(lambda: agent.log.count("trust accepted") > accepted, 30, "the refreshed envelope")
    assert agent.stop() == 0
    agent.start()
    counter.until_flows("meter@1")
    assert [(one["release"], one["state"]) for one in agent.deployments()] == [
        ("meter@2", "reverted"),
        ("meter@1", "committed"),
    ]


def test_publisher_rollback_takes_the_fleet_back_and_the_same_bytes_are_only_renamed(fleet: FleetSimulator) -> None:
    agent, counter = _two_releases(fleet)
    back = fleet.rollback(wait=True)
    assert (back.ending, back.release) == (Ending.COMMITTED, "meter@3")
    counter.until_flows("meter@3")
    result = counter.told["last"]["meter@3"]
    assert result["values"]["y"] <= 2, "the first release doubles, the second triples"
    worker = agent.worker()
    again = fleet.publisher("rollback", "-c", "staging", "--to", "1", "--wait", "--devices", "1", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["release"] == "meter@4"
    agent.until_active("meter@4")
    assert agent.worker() == worker, "the same bytes need no new worker"
    count = counter.final()
    assert (count["lost"], count["repeated"], count["redelivered"]) == (0, 0, 0), count


def test_a_second_agent_on_the_same_state_says_so_and_ends(fleet: FleetSimulator) -> None:
    agent, counter = fleet.settled()
    second = agent.cli("run")
    assert second.returncode == 2
    assert "another edge-agent runs on" in second.stderr
    assert "Traceback" not in second.stderr
    counter.until_flows("meter@1")
    assert agent.status()["pid"] == agent.pid


def test_a_column_that_no_payload_has_is_told_and_the_release_is_not_blamed(fleet: FleetSimulator) -> None:
    agent = fleet.agent(columns='x = "temperature.celsius"')
    counter = fleet.feed(agent)
    fleet.release(fleet.write("first.py", author.scale(2)))
    agent.until(lambda status: status["slots"][0].get("state") == "live", what="the release waits for data")

    def told(status: dict[str, object]) -> bool:
        (slot,) = status["slots"]  # type: ignore[misc]
        return slot["counters"]["rejected"] > 20 and "temperature.celsius" in slot["input_faults"].get(
            "missing column", ""
        )

    agent.until(told, what="the fault is told")
    shown = agent.cli("status").stdout
    assert "missing column" in shown
    assert "temperature.celsius" in shown
    slot = agent.slot()
    assert (slot["state"], slot["reasons"]) == ("live", [])
    assert not counter.told["outputs"]
    assert agent.stop() == 0
    agent.config.write_text(agent.config.read_text().replace("temperature.celsius", "x"))
    agent.start()
    agent.until_active("meter@1")
    counter.until_flows("meter@1")
