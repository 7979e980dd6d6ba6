"""What is said between an input's thread and the one at its disk: orders, and the answer to each.

Values only: `spool_clerk` obeys them, `detour` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from edge_agent.runtime.input_spool import Chunk

__all__ = [
    "Answer",
    "Clear",
    "Cleared",
    "Failed",
    "Finish",
    "Finished",
    "Found",
    "Order",
    "Read",
    "Trim",
    "Trimmed",
    "Write",
    "Wrote",
    "answered",
]


class Write(NamedTuple):
    """Write rows behind those on disk, and sync them."""

    chunks: Sequence[Chunk]


class Read(NamedTuple):
    """Read rows from `number` on."""

    number: int


class Finish(NamedTuple):
    """Everything below `number` is done with."""

    number: int


class Clear(NamedTuple):
    """Everything is done with."""


class Trim(NamedTuple):
    """Drop the oldest file without rows below `given`."""

    given: int


class Wrote(NamedTuple):
    """Rows below `end` are on disk and synced; `size` bytes are used."""

    end: int
    size: int


class Found(NamedTuple):
    """What was read from `number` on: there is nothing else before the last of `chunks`, or before `end`."""

    number: int
    end: int
    chunks: list[Chunk]


class Finished(NamedTuple):
    """It is noted that everything below `number` is done with; `size` bytes are used."""

    number: int
    size: int


class Cleared(NamedTuple):
    """The disk holds nothing any more."""


class Trimmed(NamedTuple):
    """Rows `start` to `end` (exclusive) were dropped; `size` bytes are used."""

    start: int
    end: int
    size: int


class Failed(NamedTuple):
    """The disk refuses an order, for what reason."""

    order: Order
    words: str


Order: TypeAlias = "Write | Read | Finish | Clear | Trim"
Answer: TypeAlias = "Wrote | Found | Finished | Cleared | Trimmed | Failed"
_ANSWERS: dict[type, type] = {Wrote: Write, Found: Read, Finished: Finish, Cleared: Clear, Trimmed: Trim}


def answered(answer: Answer) -> type:
    """Return the kind of order that this is the answer to."""
    return type(answer.order) if isinstance(answer, Failed) else _ANSWERS[type(answer)]
