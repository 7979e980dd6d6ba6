"""What a class reaches: definitions followed by name through local modules, and what importing those modules does.

Decides which top-level statements count. Statements that do something when a module is imported always count;
definitions count when something reached uses their name. In doubt everything in a module counts.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from publisher.analysis.imports import Computed, imports_of, statement_imports
from publisher.analysis.quiet import Quiet
from publisher.analysis.scopes import Use, uses
from publisher.analysis.source import Source
from publisher.analysis.toplevel import Module, Target, defines, words

__all__ = ["Component", "Graph"]

_SEES_MODULE = {"globals", "eval", "exec", "vars", "dir", "locals", "compile"}
_SEES_ALL = {"__subclasses__", "pickle", "cloudpickle", "dill", "joblib", "shelve", "gc", "get_objects"}
_OWN_NAMES = {"__name__", "__file__", "__doc__", "__path__", "__spec__", "__package__", "__loader__"}
_DEPTH_LIMIT = 40


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
        self._active: dict[str, set[str]] = {}
        self._busy: set[tuple[str, str]] = set()
        self.quiet = Quiet(self)

    def uses_of(self, node: ast.AST, source: Source) -> set[Use]:
        """Return the global names that one statement uses, worked out once."""
        if id(node) not in self._uses:
            self._uses[id(node)] = uses([node], source)
        return self._uses[id(node)]

    def reach(self, entry: str, attr: str, named: Iterable[str] = ()) -> Iterator[Component]:
        """Yield every component that the class `attr` of module `entry` (all of it when empty) can reach, once.

        `named` are modules that may be imported by a computed name: all in them counts.
        """
        pending: deque[Target] = deque(self._whole(entry) if not attr else [Target(entry, attr.partition(".")[0])])
        pending.extend(Target(name, "") for name in named)
        for name, module in self.modules.items():
            pending.extend(target for node in self.acting(name) for target in self._targets_of(node, module))
            pending.extend(Target(name, dunder) for dunder in ("__getattr__", "__dir__") if dunder in module.bindings)
            pending.extend(Target(name, bound) for bound in self.active_names(name))
            pending.extend(Target(called, "") for called in self._called_imports(module))
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
                if _SEES_MODULE & words(node):
                    pending.extend(self._whole(target.module))
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
                targets = self.resolve_use(use, module)
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
        if bindings and not self.hiding_stars(here, name):
            return
        for star in here.stars:
            if star in self.modules:
                found = self.resolve(star, name)
                yield from found or ([Target(f"{star}.{name}", "")] if f"{star}.{name}" in self.modules else [])

    def hiding_stars(self, here: Module, name: str) -> list[str]:
        """Return the star imports that stand after the last binding of a name, and so may bind it anew."""
        return [star for star in here.stars if here.places["*" + star] > here.places.get(name, 0)]

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

    def resolve_use(self, use: Use, module: Module) -> list[Target]:
        """Return what a name stands for once the attributes taken from it are followed."""
        first = (
            list(self._imported(*use.imported)) if use.imported else self.resolve(module.source.module, use.chain[0])
        )
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
        return found or ([] if rest[0] in _OWN_NAMES else [target])

    def _whole(self, name: str) -> list[Target]:
        if name not in self.modules:
            return []
        module = self.modules[name]
        below = [other for other in self.modules if other.rpartition(".")[0] == name]  # attributes of a package
        return [Target(name, bound) for bound in module.bindings] + [Target(one, "") for one in [*module.stars, *below]]

    def _targets_of(self, node: ast.stmt, module: Module) -> Iterator[Target]:
        for found in self.references((node,), module).values():
            yield from found
        if _SEES_MODULE & words(node):
            yield from self._whole(module.source.module)

    def _called_imports(self, module: Module) -> list[str]:
        """The local modules that a module imports by a call: all of them counts, since no name says what is used."""
        if not any(word in module.source.data for word in (b"import_module", b"__import__", b"run_module")):
            return []
        items = [item for item in imports_of(module.source) if not isinstance(item, Computed)]
        return [item.module for item in items if not item.bound and item.module in self.modules]

    def imported_by(self, node: ast.Import | ast.ImportFrom, module: Module) -> tuple[set[str], set[str]]:
        """Return what one import statement imports: local modules, and names from outside."""
        local: set[str] = set()
        outside: set[str] = set()
        for item in statement_imports(node, module.source):
            names = {item.module, *(f"{item.module}.{name}" for name in item.names)}
            local |= names & self.modules.keys()
            if item.module not in self.modules and not names & self.modules.keys():
                outside.add(item.module)
        return local, outside

    def is_noisy(self, name: str) -> bool:
        """Whether importing a module does something itself, or imports another local module that does."""
        pending, seen = [name], {name}
        while pending:
            one = pending.pop()
            if one not in self.modules:
                continue
            if self.modules[one].effects or self.active_names(one):
                return True
            parents = {one.rpartition(".")[0]} | self.modules[one].imported
            fresh = {found for found in parents if found} - seen
            seen |= fresh
            pending.extend(fresh)
        return False

    def active_names(self, name: str) -> set[str]:
        """Definitions that act when they are made: decorators, calls and class hooks that we cannot see through."""
        if name not in self._active:
            module = self.modules[name]
            self._active[name] = {
                bound
                for bound in module.bindings
                for node in module.statements(bound)
                if defines(node) and not self.quiet.is_quiet(node, module)
            }
        return self._active[name]

    def _sees_all(self, tree: ast.AST) -> bool:
        """Whether code may get at classes and modules without naming them."""
        return bool(_SEES_ALL & words(tree)) or any(
            (isinstance(part, ast.Attribute) and part.attr == "modules" and ast.unparse(part.value) == "sys")
            or (isinstance(part, ast.ImportFrom) and part.module == "sys" and part.names[0].name in ("modules", "*"))
            for part in ast.walk(tree)
        )
