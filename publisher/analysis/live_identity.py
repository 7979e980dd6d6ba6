"""Who a class is that no file says: a fingerprint over what lives in this process, for pinned bundles (F2, I4).

A Merkle tree again: classes and functions that go by value are components, with everything they reach: default values,
closures, globals that their code names, class attributes, bases. A definition counts by its syntax tree where its text
can be had (a script's, a notebook's, a newer prompt's) and compiles to what lives here, else by its code objects
without file names and line numbers. Local modules count by their own fingerprint. Pickles never count.

Equal in every process and under every hash seed of one Python minor version; other versions may differ, and a pinned
bundle runs on none of them.
"""

from __future__ import annotations
import __future__

import abc
import ast
import enum
import functools
import hashlib
import inspect
import json
import logging
import textwrap
import types
from collections.abc import Iterable, Iterator
from typing import Any

from edge_agent.sdk import plain
from publisher.analysis.canonical import View, canonical
from publisher.fingerprint import Fingerprint, fingerprint

__all__ = ["live_fingerprint"]

_VERSION = "fieldcast-live-1"
_DEPTH_MAX = 100
_UNSEEN = {
    *("__dict__", "__weakref__", "__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"),
    *(
        "__abstractmethods__",
        "_abc_impl",
        "__slotnames__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
    ),
}
_READS_DOCS = {"__doc__", "getdoc"}
_ANNOTATIONS = __future__.annotations.compiler_flag
_Item = type | types.FunctionType


def live_fingerprint(cls: type, names: Iterable[tuple[str, str]], modules: Iterable[str]) -> Fingerprint:
    """Return the fingerprint of a class that goes by value.

    `names` are module and qualified name of all that goes by value with it; `modules` the local modules beside it.
    """
    walk = _Walk(set(names))
    entry = walk.link(cls)
    components = {**walk.components, **{name: fingerprint(name).value for name in modules}}
    body = json.dumps([_VERSION, entry, sorted(components.items())])
    return Fingerprint(hashlib.sha256(body.encode()).hexdigest(), components)


