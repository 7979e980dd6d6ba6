"""What comes while no release takes it: kept on disk over kill -9, each sample answered once when one does."""

from __future__ import annotations

from tests.simulators import author
from tests.simulators.agents import AgentProcess
from tests.simulators.fleet import FleetSimulator

# Committed with its first result, since a kill before that is waited for; and slow enough to be killed on its way.
AT_ONCE = "shadow_frames=0, probation_frames=1, probation_seconds=0.0"
TAKES_LONG = """
import time

class Slow(Filter):
    def predict(self, x):
        time.sleep(0.002 * len(x))
        return x * 2
"""


def spooled(agent: AgentProcess) -> int:
    return int(agent.slot().get("input_spooled", 0))


def test_samples_wait_on_disk_through_kills_and_each_is_answered_once(fleet: FleetSimulator) -> None:
    agent = fleet.agent(start=False)
    text = agent.config.read_text()
    agent.config.write_text(text.replace('source = "mqtt"\n', 'source = "mqtt"\noverflow = "spool"\n', 1))
    agent.start()
    counter = fleet.feed(agent, 250)
    agent.until(lambda _: spooled(agent) > 150, 20, "samples on disk without a release")
    agent.kill()
    agent.start()
    agent.until(lambda _: spooled(agent) > 300, 20, "more of them behind those")
    signed = fleet.release(fleet.write("first.py", author.module(TAKES_LONG, "Slow()", AT_ONCE)))
    agent.until_active(signed.name)
    for _ in range(2):
        agent.worker()
        assert spooled(agent) > 0, "this is about kills while they are worked off"
        agent.kill()
        counter.rate(20)
        agent.start()
    agent.until(lambda _: spooled(agent) == 0, 20, "an empty spool")
    told = counter.final()
    assert told["lost"] == 0, told
    assert told["repeated"] == 0, told
    assert not list((agent.state / "inputs" / "meter").glob("*.rows"))
    counters = agent.slot()["counters"]
    assert not counters.get("dropped")
    assert not counters.get("spool_damaged")


def test_what_is_dropped_is_counted_in_status_and_told_to_people(fleet: FleetSimulator) -> None:
    agent = fleet.agent(start=False)
    text = agent.config.read_text()
    policy = 'source = "mqtt"\noverflow = "drop_oldest"\nqueue_rows = 16\n'
    agent.config.write_text(text.replace('source = "mqtt"\n', policy, 1))
    agent.start()
    fleet.feed(agent, 300)
    agent.until(lambda _: agent.slot().get("counters", {}).get("dropped", 0) > 50, 20, "dropped samples")
    shown = agent.cli("status")
    assert "samples dropped, since nobody took them" in shown.stdout, shown.stdout
    assert "samples dropped slot=meter dropped=" in agent.log
