"""The local modules that a target reaches by import, found without importing any of them.

Decides which imports are local and follows them, parents and submodules included; notes what lies outside for the
closure to judge, and refuses at once what can be neither followed nor shipped: extension modules, broken source,
computed names.
"""

from __future__ import annotations

import ast
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from publisher.analysis import origin
from publisher.analysis.data_files import Reader
from publisher.analysis.declared import Declared, declared_of
from publisher.analysis.imports import Computed, Import, all_of, imports_of
from publisher.analysis.origin import STDLIB, Found, Kind
from publisher.analysis.paths import Evaluator
from publisher.analysis.source import Source, Unparsable, parse
from publisher.analysis.target import Target, resolve

__all__ = ["External", "Refusal", "Walk", "shown", "walk"]

# Beyond this something else than one class is being packed.
MAX_FILES = 2_000
OWN = frozenset({"edge_agent", "fieldcast", "publisher"})
"""Our own packages: on every device already, so never shipped nor required."""
_PATH_CALLS = {"sys.path.insert", "sys.path.append", "site.addsitedir"}


@dataclass(frozen=True, order=True)
class Refusal:
    """What cannot be shipped, with the place (`file` is relative to the root) and the way out in words."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class External:
    """An import of something that is not local, where it stands."""

    module: str
    source: Source
    line: int
    group: int
    names: tuple[str, ...] = ()


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
    computed: list[tuple[Source, Computed]] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    sure: dict[str, set[str]] = field(default_factory=dict)
    """What each module imports on every device, alternatives left out."""

    def needed(self) -> set[str]:
        """Return the modules that every device imports, whatever its Python and platform."""
        pending, found = [self.target.module], set[str]()
        while pending:
            name = pending.pop()
            if name in self.modules and name not in found:
                found.add(name)
                pending.extend(self.sure.get(name, ()))
        return found

    def refuse(self, file: Path, line: int, reason: str) -> None:
        """Note a refusal once."""
        refusal = Refusal(shown(file, self.target.root), line, reason)
        if refusal not in self.refused:
            self.refused.append(refusal)


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
        self.evaluator = Evaluator(self.walk.modules, self.roots)

    def run(self) -> None:
        target = self.walk.target
        parents = target.module.rpartition(".")[0]
        if target.module.partition(".")[0] in STDLIB:
            self.walk.refuse(target.origin, 1, f"{target.module!r} has a name of the standard library's: rename it")
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
        reader = Reader(self.walk, self.evaluator)
        reader.declared()
        while len(reader.seen) < len(self.walk.modules):
            reader.read()
            for name, source in list(self.evaluator.anchors.items()):
                found = self.roots.find(name)
                if found is not None and found.path is not None:
                    self.need(name, source, 1, 0)  # reading a package's resources imports it
            self.drain()
        self.computed()

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
        self.extend_path(source)
        for item in imports_of(source):
            if isinstance(item, Import):
                self.follow(item, source)
            else:
                self.walk.computed.append((source, item))

    def extend_path(self, source: Source) -> None:
        """Search directories that the source itself puts on `sys.path` from literals."""
        if b"sys" not in source.data or b"path" not in source.data:
            return
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in _PATH_CALLS:
                value = self.evaluator.value(node.args[-1], self.evaluator.scope(source))
                if isinstance(value, Path) and value.is_dir():
                    self.roots.add(value)

    def follow(self, item: Import, source: Source) -> None:
        if item.dead and not is_local(item.module, self.roots, self.walk.target.module):
            return
        if item.problem:
            if not item.group and not item.dead:
                self.walk.refuse(source.origin, item.line, item.problem)
            return
        mine = [name for name in item.names if self.is_shared(f"{item.module}.{name}")]
        others = tuple(name for name in item.names if name not in mine)
        for name in mine:
            self.need(f"{item.module}.{name}", source, item.line, item.group)
        found = self.need(item.module, source, item.line, item.group, others) if others or not mine else None
        if found is None or found.kind not in (Kind.PACKAGE, Kind.NAMESPACE):
            return
        self.drain_one(item.module, found)
        for name in self.exported(item.module, found) if others == ("*",) else others:
            self.submodule(item, name, source, found, star=others == ("*",))

    def is_shared(self, name: str) -> bool:
        """Whether `name` is a local module in a namespace package that others share."""
        parent = self.roots.find(name.rpartition(".")[0])
        shared = parent is not None and parent.kind is Kind.NAMESPACE
        return shared and is_local(name, self.roots, self.walk.target.module)

    def drain_one(self, name: str, found: Found) -> None:
        """Load a package at once: what its `__init__` binds decides what `from package import name` means."""
        if found.path is not None:
            self.load(name, found.path)

    def submodule(self, item: Import, name: str, source: Source, package: Found, *, star: bool) -> None:
        initial = self.walk.modules.get(item.module)
        if initial is not None and name in surely_bound(initial):
            return
        full = f"{item.module}.{name}"
        if self.roots.find(full) or (not star and not _may_bind(initial, name)):
            self.need(full, source, item.line, item.group)

    def exported(self, module: str, package: Found) -> list[str]:
        """What `from package import *` may import as submodules: all of them, where `__all__` is computed."""
        source = self.walk.modules.get(module)
        names, complete = all_of(source) if source else (set(), True)
        if not complete:
            for directory in package.search:
                names |= {path.stem for path in directory.glob("*.py")} - {"__init__", "__main__"}
                names |= {path.parent.name for path in directory.glob("*/__init__.py")}
        return sorted(names)

    def need(
        self, name: str, source: Source | None, line: int, group: int, names: tuple[str, ...] = ()
    ) -> Found | None:
        """Follow a dotted name and its parents when it is local; else note it as external."""
        parts = name.split(".")
        if parts[0] in OWN:
            self.note(source, group)
            return None
        at = source or next(iter(self.walk.modules.values()), None)
        if not is_local(name, self.roots, self.walk.target.module):
            if at is not None:
                self.walk.externals.append(External(name, at, line, group, names))
            return None
        found: Found | None = None
        for depth in range(1, len(parts) + 1):
            prefix = ".".join(parts[:depth])
            found = self.roots.find(prefix)
            if found is None:
                if at is not None:
                    self.walk.externals.append(External(name, at, line, group))
                return None
            self.take(prefix, found, at, line)
            if at is not None and not group:
                self.walk.sure.setdefault(at.module, set()).add(prefix)
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
            self.pending.append((name, found.path))  # a link stays one: so does `__file__`

    def declared_import(self, name: str, entry: Source, line: int) -> None:
        """Follow a name that the class declares; `package.*` means every module directly below a package."""
        package, star, _ = name.partition(".*")
        found = self.need(package, entry, line, 0)
        self.walk.named.add(package)
        self.drain()
        for directory in found.search if found and star else ():
            for path in sorted(directory.glob("*")):
                if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file():
                    self.need(f"{package}.{path.stem}", entry, line, 0)
                    self.walk.named.add(f"{package}.{path.stem}")

    def computed(self) -> None:
        if self.walk.declared.imports:
            return
        advice = "write the name as a literal, or declare the modules on the class: imports = ['package.module']"
        for source, item in self.walk.computed:
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


def _may_bind(source: Source | None, name: str) -> bool:
    """Whether a package's `__init__` may provide a name in a way that reading it does not show for sure."""
    if source is None:
        return False
    text = source.data.decode("latin-1")
    return name in text or any(word in text for word in ("import *", "__getattr__", "globals", "setattr", "__dict__"))


def shown(path: Path, root: Path) -> str:
    """Return a path as a person finds it below the root, or whole when it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
