"""A release that tries everything, on a real device: what the kernel can deny is denied, what it cannot is named.

The filter reports what it got away with as its output, so that the count comes from outside the agent's code. It does
nothing unless it is in a worker whose system call filter is on: packing runs a pipeline in the test's own process, and
its parent would be killed. That the filter is on is looked up in the kernel, and a worker without one fails the test.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edge_agent.runtime import landlock
from tests.simulators import author
from tests.simulators.agents import AgentProcess, workers_of
from tests.simulators.fleet import FleetSimulator
from tests.simulators.waiting import until

PROBE = """
import ctypes
import glob
import os
import signal
import socket
import sys

import numpy as np

libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def prctl(option, value):
    return checked(libc.prctl(option, value, 0, 0, 0))


def syscall(x86, arm, *arguments):
    return checked(libc.syscall({"x86_64": x86, "aarch64": arm}[os.uname().machine], *arguments))


def read_first(pattern):
    for path in glob.glob(pattern, recursive=True) or [pattern.replace("**/", "").replace("*", "x")]:
        with open(path, "rb") as file:
            return file.read(64)


def write(path):
    with open(path, "wb") as file:
        file.write(b"x")


def exhaust():
    held = []
    try:
        for _ in range(300):
            held.append(os.dup(2))
    finally:
        for one in held:
            os.close(one)


def guarded():
    with open("/proc/self/status") as file:
        return "edge_agent.runtime.worker" in sys.orig_argv and "Seccomp:\t2" in file.read()


def fork():
    if os.fork() == 0:
        os._exit(0)


def fill():
    with open("/dev/shm/fill", "wb") as file:
        for _ in range(8):
            file.write(bytes(1 << 20))


def attempts(agent, state, config):
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW)
    families = {f"socket of family {one}, kind {kind}": (lambda one=one, kind=kind: socket.socket(one, kind))
                for one in range(46) for kind in kinds}
    return families | {
        "write to /tmp": lambda: write("/tmp/probe"),
        "write to /dev/shm": lambda: write("/dev/shm/probe"),
        "write to the state": lambda: write(f"{state}/probe"),
        "write beside itself": lambda: write(__file__ + ".new"),
        "change itself": lambda: write(__file__),
        "change its mode": lambda: os.chmod(__file__, 0o777),
        "remove itself": lambda: os.unlink(__file__),
        "make a directory": lambda: os.mkdir("/tmp/probe.d"),
        "link the database": lambda: os.link(f"{state}/agent.db", "/tmp/probe.db"),
        "read the database": lambda: read_first(f"{state}/agent.db"),
        "read the configuration": lambda: read_first(config),
        "read /etc/passwd": lambda: read_first("/etc/passwd"),
        "list the state": lambda: os.listdir(state),
        "list processes": lambda: os.listdir("/proc"),
        "read the agent's environment": lambda: read_first(f"/proc/{agent}/environ"),
        "read the agent's memory": lambda: read_first(f"/proc/{agent}/mem"),
        "read the agent's files": lambda: os.listdir(f"/proc/{agent}/fd"),
        "trace the agent": lambda: syscall(101, 117, 16, agent, 0, 0),
        "copy the agent's memory": lambda: syscall(310, 270, agent, 0, 0, 0, 0, 0),
        "signal the agent": lambda: os.kill(agent, 0),
        "kill the agent": lambda: os.kill(agent, signal.SIGKILL),
        "hold the agent": lambda: os.pidfd_open(agent),
        "slow the agent": lambda: os.setpriority(os.PRIO_PROCESS, agent, 19),
        "limit the agent": lambda: __import__("resource").prlimit(agent, 7),
        "fork": fork,
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "outlive the agent": lambda: prctl(1, 0),
        "be read by others": lambda: prctl(4, 1),
        "leave the session": os.setsid,
        "new user namespace": lambda: syscall(272, 97, 0x10000000),
        "mount": lambda: syscall(165, 40, 0, b"/tmp", b"tmpfs", 0, 0),
        "io_uring": lambda: syscall(425, 425, 8, 0),
        "allocate too much": lambda: bytearray(2 << 30),
        "raise its limit": lambda: __import__("resource").setrlimit(9, (1 << 40, 1 << 40)),
        "open too many files": exhaust,
        "fill the disk": fill,
    }


