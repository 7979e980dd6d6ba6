"""Linger: when a batch begins, how long a source is let alone, and what must not wait for either."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.config import load
from edge_agent.contract.errors import ConfigError
from edge_agent.runtime.linger import NAP_SECONDS, Linger
from tests.simulators.release import Releases
from tests.simulators.slot import ScriptedSink, ScriptedSource, Slot
from tests.simulators.waiting import until

FULL = 1024
LONG_SECONDS = 1.0


# --- decisions -------------------------------------------------------------------------------------------------------


def test_without_linger_what_waits_begins_at_once() -> None:
    linger = Linger()
    assert not linger.puts_off(5.0)
    assert not linger.resting(5.0)
    assert not linger.rested()
    assert linger.begins(1, FULL, 5.0)
    assert not linger.begins(0, FULL, 5.0)
    assert linger.wake_at(5.0) == math.inf


def test_a_batch_begins_when_its_oldest_sample_is_old_enough_and_the_source_was_looked_at_again() -> None:
    linger = Linger(0.001)
    assert linger.puts_off(5.0)
    assert linger.resting(5.0005)
    assert linger.wake_at(5.0005) == pytest.approx(5.001)
    assert not linger.resting(5.0012)
    assert linger.wake_at(5.0012) == math.inf
    assert not linger.puts_off(5.0012), "put off twice"
    assert linger.rested(), "the source has to be looked at first"
    assert not linger.rested(), "looked at twice"
    assert linger.begins(3, FULL, 5.0012)


def test_a_full_batch_begins_at_once() -> None:
    linger = Linger(0.5)
    assert linger.puts_off(5.0)
    assert linger.begins(FULL, FULL, 5.0001)


def test_a_source_is_never_let_alone_for_long() -> None:
    linger = Linger(0.5)
    assert linger.puts_off(5.0)
    assert linger.wake_at(5.0) == pytest.approx(5.0 + NAP_SECONDS)
    assert not linger.resting(5.1)
    assert linger.rested()
    assert not linger.begins(3, FULL, 5.1)
    assert linger.wake_at(5.1) == pytest.approx(5.1 + NAP_SECONDS)
    linger.sent(6.0)
    assert linger.resting(6.0)
    assert not linger.resting(6.0 + NAP_SECONDS)
    assert linger.wake_at(6.0 + NAP_SECONDS) == math.inf, "nothing to do until the worker answers"


def test_after_a_quick_batch_samples_wait_no_longer_than_the_linger() -> None:
    linger = Linger(0.001)
    linger.sent(5.0)
    linger.ended(5.0002)
    assert linger.resting(5.0011)
    assert not linger.resting(5.0012 + 1e-6)
    assert linger.rested()
    assert linger.begins(1, FULL, 5.0012 + 1e-6)


def test_after_a_batch_that_took_longer_than_the_linger_the_next_one_begins_at_once() -> None:
    linger = Linger(0.1)
    linger.sent(5.0)
    linger.ended(5.4)
    assert not linger.resting(5.4)
    assert linger.rested(), "the source has to be looked at"
    assert linger.begins(1, FULL, 5.4)


def test_without_linger_nothing_waits_after_a_batch_but_a_look_at_the_source() -> None:
    linger = Linger()
    linger.sent(5.0)
    linger.ended(5.0001)
    assert not linger.resting(5.0001)
    assert linger.rested()
    assert linger.begins(1, FULL, 5.0001)


def test_a_wait_for_nothing_ends() -> None:
    linger = Linger(0.1)
    assert linger.puts_off(5.0)
    assert linger.rested()
    assert not linger.begins(0, FULL, 5.1), "it was a packet without a sample"
    assert linger.wake_at(5.1) == math.inf
    assert linger.puts_off(6.0), "the next sample waits anew"


# --- a slot with a real worker ---------------------------------------------------------------------------------------


class Bursts(ScriptedSink):
    """Keeps how many results came together."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def write(self, messages) -> None:  # type: ignore[no-untyped-def]
        self.sizes.append(len(messages))
        super().write(messages)


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    made = Slot(ScriptedSource(rows_per_take=FULL), Bursts())
    made.lane.linger = Linger(LONG_SECONDS)
    with made:
        yield made


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path)


