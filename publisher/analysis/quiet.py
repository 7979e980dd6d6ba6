"""Whether making a definition has effects beyond its name, and whether anybody watches a class being made.

Decides what may be left out of a fingerprint when nothing uses it, and whose docstrings and order of methods nobody
sees (I1). In doubt it says no: then everything counts.
"""

from __future__ import annotations

import ast
import functools
import re
from typing import TYPE_CHECKING

from publisher.analysis.canonical import FREE_DECORATORS
from publisher.analysis.origin import STDLIB
from publisher.analysis.scopes import stores, uses
from publisher.analysis.source import Source
from publisher.analysis.toplevel import Definition, Module, Target, defines, words

if TYPE_CHECKING:
    from publisher.analysis.reach import Graph

__all__ = ["Quiet"]

_HARMLESS = {"dataclasses", "functools", "enum", "typing", "typing_extensions", "abc", "contextlib", "re", "pathlib"}
_HARMLESS |= {
    "collections",
    "logging",
    "math",
    "struct",
    "numpy",
    "edge_agent",
    "types",
    "decimal",
    "fractions",
    "uuid",
}
_HARMLESS_BUILTINS = {
    "abs",
    "bool",
    "bytes",
    "complex",
    "dict",
    "divmod",
    "enumerate",
    "float",
    "frozenset",
    "int",
    "len",
}
_HARMLESS_BUILTINS |= {
    "isinstance",
    "list",
    "max",
    "min",
    "object",
    "pow",
    "range",
    "reversed",
    "round",
    "set",
    "slice",
}
_HARMLESS_BUILTINS |= {"sorted", "str", "sum", "super", "tuple", "type", "zip"}
# What such a library does beyond making a value goes by these names: `old = np.seterr(all="raise")`.
_EFFECTS = re.compile(
    r"seed|seterr|set_|set[a-z]*$|shuffle|save|write|touch|mk|unlink|rmdir|rename|chmod|register|add|basic"
)
_PLAIN_BASES = {"edge_agent", "sklearn", "numpy", "torch", "scipy", "pandas", "typing_extensions", "numbers"}
_LAYOUT = {"enum", "ctypes", "dataclasses"}
_DEPTH_LIMIT = 40


