"""Texts and objects travel the whole road: declared, pushed, run, swapped under load; bad payloads condemn nobody."""

from __future__ import annotations

import json
from typing import Any

from tests.simulators.agents import AgentProcess
from tests.simulators.author import PROBATION
from tests.simulators.fleet import FleetSimulator
from tests.simulators.waiting import until

COLUMNS = 'text = { path = "text", dtype = "string" }, tags = { path = "tags", dtype = "json" }'

_MODULE = """
from edge_agent import Filter, Health, Input, Output, Pipeline, Text
from wording import worded

class Describe(Filter):
    def predict(self, rows):
        return [[text, worded(text, tags), {{"seen": tags["seen"], "words": text.split()}}] for text, tags in rows]

pipeline = Pipeline(
    "meter", [Text("{operation}", columns=["text"]), Describe()],
    input=Input(["text", "tags"], dtype={{"text": "string", "tags": "json"}}),
    output=Output(["text", "description", "details"]),
    self_test=[["Sample 1", {{"parity": "odd", "seen": []}}], ["ü", {{"parity": "even", "seen": [None]}}]],
    health=Health({health}),
)
"""
WORDING = "def worded(text, tags):\n    return f\"{text} is {tags['parity']}\"\n"
NUMBERS = """
from edge_agent import Input, Output, PassThrough, Pipeline
pipeline = Pipeline("meter", [PassThrough()], input=Input(["text", "tags"]), output=Output(["a", "b"]))
"""


def module(operation: str) -> str:
    return _MODULE.format(operation=operation, health=PROBATION)


def expected(number: int, operation: str) -> dict[str, Any]:
    text = getattr(f"sample {number}", operation)()
    return {
        "text": text,
        "description": f"{text} is {('even', 'odd')[number % 2]}",
        "details": {"seen": [number, None], "words": text.split()},
    }


def test_texts_and_objects_are_pushed_swapped_under_load_and_bad_payloads_condemn_nobody(
    fleet: FleetSimulator,
) -> None:
    agent = fleet.agent(columns=COLUMNS)
    counter = fleet.feed(agent)
    fleet.write("wording.py", WORDING)
    first = fleet.publisher(
        "push", fleet.write("first.py", module("upper")), "-c", "staging", "--wait", "--devices", "1"
    )
    assert first.returncode == 0, first.stderr
    counter.until_flows("meter@1")

    numbers = fleet.release(fleet.write("only_numbers.py", NUMBERS))
    refused = agent.until_ended(numbers.name, "rejected")["reasons"]
    assert [one["code"] for one in refused] == ["columns", "columns"]
    assert "column text is wanted as float64 (a number), this device delivers string" in refused[0]["message"]

    _spoil(fleet, agent, 4)
    fleet.write("wording.py", WORDING + "# changed\n")
    fleet.release(fleet.write("second.py", module("lower")))
    counter.until_flows("meter@3", 2)
    _spoil(fleet, agent, 4)  # in the middle of its probation
    agent.until_active("meter@3")
    counter.until_flows("meter@3")

    until(lambda: _counters(agent)["rejected"] == 24, what="the count of bad payloads")
    count = counter.final()
    assert (count["lost"], count["repeated"], count["invented"], count["redelivered"]) == (0, 0, 0, 0), count
    assert count["probation"]["meter@3"] > 0
    for release, operation in (("meter@1", "upper"), ("meter@3", "lower")):
        last = count["last"][release]
        assert last["values"] == expected(last["sequence"], operation)
    assert agent.slot()["state"] == "committed"
    assert _counters(agent)["errors"] == _counters(agent)["skipped"] == 0


def _spoil(fleet: FleetSimulator, agent: AgentProcess, times: int) -> None:
    """Send readings that no sensor should: a number for a text, null for an object, a text that is too large."""
    good: dict[str, Any] = {"id": 1, "t": 1, "text": "x", "tags": {"parity": "odd", "seen": []}}
    for bad in ({"text": 5}, {"tags": None}, {"text": "x" * 70_000}):
        for _ in range(times):
            fleet.client.publish(f"sensors/{agent.device}", json.dumps(good | bad).encode(), retain=False).wait(30)


def _counters(agent: AgentProcess) -> dict[str, int]:
    return {"errors": 0, "skipped": 0, **agent.slot()["counters"]}
