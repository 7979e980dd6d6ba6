"""A pipeline: named, ordered stages and what they take and give.

It declares input, output, tunables, self-test and health, and runs a chain of stages under them. It refuses what could
not be shipped by name: stages that are no filters, names used twice, tunables that mean no parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy import ndarray

from edge_agent.contract.manifest import HealthPolicy, InputSpec, OutputSpec, ResourceLimits, check_name
from edge_agent.sdk.chain import Chain, private
from edge_agent.sdk.container import Container, Member, StageError
from edge_agent.sdk.filter import Filter, parameters_of
from edge_agent.sdk.fitting import labels_of
from edge_agent.sdk.frame import Frame, Values
from edge_agent.sdk.intake import read_self_test, to_frame
from edge_agent.sdk.metrics import Metric, score
from edge_agent.sdk.parameters import resolve_tunable
from edge_agent.sdk.ports import Input, Output
from edge_agent.sdk.rows import row_values, to_rows

__all__ = ["Health", "Input", "Limits", "Output", "Pipeline", "StageError"]

_FLOAT64 = np.dtype(np.float64)

Health = HealthPolicy
Limits = ResourceLimits


class Shelf(Protocol):
    """Where a pipeline's blobs are kept: `publisher.Registry` is one."""

    def save(self, pipeline: Any) -> dict[str, Any]:
        """Store what a pipeline needs and return its manifest."""

    def load(self, manifest: Any) -> Pipeline:
        """Return the pipeline of a manifest."""


