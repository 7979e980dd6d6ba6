"""The activity example at 200 times real time: Python features and an ONNX model, watched for as long as asked.

    .venv/bin/python benchmarks/activity.py [--seconds 20] [--speed 200]

A real agent replays the recordings, over and over; release 2 (54 statistics of a window of 100 samples, logistic
regression by onnxruntime) answers over a real mosquitto. Each ten seconds (of a short run, each tenth of it) a line
tells the rate, how late results came, how many samples waited, memory and processor time. Lateness is the time from
when the replay's pace gave a window's last sample to the arrival of its result; the pace's start is taken from the
earliest result, which therefore has none. At the end every sample from the first result on must be in one window and in
one only, and the second half of the run must be as the first: exits with 1 if not.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from publisher.founding import init  # noqa: E402
from publisher.pushing import push  # noqa: E402
from tests.simulators.agents import AgentProcess, workers_of  # noqa: E402
from tests.simulators.broker import Mosquitto  # noqa: E402
from tests.soak.count import Line  # noqa: E402
from tests.soak.held import held  # noqa: E402

EXAMPLE = ROOT / "examples" / "activity"
LOOK_SECONDS, SAMPLES_HZ, WINDOW = 10.0, 10.0, 100
# By how much the second half of a run may be worse than the first, at the median; memory in KiB of a process's own
# pages, since shared ones count less the more processes share them.
LATER_MS_MAX, GROWTH_KIB_MAX = 100.0, 1024
WAITING_SECONDS_MAX = 5.0
CONFIG = """
[device]
id = "bench"
fleet = "bench"
state = "state"
[broker]
url = "{url}"
[channel.staging]
root = "staging.root.json"
[slot.activity]
channel = "staging"
[slot.activity.input]
source = "csv"
path = "{data}"
columns = {{ ax = "ax", ay = "ay", az = "az", gx = "gx", gy = "gy", gz = "gz" }}
timestamp = {{ path = "t", unit = "s" }}
speed = {speed}
repeat = true
[slot.activity.output]
sink = "mqtt"
topic = "results/bench"
"""


class Result(NamedTuple):
    """One window's answer: the ids of its samples, the last one's time in the replay, and when it came (seconds)."""

    first: int
    newest: int
    stamp: float
    came: float


class Look(NamedTuple):
    """What was seen over some seconds; memory in KiB, `waiting` in samples, processor time in percent of a core."""

    seconds: float
    rate: float
    p99_ms: float
    longest_ms: float
    waiting: int
    agent: int
    worker: int
    agent_own: int
    worker_own: int
    processor: float


def listen(line: Line, seconds: float) -> list[Result]:
    """Return what arrives within some seconds."""
    found, deadline = [], time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        for payload in line.turn(min(left, 0.05)):
            one = json.loads(payload)
            found.append(Result(one["first"], one["sequence"], _seconds(one["timestamp"]), time.monotonic()))
    return found


def _seconds(stamp: Any) -> float:
    return float(stamp) / 1e9


def ticks(pids: list[int]) -> float:
    """Return the processor seconds that these processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def watch(
    line: Line, agent: AgentProcess, worker: int, seconds: float, speed: float
) -> tuple[list[Look], list[Result]]:
    """Listen for so many seconds; return what was seen, and every result."""
    results, looks, start = [], [], float("inf")
    began, piece = time.monotonic(), min(LOOK_SECONDS, seconds / 10)
    used, at = ticks([agent.pid, worker]), began
    while at < began + seconds:
        new = listen(line, piece)
        start = min([start, *(one.came - one.stamp / speed for one in new)])
        results += new
        now, total = time.monotonic(), ticks([agent.pid, worker])
        late = sorted(one.came - one.stamp / speed - start for one in new) or [float("inf")]
        due = (now - start) * speed - (results[-1].stamp if results else 0.0)
        held_now = held(agent.pid, agent.state), held(worker, agent.state)
        looks.append(
            Look(
                seconds=round(now - began, 1),
                rate=len(new) * WINDOW / (now - at),
                p99_ms=late[int(len(late) * 0.99)] * 1e3,
                longest_ms=late[-1] * 1e3,
                waiting=max(0, round(due * SAMPLES_HZ) - WINDOW),
                agent=held_now[0].pss,
                worker=held_now[1].pss,
                agent_own=held_now[0].own,
                worker_own=held_now[1].own,
                processor=(total - used) / (now - at) * 100,
            )
        )
        used, at = total, now
        tell(looks[-1])
    return looks, results


