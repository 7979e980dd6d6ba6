"""A peer that keeps what is not acknowledged and sends it again after a kill, as a broker does at QoS 1: in memory."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

from edge_agent.runtime.interest import Interest
from edge_agent.runtime.samples import Faults, Samples

__all__ = ["Resender", "ResentSource"]

PERIOD_NANOSECONDS = 1_000


class Resender:
    """Messages 0, 1, 2 …; `acknowledged` are those that it may forget."""

    def __init__(self) -> None:
        self.sent = 0
        self.unacknowledged: deque[int] = deque()
        self.acknowledged: list[int] = []

    def send(self, count: int) -> list[int]:
        """Send so many new messages."""
        new = list(range(self.sent, self.sent + count))
        self.sent += count
        self.unacknowledged += new
        return new

    def forget(self, message: int) -> None:
        """Take an acknowledgement. They come in order, as MQTT 5 demands in section 4.6."""
        assert self.unacknowledged.popleft() == message, "acknowledged out of order"
        self.acknowledged.append(message)


class ResentSource:
    """One run's source over `peer`: messages are samples whose value is the message, counted from `start_sequence`.

    What `answered` has of earlier runs is known when it comes again, and acknowledged in its turn.
    """

    columns = ("x",)
    problem = ""
    finished = False
    rejected = 0

    def __init__(
        self, peer: Resender, start_sequence: int = 0, answered: Sequence[int] = (), *, marked: bool = True
    ) -> None:
        self.faults = Faults()
        self.closed = 0
        self._peer, self._next, self._marked = peer, start_sequence, marked
        self._known = set(answered)
        self._waiting: deque[int] = deque()
        self._held: deque[tuple[int, bool]] = deque()  # messages in order; whether they became a sample
        self.receive(list(peer.unacknowledged))

    def receive(self, messages: Sequence[int]) -> None:
        """Get messages."""
        for message in messages:
            new = message not in self._known
            self._held.append((message, new))
            if new:
                self._waiting.append(message)
        self._settle()

    @property
    def behind(self) -> bool:
        """Whether messages wait to be taken."""
        return bool(self._waiting)

    def interest(self) -> Interest:
        return -1, 0, None

    def handle(self, events: int, now: float) -> None:
        """Do nothing: messages are received when the test says so."""

    def take(self, room: int) -> Samples | None:
        """Return up to `room` samples; a sample's time follows from its message."""
        rows = min(room, len(self._waiting))
        if rows <= 0:
            return None
        messages = [self._waiting.popleft() for _ in range(rows)]
        numbers = array("q", range(self._next, self._next + rows))
        self._next += rows
        times = array("q", [PERIOD_NANOSECONDS * (number + 1) for number in numbers])
        marks = array("q", messages) if self._marked else None
        return Samples(self.columns, numbers, times, array("d", map(float, messages)), (), marks)

    def acknowledge(self, rows: int) -> None:
        """Acknowledge the oldest samples, and what was known already among and behind them."""
        while rows:
            message, counts = self._held.popleft()
            self._peer.forget(message)
            rows -= counts
        self._settle()

    def _settle(self) -> None:
        while self._held and not self._held[0][1]:
            self._peer.forget(self._held.popleft()[0])

    def close(self) -> None:
        self.closed += 1
