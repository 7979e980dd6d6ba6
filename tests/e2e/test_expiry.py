"""Expiry blocks changes, nothing else (T6): a committed release starts and runs for ever."""

from __future__ import annotations

import time

from tests.simulators import author
from tests.simulators.agents import AgentProcess
from tests.simulators.fleet import FleetSimulator
from tests.simulators.waiting import until

DAY_SECONDS = 86_400
TIMESTAMP_SECONDS = 14 * DAY_SECONDS


def test_a_committed_release_runs_on_expired_metadata_after_a_restart_and_nothing_new_starts(
    fleet: FleetSimulator,
) -> None:
    agent, counter = fleet.settled()
    expires = _accepted_that_expires_soon(fleet, agent)
    until(lambda: time.time() > expires, 30, "the expiry")
    agent.until(lambda status: status["channels"]["staging"].get("stale_since") == expires, 30, "stale while running")

    assert agent.stop() == 0
    agent.start()
    agent.until_active("meter@1")
    counter.until_flows("meter@1")
    assert agent.status()["channels"]["staging"]["stale_since"] == expires
    until(lambda: "stale_since" in fleet.report(agent)["channels"]["staging"], 30, "stale_since in the report")
    assert "STALE since" in agent.cli("status").stdout

    late = fleet.release(fleet.write("late.py", author.scale(3)), now=time.time() - TIMESTAMP_SECONDS - 5)
    reason = agent.until_refused("expired")
    assert "timestamp" in reason["message"]
    assert "publisher refresh" in reason["message"]
    assert [one["release"] for one in agent.deployments()] == ["meter@1"]
    counter.until_flows("meter@1")

    fleet.announce(fleet.refresh())
    agent.until_active(late.name)
    assert "stale_since" not in agent.status()["channels"]["staging"]
    assert counter.final()["lost"] == 0


def _accepted_that_expires_soon(fleet: FleetSimulator, agent: AgentProcess) -> int:
    """Announce metadata signed as if two weeks ago, good for some seconds yet; return when they end, seconds UTC."""
    for good_seconds in (4, 8, 16):
        expires = int(time.time()) + good_seconds
        fleet.announce(fleet.refresh(now=expires - TIMESTAMP_SECONDS))
        agent.until(
            lambda status, end=expires: (
                status["channels"]["staging"]["expires"] == end or status["channels"]["staging"].get("refused")
            ),
            what="a verdict on the envelope",
        )
        if agent.status()["channels"]["staging"]["expires"] == expires:
            return expires
    raise AssertionError("the machine is too slow for this test")
