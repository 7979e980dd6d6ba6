"""Who runs in `data_path.py`, what drives them, and what they use: processor time and memory, read from `/proc`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data_path_load import FIRST  # noqa: E402
from data_path_peers import install_node_red, node_red  # noqa: E402

from publisher.founding import init  # noqa: E402
from publisher.pushing import push  # noqa: E402
from tests.simulators.broker import Mosquitto, free_port  # noqa: E402

__all__ = ["BROKER", "Bench", "Load", "Mosquitto", "cpu_seconds", "family", "pss_mib"]

BENCHMARKS = ROOT / "benchmarks"
# The queue of a QoS 0 subscriber, so that 100 ms and not the broker's 1,000 messages decide.
BROKER = "set_tcp_nodelay true\nmax_queued_messages 200000"
READY_SECONDS = 60.0
AGENT = "from edge_agent.cli import main; main()"
RELEASE = """
import numpy as np
from edge_agent import Filter, Health, Input, Output, Pipeline

class Weighted(Filter):
    def __init__(self):
        super().__init__()
        self.gain = np.arange(1, 7, dtype=np.float64)

    def predict(self, x):
        return (x * self.gain).sum(axis=1)

pipeline = Pipeline(
    "bench", [Weighted()], input=Input(["a", "b", "c", "d", "e", "f"]), output=Output(["y"]),
    health=Health(probation_seconds=1.0, probation_frames=20, shadow_frames=5),
)
"""
CONFIG = """
[device]
id = "bench"
fleet = "bench"
state = "state"
[broker]
url = "{url}"
[channel.staging]
root = "staging.root.json"
[slot.bench]
channel = "staging"
[slot.bench.input]
source = "mqtt"
topic = "in/d0"
qos = 0
columns = {{ a = "v.0", b = "v.1", c = "v.2", d = "v.3", e = "v.4", f = "v.5" }}
timestamp = {{ path = "t", unit = "ns" }}
sequence = "s"
{linger}
[slot.bench.output]
sink = "mqtt"
topic = "out/d0"
qos = 0
"""


# --- load ------------------------------------------------------------------------------------------------------------


class End:
    """One end of the load, in a process of its own."""

    def __init__(self, role: str, port: int) -> None:
        command = [sys.executable, str(BENCHMARKS / "data_path_load.py"), role, str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def ask(self, **what: float) -> dict[str, Any]:
        """Ask and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class Load:
    """Sends readings through whoever listens, and tells what came back."""

    def __init__(self, port: int) -> None:
        self._sender, self._counter = End("send", port), End("count", port)
        self._next = FIRST

    def drive(self, rate: float, seconds: float) -> dict[str, Any]:
        """Send for a while; return what was sent and what became of it."""
        first, self._next = self._next, self._next + int(rate * seconds)
        sent = self._sender.ask(rate=rate, seconds=seconds, first=first)
        return sent | self._counter.ask(first=first, end=self._next)

    def until_ready(self) -> None:
        """Wait until the subject answers."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.drive(200, 0.2)["distinct"]:
                self.drive(500, 1.0)
                return
        raise SystemExit("the subject never answered")

    @contextlib.contextmanager
    def trickling(self) -> Iterator[None]:
        """Send some readings all the time, for a release's probation."""
        stop = threading.Event()

        def trickle() -> None:
            while not stop.is_set():
                self.drive(200, 0.25)

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        """End both processes."""
        self._sender.close()
        self._counter.close()


# --- what a subject uses ---------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += family(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """Return the scheduler time of all threads of a subject."""
    total = 0
    for one in family(pid):
        for path in Path(f"/proc/{one}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(path.read_text().split()[0])
    return total / 1e9


def pss_mib(pid: int) -> float:
    """Return the proportional set size of all processes of a subject."""
    total = 0
    for one in family(pid):
        lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


# --- subjects --------------------------------------------------------------------------------------------------------


class Bench:
    """A broker, and a place for what subjects need."""

    def __init__(self, place: Path, broker: Mosquitto, installed: Path | None, quick: bool) -> None:
        self.place, self.broker, self.quick, self._installed = place, broker, quick, installed
        self._pushed = False

    def why_not(self, subject: str) -> str:
        """Return why a subject cannot run, empty if it can."""
        if subject != "node-red" or self._installed is not None:
            return ""
        if self.quick:
            return "left out of --quick"
        self._installed = self.place / "node-red"
        return install_node_red(self._installed, timeout_seconds=90)

    @contextlib.contextmanager
    def running(self, subject: str, load: Load) -> Iterator[int]:
        """Run a subject until the body is done; give its process id once it answers."""
        with subprocess.Popen(
            self._command(subject), cwd=self.place, process_group=0, stdout=subprocess.DEVNULL
        ) as process:
            try:
                if subject.startswith("fieldcast") and not self._pushed:
                    self._push(load)
                load.until_ready()
                yield process.pid
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)

    def _command(self, subject: str) -> list[str]:
        if subject == "node-red":
            assert self._installed is not None
            return node_red(self._installed, self.place / "flow", self.broker.port, free_port())
        if not subject.startswith("fieldcast"):
            return [sys.executable, str(BENCHMARKS / "data_path_peers.py"), subject, str(self.broker.port)]
        device = self.place / "device"
        if not device.exists():
            home = init("bench", self.broker.url, passphrase="bench", home=self.place / "home")
            device.mkdir()
            (device / "staging.root.json").write_bytes((home.device / "staging.root.json").read_bytes())
        linger = "linger_ms = 1" if subject.endswith("1ms") else ""
        (device / "agent.toml").write_text(CONFIG.format(url=self.broker.url, linger=linger))
        arguments = ["run", "--config", str(device / "agent.toml"), "--log-level", "ERROR"]
        return [sys.executable, "-I", "-c", AGENT, *arguments]

    def _push(self, load: Load) -> None:
        release = self.place / "release.py"
        release.write_text(RELEASE)
        with load.trickling():
            push(
                str(release),
                channel="staging",
                wait=True,
                home=self.place / "home",
                passphrase="bench",
                timeout_seconds=60,
            )
        self._pushed = True
