"""Fieldcast on the workstation: pack, sign, push, watch. The command line only wraps what is here.

Names are resolved on first use, so that importing one room does not load them all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from publisher.backup.restoration import Restored as Restored
    from publisher.backup.restoration import restore as restore
    from publisher.backup.safekeeping import BackedUp as BackedUp
    from publisher.backup.safekeeping import backup as backup
    from publisher.broker import EmbeddedBroker as EmbeddedBroker
    from publisher.collection import Collection as Collection
    from publisher.collection import collect as collect
    from publisher.devices.fleet import DeviceOutcome as DeviceOutcome
    from publisher.devices.fleet import DeviceStatus as DeviceStatus
    from publisher.devices.fleet import Outcome as Outcome
    from publisher.devices.overview import ChannelStatus as ChannelStatus
    from publisher.devices.overview import FleetStatus as FleetStatus
    from publisher.devices.overview import status as status
    from publisher.founding import init as init
    from publisher.promotion import promote as promote
    from publisher.pushing import Ending as Ending
    from publisher.pushing import PushResult as PushResult
    from publisher.pushing import push as push
    from publisher.pushing import rollback as rollback
    from publisher.registry import Registry as Registry
    from publisher.registry import Version as Version
    from publisher.trust.chronicle import ChannelHistory as ChannelHistory
    from publisher.trust.chronicle import history as history
    from publisher.trust.renewal import refresh as refresh

_HOMES = {
    "BackedUp": "safekeeping",
    "ChannelHistory": "chronicle",
    "ChannelStatus": "overview",
    "Collection": "collection",
    "DeviceOutcome": "fleet",
    "DeviceStatus": "fleet",
    "EmbeddedBroker": "broker",
    "Ending": "pushing",
    "FleetStatus": "overview",
    "Outcome": "fleet",
    "PushResult": "pushing",
    "Registry": "registry",
    "Restored": "restoration",
    "Version": "registry",
    "backup": "safekeeping",
    "collect": "collection",
    "history": "chronicle",
    "promote": "promotion",
    "restore": "restoration",
    "init": "founding",
    "push": "pushing",
    "refresh": "renewal",
    "rollback": "pushing",
    "status": "overview",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"publisher.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
