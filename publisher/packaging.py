"""Packing: a pipeline as the author has it becomes a manifest and the blobs that it pins.

Decides what travels as what: code as bundles (F1–F3), learned attributes as state (F5), files as blobs (F6). It only
looks at the live pipeline. What cannot be shipped is `AuthorError`, with every refusal of a stage at once; what is read
back here passed the device's own checks (T10).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from edge_agent.contract.bundle import PORTABLE_TAG, build_bundle, read_bundle
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import AuthorError, UpdateRejected
from edge_agent.contract.manifest import FORMAT, Manifest, ModelRef, Stage, encode_manifest, parse_manifest
from edge_agent.sdk import selftest
from edge_agent.sdk.filter import Filter, parameters_of
from edge_agent.sdk.onnx_model import OnnxModel
from edge_agent.sdk.parameters import encode_parameters
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.state import capture
from publisher.closure import Closure, collect
from publisher.fingerprint import fingerprint
from publisher.onnx_header import read_opsets
from publisher.project import read_pyproject

__all__ = ["Package", "pack"]

_BUILTIN = "edge_agent.sdk."
_PYTHON = ">=3.11"
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


def pack(pipeline: Pipeline, *, root: Path | None = None) -> Package:
    """Return `pipeline` as manifest and blobs; `root` is the author's project directory, guessed when None.

    The same pipeline gives the same bytes on every machine. Raises `AuthorError` for what cannot be shipped.
    """
    _check_declared(pipeline)
    packer = _Packer(root)
    stages = [packer.stage(name, member) for name, member in pipeline.stages]
    manifest = Manifest(
        format=FORMAT,
        pipeline=pipeline.name,
        stages=stages,
        input=pipeline.input,
        output=pipeline.output,
        tunable=sorted(pipeline.tunable),
        requires_python=_python_of(packer.pythons),
        requires=_union(packer.requires),
        self_test=packer.self_test(pipeline),
        health=pipeline.health_policy,
        history=pipeline.history,
    )
    data = encode_manifest(manifest)
    try:
        parse_manifest(data)
    except UpdateRejected as error:
        raise AuthorError(f"pipeline {pipeline.name}: devices would refuse it: {error}") from error
    return Package(manifest, data, packer.blobs, list(dict.fromkeys(packer.warnings)))


def _check_declared(pipeline: Pipeline) -> None:
    if not pipeline.stages:
        raise AuthorError(f"pipeline {pipeline.name} has no stages: add one with .add(filter)")
    for what, columns in (("input", pipeline.input.columns), ("output", pipeline.output.columns)):
        if not columns:
            raise AuthorError(
                f"pipeline {pipeline.name} does not say which {what} columns it has: "
                f"add {what}={what.capitalize()}(['…', …])"
            )


class _Packer:
    """Packs stage after stage, and gathers what they bring along."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.blobs: dict[Digest, bytes] = {}
        self.requires: list[str] = ["numpy"]  # the built-in filters' own, hence every pipeline's
        self.pythons: set[str] = set()
        self.warnings: list[str] = []

    def stage(self, name: str, member: Filter) -> Stage:
        target, value, bundle = self._code(name, type(member))
        try:
            files = member.files()
            encoded = encode_parameters({key: one for key, one in parameters_of(member).items() if key not in files})
            state = capture(member)
        except (AuthorError, TypeError) as error:
            raise AuthorError(f"stage {name!r}: {error}") from error
        return Stage(
            name=name,
            target=target,
            fingerprint=value,
            bundle=bundle,
            tag=PORTABLE_TAG,
            parameters=encoded,
            state=None if state is None else self._blob(state),
            models={key: self._model(name, key, Path(path)) for key, path in sorted(files.items())},
            providers=list(member.providers) if isinstance(member, OnnxModel) else [],
        )

    def self_test(self, pipeline: Pipeline) -> BlobRef | None:
        if pipeline.self_test is None:
            self.warnings.append(
                f"pipeline {pipeline.name} has no self-test, so devices try it on live data first: "
                "add self_test=<rows or the path of a CSV file>"
            )
            return None
        running = bool(pipeline._live)
        try:
            return self._blob(selftest.build(pipeline, pipeline.self_test))
        finally:
            if not running:
                pipeline.cleanup()

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
        opsets: dict[str, int] = {}
        if path.suffix == ".onnx":
            self.requires.append("onnxruntime")
            try:
                opsets = read_opsets(data)
            except ValueError as error:
                raise AuthorError(f"{where}: {error}") from None
        return ModelRef(blob=self._blob(data), name=path.name, opsets=opsets)

    # --- code ------------------------------------------------------------------------------------------------------

    def _code(self, name: str, cls: type) -> tuple[str, str, BlobRef | None]:
        """Return target, fingerprint and bundle of a class; built-in filters have no bundle."""
        if cls.__module__.startswith(_BUILTIN):
            target = f"{cls.__module__}:{cls.__qualname__}"
            return target, f"builtin:{target}", None
        closure = collect(cls, root=self.root)
        if closure.refused:
            lines = "\n  ".join(str(refusal) for refusal in closure.refused)
            raise AuthorError(f"stage {name!r} ({cls.__qualname__}) cannot be shipped:\n  {lines}")
        value = fingerprint(cls, root=self.root).value
        target = f"{closure.entry}:{closure.attr or cls.__qualname__}"
        requires, python = self._requirements(closure, cls)
        self.requires += requires
        self.pythons.add(python)
        return target, value, self._blob(_bundle(name, target, value, closure, requires, python))

    def _requirements(self, closure: Closure, cls: type) -> tuple[list[str], str]:
        """Return what the author's declarations say of the distributions that the closure needs (F3), and of Python."""
        found = read_pyproject(closure.root)
        project = found[1].get("project", {}) if found else {}
        project = project if isinstance(project, dict) else {}
        declared: dict[str, list[str]] = {}
        for where, texts in ((f"{cls.__qualname__}.requires", closure.declared), (_place(found), _listed(project))):
            known = set(declared)
            for text in texts:
                requirement = _requirement(text, where)
                key = canonicalize_name(requirement.name)
                if key not in known:  # the class knows better than its project
                    declared.setdefault(key, []).append(str(requirement))
        self.warnings += [_advice(name, cls, found) for name in closure.requires if name not in declared]
        python = project.get("requires-python")
        wanted = [text for name in closure.requires for text in declared.get(name, [name])]
        return sorted(set(wanted)), python if isinstance(python, str) else _PYTHON


