"""A chain: named stages in order, run, fitted, initialized and cleaned up as one.

It decides the order of things and names the stage that fails. A stage is a filter, or a container (a nested `Pipeline`,
a `Parallel`) that holds chains itself. Names are unique over the whole tree, so that a stage's name alone says which.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy import ndarray

from edge_agent.contract.manifest import check_name
from edge_agent.sdk.align import Align
from edge_agent.sdk.container import Container, Member, StageError
from edge_agent.sdk.estimator import Estimator, as_stage
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.fitting import fit_filter, labels_of
from edge_agent.sdk.frame import Frame, Values
from edge_agent.sdk.step import Quick, Step, settle
from edge_agent.sdk.window import Window

__all__ = ["Chain", "private"]

Straight = tuple[tuple[Step, Quick], ...]


class Chain:
    """Stages in order. `given` is a list of filters, containers and `(name, stage)` pairs.

    Raises `TypeError` or `ValueError` for what cannot be a stage, and for names used twice.
    """

    def __init__(self, given: Any = ()) -> None:
        self._stages: list[tuple[str, Member]] = []
        self._steps: list[tuple[str, Step | Container, Callable[..., Any] | None]] = []
        self._live: list[tuple[str, Member]] = []
        self._unnamed: set[int] = set()
        self._closed = False
        self.resetting: list[Member] = []
        """The stages that have something to forget between streams."""
        self.ready = False
        """Whether there are stages, and every one is initialized."""
        self.leaves_input = False
        """Whether the first stage leaves the array that it is given as it is, and gives none of it away."""
        self.straight: Straight | None = None
        """What `straightened` returned last, None where that is out of date."""
        for stage in _listed(given):
            named = isinstance(stage, tuple)
            if named and len(stage) != 2:
                raise TypeError(f"a stage is a filter or a pair (name, filter), not {stage!r}")
            self.add(stage[1] if named else stage, stage[0] if named else None)

    # --- what it is made of ----------------------------------------------------------------------------------------

    @property
    def stages(self) -> tuple[tuple[str, Member], ...]:
        """The stages in order, as `(name, stage)` pairs."""
        return tuple(self._stages)

    @property
    def live(self) -> bool:
        """Whether every stage is initialized."""
        return len(self._live) == len(self._stages)

    def every_stage(self) -> Iterator[tuple[str, Member]]:
        """Yield all stages with those inside them, each before what it contains."""
        for name, member in self._stages:
            yield name, member
            if isinstance(member, Container):
                yield from member.every_stage()

    def add(self, member: Any, name: str | None = None) -> None:
        """Append a stage. Stages inside it that its author did not name give way to names already taken here."""
        if self._closed:
            raise ValueError("this became a stage of another pipeline: add stages to it before that")
        member = as_stage(member)
        _check_kind(member)
        known = dict(self.every_stage())
        inside = [one for _, one in member.every_stage()] if isinstance(member, Container) else []
        if any(one is other for one in (member, *inside) for other in known.values()):
            raise ValueError(f"{member!r} stands in the pipeline twice and would mix up its state: make two")
        taken = set(known)
        step = member if isinstance(member, Container) else Step(member)
        chosen = _free(_stem(member), taken) if name is None else check_name("stage", name)
        _take(chosen, taken)
        self._stages.append((chosen, member))
        try:
            self.reach()
            if isinstance(member, Container):
                for chain in member._chains.values():
                    chain.adopt(taken)
        except ValueError:
            self._stages.pop()
            raise
        if name is None:
            self._unnamed.add(id(member))
        self._steps.append((chosen, step, step.quick if isinstance(step, Step) else None))
        if isinstance(member, Container) or type(member).reset is not Filter.reset:
            self.resetting.append(member)
        self.leaves_input = getattr(self._steps[0][1], "leaves_input", False)
        self.ready, self.straight = False, None

    def reach(self, stride: int = 1) -> tuple[int, int]:
        """Return how many input samples of history the stages need, and how many samples apart their rows come.

        Rows come in `stride` samples apart. Raises `ValueError` for a `Window` whose hop does not fit that.
        """
        samples, spread = 0, 1
        for name, member in self._stages:
            if isinstance(member, Container):
                more, stride = member.reach(stride)
                samples += more * spread
                spread *= member.spread
            elif isinstance(member, Window):
                _check_hop(name, member, stride)
                samples += member.size * stride * spread + member.hop
                stride = max(stride, member.hop)
            else:
                samples += member.warmup_rows * stride * spread
                spread *= member.samples_per_row if isinstance(member, Align) else 1
        return samples, stride

    @property
    def spread(self) -> int:
        """How many rows go in at the most for one that comes out, beside what windows make of them."""
        inside = (member for _, member in self._stages)
        return math.prod(
            one.spread if isinstance(one, Container) else one.samples_per_row if isinstance(one, Align) else 1
            for one in inside
        )

    def adopt(self, taken: set[str]) -> None:
        """Become part of a larger tree: give way to the names that are `taken`, and add the own ones to them."""
        for place, (name, member) in enumerate(self._stages):
            chosen = _free(_stem(member), taken) if name in taken and id(member) in self._unnamed else name
            _take(chosen, taken)
            self._stages[place] = chosen, member
            self._steps[place] = (chosen, *self._steps[place][1:])
            if isinstance(member, Container):
                for chain in member._chains.values():
                    chain.adopt(taken)
        self._closed = True

    # --- life ------------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Initialize every stage that is not yet; after a failure, clean up those that were. Raises `StageError`."""
        for name, member in self._stages[len(self._live) :]:
            self._start(name, member)

    def cleanup(self) -> None:
        """Clean up every initialized stage, the last first, all of them; then raise the first failure, if any."""
        failure = None
        self.ready, self.straight = False, None
        while self._live:
            name, member = self._live.pop()
            try:
                settle(member.cleanup())
            except Exception as error:  # noqa: BLE001 - the other stages must be cleaned up too; raised below
                failure = failure or (error if isinstance(error, StageError) else StageError(name, error))
        if failure is not None:
            raise failure from failure.original

    def reset(self) -> None:
        """Let every stage forget the stream seen so far."""
        for member in self.resetting:
            member.reset()

    def health(self) -> str | None:
        """Return the first stage's veto in words, None if all are well."""
        for name, member in self._stages:
            try:
                verdict = settle(member.health())
            except Exception as error:  # noqa: BLE001 - a health check that fails is a veto
                return f"stage {name!r}: health() raised {type(error).__name__}: {error}"
            if isinstance(member, Container) and verdict:
                return str(verdict)
            if verdict is False or (isinstance(verdict, str) and verdict):
                return f"stage {name!r}: {verdict or 'health() returned False'}"
        return None

    def advance(self, values: Values, times: Frame) -> tuple[Values, Frame]:
        """Return what the stages make of `values`, and a frame with the times of its rows.

        Rows that run out end the run early: nothing yet. Raises `StageError` naming the innermost stage.
        """
        return self.run(values, times)

    def run(self, values: Values, times: Any, start: int = 0) -> tuple[Values, Any]:
        """Do what `advance` does; `times` may also be a function that makes the frame of `values` when one is needed.

        `start` says how many stages to leave out. This is the hot path: between stages that take values alone and give
        as many rows, nothing happens but three comparisons.
        """
        given, rows = values, len(values)
        if not rows:
            return values, times
        name = ""
        try:
            for name, step, quick in self._steps[start:] if start else self._steps:  # noqa: B007 - named in the error
                if quick is not None:
                    result = quick(values)
                    if type(result) is ndarray and result.ndim and len(result) == rows:
                        values = result
                        continue
                if type(times) is not Frame:
                    times = times(given)
                # A stage with a quick method is a `Step`, and was called above.
                values, times = step.advance(values, times) if quick is None else step.settled(result, times)  # type: ignore[union-attr]
                rows = len(values)
                if not rows:
                    break
        except StageError:
            raise
        except Exception as error:
            raise StageError(name, error) from error
        return values, times

    def straightened(self, width: int) -> Straight:
        """Return the stages' calls for float64 arrays `[n, width]`; nothing where a stage asks for more than values.

        Kept in `straight`, for whoever makes the calls himself because even one more would be felt. What such a call
        returns is good as it is where it is an array of as many rows; with anything else he turns to `bent`.
        """
        self.straight = ()
        plain = [(step, quick) for _, step, quick in self._steps if isinstance(step, Step) and quick is not None]
        if self.ready and len(plain) == len(self._steps):
            first, method = plain[0]
            self.straight = ((first, method if first.on_tables is None else first.on_tables(width)), *plain[1:])
        return self.straight

    def bent(self, at: Step, result: Any, times: Frame) -> Values:
        """Return what the stages after `at` make of `result`, whatever that is. Raises `StageError`."""
        place = next(place for place, (_, step, _) in enumerate(self._steps) if step is at)
        try:
            values, times = at.settled(result, times)
        except Exception as error:
            raise self.failure(at, error) from error
        return self.run(values, times, place + 1)[0]

    def failure(self, at: Step, error: Exception) -> StageError:
        """Return what to raise for an error of the stage `at`."""
        name = next(name for name, step, _ in self._steps if step is at)
        return error if isinstance(error, StageError) else StageError(name, error)

    def timed(self, values: Values, times: Frame) -> tuple[Values, Frame, dict[str, float]]:
        """Do what `advance` does, and return the seconds that each stage took as well."""
        seconds: dict[str, float] = {}
        for name, step, _ in self._steps:
            started = time.perf_counter()
            try:
                if len(values):
                    values, times = step.advance(values, times)
            except StageError:
                raise
            except Exception as error:
                raise StageError(name, error) from error
            seconds[name] = time.perf_counter() - started
        return values, times, seconds

    def fit(self, rows: Frame, y: Any) -> None:
        """Fit the stages in order, each on what the ones before it make of `rows`; they stay initialized."""
        self.reset()
        origin = rows.sequences
        for index, (name, member) in enumerate(self._stages):
            try:
                self._fit(member, rows, y, origin)
                self._start(name, member)
                if index < len(self._stages) - 1:
                    values, times = self._steps[index][1].advance(rows.values, rows)
                    rows = times if values is times.values else times.successor(values)
            except StageError:
                raise
            except Exception as error:
                raise StageError(name, error) from error
        self.reset()

    def _fit(self, member: Member, rows: Frame, y: Any, origin: Any) -> None:
        if isinstance(member, Container):
            labels = y if y is None else labels_of(y, rows, origin)
            for chain in member._chains.values():
                chain.fit(rows.with_values(private(rows.values)), labels)
        elif type(member).fit is not Filter.fit:
            fit_filter(member, rows, y if y is None else labels_of(y, rows, origin))

    def _start(self, name: str, member: Member) -> None:
        try:
            settle(member.initialize())
        except Exception as error:
            with contextlib.suppress(StageError):  # what failed first is what matters
                self.cleanup()
            if isinstance(error, StageError):
                raise
            raise StageError(name, error) from error
        self._live.append((name, member))
        self.ready, self.straight = self.live, None


