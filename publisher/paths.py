"""Paths that source code builds from `__file__` or a package's resources, worked out without running it.

Decides what an expression must evaluate to when everything in it is literal. Says `COMPUTED` when it starts from the
module's own place but goes on with something that only running the program could tell; knows nothing about reading.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path

from publisher.imports import statement_imports
from publisher.origin import Kind, Roots
from publisher.source import Source

__all__ = ["COMPUTED", "Computed", "Evaluator", "Scope", "Value"]

_DEPTH_LIMIT = 60


class Computed(Enum):
    """A path that begins at the module's own place and ends in something computed."""

    COMPUTED = "computed"


COMPUTED = Computed.COMPUTED
Value = Path | str | int | Computed | None
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_SAME = {"resolve", "absolute", "as_posix", "expanduser", "__str__", "__fspath__", "strip"}
_SAME_FUNCTIONS = {"str", "fspath", "abspath", "realpath", "normpath", "expanduser", "as_file", "normcase"}
_SAME_FUNCTIONS |= {"enter_context", "fsdecode"}
_RESOURCE_READERS = {"open_text", "open_binary", "read_text", "read_binary", "is_resource", "get_data"}
_RESOURCE_READERS |= {"resource_filename", "resource_string", "resource_stream"}


class Scope:
    """Parents, functions and single assignments of one module's tree."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parents: dict[ast.AST, ast.AST] = {}
        self.assigned: dict[tuple[ast.AST, str], list[ast.expr | None]] = {}
        self.functions: dict[str, ast.FunctionDef] = {}
        self.imported: dict[str, tuple[str, str | None]] = {}
        for node in ast.walk(source.tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
        for node in ast.walk(source.tree):
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

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value:
            self._bind(node.target, node.value)
        elif isinstance(node, ast.AugAssign | ast.For | ast.AsyncFor | ast.comprehension):
            self._bind(node.target, None)
        elif isinstance(node, ast.withitem) and node.optional_vars:
            self._bind(node.optional_vars, node.context_expr)
        elif isinstance(node, ast.arg):
            self.assigned.setdefault((self.owner(node), node.arg), []).append(None)
        elif isinstance(node, ast.FunctionDef):
            self.functions.setdefault(node.name, node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for item in statement_imports(node, self.source):
                self.imported.update({name: (module, attr) for name, module, attr in item.bound})

    def _bind(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            self.assigned.setdefault((self.owner(target), target.id), []).append(value)
        elif (
            isinstance(target, ast.Attribute)
            and isinstance(target.value, ast.Name)
            and target.value.id in ("self", "cls")
        ):
            cls = next((o for o in self.owners(target) if isinstance(o, ast.ClassDef)), None)
            if cls is not None:
                self.assigned.setdefault((cls, target.attr), []).append(value)
        elif isinstance(target, ast.Tuple | ast.List):
            for item in target.elts:
                self._bind(item, None)


class Evaluator:
    """Works out path expressions across the modules of one closure."""

    def __init__(self, modules: Mapping[str, Source], roots: Roots) -> None:
        self.modules = modules
        self.roots = roots
        self._scopes: dict[str, Scope] = {}
        self._busy: set[int] = set()
        self.anchors: dict[str, Source] = {}

    def scope(self, source: Source) -> Scope:
        """Return the scope tables of a module, built once."""
        if source.module not in self._scopes:
            self._scopes[source.module] = Scope(source)
        return self._scopes[source.module]

    def value(self, node: ast.expr, scope: Scope) -> Value:
        """Return what `node` evaluates to, None when it has nothing to do with the module's place."""
        if id(node) in self._busy or len(self._busy) > _DEPTH_LIMIT:
            return None
        self._busy.add(id(node))
        try:
            return self._value(node, scope)
        finally:
            self._busy.discard(id(node))

    def _value(self, node: ast.expr, scope: Scope) -> Value:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str | int) else None
        if isinstance(node, ast.Name):
            return self._name(node, node.id, scope)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, scope)
        if isinstance(node, ast.BinOp):
            return self._operator(node, scope)
        if isinstance(node, ast.JoinedStr):
            return self._joined_text(node, scope)
        if isinstance(node, ast.Subscript):
            return self._item(node, scope)
        if isinstance(node, ast.Call):
            return self._call(node, scope)
        return None

    def _name(self, node: ast.expr, name: str, scope: Scope) -> Value:
        if name == "__file__":
            return scope.source.origin
        if name in ("__package__", "__name__"):
            return scope.source.package if name == "__package__" else scope.source.module
        for owner in scope.owners(node):
            values = scope.assigned.get((owner, name))
            if values and not (isinstance(owner, ast.ClassDef) and owner is not scope.owner(node)):
                return self._single(values, scope)
        if name in scope.imported:
            module, attr = scope.imported[name]
            return self._constant(module, attr)
        return None

    def _single(self, values: list[ast.expr | None], scope: Scope) -> Value:
        """The value of a name bound once; a computed one was reported where it was bound."""
        found = self.value(values[0], scope) if len(values) == 1 and values[0] is not None else None
        return None if found is COMPUTED else found

    def _constant(self, module: str, attr: str | None) -> Value:
        source = self.modules.get(module)
        if source is None or attr is None:
            return None
        scope = self.scope(source)
        values = scope.assigned.get((source.tree, attr))
        if values:
            return self._single(values, scope)
        if attr in scope.imported and scope.imported[attr] != (module, attr):
            return self._constant(*scope.imported[attr])
        return None

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Value:
        if isinstance(node.value, ast.Name):
            if node.value.id in ("self", "cls"):
                return self._member(node, scope)
            if node.value.id == "__spec__":
                specs: dict[str, Value] = {"origin": scope.source.origin, "name": scope.source.module}
                return {**specs, "parent": scope.source.package}.get(node.attr)
        base = self.value(node.value, scope)
        if isinstance(base, Path):
            if node.attr == "parent":
                return base.parent
            names: dict[str, Value] = {"name": base.name, "stem": base.stem, "suffix": base.suffix}
            return names.get(node.attr)
        head, _, rest = ast.unparse(node.value).partition(".")
        if head in scope.imported:
            module, attr = scope.imported[head]
            return self._constant(".".join(part for part in (module, attr, rest) if part), node.attr)
        return None

    def _member(self, node: ast.Attribute, scope: Scope) -> Value:
        for owner in scope.owners(node):
            if isinstance(owner, ast.ClassDef):
                return self._single(scope.assigned.get((owner, node.attr), [None]), scope)
        return None

    def _operator(self, node: ast.BinOp, scope: Scope) -> Value:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        if isinstance(node.op, ast.Div):
            return _join(left, right)
        if isinstance(node.op, ast.Add):
            if isinstance(left, str) and isinstance(right, str):
                return left + right
            if isinstance(left, Path):
                return Path(str(left) + right) if isinstance(right, str) else COMPUTED
        return None

    def _joined_text(self, node: ast.JoinedStr, scope: Scope) -> Value:
        """An f-string is a path when it begins with one and a slash follows."""
        parts: list[Value] = [
            self.value(part.value if isinstance(part, ast.FormattedValue) else part, scope)
            for part in node.values
            if isinstance(part, ast.expr)
        ]
        if not parts or not isinstance(parts[0], Path) or len(parts) == 1:
            known = [part for part in parts if isinstance(part, str)]
            return "".join(known) if len(known) == len(parts) else parts[0] if len(parts) == 1 else None
        if not (isinstance(parts[1], str) and parts[1].startswith(("/", "."))):
            return None
        text = [str(part) for part in parts if isinstance(part, Path | str)]
        return Path("".join(text)) if len(text) == len(parts) else COMPUTED

    def _item(self, node: ast.Subscript, scope: Scope) -> Value:
        index = self.value(node.slice, scope)
        if isinstance(node.value, ast.Attribute) and node.value.attr == "parents":
            base = self.value(node.value.value, scope)
            if isinstance(base, Path):
                return base.parents[index] if isinstance(index, int) and index < len(base.parents) else COMPUTED
        if isinstance(node.value, ast.Call) and _last(node.value.func) in ("splitext", "split") and node.value.args:
            base = self.value(node.value.args[0], scope)
            if isinstance(base, Path) and isinstance(index, int) and index in (0, 1):
                if _last(node.value.func) == "splitext":
                    return base.suffix if index else base.with_suffix("")
                return base.name if index else base.parent
        return None

    def _call(self, node: ast.Call, scope: Scope) -> Value:
        function = _last(node.func)
        arguments = [self.value(item, scope) for item in node.args if not isinstance(item, ast.Starred)]
        if len(arguments) != len(node.args):
            return COMPUTED if any(isinstance(item, Path) for item in arguments) else None
        base = self.value(node.func.value, scope) if isinstance(node.func, ast.Attribute) else None
        if isinstance(base, Path):
            return _method(base, function, arguments)
        if function in ("Path", "PurePath", "PosixPath", "PurePosixPath", "join") and arguments:
            return _join(arguments[0], *arguments[1:])
        if function in _SAME_FUNCTIONS and len(arguments) >= 1:
            return arguments[0] if isinstance(arguments[0], Path | Computed) else None
        if function in ("dirname", "basename") and isinstance(arguments[0] if arguments else None, Path):
            path = Path(str(arguments[0]))
            return path.parent if function == "dirname" else path.name
        return self._resource(node, function, arguments, scope)

    def _resource(self, node: ast.Call, function: str, arguments: list[Value], scope: Scope) -> Value:
        """A path below a package, through `importlib.resources`, `pkgutil` or `pkg_resources`."""
        if function in _RESOURCE_READERS or (function == "path" and len(arguments) == 2):
            anchor = self._package(node.args[0], arguments[0], scope) if arguments else None
            return _join(anchor, *arguments[1:]) if anchor else None
        if function == "files":
            anchor_node = node.args[0] if node.args else next((k.value for k in node.keywords), None)
            if anchor_node is None:
                return scope.source.origin.parent
            return self._package(anchor_node, self.value(anchor_node, scope), scope)
        if isinstance(node.func, ast.Name) and not node.args and not node.keywords:
            return self._result(node.func.id, scope)
        return None

    def _package(self, node: ast.expr, value: Value, scope: Scope) -> Path | None:
        name = value if isinstance(value, str) else None
        if name is None:
            head, _, rest = ast.unparse(node).partition(".")
            module, attr = scope.imported.get(head, ("", None))
            name = ".".join(part for part in (module, attr, rest) if part)
        found = self.roots.find(name) if name and name.replace(".", "").isidentifier() else None
        if found is None or name is None:
            return None
        self.anchors.setdefault(name, scope.source)
        if found.kind is Kind.MODULE and found.path:
            return found.path.parent
        return found.search[0] if found.search else None

    def _result(self, name: str, scope: Scope) -> Value:
        """What a local function without arguments returns, when a return is all it does."""
        function = scope.functions.get(name)
        if function is None and name in scope.imported:
            module, attr = scope.imported[name]
            if module in self.modules and attr:
                return self._result(attr, self.scope(self.modules[module]))
        returned = only_return(function) if function else None
        return self.value(returned, scope) if returned is not None else None


