"""A device answers requests of local programs: releases are swapped and rolled back underneath, and none fails."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.simulators import asker, author
from tests.simulators.agents import AgentProcess
from tests.simulators.fleet import FleetSimulator
from tests.simulators.serving import Caller, tensor
from tests.simulators.waiting import until

SLOTS = """
[interfaces]
listen = "127.0.0.1:0"
inference = true
metrics = true

[slot.meter]
policy = {{ settle_seconds = 0.5 }}
channel = "staging"
[slot.meter.input]
source = "inference"
columns = {{ x = "x" }}
[slot.meter.output]
sink = "sqlite"
path = "record.db"

[slot.words]
channel = "staging"
[slot.words.input]
source = "inference"
columns = {{ text = {{ path = "text", dtype = "string" }}, tags = {{ path = "tags", dtype = "json" }} }}
"""
WORDS = f"""
from edge_agent import Filter, Health, Input, Output, Pipeline

class Describe(Filter):
    def predict(self, rows):
        return [[text.upper(), len(text), len(text) > 3, {{"tags": tags}}] for text, tags in rows]

pipeline = Pipeline(
    "words", [Describe()], input=Input(["text", "tags"], dtype={{"text": "string", "tags": "json"}}),
    output=Output(["text", "length", "long", "details"]), self_test=[["a", {{}}]], health=Health({author.PROBATION}),
)
"""
LATE = """
import os

class Late(Filter):
    def initialize(self):
        self.seen = 0

    def predict(self, x):
        self.seen += 1
        if self.seen > 30:  # past its shadowing, in the middle of its probation
            os._exit(7)
        return x * 5
