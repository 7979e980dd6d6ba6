"""Fieldcast on the workstation: pack, sign, push, watch. The command line only wraps what is here.

Names are resolved on first use, so that importing one room does not load them all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from publisher.broker import EmbeddedBroker as EmbeddedBroker
    from publisher.chronicle import ChannelHistory as ChannelHistory
    from publisher.chronicle import history as history
    from publisher.collection import Collection as Collection
    from publisher.collection import collect as collect
    from publisher.fleet import DeviceOutcome as DeviceOutcome
    from publisher.fleet import DeviceStatus as DeviceStatus
    from publisher.fleet import Outcome as Outcome
    from publisher.founding import init as init
    from publisher.overview import ChannelStatus as ChannelStatus
    from publisher.overview import FleetStatus as FleetStatus
    from publisher.overview import status as status
    from publisher.promotion import promote as promote
    from publisher.pushing import Ending as Ending
    from publisher.pushing import PushResult as PushResult
    from publisher.pushing import push as push
    from publisher.pushing import rollback as rollback
    from publisher.registry import Registry as Registry
    from publisher.registry import Version as Version
    from publisher.renewal import refresh as refresh
    from publisher.restoration import Restored as Restored
    from publisher.restoration import restore as restore
    from publisher.safekeeping import BackedUp as BackedUp
    from publisher.safekeeping import backup as backup

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
