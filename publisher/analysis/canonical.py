"""The canonical form of a syntax tree: equal bytes for equal meaning, on every Python version (I1, I2).

Leaves out what no program can see (positions, comments, formatting, `pass`) and what it sees only when it looks
(docstrings, order of plain methods): whether anything looks is the caller's decision, given as a `View`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["FREE_DECORATORS", "View", "canonical"]

_SKIPPED = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_Method = ast.FunctionDef | ast.AsyncFunctionDef
FREE_DECORATORS = ("staticmethod", "classmethod", "property")


@dataclass(frozen=True)
class View:
    """What else a program can see: `docstrings` everywhere, or the layout of classes that are not `plain`."""

    docstrings: bool
    plain: Callable[[ast.ClassDef], bool]


def canonical(nodes: Iterable[ast.AST], view: View) -> bytes:
    """Return the canonical bytes of a sequence of nodes."""
    out: list[bytes] = []
    stack: list[_Item] = [(node, view.docstrings) for node in reversed(list(nodes))]
    while stack:  # a stack of our own: an expression may nest deeper than Python recurses
        item, docs = stack.pop()
        if isinstance(item, bytes):
            out.append(item)
        elif isinstance(item, list):
            stack.append((b"]", docs))
            stack.extend((child, docs) for child in reversed(item))
            stack.append((b"[", docs))
        elif isinstance(item, ast.Constant):
            out.append(_constant(item.value))
        elif isinstance(item, ast.AST):
            stack.extend(reversed(_parts(item, docs, view)))
        else:
            out.append(_constant(item))
    return b"".join(out)


_Item = tuple[object, bool]


def _parts(node: ast.AST, docs: bool, view: View) -> list[_Item]:
    parts: list[_Item] = [(b"(" + type(node).__name__.encode(), docs)]
    plain = not isinstance(node, ast.ClassDef) or view.plain(node)
    docs = docs or not plain
    for field in sorted(node._fields):
        value = getattr(node, field, None)
        if field in _SKIPPED or value is None or value == []:
            continue
        if isinstance(value, list) and isinstance(value[0], ast.stmt):
            value = _body(node, value, docs)
            if isinstance(node, ast.ClassDef) and plain:
                value = _reordered(value)
        elif field == "values" and isinstance(node, ast.JoinedStr):
            value = _joined(value)
        elif field == "format_spec" and isinstance(value, ast.JoinedStr) and not _joined(value.values):
            continue
        if value == []:
            continue
        parts.append((b" " + field.encode() + b"=", docs))
        parts.append((value, docs))
    parts.append((b")", docs))
    return parts


def _constant(value: object) -> bytes:
    """Encode a literal with its type; `repr` of text and of huge integers differs between Python versions."""
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return b"s%d:%b" % (len(data), data)
    if isinstance(value, bytes):
        return b"b%d:%b" % (len(value), value)
    if isinstance(value, bool) or value is None or value is Ellipsis:
        return b"<%b>" % repr(value).encode()
    if isinstance(value, int):
        return b"i%b;" % hex(value).encode()
    if isinstance(value, float):
        return b"f%b;" % value.hex().encode()
    if isinstance(value, complex):
        return b"c%b,%b;" % (value.real.hex().encode(), value.imag.hex().encode())
    raise TypeError(f"no canonical form for a literal of type {type(value).__name__}")


def _body(node: ast.AST, body: list[ast.stmt], docs: bool) -> list[ast.stmt]:
    """Statements that do something. A bare literal does nothing, except as a docstring that somebody reads."""
    keeps_first = docs and isinstance(node, _Method | ast.ClassDef | ast.Module)
    return [
        statement
        for index, statement in enumerate(body)
        if not isinstance(statement, ast.Pass)
        and (
            not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            or (keeps_first and index == 0 and isinstance(statement.value.value, str))
        )
    ]


def _joined(values: Sequence[ast.expr]) -> list[ast.expr]:
    """Join adjacent literals of an f-string and drop empty ones: 3.12 cuts them differently."""
    found: list[ast.expr] = []
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            if not value.value:
                continue
            last = found[-1] if found else None
            if isinstance(last, ast.Constant) and isinstance(last.value, str):
                found[-1] = ast.Constant(last.value + value.value)
                continue
        found.append(value)
    return found


def _reordered(body: list[ast.stmt]) -> list[ast.stmt]:
    """Put plain methods last, by name, when nothing in the class body depends on where they stand."""
    methods = [node for node in body if isinstance(node, _Method) and _is_free(node)]
    others = [node for node in body if not (isinstance(node, _Method) and _is_free(node))]
    bound = [name for node in others for name in _stored(node)]
    names = {node.name for node in methods}
    evaluated = [part for node in others for part in _evaluated(node)]
    heads = [part for node in methods for part in _evaluated(node) if not _is_own_accessor(part, node)]
    if names & {*bound, *_overwritten(methods)} or _loaded(evaluated) & names or _loaded(heads) & {*names, *bound}:
        return body
    return [*others, *sorted(methods, key=lambda node: node.name)]


def _is_free(node: _Method) -> bool:
    """Whether a method is made the same wherever it stands; a property's setter follows its getter by name."""
    return all(
        (isinstance(item, ast.Name) and item.id in FREE_DECORATORS) or _is_own_accessor(item, node)
        for item in node.decorator_list
    )


def _is_own_accessor(part: ast.AST, node: _Method) -> bool:
    """Whether a decorator is `@name.setter` on the method `name`."""
    own = isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == node.name
    return own and isinstance(part, ast.Attribute) and part.attr in ("setter", "getter", "deleter")


def _overwritten(methods: list[_Method]) -> set[str]:
    """Names that are defined twice without the second building on the first."""
    seen: set[str] = set()
    found: set[str] = set()
    for node in methods:
        if node.name in seen and not any(_is_own_accessor(item, node) for item in node.decorator_list):
            found.add(node.name)
        seen.add(node.name)
    return found


def _evaluated(node: ast.stmt) -> list[ast.AST]:
    """The parts of a statement that run when the class body runs."""
    if isinstance(node, _Method):
        defaults = [item for item in (*node.args.defaults, *node.args.kw_defaults) if item is not None]
        arguments = [part for part in ast.walk(node.args) if isinstance(part, ast.arg)]
        notes = [item.annotation for item in arguments if item.annotation is not None]
        return [*node.decorator_list, *defaults, *notes, *([node.returns] if node.returns else [])]
    return [node]


def _loaded(nodes: Iterable[ast.AST]) -> set[str]:
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def _stored(node: ast.stmt) -> list[str]:
    if isinstance(node, _Method | ast.ClassDef):
        return [node.name]
    names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)]
    names += [part.name for part in ast.walk(node) if isinstance(part, _Method | ast.ClassDef)]
    return names + [(p.asname or p.name).partition(".")[0] for p in ast.walk(node) if isinstance(p, ast.alias)]
