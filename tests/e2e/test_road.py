"""One class travels the whole road: author, signature, broker, device, probation, commit or rollback."""

from __future__ import annotations

import json
import subprocess

from publisher.devices.fleet import Outcome
from publisher.pushing import Ending
from tests.simulators import author
from tests.simulators.agents import AgentProcess
from tests.simulators.fleet import FleetSimulator
from tests.simulators.waiting import until


def test_a_release_is_swapped_without_loss_and_a_bad_one_heals_itself(fleet: FleetSimulator) -> None:
    """Counted from ids by a process that does not import our code; told by device, report and publisher alike.

    The demonstration takes the same road over the embedded broker: `tests/publisher/test_demo.py`.
    """
    agent = fleet.agent()
    _require_unreachable(agent, "first", "second", "third")
    counter = fleet.feed(agent)

    first = fleet.push(fleet.write("first.py", author.scale(2)), wait=True)
    assert (first.ending, first.release) == (Ending.COMMITTED, "meter@1")
    counter.until_flows("meter@1")
    assert counter.told["last"]["meter@1"]["stream"] == f"{agent.device}/meter"

    fleet.write("second.py", author.scale(3))
    pushed = fleet.publisher("push", "second.py", "-c", "staging", "--wait", "--devices", "1", "--tag", "v2", "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout)["ending"] == "committed"
    counter.until_flows("meter@2")
    assert counter.told["probation"]["meter@2"] > 0, "probation results must say so"

    bad = fleet.push(fleet.write("third.py", author.careless()), wait=True)
    assert (bad.ending, bad.release) == (Ending.ROLLED_BACK, "meter@3")
    (outcome,) = bad.devices
    assert outcome.outcome is Outcome.ROLLED_BACK
    (reason,) = outcome.reasons
    assert reason.code.value == "output"
    assert "y = nan" in reason.message
    counter.until_flows("meter@2")

    assert (counter.told["repeated"], counter.told["redelivered"]) == (0, 0), "swap and rollback repeat nothing at all"

    _offer_again(fleet, agent)
    count = counter.final()
    assert (count["lost"], count["repeated"], count["invented"]) == (0, 0, 0), count
    assert count["sent"] > 200
    assert "meter@3" not in count["probation"] or count["probation"]["meter@3"] == count["outputs"]["meter@3"]
    _everybody_says(fleet, agent)


def _require_unreachable(agent: AgentProcess, *modules: str) -> None:
    """The agent's own interpreter, options and directory cannot import the author's modules."""
    for module in modules:
        done = subprocess.run(
            [agent.python, "-I", "-c", f"import {module}"],
            capture_output=True,
            text=True,
            cwd=agent.directory,
            check=False,
        )
        assert f"No module named '{module}'" in done.stderr


def _offer_again(fleet: FleetSimulator, agent: AgentProcess) -> None:
    """A fresh envelope with the same release, to a running agent and to one that starts: it stays quarantined."""
    before = [(one["release"], one["state"]) for one in agent.deployments()]
    assert before == [("meter@3", "rolled_back"), ("meter@2", "committed"), ("meter@1", "superseded")]
    accepted = agent.log.count("trust accepted")
    fleet.announce(fleet.refresh())
    until(lambda: agent.log.count("trust accepted") > accepted, 30, "the refreshed envelope")
    assert agent.stop() == 0
    agent.start()
    until(lambda: agent.log.count("ready device") == 2, 30, "the second start")
    agent.until_active("meter@2")
    assert [(one["release"], one["state"]) for one in agent.deployments()] == before


def _everybody_says(fleet: FleetSimulator, agent: AgentProcess) -> None:
    (slot,) = fleet.report(agent)["slots"]
    assert (slot["active"], slot["last"], slot["state"]) == ("meter@2", "meter@3", "rolled_back")
    shown = fleet.publisher("status", "--json")
    assert shown.returncode == 0, shown.stderr
    status = json.loads(shown.stdout)
    assert status["channels"]["staging"]["offered"]["meter"]["sequence"] == 3
    (device,) = status["devices"]
    assert device["online"]
    (slot,) = device["report"]["slots"]
    assert (slot["active"], slot["last"], slot["state"]) == ("meter@2", "meter@3", "rolled_back")
    assert slot["reasons"][0]["code"] == "output"
    local = json.loads(agent.cli("status", "--json").stdout)
    assert (local["running"], local["slots"][0]["active"]) == (True, "meter@2")


def test_a_first_release_that_fails_leaves_nothing_running_and_a_good_one_commits(fleet: FleetSimulator) -> None:
    agent = fleet.agent()
    counter = fleet.feed(agent)
    bad = fleet.push(fleet.write("bad.py", author.crashing()), wait=True)
    assert bad.ending is Ending.ROLLED_BACK
    assert bad.devices[0].reasons[0].code.value == "exited"
    assert (agent.slot()["active"], agent.slot()["state"]) == ("", "rolled_back")
    good = fleet.push(fleet.write("good.py", author.scale(2)), wait=True)
    assert good.ending is Ending.COMMITTED
    counter.until_flows("meter@2")
