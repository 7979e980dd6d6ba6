"""Which files a worker still reads once it has locked itself down: Python's, the system's libraries, its release.

It names paths and opens none. Nothing here is writable but devices that keep nothing, and nothing is the agent's:
neither its state, nor keys, nor configuration.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

import edge_agent
from edge_agent.runtime.landlock import DEVICE, READ

__all__ = ["Paths", "readable"]

_LIBRARIES = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/usr/share/zoneinfo", "/etc/localtime"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# What libraries ask of the machine: how many processors, how much memory, which instructions.
_MACHINE = (
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat"),
    *("/sys/devices/system/cpu", "/sys/devices/system/node"),
    *("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


class Paths(NamedTuple):
    """`rules` are paths and what may be done beneath; `held` are those to keep open.

    `beside` is a readable directory in which the release lies, and so everything else of the agent's; mostly empty.
    """

    rules: list[tuple[str, int]]
    held: tuple[str, ...]
    beside: str


def readable(release: str) -> Paths:
    """Return what a worker of the release in directory `release` may reach; empty: a worker without one."""
    found = dict.fromkeys([*_python(), *_LIBRARIES, *_MACHINE], READ)
    beside = next((path for path in found if release and _holds(path, release)), "")
    if release:
        found[release] = READ
    return Paths([*found.items(), *((path, DEVICE) for path in _DEVICES)], _MACHINE, beside)


def _python() -> list[str]:
    """Return where modules come from, now and when they are imported later, and the shared libraries beside them."""
    prefixes = [f"{prefix}/lib" for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)]
    return [*filter(None, sys.path), *prefixes, *edge_agent.__path__]


def _holds(directory: str, path: str) -> bool:
    directory, path = os.path.realpath(directory), os.path.realpath(path)
    return os.path.commonpath([directory, path]) == directory
