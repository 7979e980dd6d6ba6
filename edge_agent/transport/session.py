"""What we tell paho and the broker about ourselves: protocol, limits, will, session (M3).

It makes a client that is not connected; `client` gives it its callbacks, `keeper` its life.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import msgspec
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.transport.address import Address

__all__ = ["PACKET_BYTES_MAX", "QUEUED_MAX", "Will", "connect_arguments", "new_paho"]

# No client of ours takes more (the largest envelope, its topic, and room), so none sends more either.
PACKET_BYTES_MAX = 2 * 1024 * 1024
INFLIGHT_MAX = 20
QUEUED_MAX = 256


class Will(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker publishes for us, retained and at QoS 1, when the connection ends without a goodbye."""

    topic: str
    payload: bytes


def new_paho(client_id: str, will: Will | None, username: str | None, password: str | None) -> paho.Client:
    """Return a paho client for MQTT 5 with our limits, without callbacks but the one that sets `TCP_NODELAY`."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
    client.suppress_exceptions = True
    client.max_inflight_messages_set(INFLIGHT_MAX)
    client.max_queued_messages_set(QUEUED_MAX)
    if will is not None:
        client.will_set(will.topic, will.payload, qos=1, retain=True)
    if username is not None:
        client.username_pw_set(username, password)
    client.on_socket_open = _no_delay
    return client


def connect_arguments(
    address: Address, *, keep_alive_seconds: int, clean_start: bool, session_expiry_seconds: int
) -> dict[str, Any]:
    """Return the arguments of paho's `connect_async`."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = session_expiry_seconds
    properties.MaximumPacketSize = PACKET_BYTES_MAX
    return {
        "host": address.host,
        "port": address.port,
        "keepalive": keep_alive_seconds,
        "clean_start": clean_start,
        "properties": properties,
    }


def publish_properties(given: Mapping[str, str | bytes | int] | None) -> Properties | None:
    """Return the properties of a PUBLISH as paho wants them, None for none."""
    if not given:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in given.items():
        setattr(properties, name, value)
    return properties


def _no_delay(_: object, __: object, connection: Any) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
