"""Where a module comes from: the standard library, an installed distribution, or local code.

Decides by `sys.stdlib_module_names`, by the metadata of what is installed (editable installs are local) and by the
files below the local roots. Imports nothing: looking a module up must not run it.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import json
import os
import re
import site
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

__all__ = [
    "STDLIB",
    "Found",
    "Kind",
    "Roots",
    "canonical_name",
    "distribution_of",
    "editable_packages",
    "is_installed",
    "is_regular",
    "path_roots",
    "provides",
    "source_roots",
]

# The same answer on every interpreter (I2), so also what came and went between 3.11 and 3.14.
_COME_AND_GONE = """
__main__ aifc annotationlib asynchat asyncore audioop cgi cgitb chunk compression crypt distutils imghdr imp
lib2to3 mailcap msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib tomllib uu xdrlib
"""
STDLIB = frozenset(sys.stdlib_module_names) | frozenset(_COME_AND_GONE.split())
_EXTENSION = re.compile(r"\.(?:[\w.+-]+\.)?(?:so|pyd)")


class Kind(Enum):
    """What stands behind a dotted name below the local roots."""

    MODULE = "module"
    PACKAGE = "package"
    NAMESPACE = "namespace"
    EXTENSION = "extension"
    BYTECODE = "bytecode"


@dataclass(frozen=True)
class Found:
    """A local module: its file (`None` for a namespace package) and the directories its submodules lie in."""

    kind: Kind
    path: Path | None
    search: tuple[Path, ...]


class Roots:
    """The directories that local top-level modules lie in, in order, and packages mapped by editable installs."""

    def __init__(self, directories: Iterable[Path], mapped: dict[str, Path] | None = None) -> None:
        self.directories = tuple(dict.fromkeys(directories))
        self.mapped = mapped or {}
        self._found: dict[str, Found | None] = {}

    def find(self, name: str) -> Found | None:
        """Look a dotted name up as the import system would, without importing."""
        if name not in self._found:
            parent, _, last = name.rpartition(".")
            self._found[name] = self._look(parent, last, name)
        return self._found[name]

    def add(self, directory: Path) -> None:
        """Search one more directory from now on."""
        if directory not in self.directories:
            self.directories = (*self.directories, directory)
            self._found.clear()

    def searched(self) -> Iterator[Path]:
        """Yield the directories in which names were looked up so far."""
        yield from self.directories
        for found in self._found.values():
            yield from found.search if found else ()

    def _look(self, parent: str, last: str, name: str) -> Found | None:
        if not parent:
            found = _in_directories(last, self.directories)
            if (found is None or found.kind is Kind.NAMESPACE) and name in self.mapped:
                return _at(self.mapped[name])
            return found
        package = self.find(parent)
        return _in_directories(last, package.search) if package else None


def _in_directories(name: str, directories: Iterable[Path]) -> Found | None:
    portions: list[Path] = []
    for directory in directories:
        found = _at(directory / name)
        if found and found.kind is not Kind.NAMESPACE:
            return found
        if found:
            portions.extend(found.search)
    return Found(Kind.NAMESPACE, None, tuple(portions)) if portions else None


def _at(path: Path) -> Found | None:
    """What `path`, without a suffix, is: in the order in which CPython's own finder looks."""
    if path.suffix == ".py" and path.is_file():
        return Found(Kind.MODULE, path, ())
    initial = path / "__init__.py"
    if initial.is_file():
        return Found(Kind.PACKAGE, initial, (path,))
    extension = _extension(path)
    if extension:
        return Found(Kind.EXTENSION, extension, ())
    module = path.with_name(path.name + ".py")
    if module.is_file():
        return Found(Kind.MODULE, module, ())
    bytecode = path.with_name(path.name + ".pyc")
    if bytecode.is_file():
        return Found(Kind.BYTECODE, bytecode, ())
    return Found(Kind.NAMESPACE, None, (path,)) if path.is_dir() else None


def _extension(path: Path) -> Path | None:
    for member in _listing(path.parent):
        if member.startswith(path.name + ".") and _EXTENSION.fullmatch(member[len(path.name) :]):
            return path.parent / member
    return None