def tell(look: Look) -> None:
    print(
        f"{look.seconds:7.1f} s {look.rate:8.0f} samples/s   late {look.p99_ms:6.1f} ms (99 of 100), "
        f"{look.longest_ms:6.1f} ms at most   {look.waiting:5d} waiting   "
        f"{look.agent / 1024:5.1f} + {look.worker / 1024:5.1f} MiB   {look.processor:5.1f} % of a core",
        flush=True,
    )


def faults_of(looks: list[Look], results: list[Result], speed: float) -> list[str]:
    """Return what is wrong with a run, in words."""
    faults = []
    breaks = [
        f"window {after.first}–{after.newest} follows {before.first}–{before.newest}"
        for before, after in itertools.pairwise(results)
        if after.first != before.newest + 1 or after.newest - after.first + 1 != WINDOW
    ]
    if breaks:
        faults.append(f"{len(breaks)} samples or more lost or repeated: {breaks[0]}")
    due = SAMPLES_HZ * speed
    rate = statistics.mean(look.rate for look in looks)
    if abs(rate - due) > 0.02 * due + WINDOW / looks[-1].seconds:
        faults.append(f"{rate:.0f} samples/s, not {due:.0f}")
    half = len(looks) // 2
    parts = looks[1:half], looks[half:]
    for what, name, limit, unit in (
        ("p99_ms", "lateness", LATER_MS_MAX, "ms"),
        ("agent_own", "the agent's memory", GROWTH_KIB_MAX, "KiB"),
        ("worker_own", "the worker's memory", GROWTH_KIB_MAX, "KiB"),
    ):
        before, after = (statistics.median(getattr(look, what) for look in part) for part in parts)
        if after - before > limit:
            faults.append(f"{name} grew by {after - before:.0f} {unit} from one half to the other")
    if (waiting := max(look.waiting for look in looks)) > WAITING_SECONDS_MAX * due:
        faults.append(f"{waiting} samples waited")
    return faults


def run(place: Path, seconds: float, speed: float) -> list[str]:
    with Mosquitto("set_tcp_nodelay true") as broker, contextlib.ExitStack() as stack:
        home = init("bench", broker.url, passphrase="bench", home=place / "home")
        device = place / "device"
        device.mkdir()
        shutil.copy(home.device / "staging.root.json", device)
        config = device / "agent.toml"
        config.write_text(CONFIG.format(url=broker.url, data=EXAMPLE / "basic_motions_test.csv", speed=speed))
        agent = AgentProcess("bench", config)
        stack.callback(agent.kill)
        line = Line(broker.port, "bench")
        agent.start()
        push(
            str(EXAMPLE / "release_2.py"),
            channel="staging",
            wait=True,
            home=home.path,
            passphrase="bench",
            timeout_seconds=120,
        )
        listen(line, 2.0)  # what came while the push was waited for
        (worker, *_) = sorted(workers_of(agent.pid))
        looks, results = watch(line, agent, worker, seconds, speed)
        counters = agent.slot()["counters"]
    print(f"{len(results)} windows, samples {results[0].first} to {results[-1].newest}; counters {counters}")
    return faults_of(looks, results, speed)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=20.0)
    arguments.add_argument("--speed", type=float, default=200.0)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="activity-") as name:
        faults = run(Path(name), chosen.seconds, chosen.speed)
    print("\n".join(faults) or "stable: every sample in one window, and no later, slower or larger than at first")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