def test_samples_that_come_within_the_linger_are_one_batch(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    began = time.monotonic()
    for _ in range(5):
        slot.feed(2)
        time.sleep(0.01)
    slot.wait_for_done()
    assert time.monotonic() - began >= LONG_SECONDS
    assert slot.numbers == list(range(10))
    assert slot.sink.sizes == [10]  # type: ignore[attr-defined]


def test_a_full_batch_does_not_wait(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.lane.linger = Linger(60.0)
    slot.feed(FULL + 10)
    slot.wait_for_outputs(FULL)
    assert slot.numbers == list(range(FULL))


def test_what_lingered_is_looked_at_and_begun_in_one_turn(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.lane.linger = Linger(NAP_SECONDS / 2)
    looks, begun = [0], []
    handle, pump, sent = slot.source.handle, slot.lane.pump, slot.lane.linger.sent

    def looked(events: int, now: float) -> None:
        looks[0] += 1
        handle(events, now)

    def turned(now: float) -> None:
        looks[0] = 0
        pump(now)

    def began(now: float) -> None:
        begun.append(looks[0])
        sent(now)

    slot.source.handle, slot.lane.pump, slot.lane.linger.sent = looked, turned, began  # type: ignore[method-assign]
    slot.feed(1)
    slot.wait_for_done()
    assert begun == [1]


def test_a_swap_does_not_wait_for_a_lingering_batch(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.lane.linger = Linger(0.2)
    slot.feed_on(0.002)
    slot.try_out(releases.act(2))
    until(lambda: slot.sink.messages and slot.sink.messages[-1].release == "act@2", what="the new release")
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert slot.numbers == list(range(fed))


def test_the_end_does_not_wait_for_a_lingering_batch(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.lane.linger = Linger(60.0)
    slot.feed(3)
    until(lambda: slot.source.taken == 3, what="taking up")
    began = time.monotonic()
    slot.supervisor.stop()
    assert time.monotonic() - began < 5.0
    assert slot.source.acknowledged == 0, "what was not answered is not acknowledged"


# --- configuration ---------------------------------------------------------------------------------------------------

CONFIG = """
[device]
id = "d"
fleet = "f"
state = "state"
[channel.c]
root = "root.json"
[slot.s]
channel = "c"
[slot.s.input]
source = "mqtt"
topic = "in"
broker = "mqtt://127.0.0.1:1"
columns = {{ x = "x" }}
{linger}
[slot.s.output]
sink = "jsonl"
path = "out.jsonl"
"""


def configured(directory: Path, linger: str) -> float:
    (directory / "root.json").touch()
    path = directory / "agent.toml"
    path.write_text(CONFIG.format(linger=linger))
    return load(path).slot["s"].input.linger_ms


@pytest.mark.parametrize(("linger", "milliseconds"), [("", 0), ("linger_ms = 1", 1), ("linger_ms = 0.5", 0.5)])
def test_linger_is_read_in_milliseconds(tmp_path: Path, linger: str, milliseconds: float) -> None:
    assert configured(tmp_path, linger) == milliseconds


@pytest.mark.parametrize("value", ["-1", "1000.5", "nan", "inf"])
def test_a_linger_out_of_bounds_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"slot\.s\.input\.linger_ms.*must be 0 .* to 1000 milliseconds"):
        configured(tmp_path, f"linger_ms = {value}")


def test_a_part_of_a_merged_input_has_no_linger(tmp_path: Path) -> None:
    (tmp_path / "root.json").touch()
    path = tmp_path / "agent.toml"
    part = 'source = "mqtt"\ntopic = "in"\nbroker = "mqtt://127.0.0.1:1"\ncolumns = { x = "x" }\nlinger_ms = 5'
    merged = '[slot.s.input]\nsource = "merge"\nlinger_ms = 1\n[slot.s.input.part.a]\n' + part
    start, end = CONFIG.index("[slot.s.input]"), CONFIG.index("[slot.s.output]")
    path.write_text(CONFIG[:start] + merged + "\n" + CONFIG[end:])
    with pytest.raises(ConfigError, match=r"input\.part\.a\.linger_ms.*write it in the input itself"):
        load(path)
