"""Everything local that a class needs to run: its module, the local modules those import, the data files they read.

Decides file by file what is shipped, what is required from the device by distribution name, and what is refused with
file and line. Analyses source; never imports or executes the author's code. Nothing is left out silently: what cannot
be decided here is a `Refusal`, and an author may declare it on the class (`imports`, `data`, `requires`).
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from publisher import origin
from publisher.data_files import Reader
from publisher.declared import Declared, declared_of
from publisher.imports import Computed, Import, imports_of
from publisher.origin import STDLIB, Found, Kind, canonical_name
from publisher.source import Source, Unparsable, parse
from publisher.target import Target, resolve

__all__ = ["Closure", "LocalFile", "Refusal", "Walk", "collect", "walk"]

# Bounds: beyond them something else than one class is being packed.
MAX_FILES = 2_000
MAX_DATA_BYTES = 256 * 1024 * 1024

OWN = frozenset({"edge_agent", "fieldcast", "publisher"})
"""Our own packages: on every device already, so never shipped nor required."""


@dataclass(frozen=True)
class LocalFile:
    """A file to ship. `path` is where the bundle keeps it (posix, its import path), `module` is empty for data."""

    path: str
    module: str
    source: bytes = field(repr=False)
    origin: Path


@dataclass(frozen=True, order=True)
class Refusal:
    """What cannot be shipped, with the place (`file` is relative to the root) and the way out in words."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Closure:
    """What a class needs. `files` come sorted by path; `requires` are canonical names of installed distributions.

    `entry` and `attr` name the class inside the bundle; `declared` are the requirements that its `requires` spells out.
    """

    root: Path
    entry: str
    attr: str
    files: tuple[LocalFile, ...]
    data: tuple[LocalFile, ...]
    requires: tuple[str, ...]
    refused: tuple[Refusal, ...]
    declared: tuple[str, ...] = ()

    def shown(self, file: LocalFile) -> str:
        """Return a file's path relative to the root, as a person finds it there."""
        return _shown(file.origin, self.root)

    def to_json(self) -> dict[str, Any]:
        """Return what `publisher closure --json` prints."""
        return {
            "files": sorted(self.shown(file) for file in self.files),
            "requires": list(self.requires),
            "data": sorted(self.shown(file) for file in self.data),
            "refused": [{"file": r.file, "line": r.line, "reason": r.reason} for r in self.refused],
        }


@dataclass(frozen=True)
class External:
    """An import of something that is not local, where it stands."""

    module: str
    source: Source
    line: int
    group: int


@dataclass(eq=False)
class Walk:
    """The local modules that a target reaches by import, in name order, and what they point to outside."""

    target: Target
    declared: Declared
    modules: dict[str, Source] = field(default_factory=dict)
    externals: list[External] = field(default_factory=list)
    found: set[tuple[str, int]] = field(default_factory=set)
    data: dict[Path, str] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)

    def refuse(self, file: Path, line: int, reason: str) -> None:
        """Note a refusal once."""
        refusal = Refusal(_shown(file, self.target.root), line, reason)
        if refusal not in self.refused:
            self.refused.append(refusal)


def collect(target: type | str | Path, *, root: Path | None = None) -> Closure:
    """Return everything that a class, module or file needs to run elsewhere.

    `target` is a class, `module`, `module:attr`, `file.py[:attr]` or a path; `root` the project directory, guessed when
    None. What cannot be shipped is in `refused`; only a target that cannot be found at all raises `AuthorError`.
    """
    found = walk(target, root=root)
    requires = {name for name in _judge(found) if name}
    requires.update(canonical_name(name) for name in found.declared.distributions)
    files = [
        LocalFile(_bundle_path(source), source.module, source.data, source.origin) for source in found.modules.values()
    ]
    return Closure(
        root=found.target.root,
        entry=found.target.module,
        attr=found.target.attr,
        files=tuple(sorted(files, key=lambda file: file.path)),
        data=tuple(sorted(_data(found), key=lambda file: file.path)),
        requires=tuple(sorted(requires - {"fieldcast"})),
        refused=tuple(sorted(found.refused)),
        declared=found.declared.requires,
    )


def walk(target: type | str | Path, *, root: Path | None = None) -> Walk:
    """Follow local imports from a target, without asking what is installed. Raises `AuthorError` as `collect` does."""
    resolved = resolve(target, root)
    walker = _Walker(resolved)
    walker.run()
    return walker.walk


