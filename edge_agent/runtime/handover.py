"""A hand-over under way: who gives its state, who takes it, and what came in between (R5).

The giver is asked behind the frames it was given, so its state covers every sample up to a frame boundary. What comes
after that is collected here and shown to the taker once it has taken over: no sample is missed or counted twice.
"""

from __future__ import annotations

from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.runtime.history import BYTES_MAX
from edge_agent.runtime.member import Member
from edge_agent.runtime.samples import Samples

__all__ = ["HANDOVER_SECONDS", "Handover"]

HANDOVER_SECONDS = 5.0


class Handover:
    """From `giver` to `taker`, begun at `now` (monotonic seconds)."""

    def __init__(self, giver: Member, taker: Member, now: float) -> None:
        self.giver, self.taker = giver, taker
        self.due = now + HANDOVER_SECONDS
        self.asking = True  # until the giver has answered
        self.since: list[Samples] = []
        self._bytes = 0

    @property
    def stages(self) -> list[str]:
        """The stages whose state the taker wants."""
        return self.taker.loaded.upgrades if self.taker.loaded is not None else []

    def collect(self, samples: Samples) -> None:
        """Keep what the giver gets from now on."""
        self.since.append(samples)
        self._bytes += samples.bytes

    def failure(self, now: float, *, giving: bool) -> Reason | None:
        """Return why it comes to nothing, None while it may still succeed; `giving` is whether the giver works."""
        giver = self.giver.release
        if self.asking and not giving:
            return _reason(f"{giver} ended before its state was handed over", Blame.ENVIRONMENT)
        if self._bytes > BYTES_MAX:
            return _reason(f"upgrade() took longer than {BYTES_MAX} bytes of new samples could wait")
        if now < self.due:
            return None
        if self.asking:
            return _reason(f"{giver} did not hand over its state in {HANDOVER_SECONDS:.0f} s", Blame.ENVIRONMENT)
        return _reason(f"upgrade() of {', '.join(self.stages)} took more than {HANDOVER_SECONDS:.0f} s")


def _reason(words: str, blame: Blame = Blame.RELEASE) -> Reason:
    return Reason(code=ReasonCode.START, message=words, blame=blame)
