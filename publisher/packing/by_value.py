"""Packs a class by value, for what no file says (F2): a notebook's, a prompt's, `__main__`'s, one made at run time.

The class and what else has no importable source go into one cloudpickle: bytecode, for this Python minor version only.
Local modules that it reaches and that do have source travel as source beside it, found by `closure` as ever. Random
tracker ids are left out: they would make every process's bytes differ, and merge two versions in one process.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import io
import pickle
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from edge_agent.contract.errors import AuthorError
from edge_agent.contract.pinned import PINNED_MEMBER, wrap_pinned
from edge_agent.sdk.place import NAMESPACE_PREFIX
from publisher.analysis import live, origin
from publisher.analysis import target as targets
from publisher.analysis.origin import STDLIB, Roots
from publisher.closure import Closure, collect

__all__ = ["INTERPRETER", "Pin", "named_by_value", "pin", "source_of", "why_pinned"]

INTERPRETER = f"cp{sys.version_info.major}{sys.version_info.minor}"
_OURS = {"edge_agent", "publisher", "cloudpickle"}
_PROTOCOL = 5
_Names = dict[tuple[str, str], Any]


@dataclass(frozen=True)
class Pin:
    """A class by value: the special member, the closures of local modules beside it, and distributions it imports."""

    target: str
    member: bytes = field(repr=False)
    closures: tuple[Closure, ...]
    requires: tuple[str, ...]
    names: frozenset[tuple[str, str]]

    @property
    def files(self) -> dict[str, bytes]:
        """All members that are no data, by path."""
        sources = {file.path: file.source for closure in self.closures for file in closure.files}
        return {PINNED_MEMBER: self.member, **sources}

    @property
    def data(self) -> dict[str, bytes]:
        """Data files of the local modules, by path."""
        return {file.path: file.source for closure in self.closures for file in closure.data}


def why_pinned(cls: type, root: Path | None = None) -> str:
    """Return why a class can only be shipped by value, empty when its source can be.

    Raises `AuthorError` for a class that can be shipped in neither way.
    """
    try:
        targets.resolve(cls, root)
    except live.Unimportable as error:
        return str(error)
    return ""


def named_by_value(item: Any) -> tuple[str, str] | None:
    """Return module and name of a class or function that has no importable source, None for all others."""
    module = getattr(item, "__module__", None)
    if not isinstance(module, str) or module.partition(".")[0] in STDLIB - {"__main__"} | _OURS:
        return None
    found: Any = None if module == "__main__" else sys.modules.get(module)
    if found is not None and not _is_made_up(found):
        for part in item.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is item:
            return None
    return module, item.__qualname__


def pin(cls: type, extras: Mapping[tuple[str, str], Any], *, root: Path | None = None) -> Pin:
    """Return `cls` by value. `extras` are further classes and functions, by module and name, that its state needs.

    Raises `AuthorError` naming everything that can be shipped neither by value nor as source.
    """
    if cls.__dict__.get("data"):
        raise AuthorError(f"{cls.__qualname__}.data names files beside a source file, and the class has none: move it")
    wanted: _Names = {**extras, ("", ""): cls}
    first = _dump(cls, wanted)
    # Whoever pickles an instance there must find its class by name: so all that goes by value has one.
    writer = _dump(cls, {**first.by_value, **wanted})
    problems = [*writer.problems, *_unnamed(first.by_value, extras)]
    closures = []
    for name in sorted(writer.local):
        closure = collect(name, root=root)
        problems += map(str, closure.refused)
        loaded = getattr(sys.modules.get(name), "__file__", None)
        mine = [file.origin for file in closure.files if file.module == name]
        if loaded and mine and Path(loaded).resolve() != mine[0]:
            problems.append(f"module {name} was imported from {loaded}, but its name means {mine[0]} here")
        closures.append(closure)
    if problems:
        raise AuthorError("\n  ".join(dict.fromkeys(problems)))
    parts = [part for part in cls.__qualname__.split(".") if part != "<locals>" and part.isidentifier()]
    module = cls.__module__ if all(part.isidentifier() for part in cls.__module__.split(".")) else "__main__"
    outside = {origin.distribution_of(name) for name in writer.outside} - {None, "fieldcast"}
    return Pin(
        target=f"{module}:{'.'.join(parts) or 'Filter'}",
        member=wrap_pinned(INTERPRETER, writer.data),
        closures=tuple(closures),
        requires=tuple(sorted({name for name in outside if name} | {n for one in closures for n in one.requires})),
        names=frozenset(writer.by_value),
    )


def _unnamed(found: _Names, extras: Mapping[tuple[str, str], Any]) -> Iterator[str]:
    for name, item in extras.items():
        if found.get(name, item) is not item:
            yield f"the class and its state reach two different things called {'.'.join(name)}: rename one"


def _dump(cls: type, payload: _Names) -> _Writer:
    buffer = io.BytesIO()
    writer = _Writer(buffer, cls)
    with _by_value(cls):
        try:
            writer.dump({name: payload[name] for name in sorted(payload)})
        except AuthorError:
            raise
        except Exception as error:  # pickling runs anybody's __reduce__
            text = " ".join(str(error).split())
            raise AuthorError(
                f"{cls.__qualname__} reaches what cannot be shipped by value: {type(error).__name__}: {text}; "
                "make it inside a method, or define the class in a module of its own"
            ) from error
    writer.data = buffer.getvalue()
    return writer


@contextlib.contextmanager
def _by_value(cls: type) -> Iterator[None]:
    """Have cloudpickle take modules without a file by value, and those of a patched class and its bases."""
    patched = {one.__module__ for one in cls.__mro__ if source_of(one.__module__)} if _is_patched(cls) else set()
    chosen = [
        module
        for name, module in list(sys.modules.items())
        if name != "__main__" and isinstance(module, ModuleType) and (_is_made_up(module) or name in patched)
    ]
    known = cloudpickle.list_registry_pickle_by_value()
    chosen = [module for module in chosen if module.__name__ in sys.modules and module.__name__ not in known]
    for module in chosen:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in chosen:
            cloudpickle.unregister_pickle_by_value(module)


def _is_patched(cls: type) -> bool:
    return cls.__module__ != "__main__" and "<locals>" not in cls.__qualname__ and bool(source_of(cls.__module__))


def _is_made_up(module: Any) -> bool:
    """Tell whether a module was made at run time, with `types.ModuleType` and `exec`."""
    if getattr(module, "__spec__", None) is not None or getattr(module, "__file__", None):
        return False
    return module.__name__ not in STDLIB and origin.distribution_of(module.__name__) is None


def source_of(name: str) -> Path | None:
    """Return the source file of a local module, None for what is installed, ours, or not there."""
    if name.partition(".")[0] in STDLIB | _OURS:
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None and name not in sys.modules:
        found = Roots(origin.path_roots(), origin.editable_packages()).find(name)
        file = found.path if found else None
    path = Path(file).resolve() if file else None
    return None if path is None or any(map(origin.is_installed, path.parents)) else path


class _Writer(cloudpickle.Pickler):  # type: ignore[misc]
    """Gathers what a pickle by value refers to by name: local modules, other modules, and what it brings itself."""

    def __init__(self, file: io.BytesIO, cls: type) -> None:
        super().__init__(file, protocol=_PROTOCOL)
        self.data = b""
        self.local: set[str] = set()
        self.outside: set[str] = set()
        self.by_value: _Names = {}
        self.problems: list[str] = []
        self._label = cls.__qualname__

    def reducer_override(self, obj: Any) -> Any:
        """Do what cloudpickle does, without tracker ids, and take notes."""
        if isinstance(obj, io.IOBase):  # cloudpickle would ship what the file holds, and open nothing there
            raise pickle.PicklingError(f"an open file ({getattr(obj, 'name', type(obj).__name__)})")
        if isinstance(obj, functools.cached_property):  # has a lock on 3.11
            return (functools.cached_property, (obj.func,), {"attrname": obj.attrname})
        found = super().reducer_override(obj)
        if isinstance(obj, CodeType):
            self._note_imports(obj)
        elif isinstance(obj, ModuleType):
            self._note(obj.__name__)
        elif not isinstance(obj, type | FunctionType | BuiltinFunctionType):
            self._note(type(obj).__module__)
        elif found is NotImplemented:
            self._note(getattr(obj, "__module__", None) or "")
        elif isinstance(obj, type | FunctionType) and obj.__name__ != "<lambda>":
            self.by_value.setdefault((obj.__module__, obj.__qualname__), obj)
        return _untracked(found)

    def _note(self, name: str) -> None:
        if name.startswith(NAMESPACE_PREFIX):
            logical = name.partition(".")[2]
            self.problems.append(f"{self._label} reaches module {logical} of a bundle: ship that module as a file")
        elif source_of(name):
            self.local.add(name)
        elif name.partition(".")[0] not in STDLIB | _OURS | {""}:
            self.outside.add(name)

    def _note_imports(self, code: CodeType) -> None:
        """Note what a function imports when it runs."""
        before: list[Any] = [None, None]
        for step in dis.get_instructions(code):
            if step.opname == "IMPORT_NAME":
                level, wanted = before
                if level:
                    self.problems.append(
                        f"{code.co_qualname} imports {'.' * level}{step.argval}, which means nothing outside its "
                        "package: write the full name"
                    )
                self._note(step.argval)
                for item in wanted or ():
                    if source_of(f"{step.argval}.{item}"):
                        self._note(f"{step.argval}.{item}")
            before = [before[1], step.argval]
        if "__file__" in code.co_names:
            self.problems.append(f"{code.co_qualname} reads __file__, which names a place on this machine only")
        if {"import_module", "__import__"} & set(code.co_names):
            for text in code.co_consts:
                if isinstance(text, str) and text.replace(".", "").isidentifier() and source_of(text):
                    self._note(text)


def _untracked(found: Any) -> Any:
    """Return cloudpickle's recipe for a class without what tells processes apart: a random id, pickle's own cache."""
    if not isinstance(found, tuple) or not getattr(found[0], "__name__", "").startswith("_make_skeleton_"):
        return found
    maker, arguments, (attributes, slots), *rest = found
    attributes.pop("__slotnames__", None)
    return (maker, (*arguments[:-2], None, arguments[-1]), (attributes, slots), *rest)  # (…, tracker id, extra)
