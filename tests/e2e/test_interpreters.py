"""The same release runs on agents of other Python versions than the publisher's.

Interpreters come from `$FIELDCAST_PYTHONS` (paths, separated as in `$PATH`), or are `python3.12` and `python3.13` if
they have the agent's dependencies.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

import pytest

from publisher.pushing import Ending
from tests.simulators import author
from tests.simulators.fleet import FleetSimulator

_PROBE = "import sys, edge_agent.agent, edge_agent.profile, numpy, onnxruntime; print('%d.%d' % sys.version_info[:2])"


@functools.cache
def _version_of(python: str) -> str:
    """Return the version of an interpreter that has all an agent needs, otherwise an empty string."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False, cwd="/"
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _interpreter(version: str) -> str:
    named = [path for path in os.environ.get("FIELDCAST_PYTHONS", "").split(os.pathsep) if path]
    common = shutil.which(f"python{version}")
    for python in [*named, *([common] if common else [])]:
        if _version_of(python) == version:
            return python
    pytest.skip(f"no Python {version} with the agent's dependencies: name one in FIELDCAST_PYTHONS")


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_an_agent_under_another_python_takes_the_same_release(fleet: FleetSimulator, version: str) -> None:
    agent = fleet.agent(python=_interpreter(version))
    counter = fleet.feed(agent)
    result = fleet.push(fleet.write("first.py", author.scale(2)), wait=True)
    assert result.ending is Ending.COMMITTED, result
    counter.until_flows("meter@1")
    assert str(fleet.report(agent)["profile"]["python"]).startswith(version)
    count = counter.final()
    assert (count["lost"], count["repeated"]) == (0, 0), count
