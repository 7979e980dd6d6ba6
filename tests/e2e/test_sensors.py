"""Samples from a serial port, results in a file: a release is pushed, updated and unplugged, nothing of it by MQTT."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from tests.simulators import author
from tests.simulators.agents import AgentProcess
from tests.simulators.fleet import FleetSimulator
from tests.simulators.peers_serial import SerialLine
from tests.simulators.waiting import until


class Sensor:
    """Sends a line of number and value every 5 ms, also while nobody listens."""

    def __init__(self, line: SerialLine) -> None:
        self._line, self._done = line, threading.Event()
        self.count = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._done.wait(0.005):
            try:
                self._line.send(b"%d;%.3f\r\n" % (self.count, self.count % 100 / 100))
                self.count += 1
            except OSError:  # unplugged
                continue

    def __enter__(self) -> Sensor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def on_serial(agent: AgentProcess) -> Path:
    """Give the agent a serial port for its input and a file for its output; return the file."""
    text = agent.config.read_text()
    start, end = text.index("[slot.meter.input]"), text.index("[slot.meter.output]")
    text = (
        text[:start]
        + (
            '[slot.meter.input]\nsource = "serial"\nport = "tty"\nformat = "regex"\nsequence = "n"\n'
            'pattern = "^(?P<n>[0-9]+);(?P<x>[0-9.]+)$"\ncolumns = {x = "x"}\n'
            '[slot.meter.output]\nsink = "jsonl"\npath = "out.jsonl"\n'
        )
        + text[end:].partition("\n[")[1]
        + text[end:].partition("\n[")[2]
    )
    agent.config.write_text(text)
    return agent.directory / "out.jsonl"


def results(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def flows(path: Path, release: str) -> None:
    before = len(results(path))
    until(lambda: any(one["release"] == release for one in results(path)[before:]), 30.0, f"results of {release}")


def test_a_release_runs_on_a_serial_port_that_is_unplugged_and_plugged_in_again(fleet: FleetSimulator) -> None:
    agent = fleet.agent(start=False)
    path = on_serial(agent)
    with SerialLine(agent.directory / "tty") as line, Sensor(line):
        agent.start(wait=False)
        fleet.release(fleet.write("first.py", author.scale(2)))
        flows(path, "meter@1")
        line.unplug()
        until(lambda: "source is gone" in agent.log, 30, "the loss of the port")
        line.plug()
        flows(path, "meter@1")
        fleet.release(fleet.write("second.py", author.scale(3)))
        flows(path, "meter@2")
        agent.stop()
        agent.start(wait=False)
        flows(path, "meter@2")
    found = results(path)
    sequences = [one["sequence"] for one in found]
    assert sequences == sorted(set(sequences)), "repeated or out of order"
    for one in found:
        factor = {"meter@1": 2, "meter@2": 3}[one["release"]]
        assert abs(one["values"]["y"] - one["sequence"] % 100 / 100 * factor) < 1e-9
    assert "rolled back" not in agent.log
