"""Windows across the end of an agent: killed or stopped at any moment, every window comes once, complete."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simulators import author
from tests.simulators.agents import AgentProcess, Counting
from tests.simulators.broker import EXECUTABLE, Mosquitto
from tests.simulators.fleet import FleetSimulator
from tests.simulators.waiting import until

TALLY = Path(author.__file__).with_name("tally.py")
SIZE, HOP = 64, 16  # what we number begins at a multiple of 2^32, and windows end where numbers say
RATE_HZ = 300.0

_WINDOWS = """
import numpy as np
from edge_agent import Filter, Health, Input, Output, Pipeline, Window

class Tell(Filter):
    def predict(self, x):
        ids = x[:, :, 0]
        return np.stack([ids.min(1), ids.max(1), np.full(len(ids), ids.shape[1]), ids.sum(1)], 1)

pipeline = Pipeline(
    "meter", [Window({size}, {hop}), Tell()], input=Input(["x"]), output=Output(["low", "high", "many", "total"]),
    health=Health({health}),
)
"""


def windows(size: int, hop: int) -> str:
    return _WINDOWS.format(size=size, hop=hop, health=author.PROBATION)


def _on(fleet: FleetSimulator, *, sqlite: bool) -> AgentProcess:
    """Return an agent, not started: to SQLite with numbers of our own, or to MQTT with numbers that come along."""
    agent = fleet.agent(start=False, columns='x = "id"')
    if sqlite:
        text = agent.config.read_text().replace('sequence = "id"\n', "")
        text, _, _ = text.partition("[slot.meter.output]")
        text += '[slot.meter.output]\nsink = "sqlite"\npath = "results.db"\ntable = "results"\n'
        agent.config.write_text(text)
    return agent


@pytest.fixture(scope="module")
def patient() -> Iterator[str]:
    """A broker that keeps what comes while an agent is away, however long a busy machine takes to start it."""
    if not Path(EXECUTABLE).exists():
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    with Mosquitto("set_tcp_nodelay true\nmax_queued_messages 100000") as broker:
        yield broker.url


@pytest.fixture
def fleet(found: Callable[..., FleetSimulator], patient: str) -> FleetSimulator:
    return found(patient)


def _tally(agent: AgentProcess, sent: int, size: int, hop: int) -> dict[str, Any]:
    command = [sys.executable, "-I", str(TALLY), str(agent.directory / "results.db")]
    done = subprocess.run(
        [*command, "--sent", str(sent), "--size", str(size), "--hop", str(hop)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _disturb(agent: AgentProcess, dice: random.Random, ends: str) -> None:
    for how in ends:
        time.sleep(dice.uniform(0.05, 0.9))  # the moment is the point
        if how == "k":
            agent.kill()
        else:
            assert agent.stop() == 0
        agent.start()


def _rest(counter: Counting) -> int:
    """Stop feeding and return how many samples were sent."""
    counter.rate(0)
    before = -1
    while before != counter.told["sent"]:
        before = counter.told["sent"]
        time.sleep(0.3)  # the counter tells every 0.05 s
    return int(before)


def test_killed_and_stopped_in_the_middle_every_window_is_in_the_table_once(fleet: FleetSimulator) -> None:
    dice = random.Random(seed := random.randrange(10**6))
    agent = _on(fleet, sqlite=True).start()
    fleet.release(fleet.write("windows.py", windows(SIZE, HOP)))
    counter = fleet.feed(agent, RATE_HZ)
    agent.until_active("meter@1")
    _disturb(agent, dice, "kskk")
    sent = _rest(counter)
    assert sent > 4 * SIZE
    with contextlib.suppress(AssertionError):
        until(lambda: _tally(agent, sent, SIZE, HOP)["missing"] == [], 30, pause_seconds=0.2)
    found = _tally(agent, sent, SIZE, HOP)
    assert found == {
        **found,
        "missing": [],
        "repeated": 0,
        "elsewhere": [],
        "wrong": [],
        "windows": found["expected"],
    }, seed


def test_to_a_topic_every_window_comes_at_least_once_under_one_key(fleet: FleetSimulator) -> None:
    dice = random.Random(seed := random.randrange(10**6))
    agent = _on(fleet, sqlite=False).start()
    fleet.release(fleet.write("windows.py", windows(HOP, HOP)))
    counter = fleet.feed(agent, RATE_HZ, block=HOP)
    agent.until_active("meter@1")
    _disturb(agent, dice, "ksk")
    count = counter.final()
    assert (count["lost"], count["repeated"], count["invented"]) == (0, 0, 0), (seed, count)
