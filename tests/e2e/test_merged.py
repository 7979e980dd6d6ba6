"""Two MQTT topics in one slot, joined by Align: across kill -9 nothing is lost or repeated, and status shows both."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from pathlib import Path

from edge_agent.trails import BOOT_BITS
from tests.simulators.agents import AgentProcess
from tests.simulators.author import PROBATION
from tests.simulators.fleet import FleetSimulator
from tests.simulators.peer import Peer
from tests.simulators.waiting import until

FIRST = 1 << BOOT_BITS  # what counts here begins with the first run
FAST, STEP_MS = 5, 50  # samples of the fast part to one of the slow one, and how far apart those are
JOINED = f"""
from edge_agent import Align, Filter, Health, Input, Output, Pipeline

class Difference(Filter):
    def predict(self, rows):
        return rows[:, 1:] - rows[:, :1]

pipeline = Pipeline(
    "meter", [Align({1000 // STEP_MS}, tolerance=10.0), Difference()],
    input=Input(["a", "b"]), output=Output(["y"]),
    self_test=[[0.1, float("nan")], [float("nan"), 0.3], [0.2, float("nan")], [float("nan"), 0.5]],
    health=Health({PROBATION}),
)
"""


class Feed:
    """Samples of both parts, stamped and valued alike by their number, published at QoS 1 in the order of time."""

    def __init__(self, peer: Peer, device: str) -> None:
        self._peer, self._device, self._stop = peer, device, threading.Event()
        self.start_ms = time.time_ns() // 1_000_000 // STEP_MS * STEP_MS
        self.steps = 0
        self.last_ms = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(STEP_MS / 1000):
            self.step()

    def step(self) -> None:
        """Publish one slow sample, and the fast ones up to the next."""
        at = self.start_ms + self.steps * STEP_MS
        self._peer.publish(f"in/{self._device}/slow", {"t": at, "n": self.steps, "b": 3 * self.steps})
        for part in range(FAST):
            fast = {"t": at + part * STEP_MS // FAST, "n": FAST * self.steps + part, "a": self.steps + part / 10}
            self._peer.publish(f"in/{self._device}/fast", fast)
        self.steps += 1

    def end(self) -> int:
        """Publish both parts' last samples, both for the same time; return how many samples there were."""
        self.last_ms = at = self.start_ms + self.steps * STEP_MS
        self._peer.publish(f"in/{self._device}/slow", {"t": at, "n": self.steps, "b": 3 * self.steps})
        self._peer.publish(f"in/{self._device}/fast", {"t": at, "n": FAST * self.steps, "a": self.steps})
        return (FAST + 1) * self.steps + 2

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def merged(agent: AgentProcess) -> Path:
    """Let the agent's slot join two topics, into a table; return its file."""
    text = agent.config.read_text()
    head = text[: text.index("[slot.meter.input]")]
    parts = "".join(
        f'[slot.meter.input.part.{name}]\nsource = "mqtt"\ntopic = "in/{agent.device}/{name}"\nsequence = "n"\n'
        f'timestamp = {{path = "t", unit = "ms"}}\ncolumns = {{{column} = "{column}"}}\n'
        for name, column in (("fast", "a"), ("slow", "b"))
    )
    output = '[slot.meter.output]\nsink = "sqlite"\npath = "out.db"\n'
    agent.config.write_text(f'{head}[slot.meter.input]\nsource = "merge"\n{parts}{output}')
    return agent.directory / "out.db"


def results(path: Path) -> list[tuple[int, int, float]]:
    """Return sequence, time in ms and value of every result, in the order of sequences."""
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT sequence, timestamp, y FROM output ORDER BY sequence").fetchall()
    return [(sequence, stamp // 1_000_000, value) for sequence, stamp, value in found]


def flows(path: Path) -> None:
    before = len(results(path))
    until(lambda: len(results(path)) > before + 10, 20, "joined rows")


def shown_rate(agent: AgentProcess) -> float:
    return float(agent.slot().get("samples_per_second", 0))


def test_two_topics_are_joined_across_kills_without_loss_or_repetition(fleet: FleetSimulator) -> None:
    agent = fleet.agent(start=False)
    path = merged(agent)
    agent.start()
    with Peer(int(fleet.url.rpartition(":")[2]), name=f"feed-{agent.device}") as peer:
        feed = Feed(peer, agent.device)
        with feed:
            fleet.push(fleet.write("joined.py", JOINED))  # with its preflight: rows with NaN are valid samples here
            agent.until_active("meter@1")
            flows(path)
            for _ in range(2):
                agent.kill()
                agent.start()
                flows(path)
            peer.publish(f"in/{agent.device}/slow", b"no sample")
            agent.until(lambda _: shown_rate(agent) > 0 and agent.slot()["counters"]["rejected"] == 1, 10, "a status")
            shown, told = agent.cli("status").stdout, json.loads(agent.cli("status", "--json").stdout)["slots"][0]
        sent = feed.end()
    until(lambda: results(path)[-1][1] == feed.last_ms, 20, "the last row")
    found = results(path)
    assert [at for _, at, _ in found] == [feed.start_ms + step * STEP_MS for step in range(feed.steps + 1)]
    assert found[-1] == (FIRST + sent - 1, feed.last_ms, 2 * feed.steps), "a sample was lost or numbered twice"
    assert "\n  since the agent started: 1 samples unreadable\n  input slow: malformed payload: in/" in shown, shown
    assert ", 0 samples/s" not in shown
    assert list(told["input_faults"]) == ["slow: malformed payload"]
    assert told["counters"]["rejected"] == 1
    assert not [name for name in told["counters"] if name.startswith("stamps_")], "nothing came twice or late"
    assert told["input_problem"] == ""
