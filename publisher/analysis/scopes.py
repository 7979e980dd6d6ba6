"""Which global names a piece of code uses, by Python's scoping rules.

Decides what is local to a function and what reaches out to the module. In doubt a name counts as used: one component
too many in a fingerprint is harmless, one too few is a lie.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from publisher.analysis.imports import statement_imports
from publisher.analysis.source import Source

__all__ = ["Use", "stores", "uses"]

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True)
class Use:
    """A name that code reads, with the attributes taken from it.

    `chain` is `("dsp", "bandpass")` for `dsp.bandpass`. `imported` is what an import inside the function bound the name
    to: module and attribute; empty for a name that the module itself must provide.
    """

    chain: tuple[str, ...]
    imported: tuple[str, str | None] | None = None


def uses(nodes: Iterable[ast.AST], source: Source) -> set[Use]:
    """Return every use of a global name in module-level code, function bodies included."""
    found: set[Use] = set()
    for node in nodes:
        found |= _of(node, source)
    return found


def stores(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names that statements bind in their own scope, not in functions and classes nested in them."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
            pending.extend(node.decorator_list)
            continue
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest
        if not isinstance(node, ast.Lambda | _Comprehension):
            pending.extend(ast.iter_child_nodes(node))
        else:
            yield from (part.target.id for part in ast.walk(node) if isinstance(part, ast.NamedExpr))


def _of(node: ast.AST, source: Source) -> set[Use]:
    found: set[Use] = set()
    pending: list[ast.AST] = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, _Function):
            found |= _function(current, source)
        elif isinstance(current, _Comprehension):
            local = {name for part in current.generators for name in stores([part.target])}
            inner = [part for part in ast.iter_child_nodes(current) if part is not current.generators[0]]
            first = current.generators[0]
            inner += [first.target, *first.ifs]
            pending.append(first.iter)  # evaluated outside, where the targets' names may mean something else
            found |= {use for use in uses(inner, source) if use.imported or use.chain[0] not in local}
        elif isinstance(current, ast.Attribute | ast.Name):
            chain, base = _chain(current)
            if base is None:
                found.add(Use(chain))
            else:
                pending.append(base)
        elif isinstance(current, ast.Global):
            found.update(Use((name,), (source.module, name)) for name in current.names)
        elif isinstance(current, ast.ImportFrom):
            for item in statement_imports(current, source):
                found.update(Use((name,), (module, attr)) for name, module, attr in item.bound)
        else:
            if isinstance(current, ast.ClassDef):
                found |= _class_imports(current, source)
            pending.extend(_annotations(current))
            if isinstance(current, ast.Subscript):
                pending.extend(_quoted(current.slice))  # `Alias = Optional["Later"]`
            pending.extend(ast.iter_child_nodes(current))
    return found


def _class_imports(node: ast.ClassDef, source: Source) -> set[Use]:
    """Modules imported in a class body are attributes: `self.module` reaches all of them."""
    items = [
        item for part in _own(node.body) if isinstance(part, ast.Import) for item in statement_imports(part, source)
    ]
    return {Use((name,), (module, attr)) for item in items for name, module, attr in item.bound}


def _function(node: _Function, source: Source) -> set[Use]:
    arguments = node.args
    outer: list[ast.AST] = [item for item in (*arguments.defaults, *arguments.kw_defaults) if item is not None]
    parameters = [part for part in ast.walk(arguments) if isinstance(part, ast.arg)]
    outer += [part.annotation for part in parameters if part.annotation]
    body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
    if not isinstance(node, ast.Lambda):
        outer += [*node.decorator_list, *([node.returns] if node.returns else []), *getattr(node, "type_params", ())]
        outer += [text for part in (*parameters, node) for text in _annotations(part)]
    declared = {name for part in _own(body) if isinstance(part, ast.Global | ast.Nonlocal) for name in part.names}
    local = {part.arg for part in parameters} | set(stores(body)) - declared
    imported: dict[str, list[tuple[str, str | None]]] = {}
    for part in _own(body):
        if isinstance(part, ast.Import | ast.ImportFrom):
            for item in statement_imports(part, source):
                for name, module, attr in item.bound:
                    imported.setdefault(name, []).append((module, attr))
    found = uses(outer, source)
    globally = {name for part in _own(body) if isinstance(part, ast.Global) for name in part.names}
    for use in uses(body, source):
        name = use.chain[0]
        if use.imported is not None or name in declared:
            found.add(Use(use.chain, use.imported or (source.module, name)) if name in globally else use)
        if use.imported is None and name in imported:
            found.update(Use(use.chain, target) for target in imported[name])
        elif use.imported is None and name not in local:
            found.add(use)
    return found


def _own(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Nodes of a function's own scope."""
    pending = list(body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, _Function | ast.ClassDef):
            pending.extend(ast.iter_child_nodes(node))


def _chain(node: ast.expr) -> tuple[tuple[str, ...], ast.expr | None]:
    """`a.b.c` as names; else the expression that the attributes are taken from."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        return (node.id, *reversed(names)), None
    return (), node


def _annotations(node: ast.AST) -> list[ast.AST]:
    """Names inside annotations that are written as strings."""
    return [text for field in ("annotation", "returns") for text in _quoted(getattr(node, field, None))]


def _quoted(value: ast.AST | None) -> Iterator[ast.AST]:
    for part in ast.walk(value) if value is not None else ():
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    yield ast.parse(part.value, mode="eval").body
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