def _listing(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return []


def source_roots(project: Path) -> Iterator[Path]:
    """Yield where a project keeps its top-level modules: itself, `src`, and what its build backend is told."""
    yield project
    source = project / "src"
    if source.is_dir() and not (source / "__init__.py").exists():
        yield source
    for relative in _declared_roots(project / "pyproject.toml"):
        directory = (project / relative).resolve()
        if directory.is_dir() and directory.is_relative_to(project):
            yield directory


def _declared_roots(pyproject: Path) -> list[str]:
    try:
        tool = tomllib.loads(pyproject.read_text("utf-8")).get("tool", {})
    except (OSError, ValueError):
        return []
    setuptools = tool.get("setuptools", {})
    packages = setuptools.get("packages", {})
    where = packages.get("find", {}).get("where", []) if isinstance(packages, dict) else []
    hatch = tool.get("hatch", {}).get("build", {}).get("targets", {}).get("wheel", {})
    found = [setuptools.get("package-dir", {}).get(""), tool.get("pdm", {}).get("build", {}).get("package-dir"), *where]
    found += [str(Path(item).parent) for item in hatch.get("packages", [])]
    found += [item.get("from") for item in tool.get("poetry", {}).get("packages", []) if isinstance(item, dict)]
    return [item for item in found if isinstance(item, str) and item]


def canonical_name(name: str) -> str:
    """Return a distribution's name in its canonical form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def _foreign_directories() -> frozenset[str]:
    paths = sysconfig.get_paths()
    found = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [*site.getsitepackages(), site.getusersitepackages()]
    return frozenset(os.path.realpath(path) for path in found)


def is_installed(directory: Path) -> bool:
    """Tell whether a directory on the path holds the standard library or installed distributions."""
    real = os.path.realpath(directory)
    return real in _foreign_directories() or Path(real).name in ("site-packages", "dist-packages", "lib-dynload")


def path_roots() -> list[Path]:
    """The directories on `sys.path` that hold neither the standard library nor installed distributions."""
    entries = (Path(entry).resolve() if entry else Path.cwd() for entry in sys.path)
    return [entry for entry in entries if entry.is_dir() and not is_installed(entry)]


@dataclass(frozen=True)
class _Index:
    """Installed distributions by top-level import name, and the packages that editable installs map."""

    tops: dict[str, tuple[importlib.metadata.Distribution, ...]]
    mapped: dict[str, Path]


def editable_packages() -> dict[str, Path]:
    """The packages that editable installs map to a directory, by import name."""
    return _index(tuple(sys.path)).mapped


def distribution_of(name: str) -> str | None:
    """Return the canonical name of the installed distribution that provides a dotted name, None when there is none."""
    candidates = _index(tuple(sys.path)).tops.get(name.partition(".")[0], ())
    named = [dist for dist in candidates if dist.name]
    if len(named) > 1:
        parts = name.split(".")
        for depth in range(len(parts), 1, -1):
            owners = [dist for dist in named if _provides(dist, "/".join(parts[:depth]))]
            if owners:
                return canonical_name(owners[0].name)
    return canonical_name(named[0].name) if named else None


def provides(name: str) -> bool:
    """Tell whether an installed distribution has a file for exactly this dotted name."""
    candidates = _index(tuple(sys.path)).tops.get(name.partition(".")[0], ())
    return any(_provides(dist, name.replace(".", "/")) for dist in candidates)


def is_regular(top: str) -> bool:
    """Tell whether an installed top-level name is a regular package or module, not a namespace."""
    candidates = _index(tuple(sys.path)).tops.get(top, ())
    return any(path in (f"{top}/__init__.py", f"{top}.py") for dist in candidates for path in _files(dist))


def _provides(dist: importlib.metadata.Distribution, path: str) -> bool:
    return any(file.startswith((path + "/", path + ".")) for file in _files(dist))


def _files(dist: importlib.metadata.Distribution) -> tuple[str, ...]:
    return tuple(str(file) for file in dist.files or ())


@functools.lru_cache(maxsize=8)
def _index(path: tuple[str, ...]) -> _Index:
    tops: dict[str, list[importlib.metadata.Distribution]] = {}
    mapped: dict[str, Path] = {}
    seen: set[str] = set()
    for dist in importlib.metadata.distributions(path=list(path)):
        name = canonical_name(dist.name or "")
        if not name or name in seen:
            continue
        location = Path(str(dist.locate_file("")))
        if _is_editable(dist) or not is_installed(location):
            mapped.update(_mapping(dist, location))
            continue
        seen.add(name)
        for top in _tops(dist):
            tops.setdefault(top, []).append(dist)
    return _Index({top: tuple(sorted(dists, key=lambda dist: dist.name)) for top, dists in tops.items()}, mapped)


def _tops(dist: importlib.metadata.Distribution) -> set[str]:
    declared = (dist.read_text("top_level.txt") or "").split()
    found = {line for line in declared if line.isidentifier()}
    for file in _files(dist):
        head, _, rest = file.partition("/")
        if rest and head.isidentifier() and rest.endswith((".py", ".so", ".pyd", ".pyc")):
            found.add(head)
        elif not rest and file.endswith((".py", ".so", ".pyd")):
            found.add(file.partition(".")[0])
    return found


def _is_editable(dist: importlib.metadata.Distribution) -> bool:
    try:
        direct = json.loads(dist.read_text("direct_url.json") or "{}")
    except ValueError:
        return False
    return bool(direct.get("dir_info", {}).get("editable"))


def _mapping(dist: importlib.metadata.Distribution, location: Path) -> dict[str, Path]:
    """Read the packages that setuptools' editable finder maps, and the directories that `.pth` files name."""
    found: dict[str, Path] = {}
    for file in _files(dist):
        if not file.startswith("__editable__") or "/" in file:
            continue
        try:
            text = (location / file).read_text("utf-8")
        except OSError:
            continue
        if file.endswith("_finder.py"):
            found.update((name, Path(path)) for name, path in _literal_mapping(text).items() if "." not in name)
    return found


def _literal_mapping(text: str) -> dict[str, str]:
    for node in ast.parse(text).body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and target.id == "MAPPING" and isinstance(node, ast.Assign | ast.AnnAssign):
            try:
                mapping = ast.literal_eval(node.value) if node.value else {}
            except ValueError:
                return {}
            return {str(name): str(path) for name, path in mapping.items()}
    return {}
