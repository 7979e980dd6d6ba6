"""Which release a rollback goes back to: always further back, and never to what devices have condemned.

It reads the channel and the devices' reports, and signs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.contract.errors import AuthorError, ConfigError, ReasonCode
from edge_agent.contract.messages import ReleaseInfo
from publisher.config import Home
from publisher.devices.fleet import Fleet
from publisher.trust.repository import Channel
from publisher.uplink import connect

__all__ = ["condemned", "earlier", "only_pipeline"]


def only_pipeline(channel: Channel) -> str:
    """Return the channel's pipeline. Raises `ConfigError` if it has none or several."""
    names = sorted(channel.current())
    if not names:
        raise ConfigError(f"channel {channel.name} has no releases yet: there is nothing to go back to")
    if len(names) > 1:
        raise ConfigError(f"which pipeline? channel {channel.name} has {', '.join(names)}")
    return names[0]


def earlier(
    channel: Channel, pipeline: str, sequence: int | None, condemned_by_devices: Callable[[str], set[str]]
) -> ReleaseInfo:
    """Return release `sequence`, or the newest from before the bytes offered now first came that nobody condemned.

    `condemned_by_devices(pipeline)` is asked only when it matters. Raises `ConfigError` for what is not there,
    `AuthorError` when there is nothing to go back to.
    """
    current = channel.current().get(pipeline)
    if current is None:
        known = ", ".join(sorted(channel.current())) or "none yet"
        raise ConfigError(f"channel {channel.name} has no pipeline {pipeline!r}; it has {known}")
    listed = [one for one in channel.releases() if one.pipeline == pipeline]
    if sequence is not None:
        return _numbered(channel, pipeline, sequence, listed)
    # What is offered may be a rollback itself: go back from where its bytes first came, not to what was just left.
    first = min(one.sequence for one in listed if one.digest == current[1].digest)
    before = [one for one in listed if one.sequence < first]
    if not before:
        raise AuthorError(f"no release of {pipeline} before {current[1].name} has other bytes: nothing to go back to")
    bad = condemned_by_devices(pipeline)
    good = [one for one in before if one.digest not in bad]
    if not good:
        raise AuthorError(f"devices have condemned every earlier release of {pipeline}: push a fixed one")
    return max(good, key=lambda one: one.sequence)


def condemned(home: Home, pipeline: str) -> set[str]:
    """Return the manifests that a device last reported as rolled back, or as refused for having failed before."""
    with connect(home) as client, Fleet.of(home).listening(client) as fleet:
        fleet.settle()
        slots = [slot for report in fleet.reports.values() for slot in report.slots if slot.pipeline == pipeline]
    return {
        slot.last_digest
        for slot in slots
        if slot.state in ("rolled_back", "reverted")
        or any(reason.code is ReasonCode.QUARANTINE for reason in slot.reasons)
    }


def _numbered(channel: Channel, pipeline: str, sequence: int, listed: list[ReleaseInfo]) -> ReleaseInfo:
    for one in listed:
        if one.sequence == sequence:
            return one
    known = ", ".join(one.name for one in listed)
    raise ConfigError(f"channel {channel.name} has no release {pipeline}@{sequence}; it has {known}")
