"""Packing: a pipeline as the author has it becomes a manifest and the blobs that it pins.

Decides what travels as what: code as bundles (F1–F3), learned attributes as state (F5), files as blobs (F6). It only
looks at the live pipeline. What cannot be shipped is `AuthorError`, with every refusal of a stage at once; what is read
back here passed the device's own checks (T10).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import AuthorError, UpdateRejected
from edge_agent.contract.manifest import FORMAT, Manifest, ModelRef, Stage, encode_manifest, parse_manifest
from edge_agent.sdk import selftest
from edge_agent.sdk.code import Code as Snippet
from edge_agent.sdk.container import Container, Member
from edge_agent.sdk.estimator import Estimator
from edge_agent.sdk.filter import Filter, parameters_of
from edge_agent.sdk.onnx_model import OnnxModel
from edge_agent.sdk.parameters import encode_parameters
from edge_agent.sdk.pickled import Written, dumps
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.serializable import require_serializable
from edge_agent.sdk.state import capture, is_pickled
from publisher.analysis import origin
from publisher.analysis.origin import STDLIB, distribution_of
from publisher.packing import by_value
from publisher.packing.code import Code, Way, pack_code, way_of
from publisher.packing.onnx_header import Header, read_header
from publisher.packing.requirements import join, join_pythons, pins_of

__all__ = ["Package", "pack"]

_IMPORT = "add imports = ['{}'] to the class"
_WRAP = "write a Filter that holds the estimator and imports {}"
_FILE_NAME = re.compile(r"[^/\x00-\x1f]{1,200}")


@dataclass(frozen=True)
class Package:
    """A packed pipeline: `data` is the manifest's canonical bytes, `blobs` holds all it pins, by digest.

    `warnings` are lines for the author; nothing in them stops a push.
    """

    manifest: Manifest
    data: bytes
    blobs: dict[Digest, bytes] = field(repr=False)
    warnings: list[str]


def pack(
    pipeline: Pipeline, *, root: Path | None = None, require_portable: bool = False, declared: bool = True
) -> Package:
    """Return `pipeline` as manifest and blobs; `root` is the author's project directory, guessed when None.

    The same pipeline gives the same bytes on every machine; not so classes by value, which `require_portable` refuses
    with the reason. Without `declared`, input and output columns may be missing, as in a pipeline that is only kept.
    Raises `AuthorError` for what cannot be shipped.
    """
    _check_declared(pipeline, columns=declared)
    require_serializable(pipeline)
    packer = _Packer(root, require_portable=require_portable)
    stages = [packer.stage(name, member) for name, member in pipeline.stages]
    manifest = Manifest(
        format=FORMAT,
        pipeline=pipeline.name,
        stages=stages,
        input=pipeline.input,
        output=pipeline.output,
        tunable=sorted(pipeline.tunable),
        requires_python=join_pythons(packer.pythons),
        requires=join(packer.requires),
        self_test=packer.self_test(pipeline),
        health=pipeline.health_policy,
        history=pipeline.history,
        limits=pipeline.limits,
    )
    data = encode_manifest(manifest)
    try:
        parse_manifest(data)
    except UpdateRejected as error:
        raise AuthorError(f"pipeline {pipeline.name}: devices would refuse it: {error}") from error
    return Package(manifest, data, packer.blobs, list(dict.fromkeys(packer.warnings)))


def _check_declared(pipeline: Pipeline, *, columns: bool) -> None:
    if not pipeline.stages:
        raise AuthorError(f"pipeline {pipeline.name} has no stages: add one with .add(filter)")
    for what, listed in (("input", pipeline.input.columns), ("output", pipeline.output.columns)):
        if columns and not listed:
            raise AuthorError(
                f"pipeline {pipeline.name} does not say which {what} columns it has: "
                f"add {what}={what.capitalize()}(['…', …])"
            )


class _Packer:
    """Packs stage after stage, and gathers what they bring along."""

    def __init__(self, root: Path | None, *, require_portable: bool) -> None:
        self.root = root
        self.require_portable = require_portable
        self.blobs: dict[Digest, bytes] = {}
        self.requires: list[str] = ["numpy"]  # the built-in filters' own, hence every pipeline's
        self.pythons: set[str] = set()
        self.warnings: list[str] = []

    def stage(self, name: str, member: Member) -> Stage:
        """Return the manifest's form of a stage, and keep the blobs it needs."""
        if isinstance(member, Container):
            return self._container(name, member)
        try:
            subject = _subject(member)
            way = way_of(type(subject), self.root)
            files = subject.files() if isinstance(subject, Filter) else {}
            encoded = encode_parameters({key: one for key, one in parameters_of(subject).items() if key not in files})
            state = _State.of(subject, way)
        except (AuthorError, TypeError) as error:
            raise AuthorError(f"stage {name!r}: {error}") from error
        code = self._code(name, type(subject), way, state.named)
        if isinstance(member, Snippet):
            self.requires += _imported(name, member)
        self._require(name, code, state)
        return Stage(
            name=name,
            target=code.target,
            fingerprint=code.fingerprint,
            bundle=None if code.data is None else self._blob(code.data),
            tag=code.tag,
            parameters=encoded,
            state=None if state.data is None else self._blob(state.data),
            models={key: self._model(name, key, Path(path)) for key, path in sorted(files.items())},
            providers=list(member.providers) if isinstance(member, OnnxModel) else [],
        )

    def _container(self, name: str, member: Container) -> Stage:
        code = self._code(name, type(member), Way(), {})
        return Stage(
            name=name,
            target=code.target,
            fingerprint=code.fingerprint,
            parameters=encode_parameters(member.parameters()),
            branches={branch: [self.stage(*one) for one in stages] for branch, stages in member.branches.items()},
        )

    def self_test(self, pipeline: Pipeline) -> BlobRef | None:
        if pipeline.self_test is None:
            self.warnings.append(
                f"pipeline {pipeline.name} has no self-test, so devices try it on live data first: "
                "add self_test=<rows or the path of a CSV file>"
            )
            return None
        running = pipeline.live
        try:
            return self._blob(selftest.build(pipeline, pipeline.self_test))
        finally:
            if not running:
                pipeline.cleanup()

    def _code(self, name: str, cls: type, way: Way, extras: dict[tuple[str, str], Any]) -> Code:
        code = pack_code(name, cls, way, extras=extras, root=self.root, portable=self.require_portable)
        self.requires += code.requires
        if code.data is not None:
            self.pythons.add(code.python)
        self.warnings += code.warnings
        return code

    def _require(self, name: str, code: Code, state: _State) -> None:
        """Require what a pickled state was written with, exactly, and say what that costs."""
        try:
            pins = pins_of(state.modules, code.modules, _WRAP if code.data is None else _IMPORT)
        except AuthorError as error:
            raise AuthorError(f"stage {name!r}: {error}") from None
        self.requires += pins
        if pins:
            self.warnings.append(
                f"stage {name!r} learned objects of {', '.join(pins)}, and devices need exactly that: export the model "
                "to ONNX (for scikit-learn: skl2onnx.to_onnx) and use OnnxModel to run on any"
            )

    def _blob(self, data: bytes) -> BlobRef:
        ref = BlobRef.of(data)
        self.blobs[ref.digest] = data
        return ref

    def _model(self, stage: str, parameter: str, path: Path) -> ModelRef:
        where = f"stage {stage!r}: {parameter} = {path}"
        if not _FILE_NAME.fullmatch(path.name):
            raise AuthorError(f"{where}: a file of this name cannot be shipped: rename it")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise AuthorError(f"{where}: {error.strerror}") from None
        header = Header({})
        if path.suffix == ".onnx":
            self.requires.append("onnxruntime")
            try:
                header = read_header(data)
            except ValueError as error:
                raise AuthorError(f"{where}: {error}") from None
        beside = {one: self._blob(_weights(where, path, one)) for one in header.beside}
        return ModelRef(blob=self._blob(data), name=path.name, opsets=header.opsets, beside=beside)


