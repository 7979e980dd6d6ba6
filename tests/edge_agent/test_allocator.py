"""What the agent's process frees goes back to the system, and its threads share one heap. In fresh processes."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this libc has no mallopt")
_CODE = """
import json, re, sys, threading
from pathlib import Path
from edge_agent import allocator

told = allocator.settle() if sys.argv[1] == "settled" else None


def own():
    return int(re.search(r"Anonymous:\\s+(\\d+)", Path("/proc/self/smaps_rollup").read_text())[1])


def heaps():
    ranges = re.findall(r"^([0-9a-f]+)-[0-9a-f]+ rw-p \\S+ 00:00 0 *$", Path("/proc/self/maps").read_text(), re.M)
    return sum(int(start, 16) % (64 << 20) == 0 for start in ranges)


bytearray(b"x") * (4 << 20)  # freed: from here on glibc takes pieces of this size for small
before, kept = own(), []
pieces = []
for _ in range(16):
    pieces.append(bytearray(b"x") * (512 << 10))
    kept.append(bytearray(b"x") * 1000)
pieces.clear()
grown = own() - before

together = threading.Barrier(4)


def work():
    together.wait(10)
    kept.append([bytearray(b"x") * 1000 for _ in range(1000)])
    together.wait(10)


threads = [threading.Thread(target=work) for _ in range(4)]
for one in threads:
    one.start()
for one in threads:
    one.join()
print(json.dumps({"told": told, "grown": grown, "heaps": heaps()}))
"""


def _process(how: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", _CODE, how], capture_output=True, text=True, timeout=30, check=True
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_what_is_freed_goes_back_and_threads_share_one_heap() -> None:
    settled = _process("settled")
    assert settled["told"]
    assert settled["grown"] < 1024, "16 pieces of 512 KiB were freed"
    assert settled["heaps"] == 0, "a thread has a heap of its own"


def test_left_to_itself_it_would_not() -> None:
    """So that the test above is seen to find what it looks for."""
    found = _process("as it is")
    assert found["grown"] > 4096 or found["heaps"] > 0