class _Walk:
    """Describes values as JSON, and classes and functions as links to components."""

    def __init__(self, names: set[tuple[str, str]]) -> None:
        self.components: dict[str, str] = {}
        self._names = names
        self._links: dict[int, str] = {}
        self._kept: list[Any] = []  # an id means something only while its object lives

    def link(self, item: _Item) -> str:
        """Return the name of the component that `item` is, described when it is first met."""
        if id(item) in self._links:
            return self._links[id(item)]
        stem = f"{item.__module__}.{item.__qualname__}"
        taken = {*self._links.values()}
        count = next(n for n in range(1, len(taken) + 2) if (stem if n == 1 else f"{stem}#{n}") not in taken)
        name = stem if count == 1 else f"{stem}#{count}"
        self._links[id(item)] = name
        self._kept.append(item)
        content = self._class(item) if isinstance(item, type) else self._function(item, _own_text(item))
        self.components[name] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return name

    def _class(self, cls: type) -> Any:
        text = _text_of(cls)
        own = {
            name: self._method(value, cls if text is not None else None)
            for name, value in sorted(vars(cls).items())
            if name not in _UNSEEN
        }
        bases = [self._value(base, ()) for base in cls.__bases__]
        return ["class", self._value(type(cls), ()), cls.__name__, bases, text, own]

    def _method(self, value: Any, within: type | None) -> Any:
        """Describe a class attribute; the text of the class `within`, if known, already says its own functions."""
        if isinstance(value, types.FunctionType):
            said = within is not None and _belongs(value, within)
            return self._function(value, "" if said else _own_text(value))
        if isinstance(value, staticmethod | classmethod):
            return [type(value).__name__, self._method(value.__func__, within)]
        if isinstance(value, property):
            return ["property", *(self._method(part, within) for part in (value.fget, value.fset, value.fdel))]
        if isinstance(value, functools.cached_property):
            return ["cached_property", self._method(value.func, within)]
        return self._value(value, ())

    def _function(self, function: types.FunctionType, text: str | None) -> Any:
        """Describe a function; `text` is its canonical source, None when its code must do."""
        code = function.__code__
        cells = [self._value(_content(cell), ()) for cell in function.__closure__ or ()]
        found = {
            name: self._value(function.__globals__[name], ())
            for name in sorted(_names(code))
            if name in function.__globals__
        }
        body = _code(code, function.__doc__) if text is None else text
        parts = (function.__defaults__, function.__kwdefaults__, dict(function.__annotations__), dict(vars(function)))
        return ["function", body, cells, found, *(self._value(part, ()) for part in parts)]

    def _value(self, value: Any, above: tuple[int, ...]) -> Any:
        if isinstance(value, types.FunctionType | type):
            return self._reference(value)
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, types.BuiltinFunctionType | types.MemberDescriptorType | types.GetSetDescriptorType):
            return ["built-in", str(getattr(value, "__module__", None)), value.__name__]
        if isinstance(value, logging.Logger):
            return ["logger", value.name]
        if isinstance(value, enum.Enum):
            return ["enum", self._reference(type(value)), value.name]
        if id(value) in above or len(above) > _DEPTH_MAX:
            return ["above", above.index(id(value)) if id(value) in above else -1]
        return self._data(value, (*above, id(value)))

    def _reference(self, item: _Item) -> Any:
        key = (item.__module__, item.__qualname__)
        if key in self._names or "<l" in item.__qualname__:  # <locals>, <lambda>
            return ["component", self.link(item)]
        return ["named", *key]

    def _data(self, value: Any, above: tuple[int, ...]) -> Any:
        kind = type(value)
        if kind in (list, tuple):
            return [kind.__name__, *(self._value(item, above) for item in value)]
        if kind in (set, frozenset):
            return [kind.__name__, *sorted((self._value(item, above) for item in value), key=json.dumps)]
        if kind in (dict, types.MappingProxyType):
            return [kind.__name__, *([self._value(key, above), self._value(one, above)] for key, one in value.items())]
        if kind is types.CodeType:
            return _code(value, None)
        try:
            return ["plain", kind.__name__, hashlib.sha256(plain.encode(value)).hexdigest()]
        except TypeError:
            pass
        try:
            recipe = value.__reduce_ex__(4)
        except Exception:  # noqa: BLE001 - whatever an author's class raises: it then has no value to speak of
            return ["opaque", kind.__module__, kind.__qualname__]
        if isinstance(recipe, str):
            return ["global", kind.__module__, recipe]
        self._kept.append(recipe)  # its parts' ids are compared while this value is described
        parts = [list(part) if isinstance(part, Iterator) else part for part in recipe]
        self._kept.append(parts)
        return ["object", *(self._value(part, above) for part in parts)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return "<empty>"


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the names that a function's code, and the code inside it, may look up among the globals."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _code(code: types.CodeType, doc: str | None) -> Any:
    consts: list[Any] = []
    for index, const in enumerate(code.co_consts):
        if isinstance(const, types.CodeType):
            consts.append(_code(const, None))
        else:
            consts.append("doc" if not index and isinstance(const, str) and const == doc else _const(const))
    return [
        *(code.co_code.hex(), consts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
        *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        code.co_exceptiontable.hex(),
    ]


def _const(value: Any) -> Any:
    if isinstance(value, tuple | frozenset):
        parts = [_const(item) for item in value]
        return [type(value).__name__, *(sorted(parts, key=json.dumps) if isinstance(value, frozenset) else parts)]
    return [type(value).__name__, repr(value)]


# --- text ----------------------------------------------------------------------------------------------------------


def _text_of(item: _Item) -> str | None:
    """Return the hash of a definition's syntax tree, None where its text cannot be had or says something else."""
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(item))).body[0]
        # All of the file or cell: what is imported in it changes the code of functions.
        whole = "".join(inspect.findsource(item)[0])
        compiled = compile(whole, "<text>", "exec", flags=_flags(item), dont_inherit=True)
    except (OSError, TypeError, SyntaxError, ValueError, IndexError):
        return None
    if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name != item.__name__:
        return None
    known: dict[str, list[Any]] = {}
    for code in _codes(compiled):
        known.setdefault(code.co_qualname, []).append(_code(code, None))
    if not all(_code(one.__code__, None) in known.get(one.__code__.co_qualname, ()) for one in _functions(item)):
        return None
    own = isinstance(item, type) and type(item) in (type, abc.ABCMeta)
    words = {name for function in _functions(item) for name in _names(function.__code__)}
    view = View(bool(_READS_DOCS & words), lambda one: own and not one.decorator_list)
    return hashlib.sha256(canonical([node], view)).hexdigest()


def _own_text(function: types.FunctionType) -> str | None:
    """Return the text of a function that stands by itself; one in a class or function may mean other names there."""
    return _text_of(function) if function.__qualname__ == function.__name__ else None


def _belongs(function: types.FunctionType, cls: type) -> bool:
    """Tell whether a function was defined in the body of a class, not put there later or made by a decorator."""
    return function.__code__.co_qualname.startswith(f"{cls.__qualname__}.") and not _is_generated(function)


def _is_generated(function: types.FunctionType) -> bool:
    return function.__code__.co_filename == "<string>"  # as a dataclass's __init__


def _flags(item: _Item) -> int:
    return next((function.__code__.co_flags & _ANNOTATIONS for function in _functions(item)), 0)


def _functions(item: _Item) -> Iterator[types.FunctionType]:
    """Yield the functions that a definition's text must contain."""
    if isinstance(item, types.FunctionType):
        yield item
        return
    for value in vars(item).values():
        parts: tuple[Any, ...] = (getattr(value, "__func__", getattr(value, "func", value)),)
        if isinstance(value, property):
            parts = (value.fget, value.fset, value.fdel)
        yield from (part for part in parts if isinstance(part, types.FunctionType) and _belongs(part, item))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)
