"""Several inputs as one source: in order, acknowledged each to its own part, and joined by Align in a real worker."""

from __future__ import annotations

import itertools
import json
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent import Align, Frame, Window
from edge_agent.config import Column, Config, MqttInput, Timestamp, load
from edge_agent.config.merging import merged_columns
from edge_agent.config.plugs import MergeInput
from edge_agent.config.sections import Input
from edge_agent.runtime.crew import NoticeKind
from edge_agent.runtime.merged_source import MARK_BITS, MergedSource, marks_of
from edge_agent.runtime.samples import Faults, Samples
from edge_agent.runtime.sources import Source, open_source
from edge_agent.runtime.stamps import BACKWARD, LATE, Stamps
from edge_agent.runtime.trail import Trail
from edge_agent.trails import BOOT_BITS, first_sequence
from tests.simulators.broker import Mosquitto
from tests.simulators.peer import Peer
from tests.simulators.pump import pump
from tests.simulators.release import Releases
from tests.simulators.slot import ScriptedSource, Slot
from tests.simulators.waiting import until

NAN = math.nan
NOW_MS = 1_700_000_000_000


class Part(ScriptedSource):
    """Samples given as (time, value), marked if wanted, and faults at will."""

    def __init__(self, column: str, *, marked: bool = False) -> None:
        super().__init__((column,), rows_per_take=100)
        self._given: list[tuple[int, float]] = []
        self._marked = marked

    def give(self, *rows: tuple[int, float]) -> None:
        self._given += rows
        os.eventfd_write(self._event, 1)

    def take(self, room: int) -> Samples | None:
        rows, self._given = self._given[:room], self._given[room:]
        if not rows:
            return None
        times, values = zip(*rows, strict=True)
        marks = array("q", [time % 1000 for time in times]) if self._marked else None
        return Samples(self.columns, array("q", range(len(rows))), array("q", times), array("d", values), (), marks)


def section(column: str) -> MqttInput:
    return MqttInput(topic=column, columns={column: Column(path=column)}, timestamp=Timestamp(path="t"))


def merged(parts: dict[str, Any], sections: dict[str, Input] | None = None, **options: Any) -> MergedSource:
    found = sections or {name: section(part.columns[0]) for name, part in parts.items()}
    config = MergeInput(part=found, columns=merged_columns(found))
    return MergedSource(config, lambda name, one, known: parts[name], Stamps(config), **options)


def rows(samples: Samples | None) -> list[tuple[int, int, list[float]]]:
    assert samples is not None
    width = len(samples.columns)
    cells = [list(samples.values[at : at + width]) for at in range(0, len(samples.values), width)]
    return list(zip(samples.sequences, samples.timestamps, cells, strict=True))


def same(found: Any, expected: Any) -> bool:
    return repr(found) == repr(expected)  # NaN is not equal to itself


def test_rows_are_numbered_in_the_order_in_which_they_are_taken_and_other_columns_are_nan() -> None:
    b, a = Part("x"), Part("t")
    source = merged({"b": b, "a": a}, start_sequence=40)
    assert source.columns == ("t", "x")
    b.give((10, 1.0), (20, 2.0), (30, 3.0))
    a.give((15, 100.0))
    assert same(rows(source.take(3)), [(40, 10, [NAN, 1.0]), (41, 15, [100.0, NAN]), (42, 20, [NAN, 2.0])])
    a.give((5, 101.0))
    assert same(rows(source.take(9)), [(43, 5, [101.0, NAN]), (44, 30, [NAN, 3.0])])
    assert source.take(9) is None
    source.close()


def test_what_waits_is_counted_over_all_parts_wherever_it_is() -> None:
    b, a = Part("x"), Part("t")
    source = merged({"b": b, "a": a})
    assert source.pending == 0
    b.pending = 7  # type: ignore[attr-defined]
    b.give((10, 1.0), (20, 2.0))
    a.give((25, 100.0))
    assert len(rows(source.take(2))) == 2
    assert source.pending == 7 + 1, "one that was read, and what lies in the part's own source"
    source.close()


