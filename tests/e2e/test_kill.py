"""kill -9 of an agent at any moment of an update: it ends committed or on the previous release, never without one."""

from __future__ import annotations

import os
import time

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.messages import ChunkHeader
from tests.simulators import author
from tests.simulators.agents import AgentProcess, Counting, alive, workers_of
from tests.simulators.fleet import FleetSimulator, Signed
from tests.simulators.waiting import until

LONG = "shadow_frames=60, probation_frames=90, probation_seconds=0.6"
STATES = ("starting", "shadow", "live", "committed")
DELAYS = (0.0, 0.2, 0.6, 1.5)


def test_killed_in_any_observed_state_the_device_goes_on_with_a_release(fleet: FleetSimulator) -> None:
    agent, counter = fleet.settled()
    runs = "meter@1"
    for number, state in enumerate(STATES, 3):
        signed = fleet.release(fleet.write(f"r{number}.py", author.slow(number, health=LONG)))
        agent.until_ended(signed.name, state)
        runs = _kill_and_start(agent, counter, runs, signed.name)
    assert runs == "meter@5", "the last was killed after its commit"
    _require_a_good_end(fleet, agent, counter)


def test_killed_at_many_moments_the_device_goes_on_with_a_release(fleet: FleetSimulator) -> None:
    agent, counter = fleet.settled()
    runs, seen = "meter@1", set()
    for number, delay in enumerate(DELAYS, 3):
        signed = fleet.release(fleet.write(f"r{number}.py", author.scale(number, LONG)))
        time.sleep(delay)  # the moment is the point; no outcome depends on it
        seen.add(agent.slot()["state"])
        runs = _kill_and_start(agent, counter, runs, signed.name)
    assert len(seen) > 1, f"all kills fell into {seen}"
    _require_a_good_end(fleet, agent, counter)


def test_killed_while_fetching_it_keeps_what_it_has_and_commits(fleet: FleetSimulator) -> None:
    agent, counter = fleet.settled()
    withheld: list[tuple[BlobRef, int, bytes]] = []
    fleet.write("noise.bin", os.urandom(150_000))
    signed = fleet.sign(fleet.write("heavy.py", author.heavy(3, "noise.bin")))

    def withhold(ref: BlobRef, index: int, message: bytes) -> bytes:
        header, _ = ChunkHeader.split(message)
        if index and index == header.count - 1:
            withheld.append((ref, index, message))
            return b""
        return message

    fleet.send(signed, withhold)
    fleet.announce(signed.message)
    agent.until_ended(signed.name, "fetching")
    _kill_and_start(agent, counter, "meter@1", "meter@1")
    assert agent.until_ended(signed.name, "fetching")["active"] == "meter@1"
    for ref, index, message in withheld:
        fleet.put(fleet.topics.chunk(ref.digest, index), message)
    agent.until_active(signed.name)
    _require_nothing_lost(counter)


def test_a_candidate_in_whose_probation_the_agent_dies_is_tried_again_and_commits(fleet: FleetSimulator) -> None:
    agent, counter = fleet.settled()
    signed = fleet.release(fleet.write("second.py", author.scale(3, LONG)))
    agent.until_ended(signed.name, "live")
    assert _kill_and_start(agent, counter, "meter@1", "meter@1") == "meter@1"
    agent.until_active(signed.name)
    assert agent.deployments()[0]["attempts"] == 2
    counter.until_flows(signed.name)
    _require_nothing_lost(counter)


def _kill_and_start(agent: AgentProcess, counter: Counting, oldest: str, newest: str) -> str:
    """Return the release that runs after the restart, with its results flowing: none before `oldest`.

    A killed agent leaves no worker process, the candidate's neither.
    """
    workers = workers_of(agent.pid)
    assert workers
    agent.kill()
    until(lambda: not any(map(alive, workers)), what="the end of the workers")
    agent.start()
    runs = str(agent.slot()["active"])
    assert _number(oldest) <= _number(runs) <= _number(newest), f"{runs!r} runs after the restart\n{agent.tail()}"
    counter.until_flows(runs, 5)
    return runs


def _number(release: str) -> int:
    """Return a release's sequence number, -1 for no release at all."""
    return int(release.rpartition("@")[2] or -1)


def _require_a_good_end(fleet: FleetSimulator, agent: AgentProcess, counter: Counting) -> None:
    """Whatever happened, the next release commits and every sample was answered."""
    last: Signed = fleet.release(fleet.write("last.py", author.scale(9)))
    agent.until_active(last.name)
    counter.until_flows(last.name)
    _require_nothing_lost(counter)


def _require_nothing_lost(counter: Counting) -> None:
    """At least once: after SIGKILL a result may come twice, always under its own key."""
    count = counter.final()
    assert (count["lost"], count["repeated"], count["invented"]) == (0, 0, 0), count


def test_a_clean_stop_exits_0_at_once_and_leaves_no_worker(fleet: FleetSimulator) -> None:
    agent, counter = fleet.settled()
    fleet.release(fleet.write("second.py", author.scale(3, LONG)))
    agent.until(lambda _: agent.slot()["state"] == "shadow", what="two workers")
    workers = workers_of(agent.pid)
    assert len(workers) == 2
    started = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - started < 20
    assert not any(map(alive, workers))
    assert not (agent.state / "agent.sock").exists()
    assert fleet.retained(fleet.topics.online(agent.device)) == b"0"
    agent.start()
    agent.until_active("meter@2")
    assert agent.deployments()[0]["attempts"] == 1, "a clean stop must be refunded"
    _require_nothing_lost(counter)
