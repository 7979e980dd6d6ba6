"""What fetching needs of a client: to ask for retained messages, and to know how the connection is. Types only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

__all__ = ["Subscriber"]


class Subscriber(Protocol):
    """What the puller needs of a client: `edge_agent.transport.client.Client` is one."""

    @property
    def condition(self) -> str:
        """How the connection is, in words."""
        ...

    @property
    def connection(self) -> int:
        """The number of the present connection, or of the last one."""
        ...

    def ask(self, topics: Iterable[str]) -> int:
        """Ask for topics on this connection; its number, 0 without one."""
        ...

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Ask for them no more."""
        ...

    def refusal(self, topic: str) -> str:
        """Why the broker refused a topic, or nothing."""
        ...
