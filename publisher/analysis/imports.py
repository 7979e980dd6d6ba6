"""What a module imports: every shape of import statement and literal `import_module`, with its line.

Decides what each import means as absolute names and which imports stand for alternatives. Refuses nothing itself:
an import whose name is computed at run time comes back as a `Computed`, for the closure to judge.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace

from publisher.analysis.source import Source
from publisher.analysis.surroundings import on_device

__all__ = ["Computed", "Import", "all_of", "imports_of", "literal", "statement_imports"]

_IMPORT_ERRORS = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_FUNCTIONS = {"import_module", "__import__", "run_module"}
_FILE_LOADERS = {"spec_from_file_location", "SourceFileLoader", "SourcelessFileLoader", "run_path", "load_source"}
_FILE_LOADERS |= {"ExtensionFileLoader"}
_LOCATORS = {"pydoc.locate", "pkgutil.resolve_name"}
_ENVIRONMENT = {"version_info", "hexversion", "platform", "implementation", "byteorder", "maxsize"}
_ENVIRONMENT |= {"name", "system", "machine", "python_version", "python_implementation", "python_version_tuple"}


@dataclass(frozen=True)
class Import:
    """One imported module with the names taken from it.

    `names` is empty for `import a.b`, else what stands after `from a.b import`. `bound` pairs each local name with the
    name it stands for. Imports of equal non-zero `group` are alternatives: one that can be found is enough, and where
    the group is negative the code goes on without any of them. `dead` stands in a branch that no device takes.
    """

    module: str
    names: tuple[str, ...]
    line: int
    group: int = 0
    bound: tuple[tuple[str, str, str | None], ...] = ()
    problem: str = ""
    dead: bool = False


@dataclass(frozen=True)
class Computed:
    """An import that only running the program could name."""

    line: int
    what: str


def imports_of(source: Source) -> Iterator[Import | Computed]:
    """Yield everything that a module imports, at module level and inside functions and classes."""
    yield from _Reader(source).statements(source.tree.body, 0)


def literal(node: ast.expr | None) -> str | None:
    """Return the text of a string literal, None for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def statement_imports(node: ast.Import | ast.ImportFrom, source: Source, group: int = 0) -> Iterator[Import]:
    """Yield the absolute meaning of one import statement."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            whole = (alias.asname, alias.name, None) if alias.asname else (top, top, None)
            yield Import(alias.name, (), node.lineno, group, (whole,))
        return
    names = tuple(alias.name for alias in node.names)
    module = _absolute(source.package, node.level, node.module or "")
    if module is None:
        problem = f"relative import {'.' * node.level}{node.module or ''} climbs out of the top-level package"
        yield Import("", names, node.lineno, group, problem=problem)
        return
    bound = tuple((alias.asname or alias.name, module, alias.name) for alias in node.names if alias.name != "*")
    yield Import(module, names, node.lineno, group, bound)


def all_of(source: Source) -> tuple[set[str], bool]:
    """Return the names that a module puts into `__all__`, and whether these are all of them.

    The `__all__` of another module, joined to it, adds names of that module's: no submodules of this one.
    """
    values = [value for node in ast.walk(source.tree) for value in _added_to_all(node)]
    texts = {literal(part) for value in values for part in ast.walk(value) if isinstance(part, ast.Constant)}
    return {text for text in texts if text}, all(map(_is_listed, values))


def _added_to_all(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign) and any(map(_is_all, node.targets)):
        return [node.value]
    if isinstance(node, ast.AugAssign | ast.AnnAssign) and _is_all(node.target):
        return [node.value] if node.value is not None else []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_all(node.func.value):
        return node.args if node.func.attr in ("append", "extend", "insert") else []
    return []


def _is_all(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "__all__"


def _is_listed(node: ast.expr) -> bool:
    """Whether every name in part of an `__all__` is written there."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return all(map(_is_listed, node.elts))
    if isinstance(node, ast.BinOp):
        return _is_listed(node.left) and _is_listed(node.right)
    if isinstance(node, ast.Starred):
        return _is_listed(node.value)
    if isinstance(node, ast.Call) and _last_name(node.func) in ("list", "tuple", "sorted", "set"):
        return all(map(_is_listed, node.args))
    return (
        isinstance(node, ast.Constant) or _is_all(node) or (isinstance(node, ast.Attribute) and node.attr == "__all__")
    )


