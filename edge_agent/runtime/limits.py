"""What a worker may use, and which layers of its sandbox a device insists on (R6).

It decides how a device's limits and a release's own join, and whether a sandbox is enough; it applies nothing
(`edge_agent.runtime.sandbox` does, in the worker). The agent imports this one, and no ctypes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from edge_agent.contract.errors import Blame, Reason, ReasonCode

__all__ = ["DEFAULT", "LAYERS", "MIB", "Confinement", "Limits", "lowest", "unmet"]

MIB = 1024 * 1024
LAYERS = (
    "new_privileges",
    "capabilities",
    "parent_death",
    "tracing",
    "core_dumps",
    "memory",
    "open_files",
    "file_size",
    "processes",
    "cpu",
    "file_system",
    "system_calls",
    "network",
    "signals",
)
"""The layers of a sandbox, in the order in which they are applied and shown."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one worker may use; None leaves the limit that it was started with.

    `parent` is the process id of the agent; None ties the worker to whoever is its parent by now, which misses an agent
    that has ended already; 0 is for a worker that a launcher started, which `lifeline` ties to the agent: a socket
    whose other end the agent holds. `memory_bytes` bounds what the worker has for itself; None is half of the machine's
    memory. `processes` counts all threads of the user, the agent's included. `release` is the directory that the worker
    may read; empty: it may read no release. `imports` are the modules that a spare worker imports while it waits.
    """

    parent: int | None = None
    memory_bytes: int | None = None
    open_files: int | None = 256
    file_bytes: int | None = 64 * MIB
    processes: int | None = None
    release: str = ""
    lifeline: int = -1
    imports: tuple[str, ...] = ()


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """How a slot's workers are kept: their limits, the layers without which none may run, and who starts them.

    `launcher` is the path of a unix socket whose listener starts workers; empty: they are the agent's own children.
    """

    limits: Limits = Limits()
    require: tuple[str, ...] = ()
    launcher: str = ""


DEFAULT = Confinement()
"""A child of the agent under the usual limits, whatever its sandbox holds."""


def lowest(*values: int | None) -> int | None:
    """Return the lowest of the limits that are set (above 0), None where none is."""
    return min((value for value in values if value), default=None)


def unmet(require: Iterable[str], sandbox: Mapping[str, str]) -> Reason | None:
    """Return why a worker with this sandbox must not run here; None when every required layer is applied."""
    gaps = [
        f"{layer} is {sandbox.get(layer, 'not known')}"
        for layer in require
        if not sandbox.get(layer, "").startswith("applied")
    ]
    if not gaps:
        return None
    words = f"this device's [sandbox] require asks for more than its workers get: {'; '.join(gaps)}"
    return Reason(code=ReasonCode.SANDBOX, message=words, blame=Blame.ENVIRONMENT)
