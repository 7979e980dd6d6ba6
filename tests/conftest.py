"""How the whole suite is spread over the cores, and what of a tester's surroundings must not reach the tests.

Generated cases are few here; `HYPOTHESIS_PROFILE=long` draws a thousand for each rule that sets no number of its own.

What mostly waits starts first, with two workers more than there are cores: files with real fleets wait for devices,
brokers and time, and while they do, another worker has the core. Started last, the longest of them would keep one core
busy and leave the others idle at the end.

Coverage is not measured where it would only cost: tracing doubles the time of what it traces. Whole fleets, attacks and
crashes do their work in processes of their own, which are not traced anyway, or on what the tests of each module
measure; generated cases repeat the lines of the named ones.
"""

from __future__ import annotations

import os
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

SLOW = (
    "tests/publisher/test_demo.py",
    "tests/e2e/",
    "tests/crash/",
    "tests/attacks/",
    "tests/publisher/test_cli",
    "tests/publisher/test_pushing.py",
    "tests/publisher/",
    "tests/edge_agent/runtime/",
)

UNMEASURED = ("tests/e2e/", "tests/crash/", "tests/attacks/")

# A slow machine is no fault of what is tested.
settings.register_profile("suite", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("suite"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: a shell's background job starts with it ignored, and would hand that on.

    And let Python keep what it has compiled: some containers forbid it, and a suite starts thousands of processes.
    """
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Answer `-n auto`."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, the order within a file stays; say where coverage is not measured."""
    items.sort(key=_rank)
    for item in items:
        if item.nodeid.startswith(UNMEASURED) or getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("no_cover")


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, start in enumerate(SLOW) if item.nodeid.startswith(start)), len(SLOW))
