"""Paths that source code builds from `__file__` or a package's resources, worked out without running it.

Decides what an expression must evaluate to when everything in it is literal. Says `COMPUTED` when it starts from the
module's own place but goes on with something that only running the program could tell; knows nothing about reading.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from publisher.analysis.bindings import Scope, only_return
from publisher.analysis.origin import Kind, Roots
from publisher.analysis.path_values import COMPUTED, Computed, Value, choices, join, method, one_of, own_frame, part_of
from publisher.analysis.source import Source

__all__ = ["Evaluator"]

_DEPTH_LIMIT = 60


_SAME_FUNCTIONS = {"str", "fspath", "abspath", "realpath", "normpath", "expanduser", "as_file", "normcase"}
_SAME_FUNCTIONS |= {"enter_context", "fsdecode"}
_RESOURCE_READERS = {"open_text", "open_binary", "read_text", "read_binary", "is_resource", "get_data"}
_RESOURCE_READERS |= {"resource_filename", "resource_string", "resource_stream"}


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

    def is_local(self, function: ast.expr, scope: Scope) -> bool:
        """Tell whether a function that is called by name is the author's own."""
        if isinstance(function, ast.Name) and function.id in scope.functions:
            return True
        return self._meaning(function, scope)[0] in self.modules

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
        if isinstance(node, ast.IfExp | ast.BoolOp):
            return one_of(self.value(part, scope) for part in choices(node))
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
        """The value of a name; a computed one was reported where it was bound."""
        if len(values) == 1:
            found = self.value(values[0], scope) if values[0] is not None else None
            return None if found is COMPUTED else found
        return one_of(self.value(value, scope) for value in values if value is not None)

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
        owner = self._class_of(node.value, scope, 0)
        if owner is not None:
            return self._member(*owner, node.attr, 0)
        if isinstance(node.value, ast.Name) and node.value.id == "__spec__":
            specs: dict[str, Value] = {"origin": scope.source.origin, "name": scope.source.module}
            return {**specs, "parent": scope.source.package}.get(node.attr)
        frame = own_frame(node)
        if frame is not None:
            return scope.source.origin if frame else COMPUTED
        base = self.value(node.value, scope)
        if isinstance(base, Path):
            if node.attr == "parent":
                return base.parent
            names: dict[str, Value] = {"name": base.name, "stem": base.stem, "suffix": base.suffix}
            return names.get(node.attr)
        module, attr = self._meaning(node.value, scope)
        if module in self.modules and not attr:
            source = self.modules[module]
            return source.origin if node.attr == "__file__" else self._constant(module, node.attr)
        found = self._constant(f"{module}.{attr}" if attr else module, node.attr) if module else None
        if found is None and (not module or module in self.modules):
            found = COMPUTED if self._is_own_file(node) else self._anywhere(node.attr)
        return found

    def _is_own_file(self, node: ast.Attribute) -> bool:
        """Whether an attribute may be the file of some local module that is found at run time."""
        text = ast.unparse(node.value)
        return node.attr == "__file__" or (node.attr == "origin" and "find_spec" in text)

    def _meaning(self, node: ast.expr, scope: Scope) -> tuple[str, str]:
        """The module that an expression is, or the module and what is taken from it; empty for anything else."""
        text = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
        head, _, rest = text.partition(".")
        if head not in scope.imported or not text.replace(".", "").isidentifier():
            return "", ""
        module, attr = scope.imported[head]
        dotted = ".".join(part for part in (module, attr, rest) if part)
        if dotted in self.modules:
            return dotted, ""
        before, _, last = dotted.rpartition(".")
        return (before, last) if before else (dotted, "")

    def _class_of(self, node: ast.expr, scope: Scope, depth: int) -> tuple[ast.ClassDef, Scope] | None:
        """The local class that an expression is, or is an instance of: `self`, `cls`, `type(self)`, `F`, `module.F`."""
        text = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute | ast.Call) else ""
        if text in ("self", "cls", "type(self)", "self.__class__", "__class__"):
            found = next((one for one in scope.owners(node) if isinstance(one, ast.ClassDef)), None)
            return (found, scope) if found else None
        if isinstance(node, ast.Call) and not text.startswith("super("):
            return self._class_of(node.func, scope, depth)
        if isinstance(node, ast.Name) and node.id in scope.classes:
            return scope.classes[node.id], scope
        module, name = self._meaning(node, scope) if text else ("", "")
        if module in self.modules and name and depth < _DEPTH_LIMIT:
            there = self.scope(self.modules[module])
            return self._class_of(_placed(ast.Name(name, ast.Load()), there), there, depth + 1)
        return None

    def _member(self, owner: ast.ClassDef, scope: Scope, name: str, depth: int) -> Value:
        """The value of a class's attribute or simple property, its own or one of its bases'."""
        values = scope.assigned.get((owner, name))
        if values:
            return self._single(values, scope)
        for item in owner.body:
            if isinstance(item, ast.FunctionDef) and item.name == name:
                returned = only_return(item)
                return self.value(returned, scope) if returned is not None else None
        for base in owner.bases:
            found = self._class_of(base, scope, 0) if depth < _DEPTH_LIMIT else None
            value = self._member(*found, name, depth + 1) if found else None
            if value is not None:
                return value
        return None

    def _anywhere(self, name: str) -> Value:
        """A directory that some local class keeps under this name: the object at hand may be one of its instances."""
        found: set[Path] = set()
        for source in list(self.modules.values()):
            scope = self.scope(source)
            for owner in scope.classes.values():
                value = self._single(values, scope) if (values := scope.assigned.get((owner, name))) else None
                if isinstance(value, Path) and value.is_dir():
                    found.add(value)
        return found.pop() if len(found) == 1 else COMPUTED if found else None

    def _operator(self, node: ast.BinOp, scope: Scope) -> Value:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        if isinstance(node.op, ast.Div):
            return join(left, right)
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
        text = ast.unparse(node.value)
        if index == "__file__" and text in ("globals()", "vars()"):
            return scope.source.origin
        if text.endswith("__path__"):
            return self._search(text.removesuffix("__path__").rstrip("."), scope) if index == 0 else COMPUTED
        if isinstance(node.value, ast.Attribute) and node.value.attr == "parents":
            base = self.value(node.value.value, scope)
            if isinstance(base, Path):
                return base.parents[index] if isinstance(index, int) and index < len(base.parents) else COMPUTED
        if isinstance(node.value, ast.Call):
            return self._cut(node.value, index, scope)
        return COMPUTED if isinstance(self.value(node.value, scope), Path | Computed) else None

    def _cut(self, node: ast.Call, index: Value, scope: Scope) -> Value:
        """A part of a path that was split: by `os.path`, or as text."""
        function = scope.called(node.func)
        base = self.value(node.args[0], scope) if node.args else None
        if function in ("splitext", "split") and isinstance(base, Path):
            if not isinstance(index, int) or index not in (0, 1):
                return COMPUTED
            if function == "splitext":
                return base.suffix if index else base.with_suffix("")
            return base.name if index else base.parent
        text = self.value(node.func.value, scope) if isinstance(node.func, ast.Attribute) else None
        if isinstance(text, Path):
            whole = function in ("rsplit", "rpartition") and base == "/" and len(node.args) <= 2
            return text.parent if whole and index == 0 else COMPUTED
        if isinstance(text, str) and isinstance(base, str) and len(node.args) == 1 and isinstance(index, int):
            return part_of(text, function, base, index)
        return None

    def _search(self, package: str, scope: Scope) -> Value:
        """The first directory of a package's `__path__`; its own, when no package is named."""
        if not package:
            return scope.source.origin.parent
        return self._package(ast.Name(package, ast.Load()), None, scope)

    def _call(self, node: ast.Call, scope: Scope) -> Value:
        function = scope.called(node.func)
        arguments = [self.value(item, scope) for item in node.args if not isinstance(item, ast.Starred)]
        if len(arguments) != len(node.args):
            return COMPUTED if any(isinstance(item, Path) for item in arguments) else None
        base = self.value(node.func.value, scope) if isinstance(node.func, ast.Attribute) else None
        if isinstance(base, Path):
            return method(base, function, arguments)
        if function in ("Path", "PurePath", "PosixPath", "PurePosixPath", "join") and arguments:
            return join(arguments[0], *arguments[1:])
        if function in _SAME_FUNCTIONS and len(arguments) >= 1:
            return arguments[0] if isinstance(arguments[0], Path | Computed) else None
        if function in ("dirname", "basename") and arguments and arguments[0] is COMPUTED:
            return COMPUTED
        if function in ("dirname", "basename") and isinstance(arguments[0] if arguments else None, Path):
            path = Path(str(arguments[0]))
            return path.parent if function == "dirname" else path.name
        return self._resource(node, function, arguments, scope)

    def _resource(self, node: ast.Call, function: str, arguments: list[Value], scope: Scope) -> Value:
        """A path below a package, through `importlib.resources`, `pkgutil` or `pkg_resources`."""
        if function in _RESOURCE_READERS or (function == "path" and len(arguments) == 2):
            anchor = self._anchor(node, node.args[0], scope) if arguments else None
            return join(anchor, *arguments[1:]) if anchor else None
        if function == "files":
            anchor_node = node.args[0] if node.args else next((k.value for k in node.keywords), None)
            if anchor_node is None:
                return scope.source.origin.parent
            return self._anchor(node, anchor_node, scope)
        if function in ("getfile", "getsourcefile") and node.args:
            return self._file_of(node.args[0], scope)
        if isinstance(node.func, ast.Name) and not node.args and not node.keywords:
            return self._result(node.func.id, scope)
        if isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
            return self._value(node.func, scope)
        return None

    def _file_of(self, node: ast.expr, scope: Scope) -> Value:
        """What `inspect.getfile` gives for a class or module."""
        owner = self._class_of(node, scope, 0)
        if owner is not None:
            return owner[1].source.origin
        module, name = self._meaning(node, scope)
        if module in self.modules and not name:
            return self.modules[module].origin
        return None if module else COMPUTED

    def _anchor(self, call: ast.Call, node: ast.expr, scope: Scope) -> Value:
        """The directory of the package that a resource function is given; computed when no name of one is written."""
        value = self.value(node, scope)
        known = isinstance(value, str) or ast.unparse(node).partition(".")[0] in scope.imported
        if not known and scope.comes_from(call.func).startswith(("importlib", "pkgutil", "pkg_resources")):
            return COMPUTED
        return self._package(node, value, scope)

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


def _placed(node: ast.Name, scope: Scope) -> ast.Name:
    """Put a name of ours at the top level of a module, where it is looked up."""
    scope.parents[node] = scope.source.tree
    return node
