"""What the agent's process is, seen from outside: light, and honest towards the service manager."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulators import author
from tests.simulators.agents import AgentProcess, maps_of, workers_of
from tests.simulators.fleet import FleetSimulator

HEAVY = ("numpy", "onnxruntime", "cloudpickle", "pandas", "scipy", "sklearn")

# A filter that looks at the process it is in: how many files of numpy and onnxruntime are mapped there.
LOOKING = """
import numpy as np
import onnxruntime

class Look(Filter):
    requires = ["numpy", "onnxruntime"]

    def predict(self, x):
        with open("/proc/self/maps") as maps:
            lines = maps.read()
        found = "numpy" in lines and "onnxruntime" in lines  # how often differs from process to process
        return np.full((len(x), 1), float(found))
"""


def test_the_agent_imports_no_heavy_package_while_its_worker_does(fleet: FleetSimulator) -> None:
    """Not mapped while a pipeline runs, and not imported at any time: `-X importtime` names every module."""
    agent = fleet.agent(start=False)
    agent.start(options=["-X", "importtime"])
    counter = fleet.feed(agent)
    fleet.release(fleet.write("look.py", author.module(LOOKING, "Look()")))
    agent.until_active("meter@1")
    counter.until_flows("meter@1")
    assert len(workers_of(agent.pid)) == 1
    mapped = maps_of(agent.pid)
    assert any("msgspec" in path for path in mapped), "the look itself does not work"
    assert not [path for path in mapped if any(name in path for name in HEAVY)]
    imported = set(re.findall(r"^import time:[ 0-9|]+ ([a-z_]\w*)", agent.log, re.MULTILINE))
    assert {"edge_agent", "msgspec", "sqlite_utils"} <= imported
    assert not imported & {*HEAVY, "tuf"}
    assert counter.told["last"]["meter@1"]["values"]["y"] > 0, "the worker must have both mapped"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end of `NOTIFY_SOCKET`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(0.05)
        yield sock


def _hear(manager: socket.socket, seconds: float, until: str = "") -> list[str]:
    """Return the lines that arrive within `seconds`, or up to the first that is `until`."""
    found: list[str] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and until not in found:
        with contextlib.suppress(TimeoutError):
            found += manager.recv(4096).decode().splitlines()
    return found


def test_readiness_and_watchdog_come_from_a_loop_that_turns(fleet: FleetSimulator, manager: socket.socket) -> None:
    agent = _supervised(fleet, manager, 2.4)
    assert "READY=1" in _hear(manager, 60, "READY=1")
    started = time.monotonic()
    beats = [line for _ in range(3) for line in _hear(manager, 30, "WATCHDOG=1")]
    assert beats.count("WATCHDOG=1") == 3
    assert time.monotonic() - started < 7, "the watchdog must be fed well within its interval"
    assert agent.stop() == 0
    assert "STOPPING=1" in _hear(manager, 30, "STOPPING=1")


def test_the_watchdog_starves_when_the_thread_that_moves_frames_is_stuck(
    fleet: FleetSimulator, manager: socket.socket
) -> None:
    """Only that thread is held, from outside: the process goes on answering, and would look alive."""
    agent = _supervised(fleet, manager)
    assert "WATCHDOG=1" in _hear(manager, 60, "WATCHDOG=1")
    with _held(_polling_thread(agent.pid)):
        _hear(manager, 7.5)  # what the loop allows a slow disk or a long poll, and a little more
        assert "WATCHDOG=1" not in _hear(manager, 1.5), "fed although no frame can move"
        assert agent.status(), "the rest of the process must be alive, or this shows nothing"
    assert "WATCHDOG=1" in _hear(manager, 30, "WATCHDOG=1")


def _supervised(fleet: FleetSimulator, manager: socket.socket, interval_seconds: float = 0.9) -> AgentProcess:
    agent = fleet.agent(start=False)
    interval = str(int(interval_seconds * 1e6))
    return agent.start(environment={"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": interval})


def _polling_thread(pid: int) -> int:
    """Return the thread that sits in poll(2): paho's uses select, the others wait for locks or connections."""
    number = {"x86_64": "7", "aarch64": "73"}.get(platform.machine())
    if number is None:
        pytest.skip(f"system call numbers of {platform.machine()} are not known here")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                called = (task / "syscall").read_text().split()
            except PermissionError:
                pytest.skip("this kernel does not let a parent look into its child (ptrace_scope)")
            if called[0] == number:
                return int(task.name)
    raise AssertionError("no thread polls")


@contextlib.contextmanager
def _held(thread: int) -> Iterator[None]:
    """Stop one thread with ptrace(2) for as long as the block runs."""
    seize, interrupt, detach = 0x4206, 0x4207, 17
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(seize, thread, None, None):
        pytest.skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")
    assert libc.ptrace(interrupt, thread, None, None) == 0
    assert os.waitpid(thread, 0x40000000)[0] == thread  # __WALL: threads too
    try:
        yield
    finally:
        libc.ptrace(detach, thread, None, None)
