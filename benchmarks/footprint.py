"""Memory of the agent and its worker while the activity example runs, against the floor of their libraries alone.

    .venv/bin/python benchmarks/footprint.py

Prints proportional set sizes (PSS, from /proc/PID/smaps_rollup): pages shared between processes count in shares. The
floor is a bare interpreter that imports what the agent needs, and one that imports numpy and onnxruntime.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from publisher.broker import EmbeddedBroker
from publisher.founding import init
from publisher.pushing import push

ROOT = Path(__file__).resolve().parent.parent
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
                return {"agent": pss_mib(agent.pid), "worker": pss_mib(worker)}
            finally:
                agent.terminate()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="footprint-") as name:
        found = measure(Path(name))
    found |= {"agent floor": floor_mib(AGENT_FLOOR), "worker floor": floor_mib(WORKER_FLOOR)}
    for what in ("agent", "worker"):
        floor = found[f"{what} floor"]
        print(f"{what:8} {found[what]:6.1f} MiB PSS   libraries alone {floor:6.1f}   ratio {found[what] / floor:.2f}")
    print(json.dumps({key: round(value, 1) for key, value in found.items()}))


if __name__ == "__main__":
    main()
