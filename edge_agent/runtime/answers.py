"""A batch of samples on its way, and what a worker says to it. Data, and the reading of a RESULT (see `wire`).

Nothing here knows processes or releases; a worker's numbers are checked before anybody goes by them.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import msgspec

from edge_agent.contract.digest import decode_json
from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.runtime import wire
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.wire import Flag, Header

__all__ = ["Answer", "Batch", "Told", "Upgraded", "answer_in"]


class Batch:
    """Some samples on their way through, numbered from 1, with the answers given so far by deployment key."""

    __slots__ = ("again", "answers", "number", "rows", "samples", "sent_at")

    def __init__(self, number: int, samples: Samples, now: float, *, again: bool = False) -> None:
        self.number, self.samples, self.rows, self.sent_at = number, samples, samples.rows, now
        self.again = again  # from an earlier run of the agent
        self.answers: dict[int, Answer] = {}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker answered to one batch: rows, or an error."""

    batch: int
    warm: bool = False
    sequences: Any = ()
    firsts: Any = ()
    timestamps: Any = ()
    rows: list[list[Any]] = []
    invalid: int = 0
    note: wire.Note = wire.Note()
    failure: wire.Failure | None = None


class Told(NamedTuple):
    """What stages have learned; `latest` if nobody asked again since."""

    states: wire.States
    latest: bool


class Upgraded(NamedTuple):
    """Every stage took over what it was given."""


def answer_in(header: Header, payload: memoryview, newest: int) -> Answer:
    """Return the answer that a RESULT brings to a batch whose newest sample has number `newest`.

    It is a failure if it numbers results beyond that: all later ones would be late. Raises `ValueError` for a message
    that is none.
    """
    answer = _rows(header, payload)
    if not answer.rows or (top := max(answer.sequences)) <= newest:
        return answer
    words = f"a result is numbered {top}, the newest sample {newest}: give results the numbers of samples they are of"
    return Answer(batch=answer.batch, failure=wire.Failure(reason=Reason(code=ReasonCode.OUTPUT, message=words)))


def _rows(header: Header, payload: memoryview) -> Answer:
    count = header.rows
    note = 4 + int.from_bytes(payload[:4], "little")
    words = decode_json(payload[4:note], wire.Note)
    heads = array("q")
    heads.frombytes(payload[note : note + 24 * count])
    body = payload[note + 24 * count :]
    if len(heads) != 3 * count:
        raise ValueError(f"a result of {count} rows is too short")
    if header.flags & Flag.RAW:
        flat, width = array("d"), header.columns
        flat.frombytes(body)
        if len(flat) != count * width:
            raise ValueError(f"a result of {count} rows and {width} columns has {len(flat)} values")
        # As many of one iterator as a row is wide: rows without slices.
        rows: list[list[Any]] = list(map(list, zip(*[iter(flat)] * width, strict=True))) if width else []
    else:
        rows = decode_json(body, list[list[Any]])
    if len(rows) != count:
        raise ValueError(f"a result of {count} rows brought {len(rows)}")
    return Answer(
        batch=header.batch,
        sequences=heads[:count],
        firsts=heads[count : 2 * count],
        timestamps=heads[2 * count :],
        rows=rows,
        invalid=header.invalid,
        note=words,
    )
