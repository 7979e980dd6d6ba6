"""A worker's deadline does not run while it waits for a processor; it does while it computes, sleeps or is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from edge_agent.runtime import patience as module
from edge_agent.runtime.patience import EXCUSED_MAX, Look, Patience, look
from tests.simulators.waiting import until

BUSY = "while True: pass"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for one in running:
        one.kill()
        one.wait()


class Seen:
    """What the kernel would tell, by the time that has passed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran = self.waited = 0.0
        self.ready = self.gone = False
        self.looks = 0
        monkeypatch.setattr(module, "look", self._look)

    def _look(self, pid: int, now: float) -> Look | None:
        self.looks += 1
        return None if self.gone else Look(now, self.ran, self.waited, self.ready)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def test_who_answers_within_half_of_its_time_is_not_looked_at(seen: Seen) -> None:
    patient = Patience(1)
    for since in range(100, 110):
        assert patient.due(since, 2.0) == since + 1.0
        assert not patient.ended(since, 2.0, since + 0.9)
    assert seen.looks == 0


def test_who_waits_for_nothing_is_ended_at_its_deadline(seen: Seen) -> None:
    patient = Patience(1)
    assert not patient.ended(100.0, 2.0, 101.0)
    assert patient.due(100.0, 2.0) == 102.0
    assert not patient.ended(100.0, 2.0, 101.9)
    assert patient.ended(100.0, 2.0, 102.0)
    assert patient.waited(100.0) == 0.0


def test_time_without_a_processor_is_added_once(seen: Seen) -> None:
    patient = Patience(1)
    assert not patient.ended(100.0, 2.0, 101.0)
    seen.waited = 0.75
    assert not patient.ended(100.0, 2.0, 102.0)
    assert patient.due(100.0, 2.0) == 102.75
    assert patient.ended(100.0, 2.0, 102.75)
    assert patient.waited(100.0) == 0.75
    assert patient.waited(200.0) == 0.0


def test_who_is_ready_and_does_not_run_waits_though_the_kernel_has_not_counted_it_yet(seen: Seen) -> None:
    patient = Patience(1)
    seen.ready = True
    assert not patient.ended(100.0, 2.0, 101.0)
    assert not patient.ended(100.0, 2.0, 102.0)
    assert patient.due(100.0, 2.0) == 103.0


def test_who_computes_all_the_time_is_ended(seen: Seen) -> None:
    patient = Patience(1)
    seen.ready = True
    assert not patient.ended(100.0, 2.0, 101.0)
    seen.ran = 1.0
    assert patient.ended(100.0, 2.0, 102.0)


def test_there_is_an_end_even_if_it_never_gets_a_processor(seen: Seen) -> None:
    patient, now, since, limit = Patience(1), 100.0, 100.0, 2.0
    seen.ready = True
    while not patient.ended(since, limit, now):
        now = max(now, patient.due(since, limit))
        assert seen.looks < 100
    assert now == pytest.approx(since + limit * (1 + EXCUSED_MAX))


def test_who_is_looked_at_late_has_half_of_its_time_from_then_on(seen: Seen) -> None:
    patient = Patience(1)
    assert not patient.ended(100.0, 2.0, 107.0)
    assert patient.due(100.0, 2.0) == 108.0
    assert patient.ended(100.0, 2.0, 108.0)


def test_the_next_frame_has_its_own_time(seen: Seen) -> None:
    patient = Patience(1)
    patient.ended(100.0, 2.0, 101.0)
    seen.waited = 5.0
    assert not patient.ended(100.0, 2.0, 102.0)
    assert patient.due(110.0, 2.0) == 111.0
    assert not patient.ended(110.0, 2.0, 111.0)
    assert patient.ended(110.0, 2.0, 112.0)


def test_nothing_is_excused_where_the_kernel_does_not_tell(seen: Seen) -> None:
    patient = Patience(0)
    seen.gone = True
    assert not patient.ended(100.0, 2.0, 101.0)
    assert patient.ended(100.0, 2.0, 102.0)


def test_a_process_that_is_not_there_tells_nothing() -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    assert look(gone.pid, 1.0) is None
    assert look(0, 1.0) is None


def test_a_process_that_sleeps_or_is_stopped_is_not_excused(processes: list[subprocess.Popen[bytes]]) -> None:
    for command, stopped in ((["/bin/sleep", "600"], False), ([sys.executable, "-c", BUSY], True)):
        processes.append(subprocess.Popen(command))
        pid = processes[-1].pid
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        until(lambda pid=pid: (seen := look(pid, 0.0)) is not None and not seen.ready, what="it rests")
        patient, since = Patience(pid), time.monotonic() - 0.1
        assert not patient.ended(since, 0.2, since + 0.1)
        assert patient.ended(since, 0.2, since + 0.2 + 0.05)


def test_a_process_that_others_keep_from_running_is_excused(processes: list[subprocess.Popen[bytes]]) -> None:
    """One that yields to all others, and three that leave it nothing, on one processor."""
    where = {min(os.sched_getaffinity(0))}
    for _ in range(4):
        processes.append(subprocess.Popen([sys.executable, "-c", BUSY]))
        os.sched_setaffinity(processes[-1].pid, where)
    starved = processes[0].pid
    os.sched_setscheduler(starved, os.SCHED_IDLE, os.sched_param(0))
    patient, since, limit = Patience(starved), time.monotonic(), 1.0
    while (now := time.monotonic()) < since + limit:
        assert not patient.ended(since, limit, now)
        time.sleep(0.05)  # time has to pass: nothing is waited for
    assert not patient.ended(since, limit, now)
    assert patient.waited(since) > 0.1
