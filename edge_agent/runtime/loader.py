"""Builds the pipeline of a laid-out release: classes from their bundles, parameters, files, state.

Runs in the worker only, on files that the agent has verified. It constructs and restores; it does not initialize, so
nothing of the release computes yet. This is the one place where pinned bundles and pickled state would be unpickled;
portable bundles and plain state need no such thing, and nothing here does it.
"""

from __future__ import annotations

import importlib
import itertools
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.contract.errors import Reason, ReasonCode, WorkerFailed
from edge_agent.contract.manifest import Manifest, Stage, parse_manifest
from edge_agent.runtime.namespace import Mount
from edge_agent.sdk.parameters import decode_parameters, resolve_tunable
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.state import restore

__all__ = ["Mount", "load_pipeline"]

_PORTABLE_TAG = "py3-none-any"  # spelled out: importing contract.bundle costs a worker 25 ms at start
_PARAMETERS = ReasonCode.PARAMETERS
_COUNTER = itertools.count(1)  # one release may be loaded twice in a process, each with modules of its own


def load_pipeline(
    root: Path, tunables: Mapping[str, Any] | None = None, *, mounts: list[Mount] | None = None
) -> Pipeline:
    """Return the pipeline of the release laid out below `root`, not initialized.

    `tunables` are this device's values by tunable name. The bundles stay mounted; whoever wants them gone passes a
    list for `mounts`, which receives them. Raises `WorkerFailed` naming the stage when a class cannot be loaded or
    constructed (its cause is what the author's code raised), `UpdateRejected` for a manifest that cannot be read; then
    nothing stays mounted.
    """
    manifest = parse_manifest((root / "manifest.json").read_bytes())
    settings = _settings(manifest, tunables or {})
    used: dict[str, Mount] = {}
    try:
        stages = [
            (stage.name, _construct(root, stage, settings.get(stage.name, {}), used)) for stage in manifest.stages
        ]
        pipeline = Pipeline(
            manifest.pipeline,
            stages,
            input=manifest.input,
            output=manifest.output,
            tunable=manifest.tunable,
            health=manifest.health,
        )
    except (TypeError, ValueError) as error:
        _unmount(used)
        raise _failed(f"pipeline {manifest.pipeline}: {error}", "") from error
    except BaseException:
        _unmount(used)
        raise
    if mounts is not None:
        mounts.extend(used.values())
    return pipeline


def _unmount(used: Mapping[str, Mount]) -> None:
    for mount in used.values():
        mount.unmount()


def _settings(manifest: Manifest, tunables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the device's values by stage and parameter."""
    known = {stage.name: [*stage.parameters] for stage in manifest.stages}
    settings: dict[str, dict[str, Any]] = {}
    for name, value in tunables.items():
        if name not in manifest.tunable:
            allowed = ", ".join(manifest.tunable) or "none"
            raise _failed(f"tunable {name!r} is not offered by this release (it offers: {allowed})", name, _PARAMETERS)
        try:
            stage, parameter = resolve_tunable(name, known)
        except ValueError as error:
            raise _failed(str(error), name, _PARAMETERS) from None
        settings.setdefault(stage, {})[parameter] = value
    return settings


def _construct(root: Path, stage: Stage, settings: Mapping[str, Any], used: dict[str, Mount]) -> Any:
    try:
        cls = _load(root, stage, used)
        parameters = decode_parameters(stage.parameters)
        for name, value in settings.items():
            # A configuration file may say 1 where the author said 1.0.
            whole = isinstance(parameters[name], float) and type(value) is int
            parameters[name] = float(value) if whole else value
        for name, model in stage.models.items():
            parameters[name] = str(root / "files" / model.blob.digest.hex / model.name)
        made = cls(**parameters)
        if stage.state is not None:
            restore(made, (root / "blobs" / stage.state.digest.hex).read_bytes())
    except WorkerFailed:
        raise
    except Exception as error:
        raise _failed(f"{stage.target}: {_words(error)}", stage.name) from error
    return made


def _load(root: Path, stage: Stage, used: dict[str, Mount]) -> type:
    if stage.bundle is None:
        module, _, qualified = stage.target.partition(":")
        found = getattr(importlib.import_module(module), qualified, None)
        if not isinstance(found, type):
            raise _failed(f"this agent has no {stage.target}: update fieldcast on the device", stage.name)
        return found
    if stage.tag != _PORTABLE_TAG:
        # A cloudpickle of another minor version does not raise, it crashes (F2): never try.
        raise _failed(f"bundle of {stage.target} is {stage.tag}; this agent loads {_PORTABLE_TAG} only", stage.name)
    key = stage.bundle.digest.hex
    if key not in used:
        used[key] = Mount(root / "bundles" / key, f"{key[:12]}_{next(_COUNTER)}")
    return used[key].load(stage.target)


def _failed(message: str, where: str, code: ReasonCode = ReasonCode.START) -> WorkerFailed:
    return WorkerFailed(Reason(code=code, message=message, where=where))


def _words(error: Exception) -> str:
    """Return the error with the last line of the author's source that it came through."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/bundles/" in frame.filename]
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text
