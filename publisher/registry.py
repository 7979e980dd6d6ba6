"""Class versions by fingerprint, in a directory or an object store (L1–L10).

The registry *is* a blob store: bundles lie under their digests, and one small numbered entry a version points at them.
An entry is created once, after its bundle, and never changed, so no half version is ever visible, of two that push at
once neither is lost, and a damaged entry hides itself alone. Whatever is read is verified. There is no global state:
classes are bound to a registry object.

    class/<module>/<qualified name>/<number>.json
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.digest import BlobRef, decode_json, encode_json
from edge_agent.contract.errors import AuthorError, StoreError, UpdateRejected
from edge_agent.rebuild import from_manifest, load_class
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.place import NAMESPACE_PREFIX
from publisher.packing.code import Code, pack_code, way_of
from publisher.packing.rebuild import to_manifest
from publisher.record import Conflict, Record

__all__ = ["Registry", "Version"]

log = logging.getLogger(__name__)
FORMAT = 1
ENTRY_BYTES_MAX = 64 * 1024
RACES_MAX = 200

C = TypeVar("C", bound=type)


class Version(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version of a class: what it is (`fingerprint`), where its bundle lies, and who pushed what when.

    `number` counts a class's versions from 1, `created` is seconds since 1970, UTC, `tag` the bundle's wheel tag,
    `label` a name for people, `python` what pushed it.
    """

    format: int
    target: str
    number: int
    fingerprint: str
    bundle: BlobRef
    tag: str
    created: float
    python: str
    label: str = ""
    requires: list[str] = []


