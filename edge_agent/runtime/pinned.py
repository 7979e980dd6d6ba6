"""Loads the class of a pinned bundle (F2): a class by value, for exactly the interpreter that wrote it.

Worker only, and one of the two places where a pickle is read (the other is state). Another interpreter's bundle is
refused by the member's first line, before a byte of the pickle is looked at. Functions that come by value get the
mount's builtins, so that imports inside them find the bundle's own modules.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

from edge_agent.contract.errors import Reason, ReasonCode, WorkerFailed
from edge_agent.contract.pinned import PINNED_MEMBER, unwrap_pinned
from edge_agent.runtime.pickles import BundleUnpickler, Names

__all__ = ["INTERPRETER", "has_pinned", "load_pinned"]

INTERPRETER = f"cp{sys.version_info.major}{sys.version_info.minor}"
_CLOUDPICKLE = "cloudpickle.cloudpickle"


def has_pinned(root: Path) -> bool:
    """Tell whether the bundle unpacked at `root` is a pinned one."""
    return (root / PINNED_MEMBER).is_file()


def load_pinned(root: Path, names: Names, builtins: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Return everything the bundle brings by value, by module and qualified name; the class itself is under `("", "")`.

    Raises `UpdateRejected` when it was made by another interpreter, `WorkerFailed` when the pickle is not ours.
    """
    data = unwrap_pinned((root / PINNED_MEMBER).read_bytes(), INTERPRETER)
    reader = _Reader(io.BytesIO(data), names=names, builtins=builtins)
    found = reader.load()
    reader.settle()
    cls = found.get(("", "")) if isinstance(found, dict) else None
    if not isinstance(cls, type):
        raise WorkerFailed(
            Reason(code=ReasonCode.START, message=f"{PINNED_MEMBER} holds no class", where=PINNED_MEMBER)
        )
    return found  # type: ignore[no-any-return]


class _Reader(BundleUnpickler):
    """Routes what cloudpickle reaches by name: modules, and the builtins of functions."""

    def __init__(self, *arguments: Any, builtins: dict[str, Any], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._builtins = builtins
        self._globals: dict[int, dict[str, Any]] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        """Resolve a global, with our own versions of two of cloudpickle's functions."""
        if module == _CLOUDPICKLE and name == "subimport":
            return lambda wanted: self._names.resolve(wanted, "")
        if module == _CLOUDPICKLE and name == "_make_function":
            return self._make_function
        return super().find_class(module, name)

    def settle(self) -> None:
        """Give all globals the mount's builtins again: cloudpickle's setters put the real ones there."""
        for found in self._globals.values():
            found["__builtins__"] = self._builtins

    def _make_function(self, code: Any, found: dict[str, Any], name: Any, defaults: Any, closure: Any) -> FunctionType:
        self._globals[id(found)] = found
        found["__builtins__"] = self._builtins  # a function keeps those that its globals had when it was made
        return FunctionType(code, found, name, defaults, closure)
