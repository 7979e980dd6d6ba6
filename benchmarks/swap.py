"""Updates under load: MQTT in, a filter, MQTT out through a real mosquitto, and releases that replace one another.

    .venv/bin/python benchmarks/swap.py [--quick] [--json] [--rates 500 5000] [--rounds N] [--cases good …]

The agent is the one a device runs; releases are pushed, verified and fetched over the same broker. A counting process
that shares no code with the agent keeps every output with the time when it came. Readings carry the time when they
were sent; readings and outputs travel at QoS 0, so nothing that is lost is sent again.

- `order to output`: from the moment the updater orders the start of the release, whose files lie on disk (the agent's
  log says so), to the first output of the new release. Probation is at its minimum: one sample in the shadow.
- `push to output`: from the moment `push` has sent the last of the release, to the same output; signatures are
  verified, blobs fetched and laid out in between.
- `added`: the longest time from a reading to its output in the SECONDS from the order on, less the longest in as many
  seconds before the push (`quiet`). Both are maxima, and on a machine that does other things too they are its own;
  the 99th percentiles beside them are less so.
- `floor`: starting an interpreter that imports numpy, between the rounds: what a cold start cannot be quicker than.

Bad releases behave until they serve, and then fail for good. `restart` is what a systemd restart does: SIGTERM to a
paho loop, and a new process with the new code as soon as it has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from publisher.founding import init  # noqa: E402
from publisher.pushing import push  # noqa: E402
from tests.simulators.broker import Mosquitto  # noqa: E402

BENCHMARKS = ROOT / "benchmarks"
BROKER = "set_tcp_nodelay true\nmax_queued_messages 200000"
BAD = ("raise", "exit", "hang", "segfault")
CASES = ("good", *BAD, "restart")
SECONDS = 2.0  # in which a swap or a failure has run its course, and the quiet stretch it is compared with
DEADLINE_SECONDS = 60.0
AGENT = "from edge_agent.cli import main; main()"
RELEASE = """
import ctypes, os, time
import numpy as np
from edge_agent import Filter, Health, Input, Output, Pipeline

class Weighted(Filter):
    def __init__(self, how="good", number=0, after=0):
        super().__init__(how=how, number=number, after=after)
        self.gain, self.seen = np.arange(1, 7, dtype=np.float64), 0

    def predict(self, x):
        self.seen += len(x)
        if self.how != "good" and self.seen > self.after:
            if self.how == "raise":
                raise ValueError("a bad release")
            if self.how == "exit":
                os._exit(3)
            if self.how == "hang":
                time.sleep(600)
            ctypes.string_at(0)
        return (x * self.gain).sum(axis=1)

pipeline = Pipeline(
    "bench", [Weighted({how!r}, {number}, {after})], input=Input(["a", "b", "c", "d", "e", "f"]), output=Output(["y"]),
    health=Health(probation_seconds={probation}, probation_frames=1, shadow_frames=1, heartbeat_seconds=2.0),
)
"""
CONFIG = """
[device]
id = "bench"
fleet = "bench"
state = "{state}"
[broker]
url = "{url}"
[channel.staging]
root = "staging.root.json"
[slot.bench]
channel = "staging"
spare = {spare}
[slot.bench.input]
source = "mqtt"
topic = "in/d0"
qos = 0
columns = {{ a = "v.0", b = "v.1", c = "v.2", d = "v.3", e = "v.4", f = "v.5" }}
timestamp = {{ path = "t", unit = "ns" }}
sequence = "s"
[slot.bench.output]
sink = "mqtt"
topic = "out/d0"
qos = 0
"""


# --- load ------------------------------------------------------------------------------------------------------------


class End:
    """One end of the load, in a process of its own, which answers once its input is closed."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, str(BENCHMARKS / "swap_load.py"), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def end(self) -> Any:
        """Tell it to stop and return its answer."""
        told, _ = self._process.communicate("", timeout=DEADLINE_SECONDS)
        return json.loads(told)


@contextlib.contextmanager
def loaded(port: int, rate: float, found: dict[str, Any]) -> Iterator[None]:
    """Send readings at a rate while the body runs; then put what was `sent` and what was `kept` into `found`."""
    keeper = End("keep", port)
    sender = End("send", port, rate)
    try:
        yield
    finally:
        found["sent"] = sender.end()["sent"]
        found["kept"] = keeper.end()


# --- the agent -------------------------------------------------------------------------------------------------------