def _bundle(name: str, target: str, value: str, closure: Closure, requires: list[str], python: str) -> bytes:
    plain = re.sub(r"[^A-Za-z0-9]+", "-", target.replace(":", "-")).strip("-").lower()
    try:
        built = build_bundle(
            name=f"fieldcast-{plain}" if plain else "fieldcast-filter",
            version=f"0+f{value[:16]}",  # a letter first: digits alone would be normalized
            target=target,
            files={file.path: file.source for file in closure.files},
            data={file.path: file.source for file in closure.data},
            requires=requires,
            requires_python=python,
        )
        read_bundle(built)
    except (ValueError, UpdateRejected) as error:
        raise AuthorError(f"stage {name!r} ({target}) cannot be shipped: {error}") from error
    return built


# --- requirements --------------------------------------------------------------------------------------------------


def _listed(project: dict[str, Any]) -> list[str]:
    texts = project.get("dependencies", [])
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


def _place(found: tuple[Path, dict[str, Any]] | None) -> str:
    return f"{found[0]}: project.dependencies" if found else ""


def _requirement(text: str, where: str) -> Requirement:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise AuthorError(f"{where}: {text!r}: {' '.join(str(error).split())}") from None
    if requirement.url:
        raise AuthorError(f"{where}: {text!r}: devices install from an index or an image, give a version range instead")
    return requirement


def _advice(key: str, cls: type, found: tuple[Path, dict[str, Any]] | None) -> str:
    try:
        line = f"{key}>={'.'.join(metadata.version(key).split('.')[:2])}"
    except metadata.PackageNotFoundError:
        line = key
    where = f'add "{line}" to dependencies in {found[0]}' if found else f'add requires = ["{line}"] to the class'
    return f"{cls.__qualname__} needs {key} and does not say which versions, so any will be accepted: {where}"


def _union(texts: Iterable[str]) -> list[str]:
    """Return all requirements once; a bare name says nothing beside a range."""
    unique = set(texts)
    ranged = {canonicalize_name(Requirement(text).name) for text in unique if not _is_bare(text)}
    return sorted(text for text in unique if not (_is_bare(text) and canonicalize_name(text) in ranged))


def _is_bare(text: str) -> bool:
    requirement = Requirement(text)
    return not (requirement.specifier or requirement.extras or requirement.marker)


def _python_of(texts: set[str]) -> str:
    return ",".join(sorted({part.strip() for text in texts or {_PYTHON} for part in text.split(",")}))
