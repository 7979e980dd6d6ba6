"""Samples from subscribed nodes of an OPC UA server, through asyncua, in a thread with an event loop of its own.

A sample is the latest value of every node, whenever one changed: a subscription tells changes only, and a value holds
until the next (OPC UA part 4, 5.13). A node whose status is bad has no value, so there is no sample until it is good.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from datetime import UTC, datetime
from typing import Any

from edge_agent.config.credentials import secret
from edge_agent.config.plugs import OpcuaInput
from edge_agent.runtime.outside import OutsideSource, Talk, Unreachable

__all__ = ["BAD_STATUS", "opcua_source"]

BAD_STATUS = "bad status"
CONNECT_SECONDS = 4.0
LOOK_SECONDS = 0.2
CHECK_SECONDS = 1.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Changes:
    """Hears changes of nodes, in the event loop, and tells samples. asyncua calls its methods by name."""

    def __init__(self, talk: Talk, paths: dict[Any, str]) -> None:
        self._talk, self._paths = talk, paths
        self._latest: dict[str, Any] = {}
        self._changed: set[str] = set()
        self._time: int | None = None

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        """Take one change. A node that changes twice makes two samples."""
        path = self._paths[node.nodeid]
        status = data.monitored_item.Value.StatusCode
        if path in self._changed:
            self.flush()
        if status is not None and not status.is_good():
            self._latest.pop(path, None)
            self._talk.fault(BAD_STATUS, f"{path}: {status.name}")
            return
        if not self._changed:
            asyncio.get_running_loop().call_soon(self.flush)
        self._latest[path] = value
        self._changed.add(path)
        stamp = data.monitored_item.Value.SourceTimestamp
        if stamp is not None:
            self._time = max(self._time or 0, _nanoseconds(stamp))

    def flush(self) -> None:
        """Tell the sample that is due."""
        changed, self._changed = self._changed, set()
        stamp, self._time = self._time, None
        if changed and len(self._latest) == len(self._paths):
            self._talk.tell(dict(self._latest), stamp)


def _nanoseconds(stamp: datetime) -> int:
    since = (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)) - EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000


async def _subscribe(config: OpcuaInput, talk: Talk) -> None:
    asyncua: Any = importlib.import_module("asyncua")
    client = asyncua.Client(config.url, timeout=CONNECT_SECONDS)
    if config.username:
        client.set_user(config.username)
        client.set_password((secret(config.password_file, config.credential) or b"").decode())
    try:
        async with client:
            paths = [column.path for column in config.columns.values()]
            nodes = [client.get_node(path) for path in paths]
            changes = _Changes(talk, {node.nodeid: path for node, path in zip(nodes, paths, strict=True)})
            subscription = await client.create_subscription(config.interval_ms, changes)
            await subscription.subscribe_data_change(nodes, queuesize=100)
            looked = 0.0
            while not talk.stopping.is_set():
                await asyncio.sleep(LOOK_SECONDS)
                looked += LOOK_SECONDS
                if looked >= CHECK_SECONDS:
                    await client.check_connection()
                    looked = 0.0
    except (asyncua.ua.UaError, TimeoutError, asyncio.CancelledError) as error:
        raise Unreachable(f"{type(error).__name__} {error}".strip()) from None


def opcua_source(config: OpcuaInput, **options: Any) -> OutsideSource:
    """Return the source of a slot; `options` are those of `OutsideSource`."""

    def work(talk: Talk) -> None:
        # What it logs on every lost connection is told once, by the source.
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)
        asyncio.run(_subscribe(config, talk))

    return OutsideSource(config, config.url, work, **options)