class _Walker:
    """Follows imports breadth first from the entry module."""

    def __init__(self, target: Target) -> None:
        self.walk = Walk(target, Declared())
        self.roots = target.roots
        self.pending: deque[tuple[str, Path]] = deque()

    def run(self) -> None:
        target = self.walk.target
        parents = target.module.rpartition(".")[0]
        self.load(target.module, target.origin)
        if parents:
            self.need(parents, None, 1, 0)
        self.drain()
        entry = self.walk.modules.get(target.module)
        if entry is None:
            return
        self.walk.declared = declared_of(entry, target.attr, self.walk.modules)
        for name, line in self.walk.declared.imports:
            self.declared_import(name, entry, line)
        self.drain()
        self.computed()
        Reader(self.walk, self.roots).run()
        self.drain()

    def drain(self) -> None:
        while self.pending:
            name, path = self.pending.popleft()
            self.load(name, path)

    def load(self, name: str, path: Path) -> None:
        if name in self.walk.modules:
            return
        if len(self.walk.modules) >= MAX_FILES:
            self.walk.refuse(path, 1, f"more than {MAX_FILES} local modules: point --root at one project")
            return
        try:
            source = parse(path, name, path.read_bytes())
        except Unparsable as error:
            self.walk.refuse(path, error.line, f"{error}; a local file must be readable on the device")
            return
        except OSError as error:
            self.walk.refuse(path, 1, f"cannot be read: {error.strerror}")
            return
        self.walk.modules[name] = source
        for item in imports_of(source):
            if isinstance(item, Import):
                self.follow(item, source)

    def follow(self, item: Import, source: Source) -> None:
        if item.problem:
            if not item.group:
                self.walk.refuse(source.origin, item.line, item.problem)
            return
        found = self.need(item.module, source, item.line, item.group)
        if found is None or found.kind not in (Kind.PACKAGE, Kind.NAMESPACE):
            return
        self.drain_one(item.module, found)
        names = item.names
        if names == ("*",):
            names = tuple(self.exported(item.module))
        for name in names:
            self.submodule(item, name, source, found, star=item.names == ("*",))

    def drain_one(self, name: str, found: Found) -> None:
        """Load a package at once: what its `__init__` binds decides what `from package import name` means."""
        if found.path is not None:
            self.load(name, found.path)

    def submodule(self, item: Import, name: str, source: Source, package: Found, *, star: bool) -> None:
        initial = self.walk.modules.get(item.module)
        if initial is not None and name in surely_bound(initial):
            return
        full = f"{item.module}.{name}"
        if self.roots.find(full):
            self.need(full, source, item.line, item.group)
        elif package.kind is Kind.NAMESPACE and not star:
            self.need(full, source, item.line, item.group)

    def exported(self, module: str) -> Iterator[str]:
        source = self.walk.modules.get(module)
        for node in ast.walk(source.tree) if source else ():
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AugAssign | ast.AnnAssign):
                targets = [node.target]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                value = getattr(node, "value", None)
                for part in ast.walk(value) if value else ():
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.value

    def need(self, name: str, source: Source | None, line: int, group: int) -> Found | None:
        """Follow a dotted name and its parents when it is local; else note it as external."""
        parts = name.split(".")
        if parts[0] in OWN:
            self.note(source, group)
            return None
        at = source or next(iter(self.walk.modules.values()), None)
        if not is_local(name, self.roots, self.walk.target.module):
            if at is not None:
                self.walk.externals.append(External(name, at, line, group))
            return None
        found: Found | None = None
        for depth in range(1, len(parts) + 1):
            prefix = ".".join(parts[:depth])
            found = self.roots.find(prefix)
            if found is None:
                # An attribute of a module that looks like a submodule fails at run time just as it does here.
                if at is not None:
                    self.walk.externals.append(External(name, at, line, group))
                return None
            self.take(prefix, found, at, line)
        self.note(source, group)
        return found

    def note(self, source: Source | None, group: int) -> None:
        if source is not None and group:
            self.walk.found.add((source.module, group))

    def take(self, name: str, found: Found, at: Source | None, line: int) -> None:
        file, where = (at.origin, line) if at else (found.path or Path(), 1)
        if found.kind is Kind.EXTENSION and found.path:
            self.walk.refuse(
                file,
                where,
                f"{name} is a local extension module ({found.path.name}), which runs on one machine and Python only: "
                "build it as a wheel of its own, install that, and it is required by name",
            )
        elif found.kind is Kind.BYTECODE and found.path:
            self.walk.refuse(file, where, f"{name} has no source, only {found.path.name}: ship the .py file")
        elif found.path is not None:
            self.pending.append((name, found.path.resolve()))

    def declared_import(self, name: str, entry: Source, line: int) -> None:
        """Follow a name that the class declares; `package.*` means every module directly below a package."""
        package, star, _ = name.partition(".*")
        found = self.need(package, entry, line, 0)
        self.drain()
        for directory in found.search if found and star else ():
            for path in sorted(directory.glob("*")):
                if path.suffix == ".py" and path.stem != "__init__" or (path / "__init__.py").is_file():
                    self.need(f"{package}.{path.stem}", entry, line, 0)

    def computed(self) -> None:
        if self.walk.declared.imports:
            return
        for source in self.walk.modules.values():
            for item in imports_of(source):
                if isinstance(item, Computed):
                    advice = (
                        "write the name as a literal, or declare the modules on the class: imports = ['package.module']"
                    )
                    self.walk.refuse(source.origin, item.line, f"{item.what}: {advice}")


