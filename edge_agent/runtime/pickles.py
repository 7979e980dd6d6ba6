"""Reads pickles inside a bundle's namespace: names in them are the author's, the bundle's own modules come first (F5).

Worker only: a pickle is code. Nothing here decides whether one may be read; `loader` does, for releases that were
verified. What a pickle names and the bundle does not have comes from the interpreter's own modules.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, Protocol

from edge_agent.sdk import pickled

__all__ = ["BundleUnpickler", "Names", "loads", "twin_functions"]


class Names(Protocol):
    """What a reader and a writer ask of a mount."""

    def resolve(self, module: str, name: str) -> Any:
        """Return what `name` means in a module, both in the author's words."""
        ...

    def name_of(self, item: Any) -> tuple[str, str] | None:
        """Return the author's words for a class or function of the bundle, None for those of others."""
        ...


class BundleUnpickler(pickle.Unpickler):
    """An unpickler whose names are those of one bundle. `owner` is what `pickled.OWNER` stands for."""

    def __init__(self, *arguments: Any, names: Names, owner: Any = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names = names
        self._owner = owner

    def find_class(self, module: str, name: str, /) -> Any:
        """Resolve a global of the pickle among the bundle's modules, then the interpreter's."""
        if module == pickled.__name__ and name == pickled.logical.__name__:
            return self._names.resolve
        return self._names.resolve(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """Return the filter whose state this is."""
        if pid != pickled.OWNER or self._owner is None:
            raise pickle.UnpicklingError(f"persistent id {pid!r} means nothing here")
        return self._owner


def loads(data: bytes, names: Names, *, owner: Any = None) -> Any:
    """Return the value in a pickle. Raises whatever reading it raises."""
    return BundleUnpickler(io.BytesIO(data), names=names, owner=owner).load()


def twin_functions(names: Names) -> dict[str, Any]:
    """Return what stands for the functions and classes of `pickle` in a bundle's own code: logical names, both ways."""

    class Pickler(pickled.LogicalPickler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{"names": names.name_of, **options})

    class Unpickler(BundleUnpickler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{"names": names, **options})

    def dump(obj: Any, file: Any, *arguments: Any, **options: Any) -> None:
        Pickler(file, *arguments, **options).dump(obj)

    def dumps(obj: Any, *arguments: Any, **options: Any) -> bytes:
        buffer = io.BytesIO()
        dump(obj, buffer, *arguments, **options)
        return buffer.getvalue()

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    def loads(data: Any, /, **options: Any) -> Any:
        return load(io.BytesIO(data), **options)

    made: dict[str, Callable[..., Any]] = {"dump": dump, "dumps": dumps, "load": load, "loads": loads}
    return {"Pickler": Pickler, "Unpickler": Unpickler, **made}
