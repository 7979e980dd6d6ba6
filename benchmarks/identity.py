"""What identity and packing cost, against cloudpickle and plain imports.

    .venv/bin/python benchmarks/identity.py

The class is `TimeDomain` of the activity example (one local helper module). Times are medians of several runs in this
process, but for `import`, which is a fresh interpreter each time, less the interpreter's own start.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from publisher.fingerprint import fingerprint
from publisher.packing.code import pack_code, way_of
from publisher.registry import Registry

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "activity"
COLD = (
    "import sys, time; sys.path.insert(0, {path!r}); import features\n"
    "from publisher.fingerprint import fingerprint\n"
    "start = time.perf_counter(); fingerprint(features.TimeDomain); print(time.perf_counter() - start)"
)


def median_ms(act: Callable[[], Any], runs: int = 50) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def process_ms(code: str, runs: int = 9) -> float:
    def run() -> None:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

    return median_ms(run, runs)


def printed_ms(code: str, runs: int = 5) -> float:
    def once() -> float:
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        return float(done.stdout) * 1e3

    return statistics.median(once() for _ in range(runs))


def measure() -> dict[str, float]:
    sys.path.insert(0, str(EXAMPLE))
    features = importlib.import_module("features")
    cls = features.TimeDomain
    cloudpickle.register_pickle_by_value(features)
    found = {
        "cloudpickle.dumps": median_ms(lambda: cloudpickle.dumps(cls)),
        "fingerprint warm": median_ms(lambda: fingerprint(cls)),
        "fingerprint cold": printed_ms(COLD.format(path=str(EXAMPLE))),
        "pack": median_ms(lambda: pack_code("s", cls, way_of(cls, None), extras={}, root=None, portable=True)),
    }
    with tempfile.TemporaryDirectory() as name:
        registry = Registry(name)
        start = time.perf_counter()
        registry.push(cls)
        found["push (new)"] = (time.perf_counter() - start) * 1e3
        found["push (known)"] = median_ms(lambda: registry.push(cls), 20)
        start = time.perf_counter()
        registry.get("TimeDomain")
        found["rebuild (first)"] = (time.perf_counter() - start) * 1e3
        found["rebuild (again)"] = median_ms(lambda: registry.get("TimeDomain"), 20)
    bare = process_ms("pass")
    found["import edge_agent"] = process_ms("import edge_agent") - bare
    found["import numpy"] = process_ms("import numpy") - bare
    return found


def main() -> None:
    found = measure()
    peers = {"import edge_agent": "import numpy"}
    for what, value in found.items():
        peer = peers.get(what, "cloudpickle.dumps")
        ratio = "" if what == peer else f"   {value / found[peer]:6.2f} x {peer}"
        print(f"{what:20} {value:8.3f} ms{ratio}")
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


if __name__ == "__main__":
    main()
