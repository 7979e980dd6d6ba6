"""`spare = true`: a worker and a verifier wait for the next release, which starts in them; all end with the agent."""

from __future__ import annotations

from collections.abc import Callable, Set

from tests.simulators import author
from tests.simulators.agents import AgentProcess, alive, children_of, workers_of
from tests.simulators.fleet import FleetSimulator
from tests.simulators.waiting import until


def verifiers_of(agent: AgentProcess) -> set[int]:
    return {child for child, command in children_of(agent.pid).items() if b"edge_agent.update.verifier" in command}


def waiting(agent: AgentProcess, before: Set[int] = frozenset()) -> tuple[set[int], set[int]]:
    """Wait for a worker, a spare that was not there before, and a verifier; return (workers, verifier)."""

    def settled() -> bool:
        workers = workers_of(agent.pid)
        return len(workers) == 2 and bool(workers - before) and len(verifiers_of(agent)) == 1

    until(settled, 30, "both spares")
    return workers_of(agent.pid), verifiers_of(agent)


def test_releases_start_in_what_waits_and_nothing_waits_any_more_when_the_agent_is_gone(
    found: Callable[..., FleetSimulator], mosquitto_url: str
) -> None:
    fleet = found(mosquitto_url)
    agent = fleet.agent(start=False)
    agent.config.write_text(agent.config.read_text().replace("[slot.meter]\n", "[slot.meter]\nspare = true\n", 1))
    counter = fleet.feed(agent.start())
    fleet.release(fleet.write("first.py", author.scale(2)))
    agent.until_active("meter@1")
    before, verifier = waiting(agent)
    fleet.release(fleet.write("second.py", author.scale(3)))
    agent.until_active("meter@2")
    counter.until_flows("meter@2")
    after, next_verifier = waiting(agent, before)
    assert len(after & before) == 1, "the one that waited serves"
    assert not verifier & next_verifier, "each verifies once"
    signed = fleet.release(fleet.write("bad.py", author.crashing()))
    agent.until_ended(signed.name, "rolled_back")
    last, _ = waiting(agent, after)
    assert agent.slot()["active"] == "meter@2"
    told = counter.final()
    assert (told["lost"], told["repeated"]) == (0, 0)
    left = last | verifiers_of(agent)
    agent.kill()
    until(lambda: not any(map(alive, left)), 30, "the end of every process")
