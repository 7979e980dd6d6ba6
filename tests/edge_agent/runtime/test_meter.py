"""What a worker measures of itself."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from edge_agent.runtime import meter
from edge_agent.runtime.meter import Meter


def test_sleep_is_the_frames_own_time() -> None:
    Meter.prepare()
    gauge = Meter()
    gauge.begin()
    time.sleep(0.05)
    micros, waited = gauge.end()
    assert micros + waited >= 50_000
    assert micros >= 25_000


def test_waiting_for_a_processor_is_told_apart() -> None:
    """Two processes on one processor: of a frame's wall time about half is waiting."""
    code = """
import os, sys, time
from edge_agent.runtime.meter import Meter
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
Meter.prepare()
print("pinned", flush=True)
gauge, end = Meter(), time.process_time() + 0.3
gauge.begin()
while time.process_time() < end: pass
print(*gauge.end())
"""
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    words = [one.communicate(timeout=60)[0].split() for one in both]
    micros, waited = int(words[0][1]), int(words[0][2])
    assert micros >= 250_000
    assert waited >= 50_000


def test_memory_is_told_with_and_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    Meter.prepare()
    assert 5_000 < Meter().memory_kb() < 10_000_000
    monkeypatch.setattr(meter, "_open", lambda path: None)
    Meter.prepare()
    gauge = Meter()
    assert gauge.memory_kb() > 5_000
    gauge.begin()
    assert gauge.end()[1] == 0
    monkeypatch.undo()
    Meter.prepare()
