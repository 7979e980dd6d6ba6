"""How long a live candidate's answer is waited for when the old worker's is there already (R3).

As long as the candidate usually takes, with some room, so that one that hangs costs a moment; and while it is stuck at
one batch, later ones do not wait for it again. It is no verdict: a candidate that is late goes on being judged.
"""

from __future__ import annotations

from edge_agent.runtime.answers import Batch
from edge_agent.runtime.member import Member
from edge_agent.runtime.wire import Note

__all__ = ["PATIENCE_SECONDS_MAX", "PATIENCE_SECONDS_MIN", "Hedge"]

PATIENCE_SECONDS_MIN, PATIENCE_SECONDS_MAX = 0.001, 0.05
_ROOM = 2.0
_FADES = 0.95  # the first frames of a fresh process take long


class Hedge:
    """What one candidate usually takes, and so what it is given."""

    def __init__(self) -> None:
        self._usual = 0.0

    def note(self, note: Note) -> None:
        """The candidate has answered, and says what that took, waiting for a processor included."""
        self._usual = max((note.micros + note.waited) / 1e6, _FADES * self._usual)

    def until(self, batch: Batch, candidate: Member) -> float:
        """Return until when its answer to the batch in flight is waited for (monotonic seconds)."""
        since = candidate.owes_since()
        patience = min(max(_ROOM * self._usual, PATIENCE_SECONDS_MIN), PATIENCE_SECONDS_MAX)
        return (batch.sent_at if since is None else since) + patience
