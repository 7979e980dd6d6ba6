"""`publisher preflight`: a TARGET packed, tried here and elsewhere, and judged for every device that has reported.

Decides where the devices' profiles come from: the fleet of the home that applies, if there is one. A broker that does
not answer costs only their verdicts. It signs and sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.errors import ConfigError, TransportError
from publisher.comparison import subject
from publisher.config import Home, chosen_home, find_home, load_home
from publisher.devices.fleet import Fleet
from publisher.packaging import pack
from publisher.preflight import Finding, Preflight, preflight
from publisher.uplink import connect

__all__ = ["Checked", "check", "reported"]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What preflight found about a pipeline: `preflight` is what was seen here, in words."""

    pipeline: str
    preflight: str
    findings: list[Finding]
    warnings: list[str]
    refused: bool


def check(
    target: str | None = None,
    *,
    root: Path | None = None,
    pythons: Iterable[str] = (),
    images: Iterable[str | Path] = (),
    home: str | Path | None = None,
) -> Checked:
    """Pack TARGET and try it; see `publisher.preflight` for `pythons` and `images`, and for what is raised."""
    pipeline = subject.load(target, root=root)
    package = pack(pipeline, root=root)
    devices, warnings = _devices(home)
    found: Preflight = preflight(package, pipeline=pipeline, pythons=pythons, images=images, profiles=devices)
    return Checked(
        pipeline=package.manifest.pipeline,
        preflight=found.words,
        findings=found.findings,
        warnings=[*package.warnings, *found.warnings, *warnings],
        refused=found.refused,
    )


def reported(fleet: Fleet) -> list[tuple[str, dict[str, Any] | None]]:
    """Return every device that was ever heard of, with the profile in its last report that counts."""
    known = {one.device: one.report if one.counts else None for one in fleet.devices()}
    return [(name, report.profile if (report := known.get(name)) else None) for name in sorted({*known, *fleet.online})]


def _devices(home: str | Path | None) -> tuple[list[tuple[str, dict[str, Any] | None]], list[str]]:
    """Return the fleet's devices with their profiles, and a warning if they could not be asked for."""
    place = _home(home)
    if place is None:
        return [], []
    try:
        with connect(place) as client, Fleet.of(place).listening(client) as fleet:
            fleet.settle()
            return reported(fleet), []
    except TransportError as error:
        return [], [f"devices were not judged: {error}"]


def _home(named: str | Path | None) -> Home | None:
    """Return the home that applies; without one, there is no fleet to ask. Raises `ConfigError` for one named."""
    try:
        path = find_home(named)
    except ConfigError:
        if chosen_home(named) is not None:
            raise
        return None
    return load_home(path)