class Registry:
    """Classes and pipelines in the store at `location`: a directory, or `s3://…`, `gs://…`, `az://…`.

    `root` is the author's project directory, guessed when None. Raises `ConfigError` for a location that cannot be
    opened; operations raise `StoreError` or `TransportError` when the store refuses.
    """

    def __init__(self, location: str | Path, *, root: Path | None = None) -> None:
        self._record = Record(location)
        self._root = root
        self._bound: dict[str, tuple[type, str]] = {}

    # --- push ----------------------------------------------------------------------------------------------------

    @overload
    def bind(self, cls: C, *, auto_push: bool = False, label: str = "") -> C: ...
    @overload
    def bind(self, cls: None = None, *, auto_push: bool = False, label: str = "") -> Callable[[C], C]: ...
    def bind(self, cls: Any = None, *, auto_push: bool = False, label: str = "") -> Any:
        """Note a class for `push_all`, or push it at once; usable as a decorator with or without arguments.

        A decorator travels with the source of its class, and devices have no registry: for a class that goes to
        devices, call `registry.bind(Class)` from a script instead.
        """

        def note(cls: C) -> C:
            if cls.__module__.startswith(NAMESPACE_PREFIX):
                return cls  # a decorator that travelled with its class, and runs again where it is loaded
            self._bound[f"{cls.__module__}:{cls.__qualname__}"] = (cls, label)
            if auto_push:
                self.push(cls, label=label)
            return cls

        return note if cls is None else note(cls)

    def push(self, cls: type, *, label: str = "") -> Version:
        """Store a class and return its version; what is the latest already is not stored again.

        Raises `AuthorError` for a class that cannot be shipped.
        """
        code = self._pack(cls)
        return self._enter(
            code.target,
            lambda number: self._version(code, number, label),
            lambda last: last.fingerprint == code.fingerprint and label in ("", last.label) and self._whole(last, code),
        )

    def push_all(self) -> list[Version]:
        """Push every bound class; only what the store lacks travels."""
        return [self.push(cls, label=label) for cls, label in self._bound.values()]

    def status(self, cls: type) -> str:
        """Return `synced` (the latest version is this one), `out_of_sync`, or `untracked` (never pushed)."""
        code = self._pack(cls)
        known, _ = self._read(code.target)
        if not known:
            return "untracked"
        return "synced" if known[-1].fingerprint == code.fingerprint else "out_of_sync"

    def _pack(self, cls: type) -> Code:
        way = way_of(cls, self._root)
        code = pack_code(cls.__qualname__, cls, way, extras={}, root=self._root, portable=False)
        if code.data is None:
            raise AuthorError(f"{code.target} is part of every agent: there is nothing to store")
        return code

    def _whole(self, last: Version, code: Code) -> bool:
        """Tell whether a version's bundle is good; the same bytes at hand heal a damaged one."""
        assert code.data is not None
        if last.bundle.matches(code.data):
            self._record.put_blob(code.data)
            return True
        return self._record.has_blob(last.bundle)  # a class by value is other bytes each time

    def _enter(self, target: str, make: Callable[[int], Version], done: Callable[[Version], bool]) -> Version:
        """Create the next entry of a class, unless the latest will do; of two at once each gets a number of its own."""
        for _ in range(RACES_MAX):
            known, numbers = self._read(target)
            if known and done(known[-1]):
                return known[-1]
            made = make(max(numbers, default=0) + 1)
            try:
                self._record.create(_path(target, made.number), encode_json(made))
            except Conflict:
                continue  # somebody pushed meanwhile: look again
            return made
        raise StoreError(f"{target}: {RACES_MAX} pushes by others came in between: try again")

    def _version(self, code: Code, number: int, label: str) -> Version:
        assert code.data is not None
        return Version(
            format=FORMAT,
            target=code.target,
            number=number,
            fingerprint=code.fingerprint,
            bundle=self._record.put_blob(code.data),
            tag=code.tag,
            created=round(time.time(), 3),
            python=platform.python_version(),
            label=label,
            requires=sorted(code.requires),
        )

    # --- read ----------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return every stored class as `module:QualifiedName`."""
        parts = [path.split("/") for path in self._record.walk("class")]
        return sorted({f"{one[1]}:{one[2]}" for one in parts if len(one) == 4 and _number(one[3])})

    def versions(self, name: str) -> list[Version]:
        """Return the versions of a class, oldest first. `name` is `module:Class`, or `Class` alone where that is one.

        Raises `AuthorError` for a name that is unknown or means several.
        """
        return self._read(self._target(name))[0]

    def latest(self, name: str) -> Version:
        """Return the newest readable version of a class."""
        found = self.versions(name)
        if not found:
            raise AuthorError(f"no version of {name} is readable: push it again")
        return found[-1]

    def get(self, name: str, which: str = "") -> type:
        """Return a version of a class, loaded under a namespace of its own; the latest when `which` is empty.

        `which` is a label, or an unambiguous beginning of a fingerprint. The class remembers its bundle: it can be
        fitted and pushed again without its source. Raises `AuthorError` for no or several matches, `StoreError` when
        the bundle is missing or damaged, and what loading raises.
        """
        version = self._choose(name, which) if which else self.latest(name)
        return load_class(self._bundle(version), version.fingerprint)

    def _bundle(self, version: Version) -> bytes:
        """Return a version's bundle, verified, and of the class and fingerprint that the entry says."""
        name = f"{version.target} number {version.number} ({version.fingerprint[:12]})"
        try:
            data = self._record.get_blob(version.bundle)
            bundle = read_bundle(data)
        except (StoreError, UpdateRejected) as error:
            raise StoreError(f"{name}: {error}") from None
        if bundle.target != version.target or not bundle.version.endswith(f"f{version.fingerprint[:16]}"):
            raise StoreError(
                f"{name}: its entry points at the bundle of {bundle.target}, version {bundle.version}: push it again"
            )
        return data

    def blob(self, ref: BlobRef) -> bytes:
        """Return a blob, verified."""
        return self._record.get_blob(ref)

    def _choose(self, name: str, which: str) -> Version:
        known = self.versions(name)
        found = [one for one in known if one.label == which] or [
            one for one in known if one.fingerprint.startswith(which)
        ]
        if len({one.fingerprint for one in found}) == 1:
            return found[-1]
        shown = ", ".join(f"{one.fingerprint[:12]}{f' ({one.label})' if one.label else ''}" for one in found or known)
        raise AuthorError(f"{name}: {which!r} names {'several versions' if found else 'no version'}; there is {shown}")

    def _target(self, name: str) -> str:
        known = self.names()
        found = [one for one in known if name in (one, one.partition(":")[2])]
        if len(found) == 1:
            return found[0]
        raise AuthorError(
            f"{name!r} names {'several classes' if found else 'no class'} here; there is "
            f"{', '.join(found or known) or 'none yet'}"
        )

    def _read(self, target: str) -> tuple[list[Version], list[int]]:
        """Return the readable versions of a class in order, and every number taken."""
        numbers = [number for name in self._record.names(_folder(target)) if (number := _number(name))]
        found = (self._entry(target, number) for number in sorted(numbers))
        return [version for version in found if version is not None], numbers

    def _entry(self, target: str, number: int) -> Version | None:
        """Return one entry, None for one that is damaged: the others are as good as before."""
        try:
            data = self._record.read(_path(target, number), ENTRY_BYTES_MAX)
            version = decode_json(data or b"", Version)
            if (version.format, version.target, version.number) != (FORMAT, target, number):
                raise ValueError(f"says it is {version.target} number {version.number}, format {version.format}")
        except (msgspec.DecodeError, ValueError, StoreError) as error:
            log.warning("entry ignored class=%s number=%s reason=%s", target, number, error)
            return None
        return version

    # --- pipelines -----------------------------------------------------------------------------------------------

    def save(self, pipeline: Pipeline | Filter) -> dict[str, Any]:
        """Store everything a pipeline needs, state and models included, and return its manifest (JSON-able)."""
        return to_manifest(pipeline, keep=lambda ref, data: self._record.put_blob(data), root=self._root)

    def load(self, manifest: dict[str, Any] | str | bytes) -> Pipeline:
        """Return the pipeline of a manifest (a dict, or JSON text), rebuilt from this store without any source."""
        return from_manifest(manifest, self.blob)

    # --- other stores --------------------------------------------------------------------------------------------

    def copy_to(self, other: Registry) -> int:
        """Copy every version that `other` lacks, oldest first, under the same digests; return how many.

        They become the newest ones there. Raises `StoreError` when a bundle is missing or damaged here.
        """
        copied = 0
        for name in self.names():
            known = {_nature(one) for one in other._read(name)[0]}
            for version in self._read(name)[0]:
                if _nature(version) not in known:
                    other._adopt(version, self._bundle(version))
                    copied += 1
        return copied

    def _adopt(self, version: Version, data: bytes) -> None:
        self._record.put_blob(data)
        self._enter(
            version.target,
            lambda number: msgspec.structs.replace(version, number=number),
            lambda last: _nature(last) == _nature(version),
        )


def _number(name: str) -> int:
    """Return the number that an entry's file name says, 0 for a file that is no entry."""
    number = name.removesuffix(".json")
    return int(number) if number.isdecimal() and name == f"{int(number)}.json" else 0


def _nature(version: Version) -> bytes:
    """Return what a version is wherever it lies: all but its number."""
    return encode_json(msgspec.structs.replace(version, number=0))


def _folder(target: str) -> str:
    module, _, name = target.partition(":")
    return f"class/{module}/{name}"


def _path(target: str, number: int) -> str:
    return f"{_folder(target)}/{number}.json"