class Probe(Filter):
    requires = ["numpy"]

    def __init__(self, state="", config=""):
        super().__init__(state=state, config=config)

    def predict(self, x):
        if not guarded():
            return np.zeros((len(x), 1))
        agent, done = os.getppid(), []
        for name, attempt in attempts(agent, self.state, self.config).items():
            try:
                attempt()
                done.append(name)
            except (OSError, MemoryError, ValueError):
                pass
        print("got away with:", done, flush=True)
        return np.full((len(x), 1), float(len(done)))
"""

# What needs Landlock to be denied, or a filter that this kernel may not take.
FILES = {
    "read the database",
    "read the configuration",
    "read /etc/passwd",
    "list the state",
    "list processes",
    "read the agent's environment",
    "read the agent's memory",
    "read the agent's files",
}


def _offered() -> bool:
    try:
        return landlock.version() > 0
    except OSError:
        return False


def _layers(agent: AgentProcess) -> dict[str, str]:
    (slot,) = agent.status()["slots"]
    return dict(slot["sandbox"])


def _got_away_with(agent: AgentProcess) -> list[str]:
    lines = [line for line in agent.log.splitlines() if "got away with:" in line]
    found: list[str] = json.loads(lines[-1].split("got away with:")[1].replace("'", '"'))
    return found


def test_a_release_that_tries_everything_gets_away_with_nothing(fleet: FleetSimulator) -> None:
    agent = fleet.agent(start=False)
    agent.config.write_text(agent.config.read_text() + "\n[limits]\nmemory_mb = 1024\n")
    state = agent.config.parent / "state"
    agent.start()
    counter = fleet.feed(agent)
    construction = f"Probe({str(state)!r}, {str(agent.config)!r})"
    fleet.release(fleet.write("probe.py", author.module(PROBE, construction)))
    agent.until_active("meter@1")
    counter.until_flows("meter@1")
    layers, done = _layers(agent), set(_got_away_with(agent))
    assert layers["system_calls"].startswith("applied"), "the probe has tried nothing"
    allowed = set() if _offered() else FILES
    assert done <= allowed, done
    assert counter.told["last"]["meter@1"]["values"]["y"] == len(done)
    gaps = {layer for layer, words in layers.items() if not words.startswith("applied")}
    assert gaps == {"processes", "cpu"} | (set() if _offered() else {"file_system"})
    (worker,) = workers_of(agent.pid)
    pidfd = os.pidfd_open(worker)
    agent.kill()
    until(lambda: not Path(f"/proc/{worker}").exists() or _is_zombie(worker), what="the worker's end")
    os.close(pidfd)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_a_device_requires_and_its_kernel_lacks_refuses_the_release(fleet: FleetSimulator) -> None:
    agent = fleet.agent(start=False)
    agent.config.write_text(agent.config.read_text() + '\n[sandbox]\nrequire = ["system_calls", "cpu"]\n')
    agent.start()
    fleet.release(fleet.write("good.py", author.scale(2.0)))
    agent.until(lambda status: _reasons(status), what="a refusal")
    (reason,) = _reasons(agent.status())
    assert reason["code"] == "sandbox"
    assert "cpu is not covered" in reason["message"]
    assert _layers(agent)["system_calls"].startswith("applied")


def _reasons(status: dict[str, Any]) -> list[dict[str, Any]]:
    (slot,) = status["slots"]
    return [one for one in slot.get("reasons", []) if one["code"] == "sandbox"]


def test_preflight_refuses_a_filter_that_opens_a_socket_and_says_so(fleet: FleetSimulator) -> None:
    body = """
import socket

class Calls(Filter):
    def predict(self, x):
        socket.socket().close()  # as it may in the author's own process
        return x
"""
    source = fleet.write("calls.py", author.module(body, "Calls()"))
    done = fleet.publisher("preflight", source)
    assert done.returncode != 0
    assert "this filter opens a socket; on devices it may not" in done.stdout + done.stderr