def test_every_part_is_told_of_its_own_samples_in_order() -> None:
    b, a = Part("x"), Part("t")
    source = merged({"b": b, "a": a})
    b.give((1, 1.0), (2, 2.0), (4, 3.0))
    a.give((3, 1.0), (5, 2.0))
    assert len(rows(source.take(10))) == 5
    for done, expected in [(1, (1, 0)), (1, (2, 0)), (2, (3, 1)), (0, (3, 1)), (1, (3, 2))]:
        source.acknowledge(done)
        assert (b.acknowledged, a.acknowledged) == expected
    with pytest.raises(ValueError, match="0 are taken"):
        source.acknowledge(1)
    source.close()
    assert a.closed == b.closed == 1


def test_the_order_within_a_part_is_kept_whatever_its_stamps() -> None:
    b, a = Part("x"), Part("t")
    source = merged({"b": b, "a": a})
    b.give((30, 1.0), (10, 2.0), (20, 3.0))
    a.give((15, 1.0), (40, 2.0), (25, 3.0))
    found = rows(source.take(10))
    assert [cells[1] for _, _, cells in found if cells[1] == cells[1]] == [1.0, 2.0, 3.0]
    assert [cells[0] for _, _, cells in found if cells[0] == cells[0]] == [1.0, 2.0, 3.0]
    source.close()


def test_marks_say_of_which_part_a_sample_is() -> None:
    b, a = Part("x", marked=True), Part("t")
    source = merged({"b": b, "a": a})
    b.give((7, 1.0), (9, 2.0))
    a.give((8, 1.0))
    samples = source.take(10)
    assert samples is not None
    assert list(samples.marks) == [1 << MARK_BITS | 7, -1, 1 << MARK_BITS | 9]
    assert marks_of(samples.marks, 1) == [7, 9]
    assert marks_of(samples.marks, 0) == []
    a.give((9, 1.0))
    samples = source.take(10)
    assert samples is not None
    assert list(samples.marks) == []
    source.close()


def test_faults_and_problems_name_the_part() -> None:
    b, a = Part("x"), Part("t")
    source = merged({"b": b, "a": a})
    b.faults = Faults()
    b.faults.note("missing column", "no x")
    b.faults.note("missing column", "no x again")
    b.rejected, a.rejected = 2, 1
    a.problem = "cannot be reached"
    assert dict(source.faults) == {"b: missing column": 2}
    assert source.faults.messages == {"b: missing column": "no x again"}
    assert source.rejected == 3
    assert source.problem == "a: cannot be reached"
    a.finished = True
    assert not source.finished
    b.finished = True
    b.give((2, 1.0), (3, 2.0))
    a.give((1, 1.0))
    source.take(2)
    assert not source.finished, "one waits"
    source.take(1)
    assert source.finished
    source.close()


def test_one_descriptor_tells_of_every_part_also_when_numbers_return_as_other_files() -> None:
    b, a = Part("x"), Part("t")
    source = merged({"b": b, "a": a})
    pump(source, until=lambda: True)
    for _ in range(3):
        for part in (a, b):
            os.close(part._event)
            part._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # the number just closed
            part.give((1, 1.0))
            seen: list[int] = []
            part.handle = lambda events, now, seen=seen: seen.append(events)  # type: ignore[method-assign,misc]
            pump(source, until=lambda seen=seen: seen, seconds=5.0)
            os.eventfd_read(part._event)
    a.interest = lambda: (-1, 0, None)  # type: ignore[method-assign]
    assert source.interest()[2] is None
    b.interest = lambda: (-1, 0, 0.0)  # type: ignore[method-assign]
    assert source.interest()[2] == 0.0
    source.close()


def test_a_part_that_cannot_be_opened_leaves_none_open() -> None:
    a = Part("t")

    def open_part(name: str, one: Input, known: Sequence[int]) -> Source:
        if name == "b":
            raise ValueError("no")
        return a

    sections: dict[str, Input] = {"a": section("t"), "b": section("x")}
    config = MergeInput(part=sections, columns=merged_columns(sections))
    with pytest.raises(ValueError, match="no"):
        MergedSource(config, open_part, Stamps(config))
    assert a.closed == 1