class Device:
    """An agent on a directory of its own, with a log of lines and the times when they were written."""

    def __init__(self, place: Path, url: str, *, spare: bool) -> None:
        self.spare = spare
        self._lines: list[tuple[int, str]] = []
        config = place / f"agent-{spare}.toml"
        config.write_text(CONFIG.format(url=url, state=f"state-{spare}", spare=str(spare).lower()))
        command = [sys.executable, "-I", "-c", AGENT, "run", "--config", str(config)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.append((time.time_ns(), line))

    def when(self, words: str, since: int = 0) -> int:
        """Wait for a line with these words; return when it came."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            for at, line in list(self._lines):
                if at >= since and words in line:
                    return at
            time.sleep(0.01)
        raise SystemExit(f"the agent never said {words!r}:\n{''.join(line for _, line in self._lines[-30:])}")

    def until_ready(self) -> None:
        """Wait until the last release runs alone, and the spares, if there are any, have their libraries."""
        wanted, deadline = (1 + self.spare, int(self.spare)), time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            if self.waiting() == wanted:
                time.sleep(1.0)  # to import them
                if self.waiting() == wanted:
                    return
            time.sleep(0.05)
        raise SystemExit(f"{self.waiting()} workers and verifiers, not {wanted}")

    def waiting(self) -> tuple[int, int]:
        """Return how many workers and how many verifiers there are."""
        paths = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = [int(child) for path in paths for child in path.read_text().split()]
        commands = [Path(f"/proc/{one}/cmdline").read_bytes() for one in children]
        workers = sum(b"edge_agent.runtime.worker" in one for one in commands)
        return workers, sum(b"edge_agent.update.verifier" in one for one in commands)

    def close(self) -> None:
        """End the agent."""
        self.process.terminate()
        self.process.wait(15)


class Bench:
    """A broker and a fleet, whose releases are numbered."""

    def __init__(self, place: Path, broker: Mosquitto) -> None:
        self.place, self.broker = place, broker
        home = init("bench", broker.url, passphrase="bench", home=place / "home")
        (place / "staging.root.json").write_bytes((home.device / "staging.root.json").read_bytes())
        self._home, self._number = home.path, 0

    def push(self, how: str = "good", after: int = 0, probation: float = 0.1) -> int:
        """Push a release; return when that was done."""
        self._number += 1
        path = self.place / f"release_{self._number}.py"
        told = {"{how!r}": repr(how), "{number}": self._number, "{after}": after, "{probation}": probation}
        text = RELEASE
        for name, value in told.items():
            text = text.replace(name, str(value))
        path.write_text(text)
        push(str(path), channel="staging", home=self._home, passphrase="bench")
        return time.time_ns()


# --- cases -----------------------------------------------------------------------------------------------------------


def swap(bench: Bench, device: Device, rate: float, how: str) -> dict[str, Any]:
    """Push a release under load and let it replace another; return what that did to the stream."""
    device.until_ready()
    found: dict[str, Any] = {}
    good = how == "good"
    with loaded(bench.broker.port, rate, found):
        time.sleep(SECONDS + 0.5)
        quiet, asked = time.time_ns(), time.time_ns()
        pushed = bench.push(how, after=int(rate * 0.4), probation=0.1 if good else 30.0)
        ordered = device.when("to=starting", asked)
        device.when("to=committed" if good else "to=rolled_back", asked)
        time.sleep(max(0.0, SECONDS - (time.time_ns() - ordered) / 1e9))
    row = told(found, quiet, ordered)
    # The release that ran before may be the same as at the round before: the first output with another name counts.
    names = {release for _, _, arrived, release in found["kept"] if arrived < ordered}
    first = min((arrived for _, _, arrived, release in found["kept"] if release not in names), default=0)
    return row | {"order_ms": (first - ordered) / 1e6, "push_ms": (first - pushed) / 1e6, "floor_ms": floor_ms()}


def floor_ms() -> float:
    """Return how long an interpreter takes to start, import numpy and end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-P", "-c", "import numpy"], check=True)
    return (time.perf_counter() - started) * 1e3


def restart(bench: Bench, rate: float) -> dict[str, Any]:
    """End a process and start another one under load; return what that did to the stream."""
    command = [sys.executable, str(BENCHMARKS / "data_path_peers.py"), "paho", str(bench.broker.port)]
    process = subprocess.Popen(command)
    try:
        time.sleep(2.0)
        found: dict[str, Any] = {}
        with loaded(bench.broker.port, rate, found):
            time.sleep(SECONDS + 0.5)
            quiet = ordered = time.time_ns()
            process.terminate()
            process.wait(10)
            process = subprocess.Popen(command)
            time.sleep(SECONDS)
    finally:
        process.kill()
        process.wait()
    row = told(found, quiet, ordered)
    return row | {"order_ms": row["gap_ms"], "push_ms": row["gap_ms"], "floor_ms": floor_ms()}  # the outage, both


def told(found: dict[str, Any], quiet: int, ordered: int) -> dict[str, Any]:
    """Return what was lost and repeated over all, and how late outputs were before the push and from the order on."""
    kept, span = found["kept"], int(SECONDS * 1e9)
    numbers = [number for number, *_ in kept]
    before = [(arrived - sent) / 1e6 for _, sent, arrived, _ in kept if quiet - span <= sent < quiet]
    after = [(arrived - sent) / 1e6 for _, sent, arrived, _ in kept if ordered <= sent < ordered + span]
    slowest = max((arrived - sent, sent) for _, sent, arrived, _ in kept if ordered <= sent < ordered + span)[1]
    times = sorted(arrived for _, _, arrived, _ in kept if ordered <= arrived < ordered + span)
    return {
        "sent": found["sent"],
        "lost": found["sent"] - len(set(numbers)),
        "repeated": len(numbers) - len(set(numbers)),
        "quiet_ms": max(before),
        "longest_ms": max(after),
        "longest_at_ms": (slowest - ordered) / 1e6,
        "added_ms": max(after) - max(before),
        "quiet_p99_ms": statistics.quantiles(before, n=100)[-1],
        "p99_ms": statistics.quantiles(after, n=100)[-1],
        "gap_ms": max((b - a) / 1e6 for a, b in itertools.pairwise(times)),
    }


def measure(bench: Bench, rates: list[int], rounds: int, cases: list[str]) -> list[dict[str, Any]]:
    """Run every case; return a row for each round of each."""
    rows: list[dict[str, Any]] = []

    def note(case: str, start: str, rate: int, row: dict[str, Any]) -> None:
        rows.append({"case": case, "start": start, "rate": rate} | row)
        print(f"  {words(rows[-1:])}", file=sys.stderr)

    for spare in (False, True):
        device, start = Device(bench.place, bench.broker.url, spare=spare), "warm" if spare else "cold"
        try:
            device.when("ready device")
            found: dict[str, Any] = {}
            with loaded(bench.broker.port, 200, found):  # a first release to swap with
                bench.push()
                device.when("to=committed")
            for rate in rates:
                for how in [one for one in cases if one in (("good", *BAD) if spare else ("good",))]:
                    for _ in range(rounds):
                        note(how, start, rate, swap(bench, device, rate, how))
        finally:
            device.close()
    for rate in rates if "restart" in cases else ():
        for _ in range(rounds):
            note("restart", "", rate, restart(bench, rate))
    return rows


def words(rows: list[dict[str, Any]]) -> str:
    """Return the rounds of one case in a line: medians, and the worst of what must be 0."""
    first = rows[0]

    def middle(key: str) -> str:
        values = [row[key] for row in rows]
        return f"{statistics.median(values):.1f}" + (f" ({min(values):.1f}–{max(values):.1f})" if len(rows) > 1 else "")

    return (
        f"{first['case']:8} {first['start']:5} {first['rate']:5}/s  lost {max(row['lost'] for row in rows)}  "
        f"repeated {max(row['repeated'] for row in rows)}  order to output {middle('order_ms')} ms  "
        f"push to output {middle('push_ms')} ms  longest {middle('longest_ms')} ms "
        f"(after {middle('longest_at_ms')} ms)  quiet {middle('quiet_ms')} ms  "
        f"added {middle('added_ms')} ms  p99 {middle('p99_ms')} ms, quiet {middle('quiet_p99_ms')} ms  "
        f"floor {middle('floor_ms')} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rates", nargs="+", type=int, default=[500, 5000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swap-") as directory, Mosquitto(BROKER) as broker:
        rows = measure(Bench(Path(directory), broker), asked.rates, 1 if asked.quick else asked.rounds, asked.cases)
    if asked.json:
        print(json.dumps(rows, indent=2))
        return
    for key in dict.fromkeys((row["case"], row["start"], row["rate"]) for row in rows):
        print(words([row for row in rows if (row["case"], row["start"], row["rate"]) == key]))


if __name__ == "__main__":
    main()
