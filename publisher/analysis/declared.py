"""What a class declares about itself in class attributes: `requires`, `data` and `imports`, read from its source.

Reads literals only; a declaration that would have to be computed is reported as a problem, not guessed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from publisher.analysis.imports import literal, statement_imports
from publisher.analysis.source import Source

__all__ = ["Declared", "declared_of"]

_KEYS = ("requires", "data", "imports")


@dataclass(frozen=True)
class Declared:
    """Declarations of a class and its local bases; places are (value, line), data with the module that declares it."""

    requires: tuple[str, ...] = ()
    data: tuple[tuple[str, str, int], ...] = ()
    imports: tuple[tuple[str, int], ...] = ()
    problems: tuple[tuple[str, int, str], ...] = ()

    @property
    def distributions(self) -> tuple[str, ...]:
        """The distribution names in `requires`, without versions, extras and markers."""
        return tuple(re.split(r"[\s<>=!~;\[(@]", item.strip(), maxsplit=1)[0] for item in self.requires if item.strip())


def declared_of(entry: Source, attr: str, modules: Mapping[str, Source]) -> Declared:
    """Read the declarations of the class `attr` and its local bases; of every class reached when it is none."""
    top = ast.Name(attr.partition(".")[0], ast.Load())
    chosen = list(_find_class(top, entry, modules, 0)) if attr else []
    strict = bool(chosen)
    chosen = chosen or [(source, node) for source in modules.values() for node in _classes(source).values()]
    values: dict[str, list[tuple[str, str, int]]] = {key: [] for key in _KEYS}
    problems: list[tuple[str, int, str]] = []
    for source, definition in _with_bases(chosen, modules):
        if not strict and not definition.bases:
            continue
        for node in definition.body:
            key, value = _assignment(node)
            if key and value is not None:
                items = _strings(value)
                if items is None and (strict or key != "data"):
                    reason = f"{key} of class {definition.name} must be a literal list of strings"
                    problems.append((source.module, value.lineno, reason))
                values[key].extend((item, source.module, value.lineno) for item in items or ())
    return Declared(
        requires=tuple(dict.fromkeys(item for item, _, _ in values["requires"])),
        data=tuple(dict.fromkeys(values["data"])),
        imports=tuple(dict.fromkeys((item, line) for item, _, line in values["imports"])),
        problems=tuple(problems),
    )


def _classes(source: Source) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in source.tree.body if isinstance(node, ast.ClassDef)}


def _with_bases(
    chosen: list[tuple[Source, ast.ClassDef]], modules: Mapping[str, Source]
) -> Iterator[tuple[Source, ast.ClassDef]]:
    pending = list(chosen)
    seen: set[tuple[str, str]] = set()
    while pending:
        source, node = pending.pop(0)
        if (source.module, node.name) in seen:
            continue
        seen.add((source.module, node.name))
        yield source, node
        pending.extend(found for base in node.bases for found in _find_class(base, source, modules, 0))


def _find_class(
    base: ast.expr, source: Source, modules: Mapping[str, Source], depth: int
) -> Iterator[tuple[Source, ast.ClassDef]]:
    """Find the local classes that a base expression may mean, through re-exports."""
    if depth > 20:
        return
    if isinstance(base, ast.Subscript):
        yield from _find_class(base.value, source, modules, depth + 1)
    elif isinstance(base, ast.Name):
        if base.id in _classes(source):
            yield source, _classes(source)[base.id]
        for local, module, name in _bindings(source):
            if local == base.id and name and module in modules:
                yield from _find_class(ast.Name(name, ast.Load()), modules[module], modules, depth + 1)
    elif isinstance(base, ast.Attribute):
        for local, module, name in _bindings(source):
            dotted = ast.unparse(base.value)
            head, _, rest = dotted.partition(".")
            full = ".".join(part for part in (module, name, rest) if part)
            if local == head and full in modules:
                yield from _find_class(ast.Name(base.attr, ast.Load()), modules[full], modules, depth + 1)


def _bindings(source: Source) -> Iterator[tuple[str, str, str | None]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for item in statement_imports(node, source):
                yield from item.bound


def _assignment(node: ast.AST) -> tuple[str, ast.expr | None]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target: ast.expr = node.targets[0]
    elif isinstance(node, ast.AnnAssign):
        target = node.target
    else:
        return "", None
    return (target.id, node.value) if isinstance(target, ast.Name) and target.id in _KEYS else ("", None)


def _strings(node: ast.expr) -> list[str] | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if not isinstance(node, ast.List | ast.Tuple | ast.Set):
        return None
    items = [literal(item) for item in node.elts]
    return None if None in items else [item for item in items if item is not None]
