"""Samples that wait on disk: in order, each once, acknowledged when they are safe and never before, across kills."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.runtime import input_spool
from edge_agent.runtime.detour import State
from edge_agent.runtime.input_spool import InputSpool
from edge_agent.runtime.spool_clerk import Clerk, obey
from edge_agent.runtime.spool_orders import Answer, Clear, Order, Read, Trim, Trimmed, Write
from edge_agent.runtime.spooling import SpoolingSource
from tests.simulators.resender import Resender, ResentSource
from tests.simulators.waiting import until

LAYOUT = bytes(32)
ROWS_MAX = 16
MEGABYTE = 1_000_000


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill leaves does not depend on syncing, and thousands of them take long."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)


class ManualDesk:
    """Orders are obeyed when the test says so."""

    def __init__(self, spool: InputSpool) -> None:
        self.spool = spool
        self.orders: deque[Order] = deque()
        self.answers: deque[Answer] = deque()
        self.seen: list[type] = []

    def put(self, order: Order) -> None:
        self.orders.append(order)
        self.seen.append(type(order))

    def work(self) -> None:
        """Obey the oldest order."""
        if self.orders:
            self.answers.append(obey(self.spool, self.orders.popleft()))

    def get(self, wait_seconds: float = 0.0) -> Answer | None:
        while wait_seconds and self.orders and not self.answers:
            self.work()
        return self.answers.popleft() if self.answers else None

    def close(self) -> None:
        while self.orders:
            self.work()
        self.spool.close()


class Device:
    """An agent that is killed and started, around one input: lane and trail as far as they matter here.

    The trail has what was computed, in order, and that is when a result leaves; it survives kills.
    """

    def __init__(self, directory: Path, *, bytes_max: int = MEGABYTE, marked: bool = True, rows_max: int = ROWS_MAX):
        self.directory, self.bytes_max, self.marked, self.rows_max = directory, bytes_max, marked, rows_max
        self.peer = Resender()
        self.trail: list[tuple[int, int, int]] = []  # number, time, message
        self.dropped = 0
        self.now = 0.0
        self.start()

    def start(self) -> None:
        after = self.trail[-1][:2] if self.trail else None
        spool = InputSpool(self.directory / "s", LAYOUT, ("x",), bytes_max=self.bytes_max, after=after)
        newest = max(self.trail[-1][0] if self.trail else -1, -1 if spool.newest is None else spool.newest)
        known = [*(message for *_, message in self.trail), *spool.marks]
        self.inner = ResentSource(self.peer, newest + 1, known, marked=self.marked)
        self.desk = ManualDesk(spool)
        self.source = SpoolingSource(self.inner, "s", self.rows_max, spool, desk=self.desk)
        self.inflight: deque[list[tuple[int, int, int]]] = deque()
        self.unsafe: deque[int] = deque()

    def kill(self) -> None:
        self.dropped += self.source.dropped
        assert self.source.damaged == 0
        self.desk.spool.close()
        self.start()

    def arrive(self, count: int = 1) -> None:
        self.inner.receive(self.peer.send(count))

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.source.handle(0, self.now)

    def take(self, room: int = 8) -> None:
        samples = self.source.take(room)
        if samples is not None:
            messages = [int(value) for value in samples.values]
            self.inflight.append(list(zip(samples.sequences, samples.timestamps, messages, strict=True)))

    def compute(self) -> None:
        if self.inflight:
            batch = self.inflight.popleft()
            self.trail += batch
            self.unsafe.append(len(batch))

    def confirm(self) -> None:
        if self.unsafe:
            self.source.acknowledge(self.unsafe.popleft())

    def run_dry(self) -> None:
        """Go on until nothing waits any more."""
        for _ in range(10_000):
            for step in (self.turn, self.take, self.compute, self.confirm, self.desk.work):
                step()
            self.now += 0.01
            if (
                self.source.waiting == 0
                and not self.inner.behind
                and not self.inflight
                and not self.desk.orders
                and not self.unsafe
            ):
                return
        raise AssertionError(f"still {self.source.state}, waiting {self.source.waiting}")

    @property
    def results(self) -> list[int]:
        return [message for *_, message in self.trail]

    def require_sound(self, *, everything: bool = True) -> None:
        assert self.results == sorted(set(self.results)), "repeated, or out of order"
        numbers = [number for number, *_ in self.trail]
        assert numbers == sorted(set(numbers)), "a number was given twice"
        on_disk = set(self.desk.spool.marks)
        dropping = any(isinstance(one, Trimmed) and one.end > one.start for one in self.desk.answers)  # not heard yet
        dropped = self.dropped or self.source.dropped or dropping
        assert dropped or set(self.peer.acknowledged) - set(self.results) <= on_disk
        if everything:
            assert self.peer.acknowledged == list(range(self.peer.sent))
            gone = self.dropped + self.source.dropped
            assert self.peer.sent - len(self.results) == gone if self.marked else True


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 20)),
        st.tuples(st.just("turn"), st.sampled_from([0.0, 0.3, 2.0])),
        st.tuples(st.just("take"), st.integers(1, 12)),
        st.tuples(st.sampled_from(["compute", "confirm", "work", "kill"])),
    ),
    min_size=40,
    max_size=100,
)


def played(device: Device, steps: list[tuple[object, ...]]) -> None:
    for name, *arguments in steps:
        act = device.desk.work if name == "work" else getattr(device, str(name))
        act(*arguments)
        device.require_sound(everything=False)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_whatever_happens_every_sample_is_given_once_in_order_and_acknowledged_when_safe(
    steps: list[tuple[object, ...]],
) -> None:
    directory = Path(tempfile.mkdtemp(prefix="spool-"))
    try:
        device = Device(directory)
        played(device, steps)
        device.run_dry()
        device.require_sound()
        assert device.source.dropped == device.dropped == 0
    finally:
        shutil.rmtree(directory)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_with_a_tiny_budget_what_is_not_given_was_dropped_and_counted(steps: list[tuple[object, ...]]) -> None:
    directory = Path(tempfile.mkdtemp(prefix="spool-"))
    before, input_spool.FILE_BYTES = input_spool.FILE_BYTES, (400, 400)
    try:
        device = Device(directory, bytes_max=1_500)
        played(device, [step for step in steps if step[0] != "kill"])
        device.run_dry()
        device.require_sound()
    finally:
        input_spool.FILE_BYTES = before
        shutil.rmtree(directory)


def backlog(device: Device, count: int) -> None:
    """Let so many samples come while the lane takes nothing."""
    for _ in range(count // 10):
        device.arrive(10)
        device.turn(0.1)
        device.desk.work()
    device.turn(2.0)
    until_quiet(device)


def until_quiet(device: Device) -> None:
    while device.desk.orders or device.desk.answers:
        device.desk.work()
        device.turn(0.0)


def test_a_lane_that_keeps_up_never_touches_the_disk(device: Device, tmp_path: Path) -> None:
    for _ in range(50):
        device.arrive(5)
        device.turn(0.1)
        for step in (device.take, device.compute, device.confirm):
            step()
    device.require_sound()
    assert not device.desk.seen
    assert not (tmp_path / "s").exists()


def test_a_sample_that_waits_for_long_goes_to_disk_and_only_then_is_acknowledged(device: Device) -> None:
    device.arrive(3)
    device.turn()
    device.take(1)
    device.turn(1.5)
    assert device.source.state is State.BEGINNING
    assert not device.peer.acknowledged
    device.desk.work()
    device.turn()
    assert device.peer.acknowledged == [0, 1, 2], "one under way in the lane is on disk, too"
    assert device.source.spooled == 3


def test_when_the_lane_catches_up_the_disk_is_worked_off_and_cleared(device: Device, tmp_path: Path) -> None:
    backlog(device, 200)
    assert device.source.spooled == 200
    assert device.source.pending == device.source.waiting >= 200
    assert device.peer.acknowledged == list(range(200))
    device.run_dry()
    device.arrive()
    device.turn()
    assert device.source.state is State.DIRECT
    assert not list((tmp_path / "s").glob("*.rows"))


def test_a_spool_outlives_the_agent_and_numbers_go_on_behind_it(device: Device) -> None:
    backlog(device, 100)
    device.kill()
    assert device.source.spooled == 100
    device.arrive(5)
    device.run_dry()
    device.require_sound()
    assert [number for number, *_ in device.trail] == list(range(105))


def test_what_comes_unmarked_is_not_lost_once_it_is_on_disk(tmp_path: Path) -> None:
    device = Device(tmp_path, marked=False)
    backlog(device, 100)
    device.kill()
    device.run_dry()
    assert device.results == list(range(100))


def test_a_clean_end_puts_what_waits_on_disk(tmp_path: Path) -> None:
    device = Device(tmp_path, marked=False)
    device.arrive(7)
    device.turn()
    device.take(2)
    device.source.close()
    assert device.inner.closed == 1
    assert device.peer.acknowledged == list(range(7))
    device.start()
    device.run_dry()
    assert device.results == list(range(7))


class Refusing:
    """A disk that refuses every write while `on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        really = os.pwrite

        def pwrite(descriptor: int, data: bytes, at: int) -> int:
            if self.on:
                raise OSError(errno.ENOSPC, "No space left on device")
            return really(descriptor, data, at)

        monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("when", ["before", "later"])
def test_a_full_disk_blocks_in_words_and_heals(when: str, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Refusing(monkeypatch)
    if when == "later":
        backlog(device, 50)
    disk.on = True
    safe = len(device.peer.acknowledged)
    for _ in range(30):
        device.arrive(5)
        device.turn(0.2)
        device.desk.work()
    device.turn()
    assert "No space left on device" in device.source.problem
    assert len(device.peer.acknowledged) == safe, "acknowledged what is nowhere"
    for _ in range(400):
        for step in (device.turn, device.take, device.compute, device.confirm, device.desk.work):
            step()
        device.now += 0.05
    assert len(device.results) > safe, "results go on"
    disk.on = False
    backlog(device, 50)
    assert not device.source.problem
    device.run_dry()
    device.require_sound()


def test_the_budget_is_kept_and_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_spool, "FILE_BYTES", (400, 400))
    device = Device(tmp_path, bytes_max=4_000)
    backlog(device, 1_000)
    size = sum(path.stat().st_size for path in (tmp_path / "s").glob("*.rows"))
    assert size < 4_000 + 2_000
    device.run_dry()
    device.require_sound()
    assert device.source.dropped > 500
    assert device.results[-1] == 999
    assert device.results[0] > 0
    assert device.source.counts["dropped"] == device.source.dropped


def test_rows_that_rot_are_counted_and_the_others_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_spool, "FILE_BYTES", (400, 400))
    device = Device(tmp_path)
    backlog(device, 400)
    device.desk.spool.close()
    victims = sorted((tmp_path / "s").glob("*.rows"))
    data = bytearray(victims[3].read_bytes())
    data[100] ^= 1
    victims[3].write_bytes(data)
    device.start()
    device.run_dry()
    lost = set(range(400)) - set(device.results)
    assert device.results == sorted(set(device.results))
    assert lost == set(range(int(victims[3].stem), int(victims[4].stem)))
    assert device.source.damaged == len(lost)


def test_too_many_acknowledgements_are_misuse(device: Device) -> None:
    with pytest.raises(ValueError, match="not taken"):
        device.source.acknowledge(1)


def test_without_its_policy_only_the_rest_is_worked_off(device: Device) -> None:
    backlog(device, 50)
    device.desk.spool.close()
    spool = InputSpool(device.directory / "s", LAYOUT, ("x",), bytes_max=MEGABYTE)
    device.inner = ResentSource(device.peer, 50, spool.marks)
    device.desk = ManualDesk(spool)
    device.source = SpoolingSource(device.inner, "s", ROWS_MAX, spool, desk=device.desk, spools=False)
    device.run_dry()
    device.arrive(40)
    for _ in range(20):
        device.turn(1.0)
    assert Write not in device.desk.seen
    assert device.source.waiting <= ROWS_MAX
    device.run_dry()
    device.require_sound()


def test_the_clerk_obeys_on_a_thread_and_answers_when_it_fails(tmp_path: Path) -> None:
    spool = InputSpool(tmp_path / "s", LAYOUT, ("x",), bytes_max=MEGABYTE)
    clerk = Clerk(spool, "s")
    peer = Resender()
    inner = ResentSource(peer)
    source = SpoolingSource(inner, "s", ROWS_MAX, spool, desk=clerk, hold_seconds=0.0)
    inner.receive(peer.send(5))

    def spooled() -> bool:
        source.handle(0, 1.0)
        return source.spooled == 5

    until(spooled, 5, "five samples on disk")
    clerk.put(Write([]))
    until(lambda: clerk.get(0.1) is not None, 5, "an answer")
    source.close()
    assert peer.acknowledged == [0, 1, 2, 3, 4]


def test_orders_are_few(device: Device) -> None:
    """One write, one reading, one note at a time: nothing piles up at a slow disk."""
    for _ in range(200):
        device.arrive(5)
        device.turn(0.5)
        kinds = [type(order) for order in device.desk.orders]
        assert len(kinds) == len(set(kinds))
    assert device.source.waiting <= 3 * ROWS_MAX
    assert {Write} == set(device.desk.seen) or {Read, Trim, Clear} & set(device.desk.seen)
