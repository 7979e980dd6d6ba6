"""Builds the pipeline of a laid-out release: classes from their bundles, parameters, files, state.

Runs in the worker only, on files that the agent has verified. It constructs and restores; it does not initialize, so
nothing of the release computes yet. This is the one place where pinned bundles and pickled state are unpickled
(`pinned` and `pickles` do it, and nobody else calls them); portable bundles and plain state need no such thing.
"""

from __future__ import annotations

import importlib
import itertools
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.contract.errors import Reason, ReasonCode, UpdateRejected, WorkerFailed
from edge_agent.contract.manifest import Manifest, Stage, parse_manifest
from edge_agent.contract.pinned import is_pinned
from edge_agent.runtime import pickles
from edge_agent.runtime.namespace import Mount
from edge_agent.runtime.pinned import INTERPRETER, has_pinned
from edge_agent.sdk.parameters import decode_parameters, resolve_tunable
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.state import restore

__all__ = ["Mount", "load_pipeline"]

_PORTABLE_TAG = "py3-none-any"  # spelled out: importing contract.bundle costs a worker 25 ms at start
_PARAMETERS = ReasonCode.PARAMETERS
_COUNTER = itertools.count(1)  # one release may be loaded twice in a process, each with modules of its own


def load_pipeline(
    root: Path,
    tunables: Mapping[str, Any] | None = None,
    *,
    mounts: list[Mount] | None = None,
    shared: dict[str, Mount] | None = None,
) -> Pipeline:
    """Return the pipeline of the release laid out below `root`, not initialized.

    `tunables` are this device's values by tunable name. The bundles stay mounted; whoever wants them gone passes a
    list for `mounts`, which receives them. `shared` holds mounts by bundle digest (hex) that are used again, and gets
    the new ones: equal bundles then give the same classes. Raises `WorkerFailed` naming the stage when a class cannot
    be loaded or constructed (its cause is what the author's code raised), `UpdateRejected` for a manifest that cannot
    be read; then nothing of the attempt stays mounted.
    """
    manifest = parse_manifest((root / "manifest.json").read_bytes())
    settings = _settings(manifest, tunables or {})
    known = shared if shared is not None else {}
    used = dict(known)
    try:
        stages = _assemble(root, manifest.stages, settings, used)
        pipeline = Pipeline(
            manifest.pipeline,
            stages,
            input=manifest.input,
            output=manifest.output,
            tunable=manifest.tunable,
            health=manifest.health,
            limits=manifest.limits,
        )
    except (TypeError, ValueError) as error:
        _unmount(used, known)
        raise _failed(f"pipeline {manifest.pipeline}: {error}", "") from error
    except BaseException:
        _unmount(used, known)
        raise
    if mounts is not None:
        mounts.extend(mount for key, mount in used.items() if key not in known)
    known.update(used)
    return pipeline


def _unmount(used: Mapping[str, Mount], kept: Mapping[str, Mount]) -> None:
    for key, mount in used.items():
        if key not in kept:
            mount.unmount()


def _settings(manifest: Manifest, tunables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the device's values by stage and parameter."""
    known = {stage.name: [*stage.parameters] for stage in manifest.every_stage() if not stage.branches}
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


def _assemble(
    root: Path, stages: list[Stage], settings: Mapping[str, Mapping[str, Any]], used: dict[str, Mount]
) -> list[tuple[str, Any]]:
    """Return the stages by name; those made of stages with what they contain."""
    made: list[tuple[str, Any]] = []
    for stage in stages:
        if stage.branches:
            inside = {name: _assemble(root, branch, settings, used) for name, branch in stage.branches.items()}
            made.append((stage.name, _contain(root, stage, inside)))
        else:
            made.append((stage.name, _construct(root, stage, settings.get(stage.name, {}), used)))
    return made


def _contain(root: Path, stage: Stage, inside: Mapping[str, list[Any]]) -> Any:
    try:
        cls: Any = _load(root, stage, {})
        return cls.assembled(stage.name, inside, decode_parameters(stage.parameters))
    except (TypeError, ValueError, AttributeError) as error:
        raise _failed(f"{stage.target}: {_words(error)}", stage.name) from error


def _construct(root: Path, stage: Stage, settings: Mapping[str, Any], used: dict[str, Mount]) -> Any:
    try:
        cls = _load(root, stage, used)
        names = used[stage.bundle.digest.hex] if stage.bundle else _INSTALLED
        parameters = decode_parameters(stage.parameters, names.resolve)
        for name, value in settings.items():
            # A configuration file may say 1 where the author said 1.0.
            whole = isinstance(parameters[name], float) and type(value) is int
            parameters[name] = float(value) if whole else value
        for name, model in stage.models.items():
            parameters[name] = str(root / "files" / model.folder / model.name)
        made = cls(**parameters)
        if stage.state is not None:
            state = (root / "blobs" / stage.state.digest.hex).read_bytes()
            restore(made, state, lambda data: pickles.loads(data, names, owner=made))
    except WorkerFailed:
        raise
    except UpdateRejected as error:
        raise _failed(error.reasons[0].message, stage.name, error.reasons[0].code) from error
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
    if stage.tag != _PORTABLE_TAG and not (is_pinned(stage.tag) and stage.tag.startswith(f"{INTERPRETER}-")):
        # A cloudpickle of another minor version does not raise, it crashes (F2): never try.
        words = f"bundle of {stage.target} is {stage.tag}; this is {INTERPRETER}, and the class is pinned to the other"
        raise _failed(words, stage.name, ReasonCode.INTERPRETER)
    key = stage.bundle.digest.hex
    if key not in used:
        used[key] = Mount(root / "bundles" / key, f"{key[:12]}_{next(_COUNTER)}")
    if (stage.tag == _PORTABLE_TAG) == has_pinned(used[key].root):
        raise _failed(f"the manifest says that the bundle of {stage.target} is {stage.tag}, it is not", stage.name)
    return used[key].load(stage.target)


class _Installed:
    """The names in the state of a filter that is part of the agent: what is installed, by its own name."""

    def resolve(self, module: str, name: str) -> Any:
        found: Any = importlib.import_module(module)
        for part in name.split(".") if name else ():
            found = getattr(found, part)
        return found

    def name_of(self, item: Any) -> None:
        return None


_INSTALLED = _Installed()


def _failed(message: str, where: str, code: ReasonCode = ReasonCode.START) -> WorkerFailed:
    return WorkerFailed(Reason(code=code, message=message, where=where))


def _words(error: Exception) -> str:
    """Return the error with the last line of the author's source that it came through."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/bundles/" in frame.filename]
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text