def _weights(where: str, model: Path, inner: str) -> bytes:
    """Return a file that an ONNX model keeps its weights in."""
    path = model.parent / inner
    if inner == model.name:
        raise AuthorError(f"{where}: it says that its weights lie in itself: save it again with onnx.save(model, path)")
    if not path.resolve().is_relative_to(model.parent.resolve()):
        raise AuthorError(f"{where}: its weights lie in {inner}, a link out of its directory: copy them there")
    try:
        return path.read_bytes()
    except OSError as error:
        raise AuthorError(
            f"{where}: its weights lie in {inner}, which cannot be read from its directory ({error.strerror}): "
            "keep both files together"
        ) from None


def _imported(name: str, member: Snippet) -> list[str]:
    """Return the distributions whose modules a snippet imports."""
    found = {module: distribution_of(module) for module in member.modules().values()}
    for module, distribution in found.items():
        if distribution is None and module.partition(".")[0] not in STDLIB:
            raise AuthorError(
                f"stage {name!r}: {module} belongs to no installed distribution, and a snippet ships no modules: "
                "write a filter that imports it"
            )
    return [distribution for distribution in found.values() if distribution]


def _subject(member: Filter) -> Any:
    """Return whose class is shipped: the stage itself, or the author's own estimator inside it, which devices wrap."""
    if not isinstance(member, Estimator) or member.estimator is None:
        return member
    if origin.distribution_of(type(member.estimator).__module__) and not by_value.source_of(
        type(member.estimator).__module__
    ):
        return member
    if member.method:
        raise AuthorError(
            f"{member.method} of {type(member.estimator).__qualname__} cannot be asked for on a device: write a Filter "
            "whose predict calls it"
        )
    return member.estimator


@dataclass
class _State:
    """A filter's state, with the modules that its pickle names and the classes that must go by value with it."""

    data: bytes | None
    modules: frozenset[str] = frozenset()
    named: dict[tuple[str, str], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, member: Filter, way: Way) -> _State:
        last = Written(b"", frozenset())
        named: dict[tuple[str, str], Any] = {}

        def name(item: Any) -> tuple[str, str] | None:
            found = way.names(item)
            if found is not None and named.setdefault(found, item) is not item:
                raise AuthorError(f"its state holds two different things called {'.'.join(found)}: rename one")
            return found

        def dump(value: Any) -> bytes:
            nonlocal last
            named.clear()
            last = dumps(value, names=name, owner=member)
            return last.data

        data = capture(member, dump)
        return cls(data, last.modules, named if way.why else {}) if data and is_pickled(data) else cls(data)
