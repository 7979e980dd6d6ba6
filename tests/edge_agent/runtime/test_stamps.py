"""Duplicate, late and backward stamps are counted as the glossary says, whatever batches they come in."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config import Column, CsvInput, MqttInput, Timestamp
from edge_agent.config.plugs import MergeInput, MetricsInput
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.stamps import BACKWARD, BACKWARD_MS_MAX, DUPLICATE, LATE, Stamps
from tests.simulators.release import Releases
from tests.simulators.slot import ScriptedSource, Slot

S = 1_000_000_000
NOW = 1_700_000_000 * S
X = {"x": Column(path="x")}
TIME = Timestamp(path="t")


def mqtt(**changes: Any) -> MqttInput:
    return MqttInput(**{"topic": "in", "columns": X, "timestamp": TIME, **changes})


def samples(times: Sequence[int], numbers: Sequence[int] | None = None) -> Samples:
    counted = range(len(times)) if numbers is None else numbers
    return Samples(("x",), array("q", counted), array("q", times), array("d", [0.0] * len(times)))


def counted(section: Any, *batches: Samples, now: int = NOW) -> dict[str, int]:
    stamps = Stamps(section)
    for batch in batches:
        stamps.see(batch, now)
    return dict(stamps.counts)


# input, seconds before now, numbers, what is counted
CASES: list[tuple[str, Any, list[float], list[int] | None, dict[str, int]]] = [
    ("in order", mqtt(), [3, 2, 1, 0], None, {}),
    ("twice the same time", mqtt(), [3, 2, 2, 2, 1], None, {DUPLICATE: 2}),
    ("twice the same number", mqtt(sequence="n"), [3, 2, 2, 1], [7, 8, 8, 9], {DUPLICATE: 1}),
    ("the same time under two numbers", mqtt(sequence="n"), [3, 2, 2, 1], [7, 8, 9, 10], {}),
    ("back in time", mqtt(), [3, 1, 2, 2.5, 0], None, {BACKWARD: 2, BACKWARD_MS_MAX: 1500}),
    ("back by less than a millisecond", mqtt(), [3, 2, 2 + 1e-6, 1], None, {BACKWARD: 1, BACKWARD_MS_MAX: 1}),
    ("later than the bound", mqtt(), [61, 60, 59], None, {LATE: 1}),
    ("later than another bound", mqtt(late_seconds=5), [7, 6, 5], None, {LATE: 2}),
    ("no bound", mqtt(late_seconds=0), [10**6, 1], None, {}),
    ("a replay", CsvInput(path=Path("x"), columns=X, timestamp=TIME), [10**6, 10**6, 1], None, {DUPLICATE: 1}),
    ("stamped on arrival", mqtt(timestamp=None), [100, 100, 99, 99.5], None, {BACKWARD: 1, BACKWARD_MS_MAX: 500}),
    ("polled", MetricsInput(columns=X), [100, 100, 99], None, {}),
]


@pytest.mark.parametrize(
    ("section", "ages", "numbers", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_what_counts(section: Any, ages: list[float], numbers: list[int] | None, expected: dict[str, int]) -> None:
    times = [NOW - round(age * S) for age in ages]
    assert counted(section, samples(times, numbers)) == expected
    singles = [samples(times[n : n + 1], [numbers[n] if numbers else n]) for n in range(len(times))]
    assert counted(section, *singles) == expected


@settings(max_examples=100, deadline=None)
@given(
    ages=st.lists(st.integers(0, 70), max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    numbered=st.booleans(),
)
def test_the_way_around_the_loop_counts_as_the_loop_does(ages: list[int], cuts: list[int], numbered: bool) -> None:
    section = mqtt(sequence="n" if numbered else "")
    times, numbers = [NOW - age * S for age in ages], [age // 2 for age in ages]
    expected: Counter[str] = Counter()
    newest = None
    for place, time in enumerate(times):
        same = numbers if numbered else times
        expected[DUPLICATE] += place > 0 and same[place] == same[place - 1]
        expected[LATE] += time < NOW - 60 * S
        if newest is not None and time < newest:
            expected[BACKWARD] += 1
            expected[BACKWARD_MS_MAX] = max(expected[BACKWARD_MS_MAX], (newest - time) // 1_000_000)
        newest = time if newest is None else max(time, newest)
    edges = [0, *sorted(cut % (len(times) + 1) for cut in cuts), len(times)]
    pieces = [samples(times[a:b], numbers[a:b]) for a, b in itertools.pairwise(edges)]
    assert counted(section, *pieces) == {name: count for name, count in expected.items() if count}


def test_parts_of_a_merged_input_are_each_compared_with_themselves() -> None:
    merged = MergeInput(part={"a": mqtt(), "b": mqtt(late_seconds=5)}, columns=X)
    stamps = Stamps(merged)
    a, b = stamps.of_part("a"), stamps.of_part("b")
    a.see(samples([NOW]), NOW)
    b.see(samples([NOW - 6 * S, NOW - S]), NOW)
    a.see(samples([NOW]), NOW)
    stamps.see(samples([NOW, NOW - 6 * S, NOW - S, NOW]), NOW)
    assert dict(stamps.counts) == {LATE: 1, DUPLICATE: 1}


def test_a_lane_counts_what_it_takes_up_and_drops_nothing_for_it(tmp_path: Path) -> None:
    source = ScriptedSource()
    with Slot(source, stamps=Stamps(mqtt())) as slot:
        slot.run(Releases(tmp_path).act(1))
        slot.feed(2)
        source.time -= 25_000_000
        slot.feed(3)
        slot.wait_for_outputs(5)
    counters = slot.lane.counters
    assert {name: counters[name] for name in (LATE, BACKWARD, BACKWARD_MS_MAX)} == {
        LATE: 5,
        BACKWARD: 2,
        BACKWARD_MS_MAX: 15,
    }
    assert counters["samples"] == counters["outputs"] == 5