class Pipeline(Container):
    """Stages in order, under a name.

    `stages` are filters or `(name, filter)` pairs; a filter alone is named after its class in lower case. A `Parallel`
    or another pipeline may be a stage too: of a nested one only stages, tunables and output columns count. `input`
    and `output` declare columns, units, rate and valid ranges; they are needed to push. `tunable` names parameters that
    a device's configuration may set: `threshold`, or `stage.threshold` where several stages have one. `self_test` is
    input that every device tries before it lets a release near live data: rows, a `Frame`, or the path of a CSV file
    (relative to the calling file) with a header of column names. `health` is what a candidate must show in probation.
    `limits` is what its worker may use at the most; a device may allow less.

    Raises `TypeError` or `ValueError` for what cannot be meant, at once and by name.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[Member | tuple[str, Member]] = (),
        *,
        input: Input | InputSpec | None = None,  # noqa: A002 - the author's word
        output: Output | OutputSpec | None = None,
        tunable: Sequence[str] = (),
        self_test: Any = None,
        health: HealthPolicy | None = None,
        limits: ResourceLimits | None = None,
    ) -> None:
        self.name = check_name("pipeline", name)
        self.input = _input_spec(input)
        self.output = _output_spec(output)
        if isinstance(tunable, str):
            raise TypeError(f"tunable must be a list of names: write tunable=[{tunable!r}]")
        self._tunable = list(tunable)
        self.health_policy = health or HealthPolicy()
        self.limits = limits or ResourceLimits()
        self._columns = tuple(self.output.columns)
        self._width = -1 if self.input.typed else len(self.input.columns)
        self._chain = Chain(stages)
        self._chains = {"": self._chain}
        if self._chain.stages:
            self.tunables()
        self.self_test = None if self_test is None else read_self_test(self_test, self.input, self.name)

    @property
    def stages(self) -> tuple[tuple[str, Member], ...]:
        """The stages in order, as `(name, stage)` pairs; those of nested pipelines and branches are in them."""
        return self._chain.stages

    @property
    def live(self) -> bool:
        """Whether every stage is initialized."""
        return self._chain.live

    @property
    def stem(self) -> str:  # type: ignore[override]
        """What the pipeline is called as a stage of another."""
        return self.name

    @property
    def tunable(self) -> list[str]:
        """Names of parameters that a device may set: those declared here, then those of nested pipelines."""
        nested = [name for _, one in self.every_stage() if isinstance(one, Pipeline) for name in one._tunable]
        return list(dict.fromkeys([*self._tunable, *nested]))

    @property
    def history(self) -> int:
        """How many input samples a fresh copy must have seen to answer as a long-running one does."""
        return self._chain.reach()[0]

    def __getitem__(self, name: str) -> Member:
        stages = dict(self.every_stage())
        if name not in stages:
            raise KeyError(f"pipeline {self.name!r} has no stage {name!r}: {', '.join(stages)}")
        return stages[name]

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {member!r}" for name, member in self.stages)
        return f"<Pipeline {self.name!r}: {inside or 'no stages'}>"

    def add(self, member: Member, name: str | None = None) -> Pipeline:
        """Append a filter, a `Parallel` or another pipeline, and return this one, so that calls can be chained."""
        self._chain.add(member, name)
        return self

    def tunables(self) -> dict[str, tuple[str, str]]:
        """Return each tunable's stage and parameter. Raises `ValueError` for a name that is none, or is ambiguous."""
        if not (names := self.tunable):
            return {}
        known = {name: [*parameters_of(one)] for name, one in self.every_stage() if isinstance(one, Filter)}
        return {name: resolve_tunable(name, known) for name in names}

    def run(self, frame: Frame) -> Frame:
        """Run one batch of the stream through all stages and return what comes out, as rows of the output's columns.

        Stages keep what they remember from batch to batch. An empty frame between stages ends the run: nothing yet.
        Raises `StageError` naming the stage.
        """
        chain = self._chain
        if not chain.ready:
            if not chain.stages:
                raise ValueError(f"pipeline {self.name!r} has no stages: add one with .add(filter)")
            self.initialize()
        values = frame.values
        if not chain.leaves_input and isinstance(values, np.ndarray) and not values.flags.writeable:
            # A view into a receive buffer. Filters that work in place must behave alike on device and workstation.
            values = values.copy()
        values, times = chain.run(values, frame)
        if type(values) is ndarray and values.dtype is _FLOAT64 and values.ndim == 2:
            rows, width = values.shape
            if rows and width == len(self._columns):
                return times.successor(values, self._columns)  # type: ignore[no-any-return]
        return self._rows(values, times)

    def timed(self, frame: Frame) -> tuple[Frame, dict[str, float]]:
        """Run one batch as `run` does, and return the seconds that each stage took as well."""
        if not self._chain.live:
            self.initialize()
        values, times, seconds = self._chain.timed(private(frame.values), frame)
        return self._rows(values, times), seconds

    def advance(self, values: Values, times: Frame) -> tuple[Values, Frame]:
        """Run as a stage of another pipeline: the rows get this one's output columns, if it declares any."""
        values, times = self._chain.advance(values, times)
        if not self._columns or not len(values):
            return values, times
        frame = self._rows(values, times)
        return frame.values, frame

    def parameters(self) -> dict[str, Any]:
        """Return the output columns, all that a nested pipeline is made again from beside its stages."""
        return {"columns": list(self._columns)} if self._columns else {}

    @classmethod
    def assembled(cls, name: str, branches: Mapping[str, list[Any]], parameters: Mapping[str, Any]) -> Pipeline:
        """Return the nested pipeline `name` of a manifest."""
        columns = parameters.get("columns")
        return cls(name, branches[""], output=OutputSpec(columns=list(columns)) if columns else None)

    def predict(self, x: Any) -> Values:
        """Return the output for `x` (`[n, columns]`, a list of rows, or a `Frame`), as a stream of its own.

        Every call starts afresh; to go on with a stream batch by batch, use `run`. Not thread-safe, as `run` is not:
        stages hold what they have seen. Whoever serves requests from threads takes a lock, or a pipeline for each.
        """
        chain = self._chain
        straight = chain.straightened(self._width) if chain.straight is None else chain.straight
        if straight and type(x) is ndarray and x.dtype is _FLOAT64:
            try:
                rows, width = x.shape
            except ValueError:
                rows = width = 0
            if rows and width == self._width:
                values = result = x if chain.leaves_input else x.copy()
                if chain.resetting:
                    chain.reset()
                try:
                    for step, quick in straight:  # noqa: B007 - named in the error
                        result = quick(values)
                        if type(result) is not ndarray or len(result) != rows:
                            break
                        values = result
                    else:
                        return values if values.dtype is _FLOAT64 and values.ndim == 2 else self._values(values)
                except StageError:
                    raise
                except Exception as error:
                    # `len` fails for a single number only, which `bent` refuses in better words.
                    if type(result) is not ndarray or result.ndim:
                        raise chain.failure(step, error) from error
                return self._values(chain.bent(step, result, self.frame_of(x)))
        frame = self.frame_of(x)
        if frame is x and isinstance(x.values, np.ndarray):
            frame = x.with_values(x.values.copy())
        chain.reset()
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
        self._chain.fit(frame, y)
        return self

    def evaluate(
        self, x: Any, y: Any, predicted: Any = None, *, metrics: Sequence[Metric] | Mapping[str, Metric] | None = None
    ) -> dict[str, float]:
        """Return how well the output for `x` agrees with the labels `y`, by the metrics' names.

        `y` is as in `fit`. `metrics` names some of `edge_agent.sdk.metrics.METRICS`, or maps names to functions of
        labels and output; without, labels that are text, truth values or whole numbers are judged as classes, others as
        measurements. Whoever has the output already passes it as `predicted`, a row for each label.
        """
        if predicted is not None:
            return score(y, predicted, metrics)
        frame = self.frame_of(x)
        origin = frame.sequences
        self.reset()
        result = self.run(frame)
        return score(labels_of(y, result, origin), result.values, metrics)

    def to_manifest(self, registry: Shelf) -> dict[str, Any]:
        """Store everything the pipeline needs, fitted state and models included; return its manifest, JSON-able.

        `registry` is a `publisher.Registry`, or anything else with its `save` and `load`.
        """
        return registry.save(self)

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any] | str | bytes, registry: Shelf) -> Pipeline:
        """Return the pipeline of a manifest (a dict, or JSON text), rebuilt from `registry` without any source.

        Runs the code that the manifest names. Raises what `registry.load` raises.
        """
        return registry.load(manifest)

    def frame_of(self, x: Any) -> Frame:
        """Return `x` as an input frame with the declared columns and rate; a `Frame` stays as it is.

        Raises `ValueError` if the columns do not fit. A table with named columns (pandas) is read by name.
        """
        return to_frame(x, self.input, self.name)

    def _values(self, values: Values) -> Values:
        try:
            return row_values(values, self._columns)
        except Exception as error:
            raise StageError(self.stages[-1][0], error) from error

    def _rows(self, values: Values, times: Frame) -> Frame:
        try:
            return to_rows(values, times, self._columns)
        except Exception as error:
            raise StageError(self.stages[-1][0], error) from error


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
