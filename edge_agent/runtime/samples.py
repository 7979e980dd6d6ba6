"""Samples on their way from a source to a worker, and the count of what could not become one.

Plain `array`s and lists, so that the agent's process needs no numpy. Where all columns are numbers the values go to the
worker's socket as they are.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from edge_agent.contract.dtypes import DEFAULT

__all__ = ["MESSAGE_CHARACTERS_MAX", "BadPayload", "Cells", "Faults", "Samples", "bytes_of"]

MESSAGE_CHARACTERS_MAX = 400
NUMBER_BYTES = 8

Cells: TypeAlias = "array[float] | list[Any]"
"""Values row by row: `array("d")`, or a list of cells as `edge_agent.runtime.decode` packs them."""


class Samples:
    """Some rows in the order they were measured.

    `sequences` and `timestamps` (nanoseconds since 1970, UTC) are `array("q")` of `rows` items, `values` are
    `rows x len(columns)` items, row by row: an `array("d")` without `dtypes`, which means float64 throughout, otherwise
    a list of cells, whose dtypes these are by column. `marks` is empty, or has what the source knows each sample by
    should it come once more.
    """

    __slots__ = ("columns", "dtypes", "marks", "sequences", "timestamps", "values")

    def __init__(
        self,
        columns: tuple[str, ...],
        sequences: array[int],
        timestamps: array[int],
        values: Cells,
        dtypes: tuple[str, ...] = (),
        marks: array[int] | None = None,
    ) -> None:
        self.columns = columns
        self.sequences = sequences
        self.timestamps = timestamps
        self.values = values
        self.dtypes = dtypes
        self.marks: array[int] = array("q") if marks is None else marks

    @classmethod
    def none(cls, columns: tuple[str, ...], dtypes: tuple[str, ...] = ()) -> Samples:
        """Return no samples yet, to be appended to."""
        return cls(columns, array("q"), array("q"), [] if dtypes else array("d"), dtypes)

    @property
    def rows(self) -> int:
        """How many samples these are."""
        return len(self.sequences)

    @property
    def bytes(self) -> int:
        """About how many bytes their values are on the wire."""
        return bytes_of(self.values) if self.dtypes else NUMBER_BYTES * len(self.values)

    def append(self, sequence: int, timestamp: int, values: Iterable[Any]) -> None:
        """Add one sample; `values` are as this holds them."""
        self.sequences.append(sequence)
        self.timestamps.append(timestamp)
        self.values.extend(values)

    def extend(self, more: Samples) -> None:
        """Add samples of the same columns from the same source."""
        self.sequences.extend(more.sequences)
        self.timestamps.extend(more.timestamps)
        self.values.extend(more.values)
        self.marks.extend(more.marks)

    def part(self, start: int, stop: int) -> Samples:
        """Return rows `start` to `stop` (exclusive) as a copy."""
        width = len(self.columns)
        return Samples(
            self.columns,
            self.sequences[start:stop],
            self.timestamps[start:stop],
            self.values[start * width : stop * width],
            self.dtypes,
            self.marks[start:stop],
        )

    def drop(self, rows: int) -> None:
        """Forget the oldest `rows`."""
        del self.sequences[:rows], self.timestamps[:rows], self.values[: rows * len(self.columns)], self.marks[:rows]

    def select(self, columns: Sequence[str]) -> Cells:
        """Return the values of `columns` in that order, row by row. `KeyError` names a column that is not there.

        An `array("d")` if these columns are all float64, whatever the others are.
        """
        if tuple(columns) == self.columns:
            return self.values
        places = {name: place for place, name in enumerate(self.columns)}
        width, chosen = len(self.columns), [places[name] for name in columns]
        if self.dtypes:
            cells: list[Any] = [None] * (self.rows * len(chosen))
            for at, place in enumerate(chosen):
                cells[at :: len(chosen)] = self.values[place::width]
            return array("d", cells) if all(self.dtypes[place] == DEFAULT for place in chosen) else cells
        numbers = array("d", bytes(NUMBER_BYTES * self.rows * len(chosen)))
        for at, place in enumerate(chosen):
            numbers[at :: len(chosen)] = self.values[place::width]  # type: ignore[assignment]
        return numbers


def bytes_of(cells: Iterable[Any]) -> int:
    """Return about how many bytes cells are on the wire."""
    return sum(len(cell) if type(cell) in (str, bytes) else NUMBER_BYTES for cell in cells)


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
