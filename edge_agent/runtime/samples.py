"""Samples on their way from a source to a worker, and the count of what could not become one.

Plain `array`s, so that the agent's process needs no numpy; they go to the worker's socket as they are.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence

__all__ = ["MESSAGE_CHARACTERS_MAX", "BadPayload", "Faults", "Samples"]

MESSAGE_CHARACTERS_MAX = 400


class Samples:
    """Some rows in the order they were measured.

    `sequences` and `timestamps` (nanoseconds since 1970, UTC) are `array("q")` of `rows` items, `values` is an
    `array("d")` of `rows x len(columns)` items, row by row.
    """

    __slots__ = ("columns", "sequences", "timestamps", "values")

    def __init__(
        self, columns: tuple[str, ...], sequences: array[int], timestamps: array[int], values: array[float]
    ) -> None:
        self.columns = columns
        self.sequences = sequences
        self.timestamps = timestamps
        self.values = values

    @property
    def rows(self) -> int:
        """How many samples these are."""
        return len(self.sequences)

    def part(self, start: int, stop: int) -> Samples:
        """Return rows `start` to `stop` (exclusive) as a copy."""
        width = len(self.columns)
        return Samples(
            self.columns,
            self.sequences[start:stop],
            self.timestamps[start:stop],
            self.values[start * width : stop * width],
        )

    def select(self, columns: Sequence[str]) -> array[float]:
        """Return the values of `columns` in that order, row by row. `KeyError` names a column that is not there."""
        if tuple(columns) == self.columns:
            return self.values
        places = {name: place for place, name in enumerate(self.columns)}
        chosen = array("d", bytes(8 * self.rows * len(columns)))
        for place, name in enumerate(columns):
            chosen[place :: len(columns)] = self.values[places[name] :: len(self.columns)]
        return chosen


class BadPayload(Exception):
    """One message or row cannot become a sample: `kind` is what it is counted under, the text says why."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message[:MESSAGE_CHARACTERS_MAX])


class Faults(Counter[str]):
    """Counts per kind of fault (`missing column`, …), with the last message of each kind in `messages`."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[str, str] = {}

    def note(self, kind: str, message: str) -> None:
        """Count one fault and keep its message. Kinds are a closed set, so this stays small."""
        self[kind] += 1
        self.messages[kind] = message[:MESSAGE_CHARACTERS_MAX]
