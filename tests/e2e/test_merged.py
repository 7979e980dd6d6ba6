"""Two MQTT topics in one slot, joined by Align: across kill -9 nothing is lost or repeated, and status shows both."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path

from tests.simulators.agents import AgentProcess
from tests.simulators.author import PROBATION
from tests.simulators.fleet import FleetSimulator
from tests.simulators.peer import Peer
from tests.simulators.waiting import until

STEP_MS = 20  # of the slow part; the fast one has five samples to each
JOINED = f"""
from edge_agent import Align, Filter, Health, Input, Output, Pipeline

class Difference(Filter):
    def predict(self, rows):
        return rows[:, 1:] - rows[:, :1]

pipeline = Pipeline(
    "meter", [Align({1000 // STEP_MS}, tolerance=1.0), Difference()],
    input=Input(["a", "b"]), output=Output(["y"], range=(-1, 5)),
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
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(STEP_MS / 1000):
            self.step()

    def step(self) -> None:
        """Publish one slow sample, and the fast ones up to the next."""
        at = self.start_ms + self.steps * STEP_MS
        self._peer.publish(f"in/{self._device}/slow", {"t": at, "n": self.steps, "b": float(self.steps % 1000 + 1)})
        for part in range(5):
            value = {"t": at + part * STEP_MS // 5, "n": 5 * self.steps + part, "a": self.steps % 1000 + part / 10}
            self._peer.publish(f"in/{self._device}/fast", value)
        self.steps += 1

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


def rows(path: Path) -> list[tuple[str, int, int, float]]:
    """Return stream, sequence, timestamp and value of every result, in the order of sequences."""
    if not path.exists():
        return []
    with sqlite3.connect(path) as database:
        return database.execute("SELECT * FROM output ORDER BY sequence").fetchall()
