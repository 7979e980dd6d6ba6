"""A class becomes a bundle: as source where it has any, by value where it has none, as it came where it was loaded.

Decides which of the three, and says it. `Code` is what a manifest needs to know of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.contract.bundle import PORTABLE_TAG, build_bundle, read_bundle
from edge_agent.contract.errors import AuthorError, UpdateRejected
from edge_agent.contract.pinned import is_pinned
from edge_agent.sdk.pickled import Names, private_name
from edge_agent.sdk.provenance import Provenance, recall
from publisher.analysis.live_identity import live_fingerprint
from publisher.closure import collect
from publisher.fingerprint import fingerprint
from publisher.packing import by_value
from publisher.packing.requirements import PYTHON, Needs, needs_of

__all__ = ["BUILTIN", "Code", "Way", "pack_code", "way_of"]

BUILTIN = "edge_agent.sdk."
_CLOUDPICKLE = "cloudpickle>=3.1,<4"  # what wrote the class by value must be read by its like
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Code:
    """One class, packed. `data` is None for a built-in filter; `modules` are the local modules in the bundle."""

    target: str
    fingerprint: str
    tag: str = PORTABLE_TAG
    data: bytes | None = field(default=None, repr=False)
    requires: tuple[str, ...] = ()
    python: str = PYTHON
    modules: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """How a class will travel: `why` it is pinned, or where it was loaded from; and how its state names classes."""

    why: str = ""
    provenance: Provenance | None = None
    names: Names = private_name


def way_of(cls: type, root: Path | None) -> Way:
    """Return how `cls` will travel. Raises `AuthorError` for a class that can travel in no way."""
    if cls.__module__.startswith(BUILTIN):
        return Way()
    provenance = recall(cls)
    if provenance is not None:
        return Way(provenance=provenance, names=provenance.names)
    why = by_value.why_pinned(cls, root)
    return Way(why=why, names=by_value.named_by_value) if why else Way()


def pack_code(
    name: str, cls: type, way: Way, *, extras: Mapping[tuple[str, str], Any], root: Path | None, portable: bool
) -> Code:
    """Return the class of stage `name`, packed. `extras` go by value with a pinned class, for its state.

    With `portable`, a pinned bundle is refused. Raises `AuthorError` with every reason at once.
    """
    if cls.__module__.startswith(BUILTIN):
        target = f"{cls.__module__}:{cls.__qualname__}"
        return Code(target, f"builtin:{target}")
    pinned = bool(way.why) or (way.provenance is not None and is_pinned(way.provenance.tag))
    if portable and pinned:
        raise AuthorError(
            f"stage {name!r} cannot be portable: {way.why or 'it was loaded from a bundle pinned to this Python'}"
        )
    try:
        if way.provenance is not None:
            return _again(way.provenance)
        return _pinned(name, cls, way.why, extras, root) if pinned else _portable(name, cls, root)
    except (ValueError, UpdateRejected) as error:
        raise AuthorError(f"stage {name!r} ({cls.__qualname__}) cannot be shipped: {error}") from error


def _portable(name: str, cls: type, root: Path | None) -> Code:
    closure = collect(cls, root=root)
    if closure.refused:
        lines = "\n  ".join(str(refusal) for refusal in closure.refused)
        raise AuthorError(f"stage {name!r} ({cls.__qualname__}) cannot be shipped:\n  {lines}")
    value = fingerprint(cls, root=root).value
    target = f"{closure.entry}:{closure.attr or cls.__qualname__}"
    needs = needs_of(cls, closure.requires, closure.declared, closure.root).for_syntax(closure.oldest_minor, name)
    files = {file.path: file.source for file in closure.files}
    data = {file.path: file.source for file in closure.data}
    built = _built(target, value, files, data, needs, PORTABLE_TAG)
    modules = frozenset(file.module for file in closure.files)
    return Code(target, value, PORTABLE_TAG, built, tuple(needs.requires), needs.python, modules, tuple(needs.warnings))


def _pinned(name: str, cls: type, why: str, extras: Mapping[tuple[str, str], Any], root: Path | None) -> Code:
    try:
        pin = by_value.pin(cls, extras, root=root)
    except AuthorError as error:
        raise AuthorError(f"stage {name!r} ({cls.__qualname__}) cannot be shipped:\n  {error}") from error
    value = live_fingerprint(cls, pin.names, [closure.entry for closure in pin.closures]).value
    where = root or (pin.closures[0].root if pin.closures else Path.cwd())
    needs = needs_of(cls, pin.requires, cls.__dict__.get("requires", []), where)
    needs = needs._replace(requires=sorted({*needs.requires, _CLOUDPICKLE}), python=f"=={_VERSION}.*")
    tag = f"{by_value.INTERPRETER}-none-any"
    warning = (
        f"stage {name!r} is pinned: only devices with Python {_VERSION} can run it, since {why}. "
        "--require-portable refuses such stages"
    )
    modules = frozenset(file.module for closure in pin.closures for file in closure.files)
    return Code(
        pin.target,
        value,
        tag,
        _built(pin.target, value, pin.files, pin.data, needs, tag),
        tuple(needs.requires),
        PYTHON,  # the tag says more, in better words
        modules | {module for module, _ in pin.names},
        (warning, *needs.warnings),
    )


def _again(provenance: Provenance) -> Code:
    """Return the class as it was loaded: the very same bytes and identity."""
    bundle = read_bundle(provenance.data)
    modules = {path.removesuffix(".py").removesuffix("/__init__") for path in bundle.members if path.endswith(".py")}
    return Code(
        provenance.target,
        provenance.fingerprint,
        provenance.tag,
        provenance.data,
        bundle.requires,
        PYTHON if is_pinned(provenance.tag) else bundle.requires_python,
        frozenset(path.replace("/", ".") for path in modules) | {"__main__"},
    )


def _built(target: str, value: str, files: dict[str, bytes], data: dict[str, bytes], needs: Needs, tag: str) -> bytes:
    plain = re.sub(r"[^A-Za-z0-9]+", "-", target.replace(":", "-")).strip("-").lower()
    built = build_bundle(
        name=f"fieldcast-{plain}" if plain else "fieldcast-filter",
        version=f"0+f{value[:16]}",  # a letter first: digits alone would be normalized
        target=target,
        files=files,
        data=data,
        requires=needs.requires,
        requires_python=needs.python,
        tag=tag,
    )
    read_bundle(built)
    return built
