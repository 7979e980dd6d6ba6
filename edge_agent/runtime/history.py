"""The last samples of a slot, kept to warm a fresh worker's windows before it sees live data."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from edge_agent.runtime.samples import Samples

__all__ = ["History"]


class History:
    """The newest samples, at least as many as asked for, in the pieces they came in."""

    def __init__(self) -> None:
        self._pieces: deque[Samples] = deque()
        self._rows = 0

    def add(self, samples: Samples, wanted: int) -> None:
        """Append samples and drop what is not among the last `wanted` rows any more."""
        self._pieces.append(samples)
        self._rows += samples.rows
        while self._pieces and self._rows - self._pieces[0].rows >= wanted:
            self._rows -= self._pieces.popleft().rows

    def clear(self) -> None:
        """Forget everything: the stream started anew."""
        self._pieces.clear()
        self._rows = 0

    def batches(self, rows_max: int, *more: Samples) -> Iterator[Samples]:
        """Yield all kept samples and then `more`, joined and cut into pieces of at most `rows_max` rows."""
        pieces = [*self._pieces, *more]
        if not pieces:
            return
        joined = Samples(pieces[0].columns, pieces[0].sequences[:], pieces[0].timestamps[:], pieces[0].values[:])
        for piece in pieces[1:]:
            joined.sequences.extend(piece.sequences)
            joined.timestamps.extend(piece.timestamps)
            joined.values.extend(piece.values)
        for start in range(0, joined.rows, rows_max):
            yield joined.part(start, min(start + rows_max, joined.rows))
