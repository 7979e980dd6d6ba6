"""Which file, module and attribute a TARGET means, and where the project's modules start.

A TARGET is a class, `module:attr`, `module`, `file.py[:attr]` or a path. Reads files and looks at already imported
modules; never imports or executes the author's code. Refuses what has no source file that another machine could import.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.contract.errors import AuthorError
from publisher.analysis import live, origin
from publisher.analysis.origin import Roots
from publisher.analysis.source import Unparsable, parse

__all__ = ["Target", "resolve"]

_PROJECT_MARKERS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")
_CLIMB_LIMIT = 12


@dataclass(frozen=True, eq=False)
class Target:
    """A resolved TARGET. `attr` is a dotted name in `module`, empty for all of it; `root` is the author's project."""

    origin: Path
    module: str
    attr: str
    root: Path
    roots: Roots


def resolve(target: type | str | Path, root: Path | None = None) -> Target:
    """Find what `target` means; `root` (a project directory) overrides the guess. Raises `AuthorError`."""
    project = root.resolve() if root is not None else None
    if project is not None and not project.is_dir():
        raise AuthorError(f"root {root} is not a directory: give the project directory that holds the modules")
    if isinstance(target, type):
        return _of_class(target, project)
    text, attr = _split(str(target))
    path = Path(text)
    if text.endswith(".py") or "/" in text or path.is_file() or isinstance(target, Path):
        return _of_file(_existing(path, project), attr, project)
    return _of_module(text, attr, project)


def _split(text: str) -> tuple[str, str]:
    head, colon, attr = text.rpartition(":")
    return (head, attr) if colon and attr.replace(".", "").isidentifier() else (text, "")


def _existing(path: Path, project: Path | None) -> Path:
    full = path.resolve()
    if project is not None and not full.exists():
        full = (project / path).resolve()
    if full.is_dir() and (full / "__init__.py").is_file():
        return full / "__init__.py"
    if not full.is_file():
        raise AuthorError(f"no such file: {path}; a TARGET is module:attr, file.py or file.py:attr")
    return full


def _of_class(cls: type, project: Path | None) -> Target:
    file, attr = live.locate(cls)
    module = cls.__module__
    depth = module.count(".") + (file.stem == "__init__")
    tail = [*module.split("."), "__init__"] if file.stem == "__init__" else module.split(".")
    if list(file.with_suffix("").parts[-len(tail) :]) != tail:
        found = _of_file(file, attr, project)
    else:
        start = file.parents[depth]
        found = Target(file, module, attr, project or start, _roots([start], file, project))
    live.refuse_patched(cls, found.origin)
    return found


def _of_file(file: Path, attr: str, project: Path | None) -> Target:
    if origin.is_installed(file.parent) or any(origin.is_installed(parent) for parent in file.parents):
        raise AuthorError(f"{file} belongs to an installed distribution, which is required by name and never shipped")
    if project is not None:
        if not file.is_relative_to(project):
            raise AuthorError(f"{file} is not below the root {project}: give the root that holds it")
        bases = [base for base in origin.source_roots(project) if file.is_relative_to(base)]
        start = max(bases, key=lambda base: len(base.parts))
    else:
        start = _start(file)
    return Target(file, _module_name(file, start), attr, project or start, _roots([start], file, project))


def _of_module(name: str, attr: str, project: Path | None) -> Target:
    starts = list(origin.source_roots(project)) if project else [*origin.source_roots(Path.cwd()), *origin.path_roots()]
    found = Roots(starts, origin.editable_packages()).find(name)
    if found is None or found.path is None or found.path.suffix != ".py":
        where = str(project) if project else "the working directory, sys.path or an editable install"
        what = "has no source file" if found else "was not found"
        raise AuthorError(
            f"module {name!r} {what} below {where}: give file.py:attr, or --root with the project directory"
        )
    file = found.path.resolve()
    start = file.parents[name.count(".") + (file.stem == "__init__")]
    return Target(file, name, attr, project or start, _roots([start], file, project))


def _module_name(file: Path, start: Path) -> str:
    parts = list(file.relative_to(start).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    wrong = [part for part in parts if not part.isidentifier()]
    if wrong:
        raise AuthorError(f"{file} cannot be imported: {wrong[0]!r} is not a Python name; rename it")
    return ".".join(parts)


def _project_of(file: Path) -> Path | None:
    for parent in list(file.parents)[:_CLIMB_LIMIT]:
        if any((parent / marker).exists() for marker in _PROJECT_MARKERS):
            return parent
    return None


def _start(file: Path) -> Path:
    """Guess the directory that top-level modules lie in: above the package chain, or a project's source directory."""
    base = file.parent
    while (base / "__init__.py").is_file() and base != base.parent:
        base = base.parent
    project = _project_of(file)
    if project is None or not base.is_relative_to(project):
        return _climbed(file, base)
    sources = [root for root in origin.source_roots(project) if root != project and base.is_relative_to(root)]
    if sources:
        return max(sources, key=lambda root: len(root.parts))
    return _climbed(file, base, project)


def _climbed(file: Path, base: Path, project: Path | None = None) -> Path:
    """Climb further when the file's own imports say that it lies in a namespace package."""
    try:
        tree = parse(file, "", file.read_bytes()).tree
    except Unparsable:
        return base
    level, tops = 0, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            level = max(level, node.level)
            tops.add((node.module or "").partition(".")[0] if not node.level else "")
        elif isinstance(node, ast.Import):
            tops.update(alias.name.partition(".")[0] for alias in node.names)
    while level > len(file.parent.relative_to(base).parts) and base != base.parent:
        base = base.parent
    outer = base
    while project and outer != project:
        if outer.name in tops and not _at_top(base, outer.name):
            return outer.parent
        outer = outer.parent
    return base


def _at_top(base: Path, name: str) -> bool:
    return (base / name).exists() or (base / f"{name}.py").exists()


def _roots(starts: list[Path], file: Path, project: Path | None) -> Roots:
    directories: list[Path] = [*starts, *_more_roots(file, project)]
    return Roots(directories, origin.editable_packages())


def _more_roots(file: Path, project: Path | None) -> Iterator[Path]:
    """Where else local modules may lie. With an explicit root, the working directory has no say (I2)."""
    above = project or _project_of(file)
    if above:
        yield from origin.source_roots(above)
    here = Path.cwd()
    yield from (path for path in origin.path_roots() if project is None or path != here)
