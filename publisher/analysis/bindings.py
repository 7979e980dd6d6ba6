"""What each scope of a module binds to its names: assignments, defaults, imports, functions and classes.

Notes every value that a name may have; decides nothing about what they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from publisher.analysis.imports import statement_imports
from publisher.analysis.source import Source

__all__ = ["Scope", "only_return"]

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Scope:
    """Parents, functions, classes and assignments of one module's tree."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parents: dict[ast.AST, ast.AST] = {}
        self.assigned: dict[tuple[ast.AST, str], list[ast.expr | None]] = {}
        self.functions: dict[str, ast.FunctionDef] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.globals: dict[ast.AST, set[str]] = {}
        self.imported: dict[str, tuple[str, str | None]] = {}
        for node in ast.walk(source.tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Global):
                self.globals.setdefault(self.owner(node), set()).update(node.names)
        for node in list(ast.walk(source.tree)):
            self._note(node)

    def owner(self, node: ast.AST) -> ast.AST:
        """The innermost function, class or module that a node stands in."""
        node = self.parents[node]
        while not isinstance(node, _Function | ast.ClassDef | ast.Module):
            node = self.parents[node]
        return node

    def owners(self, node: ast.AST) -> Iterator[ast.AST]:
        """The scopes around a node, innermost first."""
        while not isinstance(node, ast.Module):
            node = self.owner(node)
            yield node

    def called(self, function: ast.expr) -> str:
        """Return the name of a function where it comes from: `Path` for the `P` of `from pathlib import Path as P`."""
        if isinstance(function, ast.Name):
            if function.id in self.imported:
                return self.imported[function.id][1] or function.id
            values = [one for owner in self.owners(function) for one in self.assigned.get((owner, function.id), [])]
            if len(values) == 1 and isinstance(values[0], ast.Attribute):
                return values[0].attr
            return function.id
        return function.attr if isinstance(function, ast.Attribute) else ""

    def comes_from(self, function: ast.expr) -> str:
        """Return the module that a function was imported from, empty for any other."""
        return self.imported.get(ast.unparse(function).partition(".")[0], ("", None))[0]

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value:
            self._bind(node.target, node.value)
        elif isinstance(node, ast.AugAssign):
            self._bind(node.target, self._joined(node))
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            self._bind(node.target, None)
        elif isinstance(node, ast.withitem) and node.optional_vars:
            self._bind(node.optional_vars, node.context_expr)
        elif isinstance(node, ast.arg):
            self.assigned.setdefault((self.owner(node), node.arg), []).append(None)
        elif isinstance(node, ast.arguments):
            self._defaults(node)
        elif isinstance(node, ast.FunctionDef):
            self.functions.setdefault(node.name, node)
        elif isinstance(node, ast.ClassDef):
            self.classes.setdefault(node.name, node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for item in statement_imports(node, self.source):
                self.imported.update({name: (module, attr) for name, module, attr in item.bound})

    def _defaults(self, node: ast.arguments) -> None:
        """A default is one of the values that a parameter may have."""
        positional = [*node.posonlyargs, *node.args]
        pairs = [*zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True)]
        pairs += [(one, value) for one, value in zip(node.kwonlyargs, node.kw_defaults, strict=True) if value]
        for one, value in pairs:
            self.assigned.setdefault((self.owner(one), one.arg), []).append(value)

    def _joined(self, node: ast.AugAssign) -> ast.expr | None:
        """`path /= "name"` binds `path / "name"`."""
        if not isinstance(node.target, ast.Name):
            return None
        left = ast.copy_location(ast.Name(node.target.id, ast.Load()), node)
        joined = ast.copy_location(ast.BinOp(left, node.op, node.value), node)
        self.parents |= {joined: node, left: joined}
        return joined

    def _bind(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            owner = self.owner(target)
            owner = self.source.tree if target.id in self.globals.get(owner, ()) else owner
            self.assigned.setdefault((owner, target.id), []).append(value)
        elif (
            isinstance(target, ast.Attribute)
            and isinstance(target.value, ast.Name)
            and target.value.id in ("self", "cls")
        ):
            cls = next((o for o in self.owners(target) if isinstance(o, ast.ClassDef)), None)
            if cls is not None:
                self.assigned.setdefault((cls, target.attr), []).append(value)
        elif isinstance(target, ast.Tuple | ast.List):
            for number, item in enumerate(target.elts):
                self._bind(item, self._part(value, number, target))

    def _part(self, value: ast.expr | None, number: int, target: ast.Tuple | ast.List) -> ast.expr | None:
        """What unpacking gives one name: `folder, name = os.path.split(path)` binds parts of a call's result."""
        if value is None or any(isinstance(item, ast.Starred) for item in target.elts):
            return None
        if isinstance(value, ast.Tuple | ast.List):
            same = len(value.elts) == len(target.elts) and not any(isinstance(v, ast.Starred) for v in value.elts)
            return value.elts[number] if same else None
        if not isinstance(value, ast.Call):
            return None
        part = ast.copy_location(ast.Subscript(value, ast.Constant(number), ast.Load()), value)
        self.parents |= {part: self.parents[target], part.slice: part}
        return part


def only_return(function: ast.FunctionDef) -> ast.expr | None:
    """Return the expression that a function without parameters returns, when it does nothing else."""
    body = [node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    if len(body) == 1 and isinstance(body[0], ast.Return) and ast.unparse(function.args) in ("", "self", "cls"):
        return body[0].value
    return None
