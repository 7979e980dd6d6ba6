"""Answers about a TARGET without pushing it: its closure, its fingerprint, its package.

Decides how a pipeline answers: for its stages together, and for each. All else is the answer of the room in question.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edge_agent.sdk.pipeline import Pipeline
from publisher.closure import collect
from publisher.comparison import subject
from publisher.fingerprint import fingerprint as fingerprint_of
from publisher.packaging import Package, pack

__all__ = ["closure", "fingerprint", "package"]

_BUILTIN = "edge_agent.sdk."


def closure(target: str | None, *, root: Path | None = None) -> dict[str, Any]:
    """Return `files`, `requires`, `data` and `refused` of what `target` names; of all stages of a pipeline together.

    Raises `AuthorError` when the target cannot be found, or names a pipeline that does not import.
    """
    pipeline = subject.pipeline_of(target, root=root, files=False)
    if pipeline is None:
        return collect(subject.chosen(str(target), root), root=root).to_json()
    found = [collect(cls, root=root).to_json() for _, cls in _classes(pipeline) if not _is_builtin(cls)]
    joined: dict[str, Any] = {
        key: sorted({item for one in found for item in one[key]}) for key in ("files", "requires", "data")
    }
    refused = {tuple(sorted(item.items())): item for one in found for item in one["refused"]}
    joined["refused"] = sorted(refused.values(), key=lambda item: (item["file"], item["line"], item["reason"]))
    return joined


def fingerprint(target: str | None, *, root: Path | None = None) -> dict[str, Any]:
    """Return `target`, `fingerprint` and `components` of what `target` names.

    For a pipeline there are also `stages`, each with `name`, `target`, `fingerprint` and `components`; its own
    components are its stages, and its fingerprint changes when the code, name or place of a stage does. Parameters and
    state are no code. Raises `AuthorError`.
    """
    pipeline = subject.pipeline_of(target, root=root)
    if pipeline is None:
        found = fingerprint_of(subject.chosen(str(target), root), root=root)
        return {"target": target, "fingerprint": found.value, "components": dict(sorted(found.components.items()))}
    stages = [_stage(name, cls, root) for name, cls in _classes(pipeline)]
    body = json.dumps([[stage["name"], stage["target"], stage["fingerprint"]] for stage in stages])
    return {
        "target": target or pipeline.name,
        "pipeline": pipeline.name,
        "fingerprint": hashlib.sha256(body.encode()).hexdigest(),
        "components": {stage["name"]: stage["fingerprint"] for stage in stages},
        "stages": stages,
    }


def package(target: str | None, *, root: Path | None = None) -> Package:
    """Return the pipeline that `target` names as `push` would pack it. Raises `AuthorError`."""
    return pack(subject.load(target, root=root), root=root)


def _classes(pipeline: Pipeline) -> list[tuple[str, type]]:
    return [(name, type(member)) for name, member in pipeline.stages]


def _is_builtin(cls: type) -> bool:
    return cls.__module__.startswith(_BUILTIN)


def _stage(name: str, cls: type, root: Path | None) -> dict[str, Any]:
    target = f"{cls.__module__}:{cls.__qualname__}"
    if _is_builtin(cls):
        return {"name": name, "target": target, "fingerprint": f"builtin:{target}", "components": {}}
    found = fingerprint_of(cls, root=root)
    return {
        "name": name,
        "target": target,
        "fingerprint": found.value,
        "components": dict(sorted(found.components.items())),
    }
