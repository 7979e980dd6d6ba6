"""The modules that a laid-out bundle has, by dotted name, and how each is loaded.

It decides what a file or folder is to Python (package, module, namespace, plain folder) with Python's own precedence.
Sources are compiled from the signed text each time; a bytecode cache is neither read nor written.
"""

from __future__ import annotations

import enum
import importlib.machinery
import re
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

# Not imported here: they bring zipfile, tempfile and more, which takes a worker 5 ms at start.
if TYPE_CHECKING:
    import importlib.readers
    from importlib.abc import Loader
else:
    Loader = object

__all__ = ["FolderLoader", "Kind", "Local", "SourceLoader", "list_modules", "parents"]

_SHARING = re.compile(rb"\b(extend_path|declare_namespace)\s*\(")


class Kind(enum.Enum):
    """What a name is to Python, and who else may own parts of it."""

    MODULE = enum.auto()
    PACKAGE = enum.auto()
    SHARED = enum.auto()  # a namespace package: installed distributions may own other parts of it
    FOLDER = enum.auto()  # no module in it, only data; an installed package of this name goes first


class Local(NamedTuple):
    """One importable name. `path` is the source file, or the folder where there is none."""

    kind: Kind
    path: Path


class SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles a bundle's source each time: a cache beside it would be code that nobody signed."""

    def __init__(self, fullname: str, path: str, names: dict[str, Any]) -> None:
        super().__init__(fullname, path)
        self._names = names

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source."""
        return self.source_to_code(self.get_data(self.path), self.path)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return a module with the mount's builtins (not in `exec_module`: its frame would stay in tracebacks)."""
        module = ModuleType(spec.name)
        vars(module)["__builtins__"] = self._names
        if "." not in spec.name.partition(".")[2] and spec.submodule_search_locations is None:
            module.__package__ = ""  # as outside a bundle; authors test it before a relative import
        return module


class FolderLoader(Loader):
    """Stands for a folder without `__init__.py`: an empty module whose resources can be read."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "__init__.py")  # what importlib's FileReader takes the folder from

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Let Python make the module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""

    def get_resource_reader(self, fullname: str) -> importlib.readers.FileReader:
        """Return a reader of the folder."""
        import importlib.readers

        return importlib.readers.FileReader(self)  # type: ignore[arg-type]


def list_modules(root: Path) -> dict[str, Local]:
    """List the modules below `root` by dotted name, with Python's precedence: package, module, namespace."""
    found: dict[str, Local] = {}
    sharing = set()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if any("." in part for part in parts) or parts == ("__init__",):
            continue
        if parts[-1] == "__init__":
            shared = _SHARING.search(path.read_bytes()) is not None
            found[".".join(parts[:-1])] = Local(Kind.SHARED if shared else Kind.PACKAGE, path)
        else:
            found.setdefault(".".join(parts), Local(Kind.MODULE, path))
        sharing |= {".".join(parts[:count]) for count in range(1, len(parts))}
    for path in sorted(path for path in root.rglob("*") if path.is_dir()):
        parts = path.relative_to(root).parts
        name = ".".join(parts)
        if any("." in part for part in parts):
            continue
        inside = any(found[one].kind is Kind.PACKAGE for one in parents(name) if one in found)
        found.setdefault(name, Local(Kind.SHARED if inside or name in sharing else Kind.FOLDER, path))
    return found


def parents(name: str) -> list[str]:
    """Return the dotted parents of `name`, the top first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
