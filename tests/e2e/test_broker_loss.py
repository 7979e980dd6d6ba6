"""The broker goes away and comes back, in the middle of an update and of the stream."""

from __future__ import annotations

import os
from collections.abc import Callable

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.messages import ChunkHeader
from tests.simulators import author
from tests.simulators.agents import AgentProcess
from tests.simulators.broker import Mosquitto
from tests.simulators.fleet import FleetSimulator


def test_a_broker_that_restarts_while_data_streams_costs_no_sample(
    found: Callable[..., FleetSimulator], mosquitto: Mosquitto
) -> None:
    """It keeps sessions over a clean stop; what MQTT sends twice keeps its key."""
    fleet = found(mosquitto.url)
    agent, counter = fleet.settled()
    worker = agent.worker()
    for _ in range(2):
        mosquitto.restart()
        _require_back(agent)
        counter.until_flows("meter@1", 50)
    assert agent.worker() == worker, "the running release was disturbed"
    count = counter.final()
    assert (count["lost"], count["repeated"], count["invented"]) == (0, 0, 0), count


def test_a_broker_killed_in_the_middle_of_an_update_delays_it(
    found: Callable[..., FleetSimulator], mosquitto: Mosquitto
) -> None:
    """It forgets everything; the release that runs goes on, and once pushed again the update is completed."""
    fleet = found(mosquitto.url)
    agent, counter = fleet.settled()
    worker = agent.worker()
    fleet.write("noise.bin", os.urandom(150_000))
    signed = fleet.sign(fleet.write("heavy.py", author.heavy(3, "noise.bin")))
    fleet.send(signed, _without_the_last)
    fleet.announce(signed.message)
    agent.until_ended(signed.name, "fetching")
    mosquitto.kill()
    agent.until(lambda status: status["connection"] != "connected", what="the loss is noticed")
    assert agent.slot()["active"] == "meter@1"
    mosquitto.start()
    _require_back(agent)
    counter.until_flows("meter@1")
    assert agent.worker() == worker, "the running release was disturbed"
    fleet.send(signed)
    fleet.announce(signed.message)
    agent.until_active(signed.name)
    counter.until_flows(signed.name)


def test_a_broker_killed_in_probation_blames_no_release(
    found: Callable[..., FleetSimulator], mosquitto: Mosquitto
) -> None:
    fleet = found(mosquitto.url)
    agent, counter = fleet.settled()
    patient = "shadow_frames=150, probation_frames=100, probation_seconds=0.5"
    signed = fleet.release(fleet.write("second.py", author.scale(3, patient)))
    agent.until_ended(signed.name, "shadow")
    mosquitto.kill()
    agent.until(lambda status: status["connection"] != "connected", what="the loss is noticed")
    assert agent.slot()["state"] == "shadow"
    mosquitto.start()
    agent.until_active(signed.name, 30)
    counter.until_flows(signed.name, 5)
    assert [one["state"] for one in agent.deployments()] == ["committed", "superseded"]


def _without_the_last(ref: BlobRef, index: int, message: bytes) -> bytes:
    header, _ = ChunkHeader.split(message)
    return b"" if index and index == header.count - 1 else message


def _require_back(agent: AgentProcess) -> None:
    def back(status: dict[str, object]) -> bool:
        (slot,) = status["slots"]  # type: ignore[misc]
        return status["connection"] == "connected" and not (slot["input_problem"] or slot["output_problem"])

    agent.until(back, what="back on the broker")
