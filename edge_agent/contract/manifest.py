"""The manifest (F4): what one release of one pipeline is made of, as canonical JSON.

It pins every blob by digest and size and says what the pipeline takes, gives and needs. It decides nothing; admission
does. It never holds secrets, a sequence number, a tag or a time: those belong to the signed release, so that promoting
the same bytes keeps the same digest. Unknown fields are tolerated, an unknown `format` is refused.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from edge_agent.contract.digest import BlobRef, Digest, decode_json, encode_json
from edge_agent.contract.dtypes import DEFAULT, DTYPES, has_unit
from edge_agent.contract.errors import Reason, ReasonCode, UpdateRejected

__all__ = [
    "CONTAINERS",
    "FORMAT",
    "MANIFEST_BYTES_MAX",
    "HealthPolicy",
    "InputSpec",
    "Manifest",
    "ModelRef",
    "OutputSpec",
    "ResourceLimits",
    "Stage",
    "check_name",
    "encode_manifest",
    "parse_manifest",
]

FORMAT = 1
MANIFEST_BYTES_MAX = 256 * 1024
FILE_NAME_BYTES_MAX = 255
PATH_DEPTH_MAX = 4
BESIDE_MAX = 64
STAGE_DEPTH_MAX = 16
CONTAINERS = ("edge_agent.sdk.parallel:Parallel", "edge_agent.sdk.pipeline:Pipeline")
"""Targets of stages that are made of stages. Wire format."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it may name a pipeline, channel, fleet or device; raise `ValueError` otherwise.

    Letters, digits, `_`, `.`, `-`; at most 63; the first a letter or digit. No topic, path or reference syntax fits in.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{kind} name {name[:80]!r} is not allowed: use up to 63 letters, digits, '_', '.', '-'")
    return name


class ModelRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that a stage receives as a path (F6).

    `opsets` maps ONNX operator domains (`""` is `ai.onnx`) to versions; empty for files that are not ONNX models.
    `beside` holds the files that this one names by a path relative to itself: an ONNX model's weights, if they lie in
    files of their own.
    """

    blob: BlobRef
    name: str
    opsets: dict[str, int] = {}
    beside: dict[str, BlobRef] = {}

    @property
    def folder(self) -> str:
        """The name of the directory that the files lie in; equal files only ever share one with equal neighbours."""
        return Digest.of(encode_json(self)).hex if self.beside else self.blob.digest.hex

    def files(self) -> Iterator[tuple[str, BlobRef]]:
        """Yield the path of every file, relative to the directory, with its content; the file itself first."""
        yield self.name, self.blob
        yield from sorted(self.beside.items())


class Stage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One filter with its parameters, state and files.

    `target` is `module:QualifiedName`. `bundle` is None for filters that are part of the agent (`edge_agent.sdk`).
    `tag` is the bundle's wheel tag (PEP 425). `parameters` holds JSON-like values in the encoding of
    `edge_agent.sdk.parameters`. A parameter that is a file appears in `models` under the parameter's name.
    `branches` is for the targets in `CONTAINERS` only; a nested pipeline has one branch, named "". Names of stages are
    unique over the whole tree.
    """

    name: str
    target: str
    fingerprint: str
    bundle: BlobRef | None = None
    tag: str = "py3-none-any"
    parameters: dict[str, Any] = {}
    state: BlobRef | None = None
    models: dict[str, ModelRef] = {}
    providers: list[str] = []
    branches: dict[str, list[Stage]] = {}


class InputSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The logical input: columns in order, units and dtypes by column, nominal rate in Hz (0: irregular).

    A column without a dtype is float64; see `edge_agent.contract.dtypes` for the others.
    """

    columns: list[str]
    units: dict[str, str] = {}
    rate_hz: float = 0.0
    dtypes: dict[str, str] = {}

    @property
    def typed(self) -> bool:
        """Whether any column is something else than float64."""
        return bool(self.dtypes) and any(dtype != DEFAULT for dtype in self.dtypes.values())

    def dtype_of(self, column: str) -> str:
        """Return the dtype of a column."""
        return self.dtypes.get(column, DEFAULT)


class OutputSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The logical output: columns in order, and per column the closed range that valid values lie in."""

    columns: list[str]
    units: dict[str, str] = {}
    ranges: dict[str, tuple[float, float]] = {}


class HealthPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a release must show (§10). A device's config may only tighten it.

    Probation ends by count *and* time: at least `probation_frames` samples and `probation_seconds` seconds live.
    `error_rate_max` is the share of frames that may fail, and that may give invalid results; of neighbouring ones
    `block_frames` count as one. `latency_ms_max` is for 99 of 100 frames, `latency_ratio_max` how many times as slow as
    the active release a frame may be. Memory is the worker's, resident, in MiB. `disagreement_max` is how far a result
    may lie from the active release's. `rows_ratio_max` is rows out for each row in, `printed_kb_max` what a probation
    may print. 0 means no limit for all of these but `error_rate_max`. With `needs_broker`, nothing is committed while
    the input's or output's broker is gone.
    """

    start_seconds: float = 30.0
    probation_seconds: float = 10.0
    probation_frames: int = 100
    shadow_frames: int = 20
    error_rate_max: float = 0.01
    heartbeat_seconds: float = 5.0
    block_frames: int = 1
    latency_ms_max: float = 0.0
    latency_ratio_max: float = 10.0
    memory_mb_max: float = 0.0
    memory_growth_mb_max: float = 32.0
    disagreement_max: float = 0.0
    rows_ratio_max: float = 100.0
    printed_kb_max: float = 1024.0
    needs_broker: bool = False


class ResourceLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a release's worker may use at the most (R6); a device's limits are ceilings. 0: what the device allows."""

    memory_mb: int = 0
    open_files: int = 0
    tasks: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One release's content. `history` is how many past samples warm a fresh worker up (sum of window lengths)."""

    format: int
    pipeline: str
    stages: list[Stage]
    input: InputSpec
    output: OutputSpec
    tunable: list[str] = []
    requires_python: str = ""
    requires: list[str] = []
    self_test: BlobRef | None = None
    health: HealthPolicy = HealthPolicy()
    history: int = 0
    limits: ResourceLimits = ResourceLimits()

    def every_stage(self) -> Iterator[Stage]:
        """Yield all stages with those in their branches, each before what it contains."""
        return (stage for stage, _ in _walk(self.stages))

    def blobs(self) -> Iterator[BlobRef]:
        """Yield every blob the release needs, each once, in a fixed order."""
        seen = set()
        for stage in self.every_stage():
            models = (ref for _, model in sorted(stage.models.items()) for _, ref in model.files())
            for ref in (stage.bundle, stage.state, *models):
                if ref is not None and ref.digest not in seen:
                    seen.add(ref.digest)
                    yield ref
        if self.self_test is not None and self.self_test.digest not in seen:
            yield self.self_test


class _Format(msgspec.Struct):
    format: int


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the canonical bytes of `manifest`; their digest names the release everywhere.

    `format` is always written, defaults are left out.
    """
    return encode_json(manifest)


def parse_manifest(data: bytes) -> Manifest:
    """Parse and validate a manifest. Raises `UpdateRejected` with the key path of what is wrong."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise UpdateRejected.one(ReasonCode.SIZE, f"manifest of {len(data)} bytes exceeds {MANIFEST_BYTES_MAX}")
    try:
        found = decode_json(data, _Format).format
        if found != FORMAT:
            raise UpdateRejected.one(
                ReasonCode.FORMAT,
                f"manifest format {found} is not supported (this program reads {FORMAT}): update fieldcast first",
            )
        manifest = decode_json(data, Manifest)
    except (msgspec.DecodeError, ValueError) as error:
        raise UpdateRejected.one(ReasonCode.MALFORMED, f"manifest: {error}") from None
    faults = list(_faults(manifest))
    if faults:
        raise UpdateRejected(faults)
    return manifest


def is_inner_path(path: str) -> bool:
    """Tell whether `path` leads to a file in or a little below the directory that it is relative to."""
    parts = path.split("/")
    return len(parts) <= PATH_DEPTH_MAX and all(map(_is_file_name, parts))


def _in_the_way(path: str, files: set[str]) -> bool:
    """Tell whether a directory that `path` leads through is one of the `files`."""
    parts = path.split("/")
    return any("/".join(parts[:depth]) in files for depth in range(1, len(parts)))


