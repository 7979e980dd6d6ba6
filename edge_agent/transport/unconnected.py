"""A device that has no broker: the connection that is never made, and the source that has no blob.

What is said goes nowhere and nothing is heard; releases come with `edge-agent import`. It opens no socket and starts no
thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import TransportError
from edge_agent.transport.client import Client
from edge_agent.transport.delivery import Delivery

__all__ = ["Nowhere", "Unconnected"]


class Unconnected(Client):
    """A `Client` without a broker: never connected, whatever is asked of it."""

    def __init__(self, client_id: str) -> None:
        super().__init__("mqtt://localhost", client_id)

    @property
    def condition(self) -> str:
        """Say in words how the connection is."""
        return "no broker configured"

    def start(self) -> Client:
        """Do nothing: there is nothing to connect to."""
        return self

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 1,
        retain: bool = False,
        *,
        properties: Mapping[str, str | bytes | int] | None = None,
    ) -> Delivery:
        """Raise `TransportError`: nobody hears it, and nothing may pile up."""
        raise TransportError(f"{topic}: not sent, this device has no broker")


class Nowhere:
    """Where a device without broker and mirrors gets blobs from: only what was imported is there."""

    name = "import"

    def fetch(self, ref: BlobRef, target: Path, *, timeout_seconds: float, stop: threading.Event) -> None:
        """Raise `TransportError` with what to do."""
        raise TransportError(
            f"blob {ref.digest.short} is not on this device, which has no broker and no mirror: `edge-agent import DIR`"
        )
