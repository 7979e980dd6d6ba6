"""Whether a class that lives in this process is what its source file says.

Decides by comparing code objects: the file is compiled, never run. Refuses classes without importable source and
patched ones, since shipping their old source would be a lie (I1).
"""

from __future__ import annotations

import abc
import ast
import functools
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from edge_agent.contract.errors import AuthorError
from publisher.analysis import origin

__all__ = ["Unimportable", "locate", "refuse_patched"]

_WAY_OUT = "define it with a class statement in a .py file and import it from there"
_Codes = dict[tuple[str, int], list[types.CodeType]]
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_TRANSPARENT = {"staticmethod", "classmethod", "property", "abstractmethod", "final", "override"}


class Unimportable(AuthorError):
    """No file says what this class is: it can only be shipped by value, pinned to one interpreter (F2)."""


def locate(cls: type) -> tuple[Path, str]:
    """Return the source file of a live class and its dotted name in there. Raises `AuthorError` when it has none."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    if cls.__module__ == "__main__":
        raise Unimportable(f"{name} lives in __main__, which no other machine can import: {_WAY_OUT}")
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if module is None or not file or not file.endswith(".py") or not Path(file).is_file():
        raise Unimportable(f"{name} has no source file (exec, type() or an interactive session): {_WAY_OUT}")
    path = Path(file).resolve()
    if any(origin.is_installed(parent) for parent in path.parents):
        raise AuthorError(f"{name} belongs to an installed distribution, which is required by name and never shipped")
    tree = ast.parse(path.read_bytes())
    if _class_at(tree, cls.__qualname__) is not None:
        return path, cls.__qualname__
    bound = _bound_names(tree)
    for attr, value in vars(module).items():
        if value is cls and attr in bound:
            return path, attr
    if "<locals>" in cls.__qualname__:
        raise Unimportable(f"{name} was made inside a function, so its source cannot be imported by name: {_WAY_OUT}")
    raise Unimportable(f"{name} is not in {path.name} (exec, type(), or the file changed since its import): {_WAY_OUT}")


def refuse_patched(cls: type, path: Path) -> None:
    """Raise `AuthorError` when a method or constant of a live class, or of a local base, is not what its file says."""
    for one in cls.__mro__:
        file = getattr(sys.modules.get(one.__module__), "__file__", None)
        own = path if one is cls else Path(file).resolve() if file and file.endswith(".py") else None
        if own is None or not own.is_file() or any(origin.is_installed(parent) for parent in own.parents):
            continue
        if one.__module__.partition(".")[0] == "edge_agent":
            continue
        try:
            data = own.read_bytes()
            tree = ast.parse(data)
            compiled = compile(data, str(own), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise AuthorError(f"{own}: no longer parses ({error}); mend it and start again") from None
        definition = _class_at(tree, one.__qualname__)
        if definition is not None:
            _compare(one, definition, tree, _codes(compiled), own)


def _compare(cls: type, definition: ast.ClassDef, tree: ast.Module, codes: _Codes, path: Path) -> None:
    excused = _attributes_set_on(tree, cls.__name__)
    methods = {
        _mangled(node.name, cls.__name__): node
        for node in definition.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    made = any(ast.unparse(base).endswith(("NamedTuple", "TypedDict")) for base in definition.bases)
    plain = not definition.decorator_list and not made and type(cls) in (type, abc.ABCMeta)
    constants = _constants(definition, cls.__name__) if plain else {}
    bound = {_mangled(name, cls.__name__) for node in definition.body for name in _bound(node)}
    found = vars(cls)
    for name in (found.keys() | methods.keys()) - excused:
        value = found.get(name)
        function = _function(value)
        if name in methods and _is_transparent(methods[name]):
            same = function is not None and _is_from(function.__code__, codes, methods[name], cls.__qualname__)
        elif name in constants:
            same = _equal(constants[name], value)
        else:
            same = function is None or not plain or name in bound or _is_foreign(function)
        if not same:
            raise Unimportable(
                f"{cls.__module__}.{cls.__qualname__}.{name} is not what {path.name} says: the class was patched, or "
                "the file changed since its import; put the change into the file, or start a fresh process"
            )


def _mangled(name: str, cls: str) -> str:
    private = name.startswith("__") and not name.endswith("__")
    return f"_{cls.lstrip('_')}{name}" if private and cls.strip("_") else name


def _codes(code: types.CodeType) -> _Codes:
    found: _Codes = {}
    pending = [code]
    while pending:
        current = pending.pop()
        found.setdefault((current.co_qualname, current.co_firstlineno), []).append(current)
        pending.extend(const for const in current.co_consts if isinstance(const, types.CodeType))
    return found


def _is_from(code: types.CodeType, codes: _Codes, node: _Function, owner: str) -> bool:
    if code.co_qualname != f"{owner}.{node.name}":
        return False
    if any(name.startswith("@py") for name in (*code.co_varnames, *code.co_names)):
        return True  # pytest rewrote its assertions
    return any(_same(code, other) for other in codes.get((code.co_qualname, code.co_firstlineno), ()))


def _same(left: types.CodeType, right: types.CodeType) -> bool:
    if (left.co_code, left.co_names, left.co_varnames) != (right.co_code, right.co_names, right.co_varnames):
        return False
    if len(left.co_consts) != len(right.co_consts):
        return False
    pairs = zip(left.co_consts, right.co_consts, strict=True)
    return all(
        _same(a, b) if isinstance(a, types.CodeType) and isinstance(b, types.CodeType) else _equal(a, b)
        for a, b in pairs
    )


def _equal(left: object, right: object) -> bool:
    """Whether two literals are the same, types included; what is no literal any more (a descriptor) is not judged."""
    return type(left) is type(right) and (left == right or repr(left) == repr(right))


def _function(value: object) -> types.FunctionType | None:
    while True:
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, functools.cached_property):
            value = value.func
        elif isinstance(value, types.FunctionType) and hasattr(value, "__wrapped__") and _is_foreign(value):
            value = value.__wrapped__  # what a library wrapped around a method, such as scikit-learn's set_output
        else:
            break
    return value if isinstance(value, types.FunctionType) else None


def _is_foreign(function: types.FunctionType) -> bool:
    """Whether a function comes from an installed distribution, the standard library or our own SDK."""
    file = Path(function.__code__.co_filename)
    return function.__module__.partition(".")[0] == "edge_agent" or any(map(origin.is_installed, file.parents))


def _is_transparent(node: _Function) -> bool:
    """Whether a decorated function still is the function that stands in the source."""
    names = [ast.unparse(item).rpartition(".")[2] for item in node.decorator_list]
    return all(name in _TRANSPARENT for name in names)


def _constants(definition: ast.ClassDef, cls: str) -> dict[str, object]:
    """Class attributes set once, to a literal."""
    found: dict[str, object] = {}
    bound = [name for node in definition.body for name in _bound(node)]
    for node in definition.body:
        names = list(_bound(node))
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None or names[0].endswith("__"):
            continue
        if len(names) == 1 and bound.count(names[0]) == 1:
            try:
                found[_mangled(names[0], cls)] = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
    return found


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that one statement of a body binds there; more rather than fewer."""
    if isinstance(node, _Function | ast.ClassDef):
        yield node.name
        return
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.alias):
            yield part.asname or part.name.partition(".")[0]
        elif isinstance(part, _Function | ast.ClassDef):
            yield part.name


def _attributes_set_on(tree: ast.Module, cls: str) -> set[str]:
    """Attributes that the module's own source sets on a class after its definition: not a patch but source."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            if isinstance(node.value, ast.Name) and node.value.id == cls:
                found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr" and len(node.args) > 1:
            found.add(str(node.args[1].value) if isinstance(node.args[1], ast.Constant) else "")
    return found


def _bound_names(tree: ast.Module) -> set[str]:
    return {name for node in tree.body for name in _bound(node)}


def _class_at(tree: ast.Module, qualname: str) -> ast.ClassDef | None:
    body: list[ast.stmt] = tree.body
    found: ast.ClassDef | None = None
    for name in qualname.split("."):
        found = None
        for node in _flat(body):
            if isinstance(node, ast.ClassDef) and node.name == name:
                found = node
        if found is None:
            return None
        body = found.body
    return found


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body and of the branches in it, not of functions and classes."""
    for node in body:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for field in ("body", "orelse", "finalbody"):
                yield from _flat(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from _flat(handler.body)
