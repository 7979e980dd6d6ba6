"""Renews a channel's freshness: a new timestamp and snapshot over the same releases (T6).

Needs only those two keys, so it may run from a timer on an always-on host. It offers nothing new to anybody.
"""

from __future__ import annotations

import functools
from pathlib import Path

from edge_agent.contract.manifest import parse_manifest
from publisher.collection import offered_manifests
from publisher.config import load_home
from publisher.contention import rebased
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.passphrase import Passphrase, ask
from publisher.trust.repository import Channel
from publisher.uplink import Uplink, connect

__all__ = ["offered", "refresh"]


def refresh(
    channels: tuple[str, ...] = (), *, home: str | Path | None = None, passphrase: Passphrase = ask
) -> dict[str, float]:
    """Sign timestamp and snapshot of `channels` (default: all) anew and announce them.

    Returns when each channel's metadata expires now, seconds UTC. Raises `ConfigError`, `AuthorError`,
    `TransportError`; nothing is signed unless the broker answers.
    """
    place = load_home(home)
    names = [place.require_channel(name) for name in channels] or place.channels
    secret = passphrase if isinstance(passphrase, str) else passphrase()
    keys, record = KeyStore(place.keys), Record(place.record_location)
    for name in names:
        Channel(record, place.fleet, name).unlock(keys, secret, "timestamp")
    expiries = {}
    with connect(place) as client:
        for name in names:
            channel = Channel(record, place.fleet, name)
            uplink = Uplink(client, channel)
            uplink.require_one_history()
            uplink.send_blobs(offered(channel))  # a broker may have lost its memory since they were pushed
            uplink.announce(rebased(functools.partial(channel.refresh, keys=keys, passphrase=secret)))
            expiries[name] = min(channel.expiries().values())
    return expiries


def offered(channel: Channel) -> list[bytes]:
    """Return the blobs of every release that the channel offers, to members of a rollout and to all others."""
    manifests = [parse_manifest(data) for data in offered_manifests(channel)]
    refs = dict.fromkeys(ref for manifest in manifests for ref in manifest.blobs())
    return [channel.record.get_blob(ref) for ref in refs]