def _absolute(package: str, level: int, name: str) -> str | None:
    if level == 0:
        return name
    parts = package.split(".") if package else []
    if level > len(parts):
        return None
    base = parts[: len(parts) - level + 1]
    return ".".join([*base, name] if name else base)


class _Reader:
    """Walks statements with the group of alternatives they stand in."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.groups = 0
        self.aliases = dict(_function_aliases(source.tree))
        self.names = dict(_bound_once(source.tree))

    def is_alternative(self, node: ast.stmt) -> bool:
        """Whether the imports in a statement stand for each other; the condition may have been given a name."""
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id in self.names:
            return _is_alternative(ast.If(self.names[node.test.id], node.body, node.orelse))
        return _is_alternative(node)

    def statements(self, body: list[ast.stmt], group: int) -> Iterator[Import | Computed]:
        for statement in body:
            yield from self.statement(statement, group)

    def statement(self, node: ast.stmt, group: int) -> Iterator[Import | Computed]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from statement_imports(node, self.source, group)
            return
        verdict = on_device(node.test, self.names) if isinstance(node, ast.If) else None
        if isinstance(node, ast.If) and verdict is not None:
            live, dead = (node.body, node.orelse) if verdict else (node.orelse, node.body)
            yield from self.calls(node.test, group)
            yield from self.statements(live, group)
            for item in self.statements(dead, group):
                yield replace(item, dead=True) if isinstance(item, Import) else item
            return
        if group == 0 and self.is_alternative(node):
            self.groups += 1
            group = -self.groups if _is_optional(node) else self.groups
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                yield from self.statement(child, group)
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                yield from self.statements(child.body, group)
                for part in ast.iter_child_nodes(child):
                    if not isinstance(part, ast.stmt):
                        yield from self.calls(part, group)
            else:
                yield from self.calls(child, group)

    def calls(self, node: ast.AST, group: int) -> Iterator[Import | Computed]:
        called: set[int] = set()
        for item in ast.walk(node):
            if isinstance(item, ast.Call):
                function = self.function(item.func)
                if hidden := _hidden(item):
                    yield Computed(item.lineno, hidden)
                elif function:
                    called.add(id(item.func))
                    yield self.call(item, function, group)
            elif isinstance(item, ast.Name | ast.Attribute) and isinstance(item.ctx, ast.Load):
                function = self.function(item)
                if function and id(item) not in called:
                    yield Computed(item.lineno, f"{function} is passed on, so what it imports is not written here")

    def function(self, node: ast.expr) -> str | None:
        """Name the import function that an expression is, None when it is none."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id)
        if isinstance(node, ast.Attribute) and (node.attr in _FUNCTIONS or node.attr in _FILE_LOADERS):
            return node.attr
        return ast.unparse(node) if isinstance(node, ast.Attribute) and ast.unparse(node) in _LOCATORS else None

    def call(self, node: ast.Call, function: str, group: int) -> Import | Computed:
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        name = literal(node.args[0] if node.args else keywords.get("name"))
        if function in _FILE_LOADERS:
            return Computed(node.lineno, f"{function} loads code from a file at run time")
        if function in _LOCATORS:
            return Computed(node.lineno, f"{function} imports by a name that may mean a module or what is in one")
        if name is None:
            return Computed(node.lineno, f"{function} with a name computed at run time")
        if function == "__import__":
            return self.dunder_call(node, keywords, name, group)
        level = len(name) - len(name.lstrip("."))
        anchor = self.anchor(node.args[1] if len(node.args) > 1 else keywords.get("package")) if level else ""
        if anchor is None:
            return Computed(node.lineno, f"import_module({name!r}) relative to a package computed at run time")
        module = _absolute(anchor, level, name[level:])
        if module is None:
            return Import("", (), node.lineno, group, problem=f"import_module({name!r}) climbs out of its package")
        return Import(module, (), node.lineno, group)

    def dunder_call(
        self, node: ast.Call, keywords: dict[str | None, ast.expr], name: str, group: int
    ) -> Import | Computed:
        fromlist = node.args[3] if len(node.args) > 3 else keywords.get("fromlist")
        level = node.args[4] if len(node.args) > 4 else keywords.get("level")
        depth = 0 if level is None else level.value if isinstance(level, ast.Constant) else None
        names: list[str | None] = []
        if isinstance(fromlist, ast.List | ast.Tuple):
            names = [literal(item) for item in fromlist.elts]
        if not isinstance(depth, int) or None in names:
            return Computed(node.lineno, f"__import__({name!r}) with a level or names computed at run time")
        module = _absolute(self.source.package, depth, name)
        if module is None:
            return Import("", (), node.lineno, group, problem=f"__import__({name!r}) climbs out of its package")
        return Import(module, tuple(item for item in names if item), node.lineno, group)

    def anchor(self, node: ast.expr | None) -> str | None:
        if isinstance(node, ast.Name) and node.id in ("__package__", "__name__"):
            return self.source.package if node.id == "__package__" else self.source.module
        if isinstance(node, ast.Attribute) and node.attr == "parent" and ast.unparse(node.value) == "__spec__":
            return self.source.package
        return literal(node)


