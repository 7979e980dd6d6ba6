"""What the data path is told of a release: where its files lie, what it takes and gives, and how it is kept.

It is made from the manifest and the device's configuration by whoever knows both, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.manifest import HealthPolicy, OutputSpec
from edge_agent.runtime.limits import DEFAULT, Confinement

__all__ = ["Plan", "spare_modules"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the lane needs to know of a release: files, columns, policy, and how many past samples warm it up.

    `spare` are the modules that a spare worker of the slot imports while it waits; None: the slot keeps none.
    """

    key: int
    release: str
    root: Path
    columns: list[str]
    output: OutputSpec
    health: HealthPolicy
    history: int = 0
    tunables: dict[str, Any] = {}
    confinement: Confinement = DEFAULT
    spare: tuple[str, ...] | None = None


def spare_modules(requires: Iterable[str]) -> tuple[str, ...]:
    """Return what a spare imports ahead for releases that require what this one does: what takes long, and is usual."""
    models = any(one.startswith("onnxruntime") for one in requires)
    return ("numpy", "onnxruntime") if models else ("numpy",)