def is_local(name: str, roots: origin.Roots, entry: str) -> bool:
    """Decide whether a dotted name means local code.

    A regular local package or module wins over an installed one, as it does on `sys.path`. A local directory without
    `__init__` shares its name with others, so there the full name decides.
    """
    top = name.partition(".")[0]
    if top in STDLIB and top != entry.partition(".")[0]:
        return False
    found = roots.find(top)
    if found is None:
        return False
    if found.kind is not Kind.NAMESPACE:
        return True
    exact = roots.find(name)
    local = exact is not None and (exact.path is not None or _holds_source(exact))
    if not local:
        return origin.distribution_of(name) is None and _holds_source(found)
    if exact is not None and exact.path is None:
        return origin.distribution_of(name) is None or not origin.provides(name)
    return not (origin.is_regular(top) and origin.provides(name))


def _holds_source(found: Found) -> bool:
    return any(next(directory.rglob("*.py"), None) is not None for directory in found.search)


def surely_bound(source: Source) -> frozenset[str]:
    """The names that a module binds at its top level on every path."""
    found: set[str] = set()
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found.update(part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name))
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return frozenset(found)


def _judge(found: Walk) -> Iterator[str]:
    """Yield the distributions that external imports come from; refuse what comes from nowhere."""
    missing: list[External] = []
    for item in found.externals:
        top = item.module.partition(".")[0]
        known = True
        if top in STDLIB:
            shadow = found.target.roots.find(top)
            if shadow and shadow.path and top not in ("__main__",):
                reason = f"local {shadow.path.name} hides the standard library's {top!r} or is hidden by it: rename it"
                found.refuse(item.source.origin, item.line, reason)
        else:
            name = origin.distribution_of(item.module) or _declared_name(top, found.declared)
            known = name is not None
            yield name or ""
        if known and item.group:
            found.found.add((item.source.module, item.group))
        if not known:
            missing.append(item)
    for item in missing:
        if not item.group or (item.source.module, item.group) not in found.found:
            reason = (
                f"{item.module!r} is neither in the standard library, nor installed, nor below {found.target.root}: "
                "install it, or declare it on the class: requires = ['distribution']"
            )
            found.refuse(item.source.origin, item.line, reason)


def _declared_name(top: str, declared: Declared) -> str | None:
    names = {canonical_name(name) for name in declared.distributions}
    return canonical_name(top) if canonical_name(top) in names else None


def _data(found: Walk) -> Iterable[LocalFile]:
    total = 0
    for path, place in found.data.items():
        data = path.read_bytes()
        total += len(data)
        if total > MAX_DATA_BYTES:
            found.refuse(
                path, 1, f"data files are over {MAX_DATA_BYTES} bytes together: ship models as blobs (OnnxModel)"
            )
            return
        yield LocalFile(place, "", data, path)


def _bundle_path(source: Source) -> str:
    path = source.module.replace(".", "/")
    return f"{path}/__init__.py" if source.is_package else f"{path}.py"


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
