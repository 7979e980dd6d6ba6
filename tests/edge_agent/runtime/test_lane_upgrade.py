"""State handed over at a swap: the next version goes on exactly where the last one was, or never gets there (R5)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from edge_agent.contract.errors import Blame, ReasonCode
from edge_agent.runtime import handover
from edge_agent.runtime.crew import NoticeKind, Plan
from tests.simulators.release import Releases
from tests.simulators.slot import Slot
from tests.simulators.waiting import until

_SOURCE = '''
import time
import numpy as np
from edge_agent.sdk.filter import Filter


class Counter(Filter):
    """Number the samples it has seen; how it behaves at a hand-over is a parameter."""

    def __init__(self, how="good", step=1):
        super().__init__(how=how, step=step)
        self.count = 0

    def initialize(self):
        self.handle = object()
        self.told = ""
        if self.how == "large":
            self.table = np.zeros(200_000)

    def predict(self, x):
        numbers = self.count + self.step * np.arange(1, len(x) + 1)
        self.count = int(numbers[-1])
        return numbers[:, None].astype(float)


class Keeper(Counter):
    def upgrade(self, old_state, old_fingerprint):
        if self.how == "raise":
            raise KeyError("total")
        if self.how == "hang":
            time.sleep(3600)
        if self.how == "slow":
            time.sleep(0.4)
        assert len(old_fingerprint) > 20 and "handle" not in old_state
        self.count = old_state["count"]


class Secretive(Counter):
    def __getstate__(self):
        if hasattr(self, "handle"):
            raise RuntimeError("nothing to see")
        return {}

    def __setstate__(self, state):
        pass


class Plain(Filter):
    def predict(self, x):
        return x
'''


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def counting(releases: Releases) -> Any:
    path = releases._directory / "author" / "counting.py"
    path.write_text(_SOURCE)
    spec = importlib.util.spec_from_file_location("counting", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["counting"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def slot() -> Iterator[Slot]:
    with Slot() as made:
        yield made


def plan(releases: Releases, key: int, stage: Any, name: str = "count", **health: Any) -> Plan:
    return releases._plan(key, releases.pack([(name, stage)], **health), {})


def counts(slot: Slot) -> list[float]:
    return [message.values["y"] for message in list(slot.sink.messages)]


@pytest.mark.parametrize("how", ["good", "slow"])
def test_the_next_version_counts_on_without_a_sample_missed_or_counted_twice(
    slot: Slot, releases: Releases, counting: Any, how: str
) -> None:
    slot.run(plan(releases, 1, counting.Counter()))
    slot.feed_on(0.001)
    slot.wait_for_outputs(60)
    slot.try_out(plan(releases, 2, counting.Keeper(how)))
    slot.wait_for(NoticeKind.HEALTHY, 2)
    slot.wait_for_outputs(len(slot.sink.messages) + 30)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert counts(slot) == [float(number) for number in range(1, fed + 1)]
    assert slot.sink.messages[-1].release == "act@2"


def test_a_third_version_takes_over_from_the_second(slot: Slot, releases: Releases, counting: Any) -> None:
    slot.run(plan(releases, 1, counting.Counter()))
    slot.feed_on(0.001)
    slot.wait_for_outputs(20)
    for key in (2, 3):
        slot.try_out(plan(releases, key, counting.Keeper(step=1)))
        slot.wait_for(NoticeKind.HEALTHY, key)
        until(lambda: slot.lane._candidate is None, what="the commit")
    slot.wait_for_outputs(len(slot.sink.messages) + 30)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert counts(slot) == [float(number) for number in range(1, fed + 1)]


# what gives, what takes, words in the reason, whose fault
REFUSED = [
    ("Counter", "good", "raise", "KeyError: 'total'", Blame.RELEASE),
    ("Counter", "good", "hang", "upgrade() of count took more than 5 s", Blame.RELEASE),
    ("Counter", "large", "good", "more than the 1048576 that can go over: 'count'", Blame.RELEASE),
    ("Secretive", "good", "good", "the state of act@1 cannot be handed over", Blame.RELEASE),
]


@pytest.mark.parametrize(("giver", "given", "taken", "words", "blame"), REFUSED, ids=[one[3] for one in REFUSED])
def test_a_hand_over_that_fails_refuses_the_candidate_and_the_old_one_goes_on(
    slot: Slot, releases: Releases, counting: Any, giver: str, given: str, taken: str, words: str, blame: Blame
) -> None:
    slot.run(plan(releases, 1, getattr(counting, giver)(given)))
    slot.feed_on(0.002)
    slot.wait_for_outputs(5)
    slot.try_out(plan(releases, 2, counting.Keeper(taken), heartbeat_seconds=2.0))
    notice = slot.wait_for(NoticeKind.FAILED, 2)
    slot.wait_for_outputs(len(slot.sink.messages) + 10)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert notice.reason is not None
    assert (notice.reason.code, notice.reason.blame) == (ReasonCode.START, blame)
    assert words in notice.reason.message
    assert ("counting.py" in notice.traceback) == (taken == "raise")
    assert counts(slot) == [float(number) for number in range(1, fed + 1)]
    assert {message.release for message in slot.sink.messages} == {"act@1"}


@pytest.mark.parametrize(
    ("before", "after"), [("Counter", "Counter"), ("Plain", "Keeper")], ids=["no upgrade", "no state"]
)
def test_without_upgrade_or_without_state_nothing_is_handed_over(
    slot: Slot, releases: Releases, counting: Any, before: str, after: str
) -> None:
    slot.run(plan(releases, 1, getattr(counting, before)()))
    slot.feed_on(0.001)
    slot.wait_for_outputs(50)
    slot.try_out(plan(releases, 2, getattr(counting, after)()))
    slot.wait_for(NoticeKind.HEALTHY, 2)
    slot.stop_feeding()
    slot.wait_for_done()
    newest = [message for message in slot.sink.messages if message.release == "act@2"][-1]
    assert newest.values["y"] < newest.sequence + 1


def test_a_giver_that_ends_meanwhile_is_no_fault_of_the_candidate(
    slot: Slot, releases: Releases, counting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot.run(plan(releases, 1, counting.Counter()))
    slot.feed(5)
    slot.wait_for_outputs(5)
    monkeypatch.setattr(type(slot.lane._active), "ask", lambda *_: None)  # it never hears of it
    slot.try_out(plan(releases, 2, counting.Keeper()))
    until(lambda: slot.lane._handover is not None, what="a hand-over")
    slot.lane._active.kill()  # type: ignore[union-attr]
    notice = slot.wait_for(NoticeKind.FAILED, 2)
    assert notice.reason is not None
    assert (notice.reason.code, notice.reason.blame) == (ReasonCode.START, Blame.ENVIRONMENT)


def test_a_giver_that_does_not_answer_in_time_is_no_fault_of_the_candidate(
    slot: Slot, releases: Releases, counting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "HANDOVER_SECONDS", 0.3)
    slot.run(plan(releases, 1, counting.Counter()))
    monkeypatch.setattr(type(slot.lane._active), "ask", lambda *_: None)
    slot.try_out(plan(releases, 2, counting.Keeper()))
    notice = slot.wait_for(NoticeKind.FAILED, 2)
    assert notice.reason is not None
    assert (notice.reason.code, notice.reason.blame) == (ReasonCode.START, Blame.ENVIRONMENT)
    assert "act@1 did not hand over" in notice.reason.message
