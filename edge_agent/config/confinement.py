"""How a slot's workers are kept, from the device's configuration and the release's manifest (R6).

It decides: the device's limits are ceilings, a release may ask for less, and what neither sets has a default. Nothing
is applied here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge_agent.config.tables import hint, listing
from edge_agent.runtime.limits import LAYERS, MIB, Confinement, Limits, lowest

if TYPE_CHECKING:
    from edge_agent.config.limits import Sandbox, WorkerLimits
    from edge_agent.config.sections import Config
    from edge_agent.contract.manifest import ResourceLimits

__all__ = ["confinement", "sandbox_faults", "worker_limit_faults"]

# The least with which an interpreter, numpy and a small model still start.
MEMORY_MB_MIN, OPEN_FILES_MIN, TASKS_MIN = 32, 32, 4
FILE_MB_MAX = 64
OPEN_FILES, FILE_MB = 256, FILE_MB_MAX


def confinement(config: Config, slot: str, wanted: ResourceLimits) -> Confinement:
    """Return how workers of a release that wants these limits are kept on a slot: each limit is the lowest there is."""
    device, own = config.limits, config.slot[slot].limits

    def least(name: str) -> int | None:
        return lowest(getattr(own, name) or getattr(device, name), getattr(wanted, name, None))

    memory_mb, file_mb = least("memory_mb"), least("file_mb") or FILE_MB
    limits = Limits(
        memory_bytes=memory_mb * MIB if memory_mb else None,
        open_files=least("open_files") or OPEN_FILES,
        file_bytes=file_mb * MIB,
        processes=least("tasks"),
    )
    launcher = config.sandbox.launcher
    return Confinement(limits=limits, require=tuple(config.sandbox.require), launcher=str(launcher) if launcher else "")


def worker_limit_faults(section: WorkerLimits) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with limits of workers."""
    for name, least in (("memory_mb", MEMORY_MB_MIN), ("open_files", OPEN_FILES_MIN), ("tasks", TASKS_MIN)):
        value = getattr(section, name)
        if value and value < least:
            yield name, f"{value} must be {least} or more, or 0 for the default: no worker starts with less"
    if not 0 <= section.file_mb <= FILE_MB_MAX:
        yield "file_mb", f"{section.file_mb} must be 1 to {FILE_MB_MAX}, or 0 for the default"


def sandbox_faults(section: Sandbox) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with what the device asks of sandboxes."""
    for name in section.require:
        if name not in LAYERS:
            yield "require", f"{name!r} is no layer of the sandbox{hint(name, LAYERS)}; there is {listing(LAYERS)}"
