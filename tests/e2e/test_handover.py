"""What a running version has learned goes over to the next one: pushed, signed, in real processes (R5)."""

from __future__ import annotations

from tests.simulators import author
from tests.simulators.fleet import FleetSimulator

_COUNTER = """
import numpy as np
from edge_agent import Filter, Health, Input, Output, Pipeline

class Counter(Filter):
    def __init__(self):
        super().__init__()
        self.count = 0

    def predict(self, x):
        numbers = self.count + np.arange(1, len(x) + 1)
        self.count = int(numbers[-1])
        return numbers[:, None].astype(float)
{upgrade}
pipeline = Pipeline("meter", [Counter()], input=Input(["x"]), output=Output(["y"]), health=Health({health}))
"""
_UPGRADE = """
    def upgrade(self, old_state, old_fingerprint):
        self.count = old_state["count"]
"""


def test_a_counter_goes_on_counting_across_versions(fleet: FleetSimulator) -> None:
    agent = fleet.agent()
    fleet.release(fleet.write("one.py", _COUNTER.format(upgrade="", health=author.PROBATION)))
    counter = fleet.feed(agent)
    agent.until_active("meter@1")
    fleet.release(fleet.write("two.py", _COUNTER.format(upgrade=_UPGRADE, health=author.PROBATION)))
    agent.until_active("meter@2")
    counter.until_flows("meter@2")
    count = counter.final()
    assert (count["lost"], count["repeated"]) == (0, 0), count
    for release in ("meter@1", "meter@2"):
        last = count["last"][release]
        assert last["values"]["y"] == last["sequence"] + 1, release
