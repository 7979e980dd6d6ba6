"""A pipeline: named, ordered filters and what they take and give.

It decides the order of things (fit, initialize, run, cleanup), names the stage when something fails, and refuses what
could not be shipped by name: stages that are no filters, names used twice, tunables that mean no parameter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_agent.contract.errors import AuthorError
from edge_agent.contract.manifest import HealthPolicy, InputSpec, OutputSpec, check_name
from edge_agent.sdk.filter import Filter, parameters_of
from edge_agent.sdk.frame import Frame, Values
from edge_agent.sdk.intake import read_self_test, to_frame
from edge_agent.sdk.parameters import resolve_tunable
from edge_agent.sdk.ports import Input, Output
from edge_agent.sdk.rows import to_rows
from edge_agent.sdk.step import Step, accepts, settle
from edge_agent.sdk.window import Window

__all__ = ["Health", "Input", "Output", "Pipeline", "StageError"]

Health = HealthPolicy


class StageError(AuthorError):
    """A stage failed. `stage` is its name, `original` what its filter raised."""

    def __init__(self, stage: str, original: BaseException) -> None:
        self.stage = stage
        self.original = original
        super().__init__(f"stage {stage!r}: {type(original).__name__}: {original}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.stage, self.original)


class Pipeline:
    """Filters in order, under a name.

    `stages` are filters or `(name, filter)` pairs; a filter alone is named after its class in lower case. `input` and
    `output` declare columns, units, rate and valid ranges; they are needed to push. `tunable` names parameters that a
    device's configuration may set: `threshold`, or `stage.threshold` where several stages have one. `self_test` is
    input that every device tries before it lets a release near live data: rows, a `Frame`, or the path of a CSV file
    (relative to the calling file) with a header of column names. `health` is what a candidate must show in probation.

    Raises `TypeError` or `ValueError` for what cannot be meant, at once and by name.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[Filter | tuple[str, Filter]] = (),
        *,
        input: Input | InputSpec | None = None,  # noqa: A002 - the author's word
        output: Output | OutputSpec | None = None,
        tunable: Sequence[str] = (),
        self_test: Any = None,
        health: HealthPolicy | None = None,
    ) -> None:
        self.name = check_name("pipeline", name)
        self.input = _input_spec(input)
        self.output = _output_spec(output)
        if isinstance(tunable, str):
            raise TypeError(f"tunable must be a list of names: write tunable=[{tunable!r}]")
        self.tunable = list(tunable)
        self.health_policy = health or HealthPolicy()
        self._stages: list[tuple[str, Filter]] = []
        self._steps: list[tuple[str, Step]] = []
        self._live: list[tuple[str, Filter]] = []
        self._columns = tuple(self.output.columns)
        for stage in _listed(stages):
            named = isinstance(stage, tuple)
            if named and len(stage) != 2:
                raise TypeError(f"a stage is a filter or a pair (name, filter), not {stage!r}")
            self.add(stage[1] if named else stage, stage[0] if named else None)
        if self._stages:
            self.tunables()
        self.self_test = None if self_test is None else read_self_test(self_test, self.input, self.name)

    @property
    def stages(self) -> tuple[tuple[str, Filter], ...]:
        """The stages in order, as `(name, filter)` pairs."""
        return tuple(self._stages)

    @property
    def history(self) -> int:
        """How many input samples a fresh copy must have seen to answer as a long-running one does."""
        samples, stride = 0, 1
        for _, member in self._stages:
            if isinstance(member, Window):
                samples += member.size * stride + member.hop
                stride = max(stride, member.hop)
            else:
                samples += member.warmup_rows * stride
        return samples

    def __getitem__(self, name: str) -> Filter:
        for known, member in self._stages:
            if known == name:
                return member
        raise KeyError(f"pipeline {self.name!r} has no stage {name!r}: {', '.join(known for known, _ in self._stages)}")

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {member!r}" for name, member in self._stages)
        return f"<Pipeline {self.name!r}: {inside or 'no stages'}>"

    def add(self, member: Filter, name: str | None = None) -> Pipeline:
        """Append a filter and return the pipeline, so that calls can be chained."""
        if isinstance(member, type):
            raise TypeError(f"stage {member.__name__} is a class: write {member.__name__}(…) to make a filter of it")
        if not isinstance(member, Filter):
            raise TypeError(
                f"a {type(member).__name__} cannot be a stage: subclass edge_agent.Filter and call it in predict(), "
                "or export a trained model to ONNX and use OnnxModel"
            )
        if any(member is known for _, known in self._stages):
            raise ValueError(f"{member!r} stands in the pipeline twice and would mix up its state: make two")
        chosen = self._free_name(member) if name is None else check_name("stage", name)
        if any(chosen == known for known, _ in self._stages):
            raise ValueError(f"stage name {chosen!r} is used twice")
        self._check_hop(chosen, member)
        self._steps.append((chosen, Step(member)))
        self._stages.append((chosen, member))
        return self

    def tunables(self) -> dict[str, tuple[str, str]]:
        """Return each tunable's stage and parameter. Raises `ValueError` for a name that is none, or is ambiguous."""
        known = {name: [*parameters_of(member)] for name, member in self._stages} if self.tunable else {}
        return {name: resolve_tunable(name, known) for name in self.tunable}

    def initialize(self) -> None:
        """Initialize every stage that is not yet; after a failure, clean up those that were. Raises `StageError`."""
        for name, member in self._stages[len(self._live) :]:
            self._start(name, member)

    def cleanup(self) -> None:
        """Clean up every initialized stage, the last first, all of them; then raise the first failure, if any."""
        failure = None
        while self._live:
            name, member = self._live.pop()
            try:
                settle(member.cleanup())
            except Exception as error:  # noqa: BLE001 - the other stages must be cleaned up too; raised below
                failure = failure or StageError(name, error)
        if failure is not None:
            raise failure from failure.original

    def reset(self) -> None:
        """Let every stage forget the stream seen so far."""
        for _, member in self._stages:
            member.reset()

    def health(self) -> str | None:
        """Return the first stage's veto in words, None if all are well."""
        for name, member in self._stages:
            try:
                verdict = settle(member.health())
            except Exception as error:  # noqa: BLE001 - a health check that fails is a veto
                return f"stage {name!r}: health() raised {type(error).__name__}: {error}"
            if verdict is False or (isinstance(verdict, str) and verdict):
                return f"stage {name!r}: {verdict or 'health() returned False'}"
        return None

    def run(self, frame: Frame) -> Frame:
        """Run one batch of the stream through all stages and return what comes out, as rows of the output's columns.

        Stages keep what they remember from batch to batch. An empty frame between stages ends the run: nothing yet.
        Raises `StageError` naming the stage.
        """
        if len(self._live) != len(self._stages):
            self.initialize()
        if not self._stages:
            raise ValueError(f"pipeline {self.name!r} has no stages: add one with .add(filter)")
        values, times = frame.values, frame
        if isinstance(values, np.ndarray) and not values.flags.writeable:
            # A view into a receive buffer. Filters that work in place must behave alike on device and workstation.
            values = values.copy()
        name = self._stages[0][0]
        try:
            for name, step in self._steps:  # noqa: B007 - named in the error
                if not len(values):
                    return times.successor(np.empty((0, len(self._columns))), self._columns)
                values, times = step.advance(values, times)
            return to_rows(values, times, self._columns)
        except Exception as error:
            raise StageError(name, error) from error

    def predict(self, x: Any) -> Values:
        """Return the output for `x` (`[n, columns]`, a list of rows, or a `Frame`), as a stream of its own.

        Every call starts afresh; to go on with a stream batch by batch, use `run`.
        """
        frame = self.frame_of(x)
        if isinstance(x, Frame) and isinstance(x.values, np.ndarray):
            frame = x.with_values(x.values.copy())
        self.reset()
        return self.run(frame).values

    def fit(self, x: Any, y: Any = None) -> Pipeline:
        """Fit the stages in order, each on what the ones before it make of `x`; return the pipeline.

        `y` has one label for each row of `x`, or for each row that reaches the stage; through windows, a window gets
        the label of its newest sample. Raises `StageError` naming the stage.
        """
        frame = self.frame_of(x)
        if y is not None and not hasattr(y, "__len__"):
            raise TypeError(f"y must hold one label for each row, not be a {type(y).__name__}")
        self.cleanup()
        self.reset()
        rows, origin = frame, frame.sequences
        for index, (name, member) in enumerate(self._stages):
            try:
                if type(member).fit is not Filter.fit:
                    _fit(member, rows, y if y is None else _labels(y, rows, origin))
                self._start(name, member)
                if index < len(self._stages) - 1:
                    rows = self._steps[index][1](rows)
            except StageError:
                raise
            except Exception as error:
                raise StageError(name, error) from error
        self.reset()
        return self

    def frame_of(self, x: Any) -> Frame:
        """Return `x` as an input frame with the declared columns and rate; a `Frame` stays as it is.

        Raises `ValueError` if the columns do not fit. A table with named columns (pandas) is read by name.
        """
        return to_frame(x, self.input, self.name)

    def _start(self, name: str, member: Filter) -> None:
        try:
            settle(member.initialize())
        except Exception as error:
            with contextlib.suppress(StageError):  # what failed first is what matters
                self.cleanup()
            raise StageError(name, error) from error
        self._live.append((name, member))

    def _free_name(self, member: Filter) -> str:
        stem = check_name("stage", type(member).__name__.strip("_").lower())
        taken = {name for name, _ in self._stages}
        return next(
            name for name in (stem, *(f"{stem}-{count}" for count in range(2, len(taken) + 3))) if name not in taken
        )

    def _check_hop(self, name: str, member: Filter) -> None:
        before = [known.hop for _, known in self._stages if isinstance(known, Window)]
        if isinstance(member, Window) and before and member.hop % max(before):
            raise ValueError(
                f"stage {name!r}: hop={member.hop} counts input samples, and behind another Window rows come every "
                f"{max(before)} of them: write a multiple, such as hop={max(before) * member.hop} for every "
                f"{member.hop} rows"
            )


