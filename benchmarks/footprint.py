"""Memory of the agent and its worker while the activity example runs, against the floor of their libraries alone.

    .venv/bin/python benchmarks/footprint.py [--swaps 1000]

Prints proportional set sizes (PSS, from /proc/PID/smaps_rollup): pages shared between processes count in shares. The
floor is a bare interpreter that imports what the agent needs, and one that imports numpy and onnxruntime. Then the time
from the start of the agent to the first output of a release that it has, and, if asked for `--swaps`, what the agent's
own pages grow by in the second half of so many updates (1000 take half an hour or more). What misses a goal is marked.
"""

from __future__ import annotations

import argparse
import io
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from publisher.broker import EmbeddedBroker  # noqa: E402
from publisher.founding import init  # noqa: E402
from publisher.pushing import push  # noqa: E402
from tests.soak.soak import Soak  # noqa: E402

AGENT_MIB_GOAL, BOTH_MIB_GOAL = 32.0, 80.0
START_SECONDS_MAX = 60.0
EXAMPLE = ROOT / "examples" / "activity"
AGENT = "from edge_agent.cli import main; main()"
AGENT_FLOOR = (
    "import sys; sys.modules.update(numpy=None, pandas=None)\n"
    "import paho.mqtt.client, sqlite_utils, msgspec, mqtt5, packaging.requirements, backports.zstd"
)
WORKER_FLOOR = "import numpy, onnxruntime"
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
speed = 50
repeat = true
[slot.activity.output]
sink = "sqlite"
path = "out.db"
"""


def pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no Pss for {pid}")


def floor_mib(imports: str) -> float:
    code = f"{imports}\nprint('up', flush=True)\nimport sys; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = pss_mib(process.pid)
        process.communicate("")
    return found


def worker_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for path in children for child in path.read_text().split()]
    return next(one for one in found if b"edge_agent.runtime.worker" in Path(f"/proc/{one}/cmdline").read_bytes())


def measure(directory: Path) -> dict[str, float]:
    with EmbeddedBroker() as broker:
        home = init("bench", broker.url, passphrase="bench", home=directory / "home")
        place = directory / "device"
        place.mkdir()
        (place / "staging.root.json").write_bytes((home.device / "staging.root.json").read_bytes())
        config = place / "agent.toml"
        config.write_text(CONFIG.format(url=broker.url, data=EXAMPLE / "basic_motions_test.csv"))
        command = [sys.executable, "-I", "-c", AGENT, "run", "--config", str(config), "--log-level", "ERROR"]
        with subprocess.Popen(command) as agent:
            try:
                push(
                    str(EXAMPLE / "release_2.py"),
                    channel="staging",
                    wait=True,
                    home=home.path,
                    passphrase="bench",
                    timeout_seconds=60,
                )
                time.sleep(5)  # a few thousand samples more, so that nothing measured is start-up
                worker = worker_of(agent.pid)
                found = {"agent": pss_mib(agent.pid), "worker": pss_mib(worker)}
            finally:
                agent.terminate()
        return found | {"start_seconds": start_seconds(command, place / "out.db")}


def start_seconds(command: list[str], database: Path) -> float:
    """Return the seconds from the start of an agent that has a release to its first output."""
    before, began = newest(database), time.monotonic()
    with subprocess.Popen(command) as agent:
        try:
            while newest(database) == before:
                if time.monotonic() - began > START_SECONDS_MAX:
                    raise TimeoutError(f"no output within {START_SECONDS_MAX:.0f} s")
                time.sleep(0.005)
            return time.monotonic() - began
        finally:
            agent.terminate()


def newest(database: Path) -> int:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as found:
        return int(found.execute("SELECT max(sequence) FROM output").fetchone()[0])


def growth_kib(directory: Path, swaps: int) -> float:
    """Return by how many KiB the agent's own pages grow in 100 updates under load."""
    with Soak(directory, 200, words=io.StringIO()) as trial:
        trial.run(swaps, 0, max(1, swaps // 4))
    looks = trial.looks[len(trial.looks) // 2 :]  # caches are full by then
    (begun, first), (ended, last) = looks[0], looks[-1]
    return (last.own - first.own) * 100 / (ended - begun)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--swaps", type=int, default=0)
    swaps = arguments.parse_args().swaps
    with tempfile.TemporaryDirectory(prefix="footprint-") as name:
        found = measure(Path(name))
        if swaps:
            found["growth_kib_per_100_swaps"] = growth_kib(Path(name) / "soak", swaps)
    found |= {"agent floor": floor_mib(AGENT_FLOOR), "worker floor": floor_mib(WORKER_FLOOR)}
    for what in ("agent", "worker"):
        floor = found[f"{what} floor"]
        print(f"{what:8} {found[what]:6.1f} MiB PSS   libraries alone {floor:6.1f}   ratio {found[what] / floor:.2f}")
    both = found["agent"] + found["worker"]
    print(f"agent    {found['agent']:6.1f} MiB of {AGENT_MIB_GOAL:.0f}{_mark(found['agent'] > AGENT_MIB_GOAL)}")
    print(f"both     {both:6.1f} MiB of {BOTH_MIB_GOAL:.0f}{_mark(both > BOTH_MIB_GOAL)}")
    print(f"start    {found['start_seconds']:6.2f} s to the first output")
    if swaps:
        print(f"growth   {found['growth_kib_per_100_swaps']:6.0f} KiB in 100 swaps, of {swaps}")
    print(json.dumps({key: round(value, 2) for key, value in found.items()}))


def _mark(over: bool) -> str:
    return "   MISSED" if over else ""


if __name__ == "__main__":
    main()
