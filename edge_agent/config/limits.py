"""The sections of the configuration file that say what a device allows: when, how much, under which conditions.

A field is a key of the file, its default what holds when the key is missing. Nothing is checked here, and nothing is
done with them: `faults`, `health_limits` and `confinement` do the one, `policies` and the runtime the other.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_agent.config.tables import Section

__all__ = [
    "Condition",
    "HealthLimits",
    "IncidentLimits",
    "LocalPolicy",
    "Sandbox",
    "StoreLimits",
    "WorkerLimits",
]


class Condition(Section, frozen=True, kw_only=True):
    """What must hold before an update goes on: the number in `file` lies within bounds, or `command` exits with 0.

    `seconds` is how long the command may take.
    """

    file: Path | None = None
    minimum: float | None = None
    maximum: float | None = None
    command: list[str] = msgspec.field(default_factory=list)
    seconds: float = 5.0


class LocalPolicy(Section, frozen=True, kw_only=True):
    """When updates of a slot may be fetched and activated: daily windows such as `22:00-05:00` or `22:00-05:00 UTC`.

    No window means at any time. While the file `lock` is there, or a condition does not hold, nothing new begins. After
    the agent or the machine died, the committed release runs alone for `settle_seconds` before a candidate starts.
    """

    fetch: list[str] = msgspec.field(default_factory=list)
    activate: list[str] = msgspec.field(default_factory=list)
    lock: Path | None = None
    require: list[Condition] = msgspec.field(default_factory=list)
    settle_seconds: float = 10.0


class StoreLimits(Section, frozen=True, kw_only=True):
    """What is kept on the device: committed releases of each slot, the active one included, and blobs in MiB.

    Blobs of kept releases stay whatever the budget.
    """

    keep: int = 3
    budget_mb: int = 1024


class HealthLimits(Section, frozen=True, kw_only=True):
    """What this device asks of releases on a slot beyond their manifests' health policy; the stricter of both holds.

    The keys are the policy's. Probation may only become longer, everything else only tighter.
    """

    start_seconds: float | None = None
    probation_seconds: float | None = None
    probation_frames: int | None = None
    shadow_frames: int | None = None
    error_rate_max: float | None = None
    heartbeat_seconds: float | None = None
    latency_ms_max: float | None = None
    latency_ratio_max: float | None = None
    memory_mb_max: float | None = None
    memory_growth_mb_max: float | None = None
    disagreement_max: float | None = None
    rows_ratio_max: float | None = None
    printed_kb_max: float | None = None
    needs_broker: bool | None = None


class IncidentLimits(Section, frozen=True, kw_only=True):
    """What is kept of releases that fail: `keep` incidents, each with `frames` input frames in `kilobytes` at most.

    `frames = 0` keeps no input. Columns in `redact` are left out of them.
    """

    keep: int = 20
    frames: int = 8
    kilobytes: int = 256
    redact: list[str] = msgspec.field(default_factory=list)


class WorkerLimits(Section, frozen=True, kw_only=True):
    """What one worker may use at the most; a release may ask for less. 0 is the default.

    Memory is what the worker has for itself, by default half of the machine's. `open_files` is 256 by default,
    `file_mb` (the size of a file in memory; others it cannot write) 64. `tasks` counts all threads of the agent's user;
    no limit by default, and none for root.
    """

    memory_mb: int = 0
    open_files: int = 0
    file_mb: int = 0
    tasks: int = 0


class Sandbox(Section, frozen=True, kw_only=True):
    """What workers' sandboxes must hold: the layers in `require`, without which no release runs here.

    `launcher` is the unix socket of who starts workers, as systemd does; without it they are the agent's own children.
    """

    require: list[str] = msgspec.field(default_factory=list)
    launcher: Path | None = None