class Quiet:
    """Judges definitions with names resolved by a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def is_quiet(self, node: ast.stmt, module: Module) -> bool:
        """Tell whether a definition does nothing but make a value, so that it counts only where it is used."""
        if isinstance(node, Definition):
            if not all(self._is_quiet_decorator(item, module) for item in node.decorator_list):
                return False
            if isinstance(node, ast.ClassDef):
                return self._is_quiet_class(node, module)
            defaults = [item for item in (*node.args.defaults, *node.args.kw_defaults) if item is not None]
            return all(self._is_harmless(item, module) for item in defaults)
        value = getattr(node, "value", None)
        return value is None or self._is_harmless(value, module)

    def _is_quiet_decorator(self, node: ast.expr, module: Module) -> bool:
        """A decorator is called with what it decorates, and its own arguments are evaluated before."""
        function = node.func if isinstance(node, ast.Call) else node
        builtin = ast.unparse(function) in FREE_DECORATORS and not self._hides_builtins(module)
        return builtin or (self._is_harmless(node, module) and self._is_harmless_call(function, module))

    def _is_quiet_class(self, node: ast.ClassDef, module: Module) -> bool:
        if node.keywords or not self.is_plain_base(node, module, hooks=True):
            return False
        return all(defines(item) and self.is_quiet(item, module) for item in node.body)

    def _is_harmless(self, node: ast.expr, module: Module) -> bool:
        """Whether evaluating an expression does nothing but make a value."""
        for part in ast.walk(node):
            if isinstance(part, ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr):
                return False
            if isinstance(part, ast.Call) and not self._is_harmless_call(part.func, module):
                return False
        return True

    def _is_harmless_call(self, function: ast.expr, module: Module) -> bool:
        if not isinstance(function, ast.Name | ast.Attribute):
            return False
        if isinstance(function, ast.Attribute) and _EFFECTS.match(function.attr):
            return False
        for use in uses([function], module.source):
            targets = self.graph.resolve_use(use, module)
            if not targets:
                return len(use.chain) == 1 and use.chain[0] in _HARMLESS_BUILTINS
            for target in targets:
                if target.module and (use.chain[-1] != target.name or not self._makes_quiet_instance(target)):
                    return False
                parts = target.name.split(".")
                if not target.module and (parts[0] not in _HARMLESS or _EFFECTS.match(parts[-1])):
                    return False
        return True

    def _makes_quiet_instance(self, target: Target) -> bool:
        """Whether a target is a local class whose construction sets nothing but its own attributes."""
        statements = self.graph.modules[target.module].statements(target.name) if target.name else []
        if len(statements) != 1 or not isinstance(statements[0], ast.ClassDef):
            return False
        module = self.graph.modules[target.module]
        for node in statements[0].body:
            if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "__new__", "__post_init__"):
                for part in ast.walk(node):
                    if isinstance(part, ast.Global | ast.Nonlocal | ast.Import | ast.ImportFrom | ast.Delete):
                        return False
                    if isinstance(part, ast.Call) and not (
                        _is_super(part.func) or self._is_harmless_call(part.func, module)
                    ):
                        return False
        return self.is_plain_base(statements[0], module, hooks=True)

    def is_plain(self, node: ast.ClassDef, module: Module) -> bool:
        """Whether nobody looks at a class's docstrings and order of methods while making it (I1)."""
        if any(keyword.arg != "metaclass" or not _is_abc(keyword.value) for keyword in node.keywords):
            return False
        if {"__doc__", "__members__"} & words(node) or self._is_listed or self._hides_builtins(module):
            return False
        for item in node.decorator_list:
            targets = [t for use in uses([item], module.source) for t in self.graph.resolve_use(use, module)]
            tops = {target.name.partition(".")[0] for target in targets if not target.module}
            if len(tops) != len(targets) or not tops or not tops <= {"typing", "functools", "typing_extensions"}:
                return False
        return self.is_plain_base(node, module, hooks=True, own=False)

    @functools.cached_property
    def _is_listed(self) -> bool:
        """Whether code anywhere lists what a class holds, in the order in which it was written."""
        return any(_lists_a_class(module.source) for module in self.graph.modules.values())

    def _hides_builtins(self, module: Module) -> bool:
        """Whether a module's own `property` and the like may stand where the builtin one seems to."""
        return any(self.graph.resolve(module.source.module, name) for name in FREE_DECORATORS)

    def is_plain_base(
        self, node: ast.ClassDef, module: Module, *, hooks: bool, own: bool = True, depth: int = 0
    ) -> bool:
        """Whether a class brings no metaclass and no subclass hook that we do not know, itself or by its bases."""
        if depth > _DEPTH_LIMIT:
            return False
        if own and any(not _is_abc(keyword.value) for keyword in node.keywords if keyword.arg == "metaclass"):
            return False
        if depth and hooks and {"__init_subclass__", "__prepare__"} & set(stores(node.body)):
            return False
        return all(self._is_plain_one(base, module, hooks, depth) for base in node.bases)

    def _is_plain_one(self, base: ast.expr, module: Module, hooks: bool, depth: int) -> bool:
        while isinstance(base, ast.Subscript):
            base = base.value
        if isinstance(base, ast.Call):
            base = base.func
            if not (isinstance(base, ast.Name | ast.Attribute) and ast.unparse(base).endswith("namedtuple")):
                return False
        found = [target for use in uses([base], module.source) for target in self.graph.resolve_use(use, module)]
        for target in found:
            if not target.module:
                top, _, rest = target.name.partition(".")
                if top in _LAYOUT or rest in ("NamedTuple", "TypedDict") or top not in STDLIB | _PLAIN_BASES:
                    return False
                continue
            owner = self.graph.modules[target.module]
            for statement in owner.statements(target.name):
                if isinstance(statement, ast.ClassDef):
                    if not self.is_plain_base(statement, owner, hooks=hooks, depth=depth + 1):
                        return False
                else:
                    return False
        return bool(found) or isinstance(base, ast.Name)


def _lists_a_class(source: Source) -> bool:
    """Whether a module reads the `__dict__` of anything but an instance's own `self`."""
    if b"__dict__" not in source.data and b"vars" not in source.data:
        return False
    for part in ast.walk(source.tree):
        if isinstance(part, ast.Attribute) and part.attr == "__dict__":
            owner: ast.expr | None = part.value
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "vars":
            owner = part.args[0] if part.args else None
        elif isinstance(part, ast.Constant) and part.value == "__dict__":
            return True
        else:
            continue
        if not (isinstance(owner, ast.Name) and owner.id == "self"):
            return True
    return False


def _is_super(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        node = node.value
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id == "super"


def _is_abc(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] == "ABCMeta"
