"""Paths that begin with a written name or with the working directory, and so lead elsewhere on another machine.

Decides how a path expression begins as far as that is written; says nothing of one that begins with a value unknown.
"""

from __future__ import annotations

import ast
from pathlib import Path

from publisher.analysis.bindings import Scope
from publisher.analysis.path_values import last
from publisher.analysis.paths import Evaluator

__all__ = ["Leads"]

_PATHS = ("Path", "PosixPath", "PurePath", "PurePosixPath")
_HERE = ("sys.path[0]", "sys.argv[0]", "os.curdir")
_DEPTH_LIMIT = 20


class Leads:
    """Works out how path expressions begin, with values from an evaluator."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def is_path(self, node: ast.expr, scope: Scope, depth: int = 0) -> bool:
        """Tell whether an expression is a `pathlib` path for sure."""
        node = _bound(node, scope)
        if isinstance(node, ast.BinOp):
            return isinstance(node.op, ast.Div) and self.is_path(node.left, scope, depth + 1)
        if not isinstance(node, ast.Call) or depth > _DEPTH_LIMIT:
            return False
        if scope.called(node.func) in _PATHS:
            return True
        if not isinstance(node.func, ast.Attribute):
            return False
        owner = node.func.value
        path = isinstance(owner, ast.Name | ast.Attribute) and last(owner) in _PATHS
        return (path and node.func.attr == "cwd") or self.is_path(owner, scope, depth + 1)

    def text(self, node: ast.expr, scope: Scope, depth: int = 0) -> str | None:
        """Return the written beginning of a path, "." for the working directory, None for one that is not known."""
        if depth > _DEPTH_LIMIT:
            return None
        value = self.evaluator.value(node, scope)
        if isinstance(value, str):
            return value or None
        node = _bound(node, scope)
        if value is not None:
            return None
        if ast.unparse(node) in _HERE:
            return "."
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) and node.value else None
        if isinstance(node, ast.BinOp):
            found = self.text(node.left, scope, depth + 1)
            return (found or "").partition("%")[0] or None if isinstance(node.op, ast.Mod) else found
        if isinstance(node, ast.JoinedStr):
            return self.text(node.values[0], scope, depth + 1) if node.values else None
        return self._call(node, scope, depth + 1) if isinstance(node, ast.Call) else None

    def _call(self, node: ast.Call, scope: Scope, depth: int) -> str | None:
        function = scope.called(node.func)
        if function in ("getcwd", "cwd"):
            return "."
        if function in ("join", *_PATHS, "abspath", "realpath", "normpath", "dirname", "fspath", "str"):
            texts = [self.text(part, scope, depth) for part in node.args]
            if function in (*_PATHS, "join") and texts and all(texts):
                return str(Path(*(text for text in texts if text)))
            return texts[0] if texts else None
        if isinstance(node.func, ast.Attribute) and function in (
            "joinpath",
            "resolve",
            "absolute",
            "format",
            "as_posix",
        ):
            found = self.text(node.func.value, scope, depth)
            return (found or "").partition("{")[0] or None if function == "format" else found
        return None


def _bound(node: ast.expr, scope: Scope) -> ast.expr:
    """Return what a name or an attribute of `self` was bound to, when that happens once."""
    if not isinstance(node, ast.Name | ast.Attribute) or node not in scope.parents:
        return node
    own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    if isinstance(node, ast.Attribute) and not own:
        return node
    name = node.id if isinstance(node, ast.Name) else node.attr
    owners = [owner for owner in scope.owners(node) if not own or isinstance(owner, ast.ClassDef)]
    values = [value for owner in owners for value in scope.assigned.get((owner, name), [])]
    return values[0] if len(values) == 1 and values[0] is not None else node