def private(values: Values) -> Values:
    """Return a copy of `values` for a stage that may work in place; cells of rows that are lists are shared."""
    if isinstance(values, np.ndarray):
        return values.copy()
    return [row.copy() if isinstance(row, list | dict | np.ndarray) else row for row in values]


def _listed(given: Any) -> list[Any]:
    if isinstance(given, Filter | Container | str | dict) or not hasattr(given, "__iter__"):
        raise TypeError(f"stages must be a list of filters: write [{given!r}]")
    return list(given)


def _check_kind(member: Any) -> None:
    if isinstance(member, type):
        raise TypeError(f"stage {member.__name__} is a class: write {member.__name__}(…) to make a filter of it")
    if not isinstance(member, Filter | Container):
        raise TypeError(
            f"a {type(member).__name__} cannot be a stage: subclass edge_agent.Filter and call it in predict(), "
            "or export a trained model to ONNX and use OnnxModel"
        )


def _take(name: str, taken: set[str]) -> None:
    if name in taken:
        raise ValueError(f"stage name {name!r} is used twice")
    taken.add(name)


def _stem(member: Member) -> str:
    return member.stem if isinstance(member, Container | Estimator) else type(member).__name__.strip("_").lower()


def _free(stem: str, taken: set[str]) -> str:
    names = (stem, *(f"{stem}-{count}" for count in range(2, len(taken) + 3)))
    return next(name for name in names if check_name("stage", name) not in taken)


def _check_hop(name: str, member: Window, stride: int) -> None:
    if stride > 1 and member.hop % stride:
        raise ValueError(
            f"stage {name!r}: hop={member.hop} counts input samples, and behind another Window rows come every "
            f"{stride} of them: write a multiple, such as hop={stride * member.hop} for every {member.hop} rows"
        )