"""


def device(fleet: FleetSimulator) -> AgentProcess:
    agent = fleet.agent(start=False)
    text = agent.config.read_text()
    agent.config.write_text(text[: text.index("[slot.meter]")] + SLOTS.format())
    return agent.start()


def place(agent: AgentProcess) -> str:
    return str(agent.status()["interfaces"]["listen"])


class Asking:
    """A process that asks until it is told to stop."""

    def __init__(self, agent: AgentProcess, **factors: float) -> None:
        port = place(agent).rpartition(":")[2]
        told = json.dumps({name.removeprefix("v"): factor for name, factor in factors.items()})
        self.process = subprocess.Popen(
            [sys.executable, "-I", asker.__file__, port, "meter", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self._out = self.process.stdout

    def until_version(self, version: str) -> None:
        for line in self._out:
            if json.loads(line)["version"] == version:
                return
        raise AssertionError(f"no answer of version {version}")

    def end(self) -> dict[str, Any]:
        rest, _ = self.process.communicate("\n", timeout=40)
        found: dict[str, Any] = json.loads(rest.splitlines()[-1])
        return found


@contextmanager
def asking(agent: AgentProcess, **factors: float) -> Iterator[Asking]:
    made = Asking(agent, **factors)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def test_releases_are_swapped_and_rolled_back_under_a_flow_of_requests_and_none_fails(fleet: FleetSimulator) -> None:
    agent = device(fleet)
    caller = Caller(place(agent))
    assert caller.ask("GET", "/v2/models/meter/ready")[0] == 503
    fleet.release(fleet.write("first.py", author.scale(2)))
    # Nobody asks yet, so it waits for its probation: the first to ask is answered by the candidate.
    until(lambda: caller.infer(tensor("x", [0.5]), path="/v2/models/meter/infer")[0] == 200, 20.0, "meter@1")
    with asking(agent, v1=2.0, v2=3.0, v3=5.0) as flow:
        agent.until_active("meter@1", 30.0)
        fleet.release(fleet.write("second.py", author.scale(3)))
        flow.until_version("2")
        agent.until_active("meter@2", 30.0)
        fleet.release(fleet.write("third.py", author.module(LATE, "Late()")))
        reasons = agent.until_ended("meter@3", "rolled_back", 30.0)["reasons"]
        assert reasons[0]["code"] == "exited", reasons
        hedged = agent.slot()["counters"].get("stepped_in", 0)
        count = flow.end()
    assert count["broken"] == 0, count
    assert (list(count["statuses"]), count["wrong"]) == (["200"], []), count
    assert count["turns"][0] == "1"
    assert count["turns"][-1] == "2"
    assert count["turns"].count("1") <= 1 + hedged, "once to the new version, but for hedged frames"
    assert recorded(agent) >= set(count["answered"])

    metrics_are_told(agent, caller)
    fleet.release(fleet.write("words.py", WORDS))
    texts_are_answered(agent, caller)
    everything_answered_is_recorded_once_after_a_kill(agent)
    caller.close()


def recorded(agent: AgentProcess) -> set[int]:
    with closing(sqlite3.connect(agent.directory / "record.db")) as database:
        rows = [row[0] for row in database.execute("select sequence from output")]
    assert len(rows) == len(set(rows))
    return set(rows)


def metrics_are_told(agent: AgentProcess, caller: Caller) -> None:
    status, text = caller.ask("GET", "/metrics")
    assert status == 200
    assert caller.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (one.name, one.labels.get("slot", ""), one.labels.get("le", "")): one
        for family in text_string_to_metric_families(text.decode())
        for one in family.samples
    }
    samples = found["fieldcast_samples_total", "meter", ""].value
    assert samples > 100
    assert found["fieldcast_end_to_end_seconds_bucket", "meter", "+Inf"].value >= samples - 100
    assert found["fieldcast_broker_connected", "", ""].value == 1
    assert found["fieldcast_incident_newest", "meter", ""].value == 1
    assert found["fieldcast_worker_memory_bytes", "meter", ""].value > 5e6
    release = found["fieldcast_release_info", "meter", ""]
    assert release.labels == {"slot": "meter", "release": "meter@2", "sequence": "2", "mode": "active"}
    assert "fieldcast_trust_expiry_timestamp_seconds" in {name for name, _, _ in found}
    listed = agent.cli("status")
    assert f"inference and metrics at {place(agent)}" in listed.stdout
    assert f"inference and metrics at {place(agent)}, for every local user" in agent.cli("doctor").stdout


def texts_are_answered(agent: AgentProcess, caller: Caller) -> None:
    path = "/v2/models/words/infer"
    inputs = [tensor("text", ["über", "a"], "BYTES"), tensor("tags", ['["x", null]', "{}"], "BYTES")]
    until(lambda: caller.infer(*inputs, path=path)[0] == 200, 20.0, "words@1")
    status, body = caller.infer(*inputs, path=path, outputs=[{"name": "details"}, {"name": "length"}, {"name": "text"}])
    assert status == 200
    assert [(one["name"], one["datatype"], one["shape"], one["data"]) for one in body["outputs"]] == [
        ("details", "BYTES", [2], ['{"tags":["x",null]}', '{"tags":{}}']),
        ("length", "INT64", [2], [4, 1]),
        ("text", "BYTES", [2], ["ÜBER", "A"]),
    ]
    outputs = caller.ask("GET", "/v2/models/words")[1]["outputs"]
    assert [one["datatype"] for one in outputs] == ["BYTES", "INT64", "BOOL", "BYTES"]


def everything_answered_is_recorded_once_after_a_kill(agent: AgentProcess) -> None:
    """Who waits when the agent is killed is told by the connection; the record has nothing twice."""
    with asking(agent, v2=3.0) as flow:
        flow.until_version("2")
        agent.kill()
        count = flow.end()
    agent.start()
    caller = Caller(place(agent))
    until(lambda: caller.ask("GET", "/v2/models/meter/ready")[0] == 200, 20.0, "meter@2 again")
    before = recorded(agent)
    assert before >= set(count["answered"])
    assert count["wrong"] == []
    body = caller.infer(tensor("x", [0.5]), path="/v2/models/meter/infer")[1]
    assert body["parameters"]["first_sequence"] > max(before), "numbers are never given twice"
    caller.close()


def test_a_taken_port_ends_the_start_with_one_line(fleet: FleetSimulator, tmp_path: Path) -> None:
    first = device(fleet)
    port = place(first).rpartition(":")[2]
    second = fleet.agent(start=False)
    text = second.config.read_text()
    second.config.write_text(text + f'\n[interfaces]\nlisten = "127.0.0.1:{port}"\nmetrics = true\n')
    done = second.cli("run", seconds=30.0)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "interfaces.listen" in line]
    assert f"127.0.0.1:{port}: another program listens there: stop it, or name another" in line
    assert "Traceback" not in done.stderr
