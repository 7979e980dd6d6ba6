"""What is known of a path that source code builds, and what joining, choosing and its methods make of it.

Pure values; looks at no file except to tell a directory that a path may go on from.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

__all__ = [
    "COMPUTED",
    "Computed",
    "Value",
    "choices",
    "join",
    "last",
    "method",
    "one_of",
    "own_frame",
    "part_of",
]

_REWRITE = {"format", "translate", "lstrip", "rstrip", "lower", "upper", "partition", "rpartition", "split", "rsplit"}
_SAME = {"resolve", "absolute", "as_posix", "expanduser", "__str__", "__fspath__", "strip"}


class Computed(Enum):
    """A path that begins at the module's own place and ends in something computed."""

    COMPUTED = "computed"


COMPUTED = Computed.COMPUTED
Value = Path | str | int | Computed | None


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
    if name in ("replace", "removesuffix", "removeprefix") and len(texts) == 1 + (name == "replace"):
        found: str = getattr(str(base), name)(*texts)
        return COMPUTED if found.endswith("/") else Path(found)
    return COMPUTED if name in _REWRITE else None


def part_of(text: str, function: str, separator: str, index: int) -> Value:
    """Return one part of a text that was split, None for any other function."""
    if function not in ("split", "rsplit", "partition", "rpartition") or not separator:
        return None
    parts = list(getattr(text, function)(separator))
    return parts[index] if -len(parts) <= index < len(parts) else None


def own_frame(node: ast.Attribute) -> bool | None:
    """Tell whether an attribute is the file of the code that reads it, by its frame; None for other attributes."""
    text = ast.unparse(node.value)
    if node.attr == "co_filename" and text.endswith(("f_code", "__code__")):
        return "f_back" not in text and "_getframe(1" not in text
    if node.attr == "filename" and re.search(r"\b(stack|getframeinfo)\(", text):
        return text.endswith("stack()[0]") or text.endswith("getframeinfo(inspect.currentframe())")
    return None


def last(node: ast.expr) -> str:
    """Return the last name of a dotted expression, empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
