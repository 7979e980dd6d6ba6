"""What became of published messages: one `Delivery` each, and the ledger of those the broker has not answered yet.

It opens no connection; the client tells it what the broker said.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from edge_agent.contract.errors import TransportError

__all__ = ["Deliveries", "Delivery", "packet_bytes"]


class Delivery:
    """The way of one published message to the broker.

    `describe` says whom we talk to and how the connection is; `forbidden` tells whether the caller must not wait.
    """

    def __init__(
        self, topic: str, size: int, *, describe: Callable[[], str], forbidden: Callable[[], bool] = lambda: False
    ) -> None:
        self.topic, self.packet_bytes = topic, size
        self._describe, self._forbidden = describe, forbidden
        self._settled = threading.Event()
        self._refusal = ""

    @property
    def done(self) -> bool:
        """Whether the broker has answered, with yes or no."""
        return self._settled.is_set()

    def settle(self, refusal: str) -> None:
        """Note the broker's answer: an empty `refusal` is a confirmation."""
        self._refusal = refusal
        self._settled.set()

    def wait(self, timeout_seconds: float) -> None:
        """Return when the broker has confirmed.

        Raises `TransportError` when it refused or did not answer in time, `RuntimeError` in a callback of the client:
        the answer is read by the very thread that would wait.
        """
        if self._forbidden():
            raise RuntimeError("Delivery.wait() inside a callback would block the thread that reads the answer")
        if not self._settled.wait(timeout_seconds):
            raise TransportError(f"{self.topic}: not confirmed within {timeout_seconds:g} s by {self._describe()}")
        if self._refusal:
            raise TransportError(f"{self.topic}: not taken by {self._describe()}: {self._refusal}")


class Deliveries:
    """The deliveries under way, by MQTT packet identifier. Safe to use from several threads."""

    def __init__(self) -> None:
        self._open: dict[int, Delivery] = {}
        self._lock = threading.Lock()

    def add(self, mid: int, delivery: Delivery) -> None:
        """Expect an answer under packet identifier `mid`."""
        with self._lock:
            self._open[mid] = delivery

    def settle(self, mid: int, refusal: str) -> None:
        """Pass the answer on; one that nobody expects is dropped."""
        with self._lock:
            delivery = self._open.pop(mid, None)
        if delivery is not None:
            delivery.settle(refusal)

    def fail_all(self, why: str) -> None:
        """Settle everything under way with the refusal `why`."""
        with self._lock:
            deliveries, self._open = list(self._open.values()), {}
        for delivery in deliveries:
            delivery.settle(why)

    def any_above(self, packet_bytes_max: int) -> bool:
        """Tell whether a packet under way is larger than `packet_bytes_max`."""
        with self._lock:
            return any(delivery.packet_bytes > packet_bytes_max for delivery in self._open.values())


def packet_bytes(topic: str, payload: bytes, properties: Mapping[str, str | bytes | int] | None = None) -> int:
    """Return an upper bound for the size of a PUBLISH packet (MQTT 5, §3.3)."""
    # A property is an identifier and up to 4 bytes, or a length of 2 bytes and what it says.
    extra = sum(5 if isinstance(one, int) else 3 + len(one) for one in (properties or {}).values())
    # Fixed header up to 5 bytes, topic with its length, packet identifier, property length of 1 to 4.
    return 5 + 2 + len(topic.encode()) + 2 + (4 if properties else 1) + extra + len(payload)