def _is_file_name(name: str) -> bool:
    """Tell whether `name` stays in the directory it is put into."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\0"} and len(name.encode()) <= FILE_NAME_BYTES_MAX


def _walk(stages: list[Stage], where: str = "$.stages") -> Iterator[tuple[Stage, str]]:
    """Yield all stages with their key paths, each before what it contains."""
    waiting = [(stage, f"{where}[{index}]") for index, stage in enumerate(stages)][::-1]
    while waiting:
        stage, path = waiting.pop()
        yield stage, path
        inner = [
            (one, f"{path}.branches.{name}[{index}]")
            for name, branch in sorted(stage.branches.items())
            for index, one in enumerate(branch)
        ]
        waiting += inner[::-1]


def _fault(message: str, where: str) -> Reason:
    return Reason(code=ReasonCode.MALFORMED, message=f"manifest: {message}", where=where)


def _faults(manifest: Manifest) -> Iterator[Reason]:
    try:
        check_name("pipeline", manifest.pipeline)
    except ValueError as error:
        yield _fault(str(error), "$.pipeline")
    if not manifest.stages:
        yield _fault("a pipeline needs at least one stage", "$.stages")
    counts = Counter(stage.name for stage in manifest.every_stage())
    for name in sorted(name for name, count in counts.items() if count > 1):
        yield _fault(f"stage name {name!r} is used twice", "$.stages")
    for stage, where in _walk(manifest.stages):
        yield from _stage_faults(stage, where)
    for key, columns in (("input", manifest.input.columns), ("output", manifest.output.columns)):
        if len(set(columns)) != len(columns):
            yield _fault("a column is named twice", f"$.{key}.columns")
    yield from _dtype_faults(manifest.input)
    for ref in manifest.blobs():
        if ref.size < 0:
            yield _fault(f"blob {ref.digest} has size {ref.size}", "$.stages")
    if manifest.history < 0:
        yield _fault("history is negative", "$.history")
    for name in ResourceLimits.__struct_fields__:
        if (limit := getattr(manifest.limits, name)) < 0:
            yield _fault(f"{limit} must be 0 or more", f"$.limits.{name}")
    for name in HealthPolicy.__struct_fields__:
        value = getattr(manifest.health, name)
        if not 0 <= value < math.inf:
            yield _fault(f"{value} must be 0 or more, and finite", f"$.health.{name}")


def _dtype_faults(spec: InputSpec) -> Iterator[Reason]:
    for name, dtype in sorted(spec.dtypes.items()):
        where = f"$.input.dtypes.{name}"
        if name not in spec.columns:
            yield _fault(f"dtype {dtype!r} is of a column that the input does not have", where)
        elif dtype not in DTYPES:
            known = ", ".join(DTYPES)
            yield _fault(f"dtype {dtype[:40]!r} is not known ({known}): a newer fieldcast may read it", where)
        elif spec.units.get(name) and not has_unit(dtype):
            yield _fault(f"column {name!r} is {dtype}, which has no unit", where)


def _stage_faults(stage: Stage, where: str) -> Iterator[Reason]:
    if stage.target.count(":") != 1 or not all(stage.target.split(":")):
        yield _fault(f"target {stage.target!r} is not module:Class", f"{where}.target")
    elif stage.bundle is None and not stage.target.startswith("edge_agent.sdk."):
        yield _fault(f"{stage.target} is not part of the agent and has no bundle", f"{where}.bundle")
    if bool(stage.branches) != (stage.bundle is None and stage.target in CONTAINERS):
        words = "has branches, which only" if stage.branches else "has no branches, which"
        yield _fault(f"{stage.target} {words} {' and '.join(CONTAINERS)} have", f"{where}.branches")
    if stage.branches and (set(stage.branches) == {""}) != stage.target.endswith(":Pipeline"):
        yield _fault('a nested Pipeline has one branch, named "", and a Parallel others', f"{where}.branches")
    for name in filter(None, stage.branches):
        try:
            check_name("branch", name)
        except ValueError as error:
            yield _fault(str(error), f"{where}.branches")
    if where.count(".branches.") == STAGE_DEPTH_MAX:
        yield _fault(f"stages lie {STAGE_DEPTH_MAX} deep or deeper in others", where[:200])
    for key, model in sorted(stage.models.items()):
        if not _is_file_name(model.name):
            words = f"file name {model.name[:80]!r} is not allowed: it must name a file, not a path"
            yield _fault(words, f"{where}.models.{key}.name")
        if len(model.beside) > BESIDE_MAX:
            yield _fault(f"more than {BESIDE_MAX} files lie beside {model.name}", f"{where}.models.{key}.beside")
        for path in sorted(model.beside):
            if path == model.name or not is_inner_path(path) or _in_the_way(path, {model.name, *model.beside}):
                words = f"path {path[:80]!r} is not allowed: it must lead to another file in or below its directory"
                yield _fault(words, f"{where}.models.{key}.beside")