def only_return(function: ast.FunctionDef) -> ast.expr | None:
    """The expression that a function without parameters returns, when it does nothing else."""
    body = [node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    if len(body) == 1 and isinstance(body[0], ast.Return) and not ast.unparse(function.args):
        return body[0].value
    return None


def _join(base: Value, *parts: Value) -> Value:
    if base is COMPUTED:
        return COMPUTED
    if not isinstance(base, Path):
        return None
    texts = [str(part) for part in parts if isinstance(part, str | Path)]
    if len(texts) != len(parts):
        return COMPUTED
    return Path(os.path.normpath(base.joinpath(*texts)))


def _method(base: Path, name: str, arguments: list[Value]) -> Value:
    texts = [item for item in arguments if isinstance(item, str)]
    if name in _SAME:
        return base
    if name in ("joinpath", "__truediv__"):
        return _join(base, *arguments)
    if name in ("with_name", "with_suffix", "with_stem", "replace") and len(texts) != len(arguments):
        return COMPUTED
    if name == "with_name" and texts:
        return base.with_name(texts[0])
    if name == "with_suffix" and texts:
        return base.with_suffix(texts[0])
    if name == "with_stem" and texts:
        return base.with_stem(texts[0])
    if name == "replace" and len(texts) == 2:
        return Path(str(base).replace(texts[0], texts[1]))
    return None


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
