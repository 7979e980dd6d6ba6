"""Which topics a client wants, and which of them the broker's session has. Pure bookkeeping.

It decides what to ask for after a connect: everything when the broker kept no session, otherwise only the difference.
It knows nothing of sockets; `client` sends what it says.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Subscriptions"]


class Subscriptions:
    """Wanted topics with their QoS, and what the broker said to them."""

    def __init__(self) -> None:
        self._wanted: dict[str, int] = {}
        self._granted: set[str] = set()
        self._refusals: dict[str, str] = {}

    def want(self, topics: Iterable[str], qos: int) -> list[tuple[str, int]]:
        """Note the wish and return it as (topic, QoS) pairs to ask for now, if connected."""
        pairs = [(topic, qos) for topic in topics]
        self._wanted.update(pairs)
        return pairs

    def drop(self, topics: Iterable[str]) -> list[str]:
        """Forget topics and return them. Until `released`, a kept session is assumed to have them still."""
        names = list(topics)
        for name in names:
            self._wanted.pop(name, None)
            self._refusals.pop(name, None)
        return names

    def released(self, topics: Iterable[str]) -> None:
        """Note that the broker was told to forget `topics`."""
        self._granted.difference_update(topics)

    def answered(self, topic: str, refusal: str) -> None:
        """Note the broker's answer: an empty `refusal` grants."""
        if refusal:
            self._refusals[topic] = refusal
        else:
            self._refusals.pop(topic, None)
            self._granted.add(topic)

    def refusal(self, topic: str) -> str:
        """Return why the broker refused `topic`, or an empty string."""
        return self._refusals.get(topic, "")

    def has(self, topic: str) -> bool:
        """Tell whether the broker has granted `topic`."""
        return topic in self._granted

    def connected(self, session_present: bool) -> tuple[list[tuple[str, int]], list[str]]:
        """Return what to subscribe to and what to unsubscribe from, given whether the broker kept our session."""
        if not session_present:
            self._granted.clear()
        asks = [(topic, qos) for topic, qos in self._wanted.items() if topic not in self._granted]
        return asks, sorted(self._granted - self._wanted.keys())
