"""Private namespaces (I5): each bundle's modules live under a package name of their own in one process.

A module `dsp.filters` of a bundle is imported as `_fieldcast_<tag>.dsp.filters`; an `__import__` placed in its
`__builtins__` sends absolute names to the bundle's own modules first and to the interpreter otherwise. Routing goes by
full dotted name from the list of files, so a local `google/mine.py` does not hide an installed `google.protobuf`.
What bypasses `__import__` (`importlib.import_module`, `importlib.resources`, `pickle`, …) is handed out as a routed
twin. Nothing is patched for anybody else, no bytecode is written, and no bundle is ever on `sys.path`.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import importlib.util
import linecache
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_agent.contract.errors import Reason, ReasonCode, WorkerFailed
from edge_agent.runtime.modules import FolderLoader, Kind, SourceLoader, list_modules, parents
from edge_agent.runtime.pinned import has_pinned, load_pinned
from edge_agent.runtime.twins import TWINS, make_twin
from edge_agent.sdk.place import NAMESPACE_PREFIX

__all__ = ["Mount"]


class Mount:
    """One bundle's modules in this process, below `root`, told apart by `tag` (letters, digits, `_`).

    Raises `ValueError` when the tag is taken. Close it with `unmount`, or use it as a context manager.
    """

    def __init__(self, root: Path, tag: str) -> None:
        if not re.fullmatch(r"\w+", tag, re.ASCII):
            raise ValueError(f"mount tag {tag!r}: use letters, digits and '_'")
        self.root = root
        self.prefix = f"{NAMESPACE_PREFIX}{tag}"
        if self.prefix in sys.modules:
            raise ValueError(f"mount tag {tag!r} is in use: unmount the other one first")
        self._modules = list_modules(root)
        self._builtins = {**vars(builtins), "__import__": self.import_}
        self._twins: dict[str, ModuleType] = {}
        self._pinned: dict[tuple[str, str], Any] = {}  # what a pinned bundle brings by value
        self._pinned_names: dict[int, tuple[str, str]] = {}
        spec = importlib.machinery.ModuleSpec(self.prefix, FolderLoader(root), is_package=True)
        sys.modules[self.prefix] = importlib.util.module_from_spec(spec)
        sys.meta_path.insert(0, self)

    def __enter__(self) -> Mount:
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()

    def load(self, target: str) -> type:
        """Return the class `module:QualifiedName`, importing what it needs.

        What the bundle's code raises while it is imported passes through; a target that is not there, or no class, is
        `WorkerFailed`, a class pinned to another interpreter `UpdateRejected`. In all cases no module of the attempt
        stays behind.
        """
        before = set(self._loaded())
        try:
            found = self._load_pinned() if has_pinned(self.root) else self._load_source(target)
            if not isinstance(found, type):
                raise WorkerFailed(
                    Reason(
                        code=ReasonCode.START,
                        message=f"the bundle has no class {target} (found {type(found).__name__})",
                        where=target,
                    )
                )
        except BaseException:
            self._forget(before)
            raise
        return found

    def _load_source(self, target: str) -> Any:
        module, _, qualified = target.partition(":")
        found: Any = self.get(module)
        for part in qualified.split("."):
            found = getattr(found, part, None)
        return found

    def _load_pinned(self) -> Any:
        if not self._pinned:
            self._pinned = load_pinned(self.root, self, self._builtins)
            self._pinned_names = {id(item): name for name, item in self._pinned.items() if name != ("", "")}
        return self._pinned["", ""]

    def resolve(self, module: str, name: str) -> Any:
        """Return what the dotted `name` means in a module (the module itself when empty), as the bundle sees it.

        Raises `ImportError` or `AttributeError` when there is no such thing.
        """
        if (module, name) in self._pinned:
            return self._pinned[module, name]
        found: Any = self.get(module)
        for part in name.split(".") if name else ():
            found = getattr(found, part)
        return found

    def name_of(self, item: Any) -> tuple[str, str] | None:
        """Return the author's module and name for a class or function of this bundle, None for all others."""
        if id(item) in self._pinned_names:
            return self._pinned_names[id(item)]
        module = getattr(item, "__module__", None)
        if isinstance(module, str) and module.startswith(f"{self.prefix}."):
            return self.logical(module), item.__qualname__
        return None

    def unmount(self) -> None:
        """Forget all modules of the bundle; classes that are still referenced keep working. Repeating it is free."""
        self._forget(set())
        sys.modules.pop(self.prefix, None)
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for path in [path for path in linecache.cache if Path(path).is_relative_to(self.root)]:
            linecache.cache.pop(path, None)

    # --- routing ---------------------------------------------------------------------------------------------------

    def import_(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the names are `__import__`'s
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Do what `__import__` does, with this bundle's modules first."""
        if level:
            name = self._absolute(name, globals or {}, level)
        elif "." not in name and name not in self._modules and name not in TWINS:
            return builtins.__import__(name, None, None, fromlist or (), 0)  # most imports; some stand in hot methods
        if not fromlist:
            self.get(name)
            return self.get(name.partition(".")[0])
        module = self.get(name)
        if module.__name__.startswith(f"{self.prefix}."):
            self._provide(module, name, fromlist)
        else:
            builtins.__import__(name, None, None, fromlist, 0)
        return module

    def get(self, name: str) -> ModuleType:
        """Import the module of logical (or private) absolute name `name` and return it."""
        name = self.logical(name)
        local = self._modules.get(name)
        if local is not None and local.kind is not Kind.FOLDER:
            return _import(f"{self.prefix}.{name}")
        if name in TWINS:
            return self._twin(name)
        if local is None and self._is_closed(name):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        try:
            module = _import(name)
        except ModuleNotFoundError as error:
            if local is None or error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            return _import(f"{self.prefix}.{name}")
        self._attach(name)
        return module

    def find_name(self, name: str) -> str:
        """Return the private name of a logical one when only the bundle may have that module, else `name` itself."""
        name = self.logical(name)
        return f"{self.prefix}.{name}" if name in self._modules or self._is_closed(name) else name

    def logical(self, name: str) -> str:
        """Return the author's name for a private module name; other names are returned as they are."""
        return name.removeprefix(f"{self.prefix}.")

    def _absolute(self, name: str, names: Mapping[str, Any], level: int) -> str:
        """Resolve a relative import among logical names, as strictly as outside a bundle."""
        spec = names.get("__spec__")
        package = self.logical(spec.parent) if spec is not None else ""
        if package in ("", self.prefix):
            raise ImportError("attempted relative import with no known parent package")
        bits = package.rsplit(".", level - 1)
        if len(bits) < level:
            raise ImportError("attempted relative import beyond top-level package")
        return f"{bits[0]}.{name}" if name else bits[0]

    def _provide(self, module: ModuleType, name: str, wanted: Sequence[str]) -> None:
        """Import the submodules among the names that a `from` import wants."""
        for item in wanted:
            if item == "*":
                self._provide(module, name, [str(one) for one in getattr(module, "__all__", ()) if one != "*"])
            elif not hasattr(module, item) and self._may_have(name, f"{name}.{item}"):
                try:
                    self.get(f"{name}.{item}")
                except ModuleNotFoundError as error:
                    if not f"{name}.{item}.".startswith(f"{error.name}."):
                        raise

    def _may_have(self, package: str, name: str) -> bool:
        return name in self._modules or (package in self._modules and not self._is_closed(name))

    def _is_closed(self, name: str) -> bool:
        """Tell whether a parent of `name` is a regular package or module of the bundle: nobody else adds to those."""
        listed = (self._modules[parent].kind for parent in parents(name) if parent in self._modules)
        return any(kind in (Kind.MODULE, Kind.PACKAGE) for kind in listed)

    def _attach(self, name: str) -> None:
        """Make an installed part of a shared namespace reachable from the bundle's half of it."""
        halves = [one for one in parents(name) if one in self._modules and self._modules[one].kind is Kind.SHARED]
        if halves:
            half = self.get(halves[-1])
            child = name[len(halves[-1]) + 1 :].partition(".")[0]
            if not hasattr(half, child):
                setattr(half, child, sys.modules[f"{halves[-1]}.{child}"])

    def _twin(self, name: str) -> ModuleType:
        if name not in self._twins:
            self._twins[name] = make_twin(self, _import(name))
        return self._twins[name]

    # --- modules ---------------------------------------------------------------------------------------------------

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module below this mount's private name; everything else is somebody else's."""
        if not fullname.startswith(f"{self.prefix}."):
            return None
        local = self._modules.get(self.logical(fullname))
        if local is None:
            return None
        if local.path.is_dir():
            spec = importlib.machinery.ModuleSpec(fullname, FolderLoader(local.path), is_package=True)
            spec.submodule_search_locations = [str(local.path)]
            return spec
        return importlib.util.spec_from_file_location(
            fullname,
            local.path,
            loader=SourceLoader(fullname, str(local.path), self._builtins),
            submodule_search_locations=None if local.kind is Kind.MODULE else [str(local.path.parent)],
        )

    def _loaded(self) -> Iterator[str]:
        return (name for name in list(sys.modules) if name.startswith(f"{self.prefix}."))

    def _forget(self, keep: set[str]) -> None:
        for name in sorted(set(self._loaded()) - keep):
            module = sys.modules.pop(name)
            parent, _, child = name.rpartition(".")
            if vars(sys.modules.get(parent, module)).get(child) is module:
                delattr(sys.modules[parent], child)


def _import(name: str) -> ModuleType:
    # Not import_module: only `__import__` takes importlib's own frames out of tracebacks.
    return builtins.__import__(name, None, None, ("__name__",), 0)
