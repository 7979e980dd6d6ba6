"""A module's top level, sorted: what gives names to things, and what acts when the module is imported.

Decides the sort of each statement; resolves no name and follows no import.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from publisher.analysis.imports import statement_imports
from publisher.analysis.scopes import stores
from publisher.analysis.source import Source

__all__ = ["Definition", "Module", "Target", "defines", "words"]

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Target:
    """What a name stands for: a definition or all of a local module, or something outside (`module` empty)."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}" if self.module else self.name


@dataclass(eq=False)
class Module:
    """A local module's top level, sorted into what defines names and what acts."""

    source: Source
    bindings: dict[str, list[ast.stmt | tuple[str, str | None]]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    effects: list[ast.stmt] = field(default_factory=list)
    imported: set[str] = field(default_factory=set)
    places: dict[str, int] = field(default_factory=dict)
    """Where each name is bound last; a star import stands under its module's name behind a `*`."""

    def __post_init__(self) -> None:
        for node in self.source.tree.body:
            self._sort(node, top=True)

    def _sort(self, node: ast.stmt, *, top: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for item in statement_imports(node, self.source):
                self.imported.add(item.module)
                if item.names == ("*",):
                    self.stars.append(item.module)
                    self.places["*" + item.module] = node.lineno
                for name, module, attr in item.bound:
                    self.places[name] = node.lineno
                    self.bindings.setdefault(name, []).append((module, attr))
            return
        if top and not defines(node):
            self.effects.append(node)
        if top:
            for name in dict.fromkeys(stores([node])):
                self.places[name] = node.lineno
                self.bindings.setdefault(name, []).append(node)
        if not isinstance(node, Definition):
            for child in ast.walk(node):
                if isinstance(child, ast.Import | ast.ImportFrom) and child is not node:
                    self._sort(child, top=False)

    def statements(self, name: str) -> list[ast.stmt]:
        """The statements that bind a name here, in source order."""
        return [item for item in self.bindings.get(name, []) if isinstance(item, ast.stmt)]


def defines(node: ast.stmt) -> bool:
    """Tell whether a statement only gives a name to something."""
    if isinstance(node, Definition) or type(node).__name__ == "TypeAlias":
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.Assign):
        return all(_is_name(target) for target in node.targets)
    return (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)) or isinstance(node, ast.Pass)


def _is_name(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple | ast.List):
        return all(_is_name(item) for item in node.elts)
    return isinstance(node, ast.Name)


def words(node: ast.AST) -> set[str]:
    """Every identifier in a piece of code, attributes, imports and short strings included."""
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            found.add(part.id)
        elif isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.alias):
            found.update(part.name.split("."))
        elif isinstance(part, ast.ImportFrom) and part.module:
            found.update(part.module.split("."))
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.startswith("__"):
            found.add(part.value)
    return found
