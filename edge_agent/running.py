"""Run anything that can be run, once, here: a pipeline, filters, or a manifest with its blobs (F1).

What was given is told apart in one place, `opened`. A manifest's code is run in this process, without a sandbox: run
only what you would run as a script.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from edge_agent.contract.digest import BlobRef, encode_json
from edge_agent.contract.errors import Blame, ReasonCode, UpdateRejected
from edge_agent.contract.manifest import Manifest, encode_manifest, parse_manifest
from edge_agent.sdk.container import Container
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame, Values
from edge_agent.sdk.pipeline import Pipeline

__all__ = ["Blobs", "RunMetrics", "Runnable", "arun", "opened", "run"]

Runnable: TypeAlias = (
    "Pipeline | Filter | Container | list[Any] | tuple[Any, ...] | Mapping[str, Any] | Manifest | str | bytes"
)
Blobs: TypeAlias = "Mapping[Any, bytes] | Path | Callable[[BlobRef], bytes] | None"


@dataclass(frozen=True)
class RunMetrics:
    """How a run went: rows in and out, seconds in all (without starting and ending), and seconds by stage."""

    rows_in: int
    rows_out: int
    seconds: float
    stages: dict[str, float] = field(default_factory=dict)


@overload
def run(x: Runnable, frame: Frame, metrics: Literal[False] = False, *, blobs: Blobs = None) -> Frame: ...
@overload
def run(x: Runnable, frame: Frame, metrics: Literal[True], *, blobs: Blobs = None) -> tuple[Frame, RunMetrics]: ...
@overload
def run(x: Runnable, frame: Any, metrics: Literal[False] = False, *, blobs: Blobs = None) -> Values: ...
@overload
def run(x: Runnable, frame: Any, metrics: Literal[True], *, blobs: Blobs = None) -> tuple[Values, RunMetrics]: ...
def run(x: Runnable, frame: Any, metrics: bool = False, *, blobs: Blobs = None) -> Any:
    """Run `x` on `frame` as a stream of its own and return what comes out; with `metrics`, how it went as well.

    `x` is a pipeline, a filter, a list of stages, or a manifest (struct, dict, JSON text) whose `blobs` are a mapping
    by digest, a directory of `<hex>` files, or a function of a `BlobRef`. `frame` is a `Frame`, and then one comes out,
    or rows. Stages that were not initialized before are cleaned up again.

    Raises `StageError` naming the stage; `UpdateRejected` or `WorkerFailed` for a manifest that cannot be loaded.
    """
    with opened(x, blobs) as pipeline:
        given = pipeline.frame_of(frame)
        was_live = pipeline.live
        try:
            pipeline.initialize()
            pipeline.reset()
            started = time.perf_counter()
            result, stages = pipeline.timed(given)
            seconds = time.perf_counter() - started
        finally:
            if not was_live:
                pipeline.cleanup()
    answer = result if isinstance(frame, Frame) else result.values
    return (answer, RunMetrics(len(given), len(result), seconds, stages)) if metrics else answer


@overload
async def arun(x: Runnable, frame: Frame, metrics: Literal[False] = False, *, blobs: Blobs = None) -> Frame: ...
@overload
async def arun(
    x: Runnable, frame: Frame, metrics: Literal[True], *, blobs: Blobs = None
) -> tuple[Frame, RunMetrics]: ...
@overload
async def arun(x: Runnable, frame: Any, metrics: Literal[False] = False, *, blobs: Blobs = None) -> Values: ...
@overload
async def arun(
    x: Runnable, frame: Any, metrics: Literal[True], *, blobs: Blobs = None
) -> tuple[Values, RunMetrics]: ...
async def arun(x: Runnable, frame: Any, metrics: bool = False, *, blobs: Blobs = None) -> Any:
    """Do what `run` does in a thread, so that the event loop goes on meanwhile."""
    return await asyncio.to_thread(run, x, frame, metrics, blobs=blobs)


@contextlib.contextmanager
def opened(x: Runnable, blobs: Blobs = None) -> Iterator[Pipeline]:
    """Give the pipeline that `x` means, while the body runs. Raises `TypeError` for what cannot be run."""
    if isinstance(x, Pipeline):
        yield x
    elif isinstance(x, Filter | Container):
        yield Pipeline("run", [x])
    elif isinstance(x, Manifest | Mapping | str | bytes):
        with _loaded(_manifest_bytes(x), blobs) as pipeline:
            yield pipeline
    elif isinstance(x, list | tuple):
        yield Pipeline("run", x)
    else:
        raise TypeError(
            f"a {type(x).__name__} cannot be run: give a Pipeline, a Filter, a list of them, or a manifest as dict or "
            "JSON text"
        )


def _manifest_bytes(given: Any) -> bytes:
    if isinstance(given, Manifest):
        return encode_manifest(given)
    if isinstance(given, Mapping):
        return encode_json(dict(given))
    return given.encode() if isinstance(given, str) else bytes(given)


@contextlib.contextmanager
def _loaded(data: bytes, blobs: Blobs) -> Iterator[Pipeline]:
    """Lay a release out in a directory of its own, load it, and take all of it away again."""
    from edge_agent.runtime.loader import Mount, load_pipeline
    from edge_agent.update.layout import lay_out

    manifest = parse_manifest(data)
    mounts: list[Mount] = []
    with tempfile.TemporaryDirectory(prefix="fieldcast-run-") as name:
        directory = Path(name)
        for ref in manifest.blobs():
            (directory / ref.digest.hex).write_bytes(_fetched(ref, blobs))
        root = lay_out(directory / "releases", data, lambda ref: directory / ref.digest.hex)
        try:
            yield load_pipeline(root, mounts=mounts)
        finally:
            for mount in mounts:
                mount.unmount()


def _fetched(ref: BlobRef, blobs: Blobs) -> bytes:
    try:
        if isinstance(blobs, Path):
            return (blobs / ref.digest.hex).read_bytes()
        if isinstance(blobs, Mapping):
            found = next(blobs[key] for key in (ref.digest, str(ref.digest), ref.digest.hex) if key in blobs)
            return bytes(found)
        if blobs is not None:
            return blobs(ref)
    except (OSError, StopIteration):
        pass
    words = f"the manifest needs blob {ref.digest}, which is not among those given: pass blobs=…"
    raise UpdateRejected.one(ReasonCode.UNAVAILABLE, words, blame=Blame.ENVIRONMENT)
