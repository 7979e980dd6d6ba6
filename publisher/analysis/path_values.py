"""What is known of a path that source code builds, and what joining, choosing and its methods make of it.

Pure values; looks at no file except to tell a directory that a path may go on from.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

__all__ = ["COMPUTED", "Computed", "Value", "choices", "join", "last", "method", "one_of", "only_return"]

_SAME = {"resolve", "absolute", "as_posix", "expanduser", "__str__", "__fspath__", "strip"}


class Computed(Enum):
    """A path that begins at the module's own place and ends in something computed."""

    COMPUTED = "computed"


COMPUTED = Computed.COMPUTED
Value = Path | str | int | Computed | None


def only_return(function: ast.FunctionDef) -> ast.expr | None:
    """Return the expression that a function without parameters returns, when it does nothing else."""
    body = [node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    if len(body) == 1 and isinstance(body[0], ast.Return) and ast.unparse(function.args) in ("", "self", "cls"):
        return body[0].value
    return None


def choices(node: ast.IfExp | ast.BoolOp) -> list[ast.expr]:
    """Return the values that an expression chooses from."""
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else node.values


def one_of(values: Iterable[Value]) -> Value:
    """Return the one path among the values that a name may have; computed when directories differ.

    A path goes on from a directory; files that differ were each found where they were bound.
    """
    found = list(dict.fromkeys(value for value in values if isinstance(value, Path | Computed)))
    if len(found) == 1:
        return None if found[0] is COMPUTED else found[0]
    return COMPUTED if any(isinstance(value, Path) and value.is_dir() for value in found) else None


def join(base: Value, *parts: Value) -> Value:
    """Return a path below `base`; computed when a part is not known."""
    if base is COMPUTED:
        return COMPUTED
    if not isinstance(base, Path):
        return None
    texts = [str(part) for part in parts if isinstance(part, str | Path)]
    if len(texts) != len(parts):
        return COMPUTED
    return Path(os.path.normpath(base.joinpath(*texts)))


def method(base: Path, name: str, arguments: list[Value]) -> Value:
    """Return what a method of a path gives; None for one that does not give a path."""
    texts = [item for item in arguments if isinstance(item, str)]
    if name in _SAME:
        return base
    if name in ("joinpath", "__truediv__"):
        return join(base, *arguments)
    if name in ("with_name", "with_suffix", "with_stem", "replace") and len(texts) != len(arguments):
        return COMPUTED
    if name == "with_name" and texts:
        return base.with_name(texts[0])
    if name == "with_suffix" and texts:
        return base.with_suffix(texts[0])
    if name == "with_stem" and texts:
        return base.with_stem(texts[0])
    if name == "replace" and len(texts) == 2:
        return Path(str(base).replace(texts[0], texts[1]))
    return None


def last(node: ast.expr) -> str:
    """Return the last name of a dotted expression, empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
