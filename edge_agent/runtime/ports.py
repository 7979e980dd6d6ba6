"""What a slot's lane asks of both its ends: where samples come from, and where outputs go.

Either runs in the supervisor's thread: it never blocks, never raises for what the outside world does, and bounds what
it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.samples import Faults, Samples

__all__ = ["Sink", "Source"]


class Source(Protocol):
    """Where a slot's samples come from.

    `columns` are the logical columns in the order of `Samples.values`. `faults` counts what became no sample by kind
    (`faults.messages` has the last message of each), `rejected` in all. `problem` says in words why nothing can come
    now, or is empty. `finished` is True when nothing will ever come again.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Logical column names."""
        ...

    @property
    def faults(self) -> Faults:
        """What became no sample."""
        ...

    @property
    def rejected(self) -> int:
        """How many messages or rows became no sample."""
        ...

    @property
    def problem(self) -> str:
        """Why nothing can come now."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the last sample was taken."""
        ...

    def interest(self) -> Interest:
        """Return descriptor (-1: none), poll events and the monotonic time to call `handle` at the latest (or None).

        Ask before every poll(): all three change, and a descriptor number may return as another file.
        """
        ...

    def handle(self, events: int, now: float) -> None:
        """Do what is due. `events` is what poll() saw (0: the time has come), `now` monotonic seconds."""
        ...

    def take(self, room: int) -> Samples | None:
        """Return the oldest waiting samples, at most `room` rows, or None."""
        ...

    def acknowledge(self, rows: int) -> None:
        """The oldest `rows` taken samples are safe downstream."""
        ...

    def close(self) -> None:
        """Release everything; called once."""
        ...


class Sink(Protocol):
    """Where a slot's outputs go.

    `confirmed` counts outputs that are safe since the sink was opened, always the oldest ones. `faults` counts those
    given up (`faults.messages` has the last message of each kind); they count as confirmed. `problem` says in words
    why nothing can be confirmed now, or is empty.
    """

    @property
    def confirmed(self) -> int:
        """How many outputs are safe."""
        ...

    @property
    def room(self) -> int:
        """How many outputs may be written now; 0 or less: none."""
        ...

    @property
    def faults(self) -> Faults:
        """What was given up."""
        ...

    @property
    def problem(self) -> str:
        """Why nothing can be confirmed now."""
        ...

    def interest(self) -> Interest:
        """Return descriptor (-1: none), poll events and the monotonic time to call `handle` at the latest (or None).

        Ask before every poll(): all three change, and a descriptor number may return as another file.
        """
        ...

    def handle(self, events: int, now: float) -> None:
        """Do what is due. `events` is what poll() saw (0: the time has come), `now` monotonic seconds."""
        ...

    def write(self, messages: Sequence[OutputMessage]) -> None:
        """Take outputs in order. `ValueError` for more than `room`."""
        ...

    def close(self) -> None:
        """Release everything; called once."""
        ...
