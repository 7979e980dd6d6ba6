"""What goes out once, and what may be acknowledged, without any worker."""

from __future__ import annotations

from array import array
from collections import Counter

import pytest

from edge_agent.runtime.answers import Answer
from edge_agent.runtime.outlet import REMEMBERED_MAX, Outlet
from tests.simulators.slot import ScriptedSink, ScriptedSource


class Bench:
    def __init__(self, capacity: int = 100, rows_per_take: int = 10) -> None:
        self.source, self.sink = ScriptedSource(rows_per_take=rows_per_take), ScriptedSink(capacity, confirms=False)
        self.counters: Counter[str] = Counter()
        self.outlet = Outlet("device/act", self.source, self.sink, self.counters)

    def emit(self, *numbers: int) -> None:
        heads = array("q", numbers)
        rows = [[float(number)] for number in numbers]
        answer = Answer(batch=1, sequences=heads, firsts=heads, timestamps=heads, rows=rows)
        self.outlet.emit(answer, ["y"], "act@1", probation=True)

    def take(self, rows_max: int = 100) -> tuple[list[int], bool] | None:
        taken = self.outlet.take(rows_max)
        return None if taken is None else (list(taken[0].sequences), taken[1])


def test_a_result_goes_out_once() -> None:
    bench = Bench()
    bench.emit(1, 2)
    bench.emit(2, 1, 3)
    assert [message.sequence for message in bench.sink.messages] == [1, 2, 3]
    assert bench.counters == {"outputs": 3, "repeats_dropped": 2}
    (first, *_) = bench.sink.messages
    assert (first.stream, first.release, first.probation, first.values) == ("device/act", "act@1", True, {"y": 1.0})


def test_what_comes_late_is_answered_and_counted() -> None:
    bench = Bench()
    bench.emit(5, 3, 4, 3)
    assert [message.sequence for message in bench.sink.messages] == [5, 3, 4]
    assert bench.counters == {"outputs": 3, "late": 1, "repeats_dropped": 1}


def test_what_is_older_than_its_memory_counts_as_sent() -> None:
    bench = Bench(capacity=2 * REMEMBERED_MAX)
    bench.emit(*range(10, REMEMBERED_MAX + 20))
    bench.emit(9, 15, 30)
    assert bench.counters == {"outputs": REMEMBERED_MAX + 10, "repeats_dropped": 3}


def test_its_memory_is_bounded_and_a_late_result_finds_its_gap() -> None:
    bench = Bench(capacity=8 * REMEMBERED_MAX)
    for start in range(0, 8 * REMEMBERED_MAX, 64):
        bench.emit(*range(start, start + 64, 2))
        assert len(bench.outlet._sent) < 2 * REMEMBERED_MAX
    last = 8 * REMEMBERED_MAX - 2
    bench.emit(last - 99, last - 99, last - 98)
    assert bench.counters == {"outputs": 4 * REMEMBERED_MAX + 1, "late": 1, "repeats_dropped": 2}
    assert list(bench.outlet._sent) == sorted(bench.outlet._sent)


def test_it_is_idle_when_the_sink_has_confirmed_everything() -> None:
    bench = Bench(capacity=1)
    assert bench.outlet.idle
    bench.emit(1, 2)
    assert not bench.outlet.idle
    bench.sink.confirm(1)
    bench.outlet.flush()
    assert not bench.outlet.idle
    bench.sink.confirm(2)
    assert bench.outlet.idle


def test_a_stream_that_starts_anew_is_cut_there_and_may_repeat_its_numbers() -> None:
    bench = Bench()
    bench.source.feed(7, 8, 0, 1, 1)
    assert bench.take() == ([7, 8], False)
    bench.emit(7, 8)
    assert bench.take() == ([0, 1], True)
    bench.emit(0, 1)
    assert bench.take() == ([1], True)
    assert bench.take() is None
    assert [message.sequence for message in bench.sink.messages] == [7, 8, 0, 1]
    assert bench.counters["restarts"] == 2


def test_nothing_is_taken_while_results_wait_or_the_sink_is_full() -> None:
    bench = Bench(capacity=2)
    bench.source.feed(*range(10))
    assert bench.take() == ([0, 1], False)
    bench.emit(0, 1, 2)
    assert bench.take() is None
    bench.sink.confirm(2)
    assert bench.take() is None
    bench.outlet.flush()
    assert bench.take() == ([2], False)


def test_samples_are_safe_with_the_results_before_them() -> None:
    bench = Bench()
    bench.outlet.owe(3)
    bench.emit(4)
    bench.outlet.owe(2)
    bench.outlet.acknowledge()
    assert bench.source.acknowledged == 3
    bench.sink.confirm(1)
    bench.outlet.acknowledge()
    assert bench.source.acknowledged == 5


def test_a_sink_that_raises_is_given_the_same_again() -> None:
    bench = Bench()
    bench.sink.fault = OSError("a bug")
    with pytest.raises(OSError, match="a bug"):
        bench.emit(1, 2)
    bench.sink.fault = None
    bench.outlet.flush()
    assert [message.sequence for message in bench.sink.messages] == [1, 2]
