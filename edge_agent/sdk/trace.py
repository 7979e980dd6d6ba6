"""What every stage made of a self-test, written down so that runs in different processes can be compared.

It decides which stage differs first, within the self-test's own tolerance. It bounds what it writes down: of each stage
the first rows, and nothing where they are not plain data, which is then not compared.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk import plain
from edge_agent.sdk.container import Container
from edge_agent.sdk.frame import Frame, Values
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.selftest import check, equal, read, shown
from edge_agent.sdk.step import Step

__all__ = ["CELLS_MAX", "Difference", "Seen", "decode", "difference", "encode", "trace", "watching"]

CELLS_MAX = 16_384
BYTES_MAX = 1 << 20


class Seen(msgspec.Struct, frozen=True):
    """What came out of a stage: how many rows, and the first of them as `plain` data, empty if they are not plain."""

    stage: str
    rows: int
    values: bytes = b""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first stage that two runs disagree on, where in its output, and what each gave, in words."""

    stage: str
    place: str
    one: str
    other: str


@contextlib.contextmanager
def watching(pipeline: Pipeline) -> Iterator[list[Seen]]:
    """Write down what comes out of each stage while the block runs, inner stages before what contains them."""
    seen: list[Seen] = []
    chains = [chain for holder in _containers(pipeline) for chain in holder._chains.values()]
    before = [chain._steps for chain in chains]
    for chain in chains:
        chain._steps = [(name, _Watched(name, step, seen), None) for name, step, _ in chain._steps]  # type: ignore[misc]
        chain.straight = None
    try:
        yield seen
    finally:
        for chain, steps in zip(chains, before, strict=True):
            chain._steps = steps
            chain.straight = None


def trace(pipeline: Pipeline, data: bytes) -> list[Seen]:
    """Run the self-test in `data` and return what came out of each stage, up to one that fails.

    The pipeline is left as it was found. Raises `ValueError` if `data` is no self-test.
    """
    running = pipeline.live
    try:
        with watching(pipeline) as seen, contextlib.suppress(AuthorError):
            check(pipeline, data)
        return seen
    finally:
        if not running:
            pipeline.cleanup()


def difference(one: list[Seen], other: list[Seen], data: bytes) -> Difference | None:
    """Return what two runs of the self-test in `data` disagree on first; None if they agree as far as can be seen.

    Raises `ValueError` if `data` is no self-test.
    """
    content = read(data)[1]
    tolerance = float(content["rtol"]), float(content["atol"])
    for mine, theirs in zip(one, other, strict=False):
        if mine.stage != theirs.stage:
            one_runs, other_runs = (f"{seen.stage} runs" for seen in (mine, theirs))
            return Difference(stage=mine.stage, place="what runs", one=one_runs, other=other_runs)
        found = _between(mine, theirs, tolerance)
        if found is not None:
            return found
    if len(one) != len(other):
        first = (one if len(one) > len(other) else other)[min(len(one), len(other))]
        words = [f"{first.rows} rows" if len(run) > min(len(one), len(other)) else "no answer" for run in (one, other)]
        return Difference(stage=first.stage, place="its rows", one=words[0], other=words[1])
    return None


def encode(seen: list[Seen]) -> bytes:
    """Return what was written down as bytes, for another process."""
    return msgspec.msgpack.encode(seen)


def decode(data: bytes) -> list[Seen]:
    """Return what `encode` was given. Raises `ValueError` on foreign bytes."""
    return msgspec.msgpack.decode(data, type=list[Seen])


class _Watched:
    """A step that leaves a note of what came out of it."""

    def __init__(self, name: str, step: Step | Container, seen: list[Seen]) -> None:
        self._name, self._step, self._seen = name, step, seen

    def advance(self, values: Values, times: Frame) -> tuple[Values, Frame]:
        values, times = self._step.advance(values, times)
        self._seen.append(Seen(self._name, len(values), _noted(values)))
        return values, times


def _containers(pipeline: Pipeline) -> Iterator[Container]:
    yield pipeline
    yield from (member for _, member in pipeline.every_stage() if isinstance(member, Container))


def _noted(values: Values) -> bytes:
    """Return the first rows as bytes, at once: the next stage may work in place."""
    if not len(values):
        return b""
    if isinstance(values, np.ndarray):
        width = math.prod(values.shape[1:])
    else:
        width = len(values[0]) if isinstance(values[0], list | tuple | dict) else 1
    try:
        encoded = plain.encode(values[: max(1, CELLS_MAX // max(1, width))])
    except TypeError:
        return b""
    return encoded if len(encoded) <= BYTES_MAX else b""


def _between(mine: Seen, theirs: Seen, tolerance: tuple[float, float]) -> Difference | None:
    if mine.rows != theirs.rows:
        return Difference(stage=mine.stage, place="its rows", one=f"{mine.rows} rows", other=f"{theirs.rows} rows")
    if not mine.values or not theirs.values or mine.values == theirs.values:
        return None
    for row, pair in enumerate(zip(_rows(mine), _rows(theirs), strict=False)):
        if equal(*pair, *tolerance):
            continue
        place, one, other = _narrowed(f"row {row}", *pair, tolerance)
        return Difference(stage=mine.stage, place=place, one=shown(one), other=shown(other))
    return None


def _narrowed(place: str, one: Any, other: Any, tolerance: tuple[float, float]) -> tuple[str, Any, Any]:
    """Follow two values that differ down to the first cells that do."""
    while isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        at = next(at for at, pair in enumerate(zip(one, other, strict=True)) if not equal(*pair, *tolerance))
        place, one, other = f"{place}, column {at}", one[at], other[at]
    return place, one, other


def _rows(seen: Seen) -> list[Any]:
    values = plain.decode(seen.values)
    return values.tolist() if isinstance(values, np.ndarray) else [_listed(row) for row in values]


def _listed(value: Any) -> Any:
    """Return arrays inside rows as lists, which can be compared cell by cell."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_listed(one) for one in value]
    if isinstance(value, dict):
        return {key: _listed(one) for key, one in value.items()}
    return value
