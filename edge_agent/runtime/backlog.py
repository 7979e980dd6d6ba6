"""What a worker that computes along has yet to see, because it is not done with earlier batches (R2).

A release that takes 15 ms for one row, and hardly more for a hundred, keeps up with a sensor of 100 Hz once it serves:
then it is given whatever has come meanwhile in one go. Beside a faster release it must not be given row by row either,
or it is condemned for what it would never have to do. So a few batches may be unanswered; what comes then is joined,
and shown to it without being compared. It decides nothing about who falls behind too far but how much may wait.
"""

from __future__ import annotations

from collections import deque

from edge_agent.runtime.history import joined
from edge_agent.runtime.samples import Samples

__all__ = ["LAG_MAX", "Backlog"]

LAG_MAX = 8
BATCHES_MAX = 512
BYTES_MAX = 16 << 20
# In one go: at first so many that a slow one still answers in time, more if that does not get it there.
ROWS_MIN, ROWS_MAX = 64, 1024
ROUNDS = 3


class Backlog:
    """The samples that one worker has not been given yet, oldest first; `rounds` is how often some were handed out."""

    def __init__(self) -> None:
        self._pieces: deque[Samples] = deque()
        self._bytes = self.rounds = 0

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def rows(self) -> int:
        """How many samples wait."""
        return sum(piece.rows for piece in self._pieces)

    @property
    def full(self) -> bool:
        """Whether more waits than may."""
        return len(self._pieces) >= BATCHES_MAX or self._bytes > BYTES_MAX

    @property
    def due(self) -> bool:
        """Whether it will hardly ever be empty between two frames, though it has been worked off again and again."""
        return self.rounds >= ROUNDS and self.rows <= ROWS_MIN

    def takes(self, samples: Samples, owed: int, lag_max: int = LAG_MAX) -> bool:
        """Keep `samples` for later if the worker owes `lag_max` answers or others wait already; tell whether it did."""
        if not self._pieces and owed < lag_max:
            self.rounds = 0
            return False
        self._pieces.append(samples)
        self._bytes += samples.bytes
        return True

    def take(self) -> Samples | None:
        """Return what the worker is given next, None when nothing waits."""
        rows = min(ROWS_MIN << self.rounds, ROWS_MAX)
        taken: list[Samples] = []
        while self._pieces and (not taken or self._pieces[0].rows <= rows):
            piece = self._pieces.popleft()
            self._bytes -= piece.bytes
            rows -= piece.rows
            taken.append(piece)
        self.rounds = min(self.rounds + 1, ROUNDS + 1)
        return joined(taken)

    def clear(self) -> None:
        """Forget everything: the worker is another one, or none."""
        self._pieces.clear()
        self._bytes = self.rounds = 0
