"""Takes up envelopes that came with `edge-agent import`: through the same door as those from the broker.

A request carries the envelope, so it outlives restarts; it stays open until there is a verdict. It decides nothing
about trust: the envelope is announced like any other, and the answer is what became of it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.update.store import Store, Wish

__all__ = ["ACCEPTED", "IMPORT", "WAITING_MAX", "Imports", "argument_of", "envelope_of"]

IMPORT = "import"
ACCEPTED = "accepted"
WAITING_MAX = 8
"""So many imports wait for the agent at most: each holds an envelope."""
AGAIN_SECONDS = 5.0


class _Begun(msgspec.Struct):
    envelope: bytes
    at: float


class Imports:
    """Requests of kind `IMPORT`. `announced(channel, envelope, now)` is where envelopes from the broker go too."""

    def __init__(self, store: Store, announced: Callable[[str, bytes, float], None]) -> None:
        self._store, self._announced = store, announced
        self._begun: dict[int, _Begun] = {}

    def look(self, wish: Wish, now: float) -> str | None:
        """Return the answer to a request, None while the envelope is being judged."""
        begun = self._begun.get(wish.number)
        if begun is None:
            envelope = envelope_of(wish)
            if envelope is None:
                return "refused: the request is damaged, import again"
            begun = self._begun[wish.number] = _Begun(envelope, now)
            self._announced(wish.slot, envelope, now)
        answer = self._verdict(wish.slot, begun)
        if answer is not None:
            del self._begun[wish.number]
        elif abs(now - begun.at) > AGAIN_SECONDS:  # a later one took its place in the queue
            begun.at = now
            self._announced(wish.slot, begun.envelope, now)
        return answer

    def _verdict(self, channel: str, begun: _Begun) -> str | None:
        trust, refusal = self._store.trust(channel), self._store.refusal(channel)
        if trust is not None and trust.envelope == begun.envelope:
            return f"{ACCEPTED}: channel {channel}"
        if refusal is not None and refusal.at >= begun.at and refusal.digest == Digest.of(begun.envelope):
            return f"refused: {'; '.join(map(str, refusal.reasons))}"
        return None


def argument_of(envelope: bytes) -> str:
    """Return the envelope as the argument of a request."""
    return base64.b64encode(envelope).decode("ascii")


def envelope_of(wish: Wish) -> bytes | None:
    """Return the envelope that a request carries, None if it is damaged."""
    try:
        return base64.b64decode(wish.argument, validate=True) or None
    except (binascii.Error, ValueError):
        return None
