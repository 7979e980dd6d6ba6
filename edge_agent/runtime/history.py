"""The last samples of a slot, kept to warm a fresh worker's windows before it sees live data.

It keeps as many as releases ask for, and of texts and the like no more than `BYTES_MAX`: a device's memory comes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from edge_agent.runtime.samples import Samples

__all__ = ["BYTES_MAX", "History", "joined"]

BYTES_MAX = 16 << 20


class History:
    """The newest samples, at least as many as asked for if they fit, in the pieces they came in."""

    def __init__(self, pieces: Iterable[Samples] = ()) -> None:
        self._pieces: deque[Samples] = deque(pieces)
        self._rows = sum(piece.rows for piece in self._pieces)
        self._bytes = sum(map(_bytes, self._pieces))

    def add(self, samples: Samples, wanted: int) -> None:
        """Append samples and drop what is not among the last `wanted` rows any more."""
        self._pieces.append(samples)
        self._rows += samples.rows
        self._bytes += _bytes(samples)
        self.trim(wanted)

    def trim(self, wanted: int) -> None:
        """Drop what is not among the last `wanted` rows."""
        while self._pieces and (self._rows - self._pieces[0].rows >= wanted or self._bytes > BYTES_MAX):
            oldest = self._pieces.popleft()
            self._rows -= oldest.rows
            self._bytes -= _bytes(oldest)

    def clear(self) -> None:
        """Forget everything: the stream started anew."""
        self._pieces.clear()
        self._rows = self._bytes = 0

    def batches(self, rows_max: int, batches_max: int) -> Iterator[Samples]:
        """Yield all kept samples, joined and cut into pieces of `rows_max` rows, larger ones if those were too many."""
        whole = joined(self._pieces)
        if whole is None:
            return
        rows_max = max(rows_max, -(-whole.rows // batches_max))
        for start in range(0, whole.rows, rows_max):
            yield whole.part(start, min(start + rows_max, whole.rows))


def joined(pieces: Iterable[Samples]) -> Samples | None:
    """Return the pieces as one copy without marks, None for none."""
    whole: Samples | None = None
    for piece in pieces:
        if whole is None:
            whole = Samples.none(piece.columns, piece.dtypes)
        whole.sequences.extend(piece.sequences)
        whole.timestamps.extend(piece.timestamps)
        whole.values.extend(piece.values)
    return whole


def _bytes(samples: Samples) -> int:
    """Return what counts towards the bound: numbers have none of their own, their rows are few bytes."""
    return samples.bytes if samples.dtypes else 0