def replay(directory: Path, name: str, lines: Sequence[dict[str, Any]], speed: float = 0.0) -> str:
    (directory / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return (
        f'[slot.act.input.part.{name}]\nsource = "jsonl"\npath = "{name}.jsonl"\nspeed = {speed}\n'
        f'timestamp = {{path = "t", unit = "ms"}}\ncolumns = {{{name} = "v"}}\n'
    )


def configured(directory: Path, *parts: str, broker: str = "mqtt://127.0.0.1") -> Config:
    (directory / "r.json").touch()
    path = directory / "agent.toml"
    path.write_text(
        f'[device]\nid = "d"\nfleet = "f"\nstate = "state"\n[broker]\nurl = "{broker}"\n[channel.c]\nroot = "r.json"\n'
        '[slot.act]\nchannel = "c"\n[slot.act.input]\nsource = "merge"\n'
        + "".join(parts)
        + '[slot.act.output]\nsink = "sqlite"\npath = "out.db"\n'
    )
    return load(path)


def topic(name: str, **rest: str) -> str:
    more = "".join(f"{key} = {value}\n" for key, value in rest.items())
    return (
        f'[slot.act.input.part.{name}]\nsource = "mqtt"\ntopic = "in/{name}"\ncolumns = {{{name} = "v"}}\n'
        f'timestamp = {{path = "t", unit = "ms"}}\n{more}'
    )


def fast(count: int) -> list[dict[str, Any]]:
    return [{"t": NOW_MS + 10 * n + 3, "v": float(n)} for n in range(count)]


def slow(count: int) -> list[dict[str, Any]]:
    return [{"t": NOW_MS + 100 * n + 1, "v": 1000.0 + n} for n in range(count)]


def test_replays_as_fast_as_possible_keep_step_with_each_other(tmp_path: Path) -> None:
    config = configured(tmp_path, replay(tmp_path, "x", fast(3000)), replay(tmp_path, "air", [*slow(300), {}]))
    source = open_source(config, "act")
    times: list[int] = []
    while not source.finished:
        if (samples := source.take(700)) is not None:
            times += samples.timestamps
    assert times == sorted(times)
    assert len(times) == 3300
    assert source.rejected == 1
    source.close()


def test_the_numbers_of_a_merged_input_go_on_above_every_earlier_run(tmp_path: Path) -> None:
    config = configured(tmp_path, replay(tmp_path, "x", fast(1)), topic("air"))
    assert first_sequence(config.slot["act"], 3, 7, None) == 3 << BOOT_BITS


def test_two_topics_are_two_clients_and_what_comes_again_after_a_restart_is_known(tmp_path: Path) -> None:
    with Mosquitto() as broker, Peer(broker.port) as peer:
        config = configured(tmp_path, topic("x"), topic("y"), broker=broker.url)
        first = open_source(config, "act")
        pump(first, until=lambda: not first.problem and broker.log.count("Sending SUBACK") >= 2)
        assert "fieldcast-f-d-act/x-in-" in broker.log
        assert "fieldcast-f-d-act/y-in-" in broker.log
        peer.publish_all("in/x", [{"t": NOW_MS + n, "v": n} for n in range(4)])
        peer.publish_all("in/y", [{"t": NOW_MS + n, "v": n} for n in range(3)])
        trail = Trail(tmp_path / "act.trail", b"L" * 32)
        _take(first, trail, 7)
        first.acknowledge(2)  # the rest comes again: nothing was acknowledged, as after kill -9
        first.close()
        trail = Trail(tmp_path / "act.trail", b"L" * 32)
        assert trail.newest == 6
        again = open_source(config, "act", start_sequence=7, answered=trail.marks)
        peer.publish("in/y", {"t": NOW_MS + 50, "v": 99})
        found = _take(again, trail, 1)
        assert same(found, [(7, (NOW_MS + 50) * 10**6, [NAN, 99.0])])
        assert again.rejected == 0
        again.close()


def _take(source: Source, trail: Trail, count: int) -> list[tuple[int, int, list[float]]]:
    found: list[tuple[int, int, list[float]]] = []

    def enough() -> bool:
        samples = source.take(100)
        if samples is not None:
            trail.append(samples, 100)
            found.extend(rows(samples))
        return len(found) >= count

    pump(source, until=enough)
    return found


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


def test_a_worker_joins_two_topics_on_one_grid_through_a_swap(releases: Releases, tmp_path: Path) -> None:
    """MQTT at 100 Hz and at 10 Hz become 20 rows a second, each exactly once, whichever worker answers."""
    test = Frame(np.array(_mixed()), [NOW_MS * 10**6 + 10_000_000 * n for n in range(40)], range(40))
    plans = [
        releases.stages(key, [Align(20, 0.3, samples_per_row=8), releases.module.Total()], columns=2, self_test=test)
        for key in (1, 2)
    ]
    with Mosquitto() as broker, Peer(broker.port) as peer:
        config = configured(tmp_path, topic("x"), topic("x1"), broker=broker.url)
        stamps = Stamps(config.slot["act"].input)
        with Slot(open_source(config, "act", stamps=stamps), stamps=stamps) as slot:  # type: ignore[arg-type]
            slot.run(plans[0])
            until(lambda: broker.log.count("Sending SUBACK") >= 2, what="both subscribed")
            chunks = itertools.count()
            _feed(slot, peer, chunks, 12)
            slot.try_out(plans[1])
            slot.wait_for(NoticeKind.LOADED, 2)
            for _ in range(40):
                _feed(slot, peer, chunks, 5)
                if any(one.kind is NoticeKind.HEALTHY for one in slot.notices):
                    break
            slot.wait_for(NoticeKind.HEALTHY, 2)
            _feed(slot, peer, chunks, 5)
            until(lambda: slot.lane.idle, what="all answered")
            messages, fed = list(slot.sink.messages), next(chunks)
    times = [one.timestamp // 10**6 - NOW_MS for one in messages]
    assert times == list(range(50, 100 * fed - 49, 50)), "none is missing, none comes twice"
    assert [one.values["y"] for one in messages] == [(at - 3) // 10 + 1000.0 + (at - 1) // 100 for at in times]
    assert messages[-1].release == "act@2"
    assert all(after.first == before.sequence + 1 for before, after in itertools.pairwise(messages))
    counters = slot.lane.counters
    assert counters[LATE] == counters["samples"] == 11 * fed
    assert not counters[BACKWARD]
    assert not counters["errors"] + counters["repeats_dropped"]


def _feed(slot: Slot, peer: Peer, chunks: Iterator[int], count: int) -> None:
    """Publish tenths of a second: one sample of the slow topic, then ten of the fast one."""
    for n in itertools.islice(chunks, count):
        peer.publish("in/x1", {"t": NOW_MS + 100 * n + 1, "v": 1000.0 + n})
        until(lambda n=n: slot.lane.counters["samples"] > 11 * n, what="the slow sample")  # type: ignore[misc]
        peer.publish_all("in/x", [{"t": NOW_MS + 10 * at + 3, "v": at} for at in range(10 * n, 10 * n + 10)])
        until(lambda n=n: slot.lane.counters["samples"] == 11 * n + 11, what="the fast samples")  # type: ignore[misc]


def _mixed() -> Any:
    return [[float(n), NAN] if n % 4 else [NAN, float(n)] for n in range(40)]


def test_a_worker_starts_windows_anew_across_a_gap(releases: Releases) -> None:
    plan = releases.stages(1, [Window(4, hop=1, max_gap=1.0), releases.module.Sum()])
    with Slot() as slot:
        slot.run(plan)
        slot.feed(6)
        slot.wait_for_outputs(3)
        slot.source.time += 2_000_000_000
        slot.feed(6)
        slot.wait_for_outputs(6)
        slot.source.time -= 5_000_000_000
        slot.feed(5)
        slot.wait_for_outputs(8)
        until(lambda: slot.source.acknowledged == 17, what="all acknowledged")
    assert slot.numbers == [3, 4, 5, 9, 10, 11, 15, 16]
    assert [message.values["y"] for message in slot.sink.messages][3] == 6 + 7 + 8 + 9
