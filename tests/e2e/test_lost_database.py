"""What the device remembers outlives its database, and a release that does not arrive whole does not arrive at all."""

from __future__ import annotations

from pathlib import Path

from edge_agent.contract.digest import BlobRef
from tests.simulators import author
from tests.simulators.agents import AgentProcess
from tests.simulators.fleet import FleetSimulator
from tests.simulators.waiting import until


def _lose(state: Path) -> None:
    """What a file system without a journal leaves: the name, and nothing in it."""
    for path in state.glob("agent.db*"):
        path.unlink()
    (state / "agent.db").touch()


def _codes_reported(fleet: FleetSimulator, agent: AgentProcess) -> set[str]:
    return {one["code"] for one in fleet.report(agent)["channels"]["staging"].get("refused", [])}


def test_rollback_after_a_reboot_without_the_database_is_refused_and_reported(fleet: FleetSimulator) -> None:
    """The older envelope is on the broker when the device comes up, and all it has is its mirror and its files."""
    agent, counter = fleet.settled()
    older = fleet.sign(fleet.write("second.py", author.scale(3)))
    newest = fleet.release(fleet.write("third.py", author.scale(4)))
    agent.until_active(newest.name)
    boot = fleet.report(agent)["boot"]
    assert agent.stop() == 0
    _lose(agent.state)
    fleet.announce(older.message)
    agent.start()
    agent.until_refused("older")
    until(lambda: _codes_reported(fleet, agent) == {"older"}, 30, "the refusal in the report")
    assert fleet.report(agent)["boot"] == boot + 1, "reports would look replayed"
    agent.until_active(newest.name)
    counter.until_flows(newest.name)
    fleet.announce(newest.message)
    agent.until(lambda status: "refused" not in status["channels"]["staging"], 30, "the newest accepted")
    assert agent.status()["slots"][0]["active"] == newest.name


def test_a_withheld_bundle_changes_nothing_and_is_reported(fleet: FleetSimulator) -> None:
    """All or none: every other blob of the release is there."""
    agent, counter = fleet.settled()
    worker = agent.worker()
    signed = fleet.sign(fleet.write("second.py", author.scale(3)))
    withheld: list[BlobRef] = []

    def withhold(ref: BlobRef, index: int, message: bytes) -> bytes:
        """An empty payload clears what is retained."""
        withheld.append(ref)
        return b"" if ref == withheld[0] else message

    fleet.send(signed, withhold)
    fleet.announce(signed.message)
    agent.until(lambda status: status["slots"][0].get("candidate") == signed.name, 30, "the announcement")
    counter.until_flows("meter@1", 5)
    slot = agent.status()["slots"][0]
    assert (slot["active"], slot["state"]) == ("meter@1", "fetching")
    assert agent.worker() == worker
    until(lambda: fleet.report(agent)["slots"][0].get("state") == "fetching", 30, "the wait in the report")
    fleet.send(signed)
    agent.until_active(signed.name)
