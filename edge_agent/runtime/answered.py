"""Which messages were answered lately, by packet identifier and content: a redelivered one is known again.

The newest `ANSWERED_MAX` are remembered, in arrays of one size: as a dictionary they would be most of what the agent
holds of a fast stream.
"""

from __future__ import annotations

from array import array

__all__ = ["ANSWERED_MAX", "Answered"]

ANSWERED_MAX = 16_384
_IDENTIFIERS = 1 << 16
_NONE = -1


class Answered:
    """A ring of packet identifiers and checksums (crc32) of contents."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._place, self._identifiers, self._contents = array("i"), array("i"), array("q")
        self._next = 0

    def add(self, packet_id: int, content: int) -> None:
        """Remember a message as the newest; the oldest goes for it."""
        if not self._place:  # a source at QoS 0 never needs it
            self._place = array("i", [_NONE]) * _IDENTIFIERS  # of an identifier in the ring
            self._identifiers = array("i", [_NONE]) * ANSWERED_MAX
            self._contents = array("q", [_NONE]) * ANSWERED_MAX
        if (known := self._place[packet_id]) != _NONE:
            self._contents[known] = self._identifiers[known] = _NONE
        place, self._next = self._next, (self._next + 1) % ANSWERED_MAX
        if (oldest := self._identifiers[place]) != _NONE:
            self._place[oldest] = _NONE
        self._identifiers[place], self._contents[place], self._place[packet_id] = packet_id, content, place

    def has(self, packet_id: int, content: int) -> bool:
        """Tell whether the message with this identifier was answered, and had this content."""
        place = self._place[packet_id] if self._place else _NONE
        return place != _NONE and self._contents[place] == content

    def has_content(self, content: int) -> bool:
        """Tell whether a message of this content was answered under whatever identifier."""
        return content in self._contents
