"""What a class reaches: definitions followed by name through local modules, and what importing those modules does.

Decides which top-level statements count. Statements that do something when a module is imported always count;
definitions count when something reached uses their name. In doubt everything in a module counts.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from publisher.imports import Computed, imports_of, statement_imports
from publisher.origin import STDLIB
from publisher.scopes import Use, stores, uses
from publisher.source import Source

__all__ = ["Component", "Graph", "Module"]

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_SEES_MODULE = {"globals", "eval", "exec", "vars", "dir", "locals", "compile"}
_SEES_ALL = {"__subclasses__", "modules", "pickle", "cloudpickle", "dill", "joblib", "shelve", "gc", "get_objects"}
_HARMLESS = {"dataclasses", "functools", "enum", "typing", "typing_extensions", "abc", "contextlib", "re", "pathlib"}
_HARMLESS |= {"collections", "logging", "math", "struct", "numpy", "edge_agent", "types", "decimal", "fractions", "uuid"}
_HARMLESS_BUILTINS = set(
    "abs bool bytes complex dict divmod enumerate float frozenset int len list max min object pow range reversed "
    "round set slice sorted str sum tuple type zip super isinstance".split()
)
_PLAIN_BASES = {"edge_agent", "sklearn", "numpy", "torch", "scipy", "pandas", "typing_extensions", "numbers"}
_LAYOUT = {"enum", "ctypes", "dataclasses"}
_DEPTH_LIMIT = 40


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

    def __post_init__(self) -> None:
        for node in self.source.tree.body:
            self._sort(node, top=True)

    def _sort(self, node: ast.stmt, *, top: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for item in statement_imports(node, self.source):
                self.imported.add(item.module)
                if item.names == ("*",):
                    self.stars.append(item.module)
                for name, module, attr in item.bound:
                    self.bindings.setdefault(name, []).append((module, attr))
            return
        if top and not _defines(node):
            self.effects.append(node)
        if top:
            for name in dict.fromkeys(stores([node])):
                self.bindings.setdefault(name, []).append(node)
        if not isinstance(node, _Definition):
            for child in ast.walk(node):
                if isinstance(child, ast.Import | ast.ImportFrom) and child is not node:
                    self._sort(child, top=False)

    def statements(self, name: str) -> list[ast.stmt]:
        """The statements that bind a name here, in source order."""
        return [item for item in self.bindings.get(name, []) if isinstance(item, ast.stmt)]


def _defines(node: ast.stmt) -> bool:
    """Whether a statement only gives a name to something."""
    if isinstance(node, _Definition) or type(node).__name__ == "TypeAlias":
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.Assign):
        return all(_is_name(target) for target in node.targets)
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) or isinstance(node, ast.Pass)


def _is_name(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple | ast.List):
        return all(_is_name(item) for item in node.elts)
    return isinstance(node, ast.Name)


@dataclass(frozen=True, eq=False)
class Component:
    """Something reached: the statements that bind `name` in `module`, and what the names in them stand for."""

    module: str
    name: str
    statements: tuple[ast.stmt, ...]
    references: Mapping[str, tuple[str, ...]]


class Graph:
    """All modules of one walk, with names resolved across them."""

    def __init__(self, modules: Mapping[str, Source]) -> None:
        self.modules = {name: Module(source) for name, source in modules.items()}
        self._uses: dict[int, set[Use]] = {}
        self._busy: set[tuple[str, str]] = set()

    def uses_of(self, node: ast.AST, source: Source) -> set[Use]:
        """Return the global names that one statement uses, worked out once."""
        if id(node) not in self._uses:
            self._uses[id(node)] = uses([node], source)
        return self._uses[id(node)]

    def reach(self, entry: str, attr: str) -> Iterator[Component]:
        """Yield every component that the class `attr` of module `entry` (all of it when empty) can reach, once."""
        pending: deque[Target] = deque(self._whole(entry) if not attr else [Target(entry, attr.partition(".")[0])])
        for name, module in self.modules.items():
            pending.extend(target for node in self.acting(name) for target in self._targets_of(node, module))
            pending.extend(Target(name, dunder) for dunder in ("__getattr__", "__dir__") if dunder in module.bindings)
            pending.extend(Target(name, bound) for bound in self._active_names(name))
        if any(self._sees_all(module.source.tree) for module in self.modules.values()):
            pending.extend(target for name in self.modules for target in self._whole(name))
        seen: set[Target] = set()
        while pending:
            target = pending.popleft()
            if target in seen or not target.module:
                continue
            seen.add(target)
            if not target.name:
                pending.extend(self._whole(target.module))
                continue
            module = self.modules[target.module]
            statements = tuple(module.statements(target.name))
            references = self.references(statements, module)
            for found in references.values():
                pending.extend(found)
            for node in statements:
                if _SEES_MODULE & _words(node):
                    pending.extend(self._whole(target.module))
                pending.extend(Target(name, "") for name in self._computed_imports(node, module))
            if statements:
                texts = {name: tuple(sorted(map(str, found))) for name, found in references.items()}
                yield Component(target.module, target.name, statements, texts)
            else:
                pending.extend(self.resolve(target.module, target.name))

    def references(self, statements: tuple[ast.stmt, ...], module: Module) -> dict[str, list[Target]]:
        """What each dotted name used in some statements stands for; builtins and unknown names are left out."""
        found: dict[str, list[Target]] = {}
        for node in statements:
            for use in self.uses_of(node, module.source):
                targets = self._resolve_use(use, module)
                if targets:
                    found.setdefault(".".join(use.chain), []).extend(targets)
        return {name: list(dict.fromkeys(found[name])) for name in sorted(found)}

    def acting(self, name: str) -> list[ast.stmt]:
        """The statements of a module that do something when it is imported."""
        return self.modules[name].effects

    def resolve(self, module: str, name: str) -> list[Target]:
        """What a name means in a module, followed through imports to where it is defined."""
        if module not in self.modules:
            return [Target("", f"{module}.{name}")]
        if (module, name) in self._busy or len(self._busy) > _DEPTH_LIMIT:
            return []
        self._busy.add((module, name))
        try:
            return list(dict.fromkeys(self._resolve(module, name)))
        finally:
            self._busy.discard((module, name))

    def _resolve(self, module: str, name: str) -> Iterator[Target]:
        here = self.modules[module]
        bindings = here.bindings.get(name)
        for item in bindings or ():
            if isinstance(item, tuple):
                yield from self._imported(*item)
            else:
                yield Target(module, name)
        if bindings:
            return
        for star in here.stars:
            if star in self.modules:
                yield from self.resolve(star, name)

    def _imported(self, module: str, attr: str | None) -> Iterator[Target]:
        if attr is None:
            yield Target(module, "") if self._is_local(module) else Target("", module)
            return
        if module in self.modules:
            found = self.resolve(module, attr)
            yield from found
            if found and attr in self.modules[module].bindings:
                return
        submodule = f"{module}.{attr}"
        if submodule in self.modules or self._is_local(submodule):
            yield Target(submodule, "")
        elif module not in self.modules:
            yield Target("", submodule)

    def _is_local(self, module: str) -> bool:
        return module in self.modules or any(name.startswith(module + ".") for name in self.modules)

    def _resolve_use(self, use: Use, module: Module) -> list[Target]:
        first = list(self._imported(*use.imported)) if use.imported else self.resolve(module.source.module, use.chain[0])
        found: list[Target] = []
        for target in first:
            found.extend(self._follow(target, use.chain[1:]))
        return found

    def _follow(self, target: Target, rest: tuple[str, ...]) -> list[Target]:
        """Go on from a module along the attributes taken from it; a definition is where the way ends."""
        if not target.module or target.name or not rest:
            return [target]
        found: list[Target] = []
        submodule = f"{target.module}.{rest[0]}"
        if target.module in self.modules:
            for step in self.resolve(target.module, rest[0]):
                found.extend(self._follow(step, rest[1:]))
        if self._is_local(submodule):
            found.extend(self._follow(Target(submodule, ""), rest[1:]))
        return found or ([] if rest[0].startswith("__") else [target])

    def _whole(self, name: str) -> list[Target]:
        if name not in self.modules:
            return []
        module = self.modules[name]
        return [Target(name, bound) for bound in module.bindings] + [Target(star, "") for star in module.stars]

    def _targets_of(self, node: ast.stmt, module: Module) -> Iterator[Target]:
        for found in self.references((node,), module).values():
            yield from found
        if _SEES_MODULE & _words(node):
            yield from self._whole(module.source.module)

    def _computed_imports(self, node: ast.stmt, module: Module) -> list[str]:
        """Modules that a statement imports by `import_module`, or for their effect alone."""
        if not {"import_module", "__import__"} & _words(node):
            return []
        wrapped = Source(module.source.origin, module.source.module, module.source.is_package, b"", module.source.tree)
        items = [item for item in imports_of(wrapped) if not isinstance(item, Computed)]
        return [item.module for item in items if not item.bound and item.module in self.modules]

    def _active_names(self, name: str) -> Iterator[str]:
        """Definitions that act when they are made: decorators, calls and class hooks that we cannot see through."""
        module = self.modules[name]
        for bound in module.bindings:
            for node in module.statements(bound):
                if _defines(node) and not self._is_quiet(node, module):
                    yield bound
                    break

    def _is_quiet(self, node: ast.stmt, module: Module) -> bool:
        if isinstance(node, _Definition):
            if not all(self._is_harmless(item, module) for item in node.decorator_list):
                return False
            if isinstance(node, ast.ClassDef):
                return self._is_quiet_class(node, module)
            defaults = [item for item in (*node.args.defaults, *node.args.kw_defaults) if item is not None]
            return all(self._is_harmless(item, module) for item in defaults)
        value = getattr(node, "value", None)
        return value is None or self._is_harmless(value, module)

    def _is_quiet_class(self, node: ast.ClassDef, module: Module) -> bool:
        if node.keywords or not self.is_plain_base(node, module, hooks=True):
            return False
        return all(_defines(item) and self._is_quiet(item, module) for item in node.body)

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
        for use in uses([function], module.source):
            targets = self._resolve_use(use, module)
            if not targets:
                return len(use.chain) == 1 and use.chain[0] in _HARMLESS_BUILTINS
            for target in targets:
                if target.module and not self._makes_quiet_instance(target):
                    return False
                if not target.module and target.name.partition(".")[0] not in _HARMLESS:
                    return False
        return True

    def _makes_quiet_instance(self, target: Target) -> bool:
        """Whether a target is a local class whose construction sets nothing but its own attributes."""
        statements = self.modules[target.module].statements(target.name) if target.name else []
        if len(statements) != 1 or not isinstance(statements[0], ast.ClassDef):
            return False
        module = self.modules[target.module]
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
        if {"__dict__", "vars", "__doc__", "__members__"} & _words(node):
            return False
        for item in node.decorator_list:
            targets = [t for use in uses([item], module.source) for t in self._resolve_use(use, module)]
            tops = {target.name.partition(".")[0] for target in targets if not target.module}
            if len(tops) != len(targets) or not tops or not tops <= {"typing", "functools", "typing_extensions"}:
                return False
        return self.is_plain_base(node, module, hooks=True, own=False)

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
        found = [target for use in uses([base], module.source) for target in self._resolve_use(use, module)]
        for target in found:
            if not target.module:
                top, _, rest = target.name.partition(".")
                if top in _LAYOUT or rest in ("NamedTuple", "TypedDict") or top not in STDLIB | _PLAIN_BASES:
                    return False
                continue
            owner = self.modules[target.module]
            for statement in owner.statements(target.name):
                if isinstance(statement, ast.ClassDef):
                    if not self.is_plain_base(statement, owner, hooks=hooks, depth=depth + 1):
                        return False
                else:
                    return False
        return bool(found) or isinstance(base, ast.Name)

    def _sees_all(self, tree: ast.AST) -> bool:
        return bool(_SEES_ALL & _words(tree) - {"modules"}) or any(
            isinstance(part, ast.Attribute) and part.attr == "modules" and ast.unparse(part.value) == "sys"
            for part in ast.walk(tree)
        )


def _is_super(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        node = node.value
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id == "super"


def _is_abc(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] == "ABCMeta"


def _words(node: ast.AST) -> set[str]:
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