def _function_aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The plain names under which this module calls import functions."""
    yield "__import__", "__import__"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                if alias.name in _FUNCTIONS | _FILE_LOADERS:
                    yield alias.asname or alias.name, alias.name
                elif f"{node.module}.{alias.name}" in _LOCATORS:
                    yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _bound_once(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """The names that a module's top level binds by one plain assignment."""
    names = [part.id for part in ast.walk(tree) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if isinstance(node, ast.Assign) and isinstance(target, ast.Name) and names.count(target.id) == 1:
            yield target.id, node.value


def _hidden(node: ast.Call) -> str:
    """Name an import that hides in a string: `getattr(importlib, "import_module")`, `exec("import x")`."""
    name = _last_name(node.func)
    texts = [text for item in node.args if (text := literal(item))]
    if name == "getattr" and _FUNCTIONS & set(texts):
        return "an import function is looked up by name"
    if name in ("exec", "eval") and any("import" in text for text in texts):
        return f"{name} of text that imports"
    return ""


def _is_alternative(node: ast.stmt) -> bool:
    """Whether the imports in a statement stand for each other: guarded, or chosen by version or platform."""
    if isinstance(node, ast.Try):
        return any(_catches_import_error(handler.type) for handler in node.handlers)
    if isinstance(node, ast.With):
        return any(
            isinstance(item.context_expr, ast.Call)
            and _last_name(item.context_expr.func) == "suppress"
            and any(_catches_import_error(arg) for arg in item.context_expr.args)
            for item in node.items
        )
    if isinstance(node, ast.If):
        return any(
            isinstance(part, ast.Attribute)
            and part.attr in _ENVIRONMENT
            and _last_name(part.value) in ("sys", "os", "platform")
            for part in ast.walk(node.test)
        )
    return False


def _is_optional(node: ast.stmt) -> bool:
    """Whether code goes on when none of the alternatives in a statement can be imported."""
    if isinstance(node, ast.Try):
        handlers = [one for one in node.handlers if _catches_import_error(one.type)]
        return bool(handlers) and all(_goes_on(one.body) for one in handlers) and _goes_on(node.finalbody)
    return isinstance(node, ast.With)


def _goes_on(body: list[ast.stmt]) -> bool:
    """Whether statements neither raise nor import anything that must be there."""
    for node in body:
        if _is_alternative(node) and isinstance(node, ast.Try | ast.With):
            if not _is_optional(node):
                return False
        elif any(isinstance(part, ast.Import | ast.ImportFrom | ast.Raise) for part in ast.walk(node)):
            return False
    return True


def _catches_import_error(node: ast.expr | None) -> bool:
    if node is None:
        return True
    if isinstance(node, ast.Tuple):
        return any(_catches_import_error(item) for item in node.elts)
    return _last_name(node) in _IMPORT_ERRORS


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