def _listed(stages: Any) -> list[Any]:
    if isinstance(stages, Filter | str | dict) or not hasattr(stages, "__iter__"):
        raise TypeError(f"stages must be a list of filters: write [{stages!r}]")
    return list(stages)


def _input_spec(given: Any) -> InputSpec:
    if given is None:
        return InputSpec(columns=[])
    if isinstance(given, Input):
        return given.spec()
    if isinstance(given, InputSpec):
        return given
    raise TypeError(f"input must be Input(columns, unit=…, rate_hz=…), not {given!r}")


def _output_spec(given: Any) -> OutputSpec:
    if given is None:
        return OutputSpec(columns=[])
    if isinstance(given, Output):
        return given.spec()
    if isinstance(given, OutputSpec):
        return given
    raise TypeError(f"output must be Output(columns, unit=…, range=…), not {given!r}")


def _fit(member: Filter, rows: Frame, labels: Any) -> None:
    if not len(rows):
        raise ValueError("no rows arrive here to fit on: give fit() more samples than the windows before it need")
    options = {"frame": rows} if accepts(member.fit, "frame") else {}
    if accepts(member.fit, "y"):
        options["y"] = labels
    settle(member.fit(rows.values, **options))


def _labels(y: Any, rows: Frame, origin: Any) -> Any:
    """Return the labels of `rows`: `y` itself, or picked from it by the number of each row's newest sample."""
    if len(y) == len(rows):
        return y
    if len(y) != len(origin):
        raise ValueError(f"{len(y)} labels for {len(rows)} rows here and {len(origin)} at the start: give one for each")
    places = np.searchsorted(origin, rows.sequences)
    return y[places] if isinstance(y, np.ndarray) else [y[place] for place in places]
