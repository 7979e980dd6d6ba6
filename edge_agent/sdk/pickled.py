"""Writes what plain data cannot say as a pickle that names the author's modules as the author does (F5).

A class that was imported from a bundle lives under a private module name (I5), which means nothing elsewhere: it is
written as a call of `logical(module, name)`, and only a reader that knows the bundle can answer that. Nothing is read
here: `edge_agent.runtime.pickles` does that, in a worker.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple, NoReturn

from edge_agent.sdk.place import NAMESPACE_PREFIX

__all__ = ["OWNER", "PROTOCOL", "LogicalPickler", "Names", "Written", "dumps", "logical", "private_name"]

PROTOCOL = 5
_NAMED_BY = ("__module__", "__qualname__")
OWNER = "owner"
"""The persistent id that stands for the filter itself inside its own state."""

Names = Callable[[Any], "tuple[str, str] | None"]
"""Tells under which module and name a class or function must be looked for, None for where it says itself."""


class Written(NamedTuple):
    """A pickle and the modules that whoever reads it must have, by the author's names."""

    data: bytes
    modules: frozenset[str]


def logical(module: str, name: str) -> NoReturn:
    """Stand for a class or function of a bundle in a pickle; a reader inside that bundle answers in its place."""
    raise pickle.UnpicklingError(f"{module}.{name} belongs to a bundle: this pickle can only be read inside it")


def private_name(item: Any) -> tuple[str, str] | None:
    """Return the author's name of something that was imported from a bundle, None for everything else."""
    module = getattr(item, "__module__", None)
    if isinstance(module, str) and module.startswith(NAMESPACE_PREFIX):
        return module.partition(".")[2], item.__qualname__
    return None


class LogicalPickler(pickle.Pickler):
    """A pickler for logical names. `owner` becomes `OWNER`; `modules` gathers where the classes written come from."""

    def __init__(self, *arguments: Any, names: Names = private_name, owner: Any = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names = names
        self._owner = owner
        self.modules: set[str] = set()

    def persistent_id(self, obj: Any) -> str | None:
        """Stand in for the filter whose state this is."""
        return OWNER if obj is self._owner and obj is not None else None

    def reducer_override(self, obj: Any) -> Any:
        """Write classes and functions of bundles by logical name, everything else as pickle does."""
        named = isinstance(obj, type | FunctionType) or _is_named(obj)
        source = obj if named or isinstance(obj, BuiltinFunctionType) else type(obj)
        found = self._names(source) if not isinstance(source, BuiltinFunctionType) else None
        self.modules.add(found[0] if found else str(getattr(source, "__module__", None) or ""))
        return (logical, found) if found and named else NotImplemented


def _is_named(obj: Any) -> bool:
    """Tell whether an object that is no plain function is still written by its name: cached, or compiled by Cython."""
    if isinstance(obj, MethodType) or not all(isinstance(getattr(obj, n, None), str) for n in _NAMED_BY):
        return False
    registered = copyreg.dispatch_table.get(type(obj))
    return isinstance(registered(obj) if registered else obj.__reduce_ex__(PROTOCOL), str)


def dumps(value: Any, *, names: Names = private_name, owner: Any = None) -> Written:
    """Return `value` as a pickle of logical names. Raises what pickling raises (`TypeError`, `PicklingError`, …)."""
    buffer = io.BytesIO()
    pickler = LogicalPickler(buffer, PROTOCOL, names=names, owner=owner)
    pickler.dump(value)
    # "" are objects that name no module; this one's name only stands in the pickle for others.
    return Written(buffer.getvalue(), frozenset(pickler.modules - {"", "builtins", __name__}))
