"""Twins of the standard modules that import by name without `__import__`, routed into one mount.

A bundle that says `import importlib` gets a twin: the same module, except that the functions which take a module name
look among the bundle's modules first. Everything else is the real module's, which nobody patches.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

from edge_agent.runtime.pickles import Names, twin_functions

__all__ = ["TWINS", "make_twin"]

_RESOURCES = ("files", "open_binary", "open_text", "read_binary", "read_text", "path", "contents", "is_resource")
_ABSENT = object()


class Router(Names, Protocol):
    """What a twin asks of its mount."""

    @property
    def import_(self) -> Callable[..., ModuleType]:
        """The routed `__import__`."""
        ...

    def get(self, name: str) -> ModuleType:
        """Import a module by logical or private name."""
        ...

    def find_name(self, name: str) -> str:
        """Return the private name of a local module, or the name itself."""
        ...

    def logical(self, name: str) -> str:
        """Return the logical name of a private one."""
        ...


class _Twin(ModuleType):
    def __init__(self, router: Router, real: ModuleType, routed: dict[str, Any]) -> None:
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(routed, __spec__=real.__spec__, _router=router, _real=real)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["_real"], name)
        child = f"{self.__name__}.{name}"
        return self.__dict__["_router"].get(child) if child in TWINS else found

    def __dir__(self) -> list[str]:
        return dir(self.__dict__["_real"])


def make_twin(router: Router, real: ModuleType) -> ModuleType:
    """Return the twin of `real`, one of `TWINS`, for the bundle behind `router`."""
    return _Twin(router, real, TWINS[real.__name__](router, real))


def _importlib(router: Router, real: ModuleType) -> dict[str, Any]:
    def import_module(name: str, package: str | None = None) -> ModuleType:
        return router.get(_resolved(router, name, package))

    return {"import_module": import_module, "__import__": router.import_}


def _util(router: Router, real: ModuleType) -> dict[str, Any]:
    def find_spec(name: str, package: str | None = None) -> Any:
        return real.find_spec(router.find_name(_resolved(router, name, package)))

    return {"find_spec": find_spec}


def _resolved(router: Router, name: str, package: str | None) -> str:
    """Return the absolute logical name that `name` means relative to `package`."""
    if not name.startswith("."):
        return name
    level = len(name) - len(name.lstrip("."))
    bits = router.logical(package or "").rsplit(".", level - 1)
    if not bits[0] or len(bits) < level:
        raise ImportError(f"attempted relative import of {name!r} beyond the top-level package of {package!r}")
    return f"{bits[0]}.{name[level:]}" if name[level:] else bits[0]


def _resources(router: Router, real: ModuleType) -> dict[str, Any]:
    def route(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def routed(*arguments: Any, **named: Any) -> Any:
            anchor = named.pop("anchor", named.pop("package", _ABSENT))
            if anchor is _ABSENT and arguments:
                anchor, *arguments = arguments  # type: ignore[assignment]
            if anchor is _ABSENT or anchor is None:
                anchor = sys._getframe(1).f_globals["__name__"]
            return function(_package(router, anchor), *arguments, **named)

        return routed

    return {name: route(getattr(real, name)) for name in _RESOURCES if hasattr(real, name)}


def _package(router: Router, anchor: Any) -> Any:
    """Return the package an anchor means; a plain module stands for the folder it lies in, on every version."""
    module = router.get(anchor) if isinstance(anchor, str) else anchor
    if isinstance(module, ModuleType) and not hasattr(module, "__path__") and module.__spec__ is not None:
        return sys.modules.get(module.__spec__.parent or "", module)
    return module


def _pkgutil(router: Router, real: ModuleType) -> dict[str, Any]:
    def get_data(package: str, resource: str) -> bytes | None:
        data: bytes | None = real.get_data(router.find_name(package), resource)
        return data

    def resolve_name(name: str) -> Any:
        module, separator, rest = name.partition(":")
        if separator:
            return real.resolve_name(f"{router.find_name(module)}:{rest}")
        head = name.partition(".")[0]
        return real.resolve_name(router.find_name(head) + name[len(head) :])

    return {"get_data": get_data, "resolve_name": resolve_name}


def _pickle(router: Router, real: ModuleType) -> dict[str, Any]:
    return twin_functions(router)


TWINS: dict[str, Callable[[Router, ModuleType], dict[str, Any]]] = {
    "importlib": _importlib,
    "importlib.resources": _resources,
    "importlib.util": _util,
    "pickle": _pickle,
    "pkgutil": _pkgutil,
}
