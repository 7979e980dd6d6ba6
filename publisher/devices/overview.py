"""The state of a fleet at one moment: what each channel offers, and what every device last reported.

Reads the record and listens to the broker for a moment. Every device is shown with the standing of its last report.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_agent.contract.messages import ReleaseInfo
from publisher.config import Home, load_home
from publisher.devices.fleet import DeviceStatus, Fleet
from publisher.record import Record
from publisher.trust.repository import Channel
from publisher.uplink import connect

__all__ = ["ChannelStatus", "FleetStatus", "status"]


class ChannelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel offers now, by pipeline, and when the first of its roles expires, seconds UTC."""

    offered: dict[str, ReleaseInfo]
    expires: float


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is offered to a fleet and what its devices say.

    `unsigned_count` tells that reports count unsigned, since no device of the fleet is enrolled.
    """

    fleet: str
    broker: str
    channels: dict[str, ChannelStatus]
    devices: list[DeviceStatus]
    unsigned_count: bool = True


def status(*, home: str | Path | None = None) -> FleetStatus:
    """Return what is offered in each channel and what every device last reported.

    Raises `ConfigError`, `StoreError` for a damaged record, `TransportError` without the broker.
    """
    place = load_home(home)
    channels = {name: _channel(place, name) for name in place.channels}
    heard = Fleet.of(place)
    with connect(place) as client, heard.listening(client) as fleet:
        fleet.settle()
    return FleetStatus(
        fleet=place.fleet,
        broker=place.broker.url,
        channels=channels,
        devices=heard.devices(),
        unsigned_count=not heard.trusted.strict,
    )


def _channel(home: Home, name: str) -> ChannelStatus:
    channel = Channel(Record(home.record_location), home.fleet, name)
    return ChannelStatus(
        offered={pipeline: info for pipeline, (_, info) in channel.current().items()},
        expires=min(channel.expiries().values()),
    )
