"""The oldest Python that reads a source file, as far as its grammar tells: a device may have an older one.

Says nothing about what the code does there; only that the file is one that the interpreter can parse.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize

__all__ = ["OLDEST", "oldest_minor"]

OLDEST = 11
"""The oldest minor version of Python 3 that any device has."""


def oldest_minor(data: bytes) -> int:
    """Return the minor version of the oldest Python 3, from `OLDEST` up, that parses what this one parses."""
    for minor in range(OLDEST, sys.version_info.minor):
        try:
            ast.parse(data, feature_version=(3, minor))
        except SyntaxError:
            continue
        return max(minor, 12) if _nests_texts(data) else minor
    return sys.version_info.minor


def _nests_texts(data: bytes) -> bool:
    """Whether an f-string holds what it may only since 3.12 (PEP 701): its own quotes, a backslash, a comment."""
    if sys.version_info.minor < 12 or b"{" not in data:
        return False
    around: list[str] = []
    for token in tokenize.tokenize(io.BytesIO(data).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_END":
            around.pop()
        elif not around:
            pass
        elif kind == "COMMENT" or (kind, len(around[-1])) == ("NL", 1):
            return True
        elif kind == "FSTRING_MIDDLE":
            if len(around) > 1 and "\\" in token.string:
                return True
        elif kind in ("STRING", "FSTRING_START"):
            text = token.string.lstrip("rRbBfFuUtT")
            if "\\" in text or any(quote in text for quote in around):
                return True
        if kind == "FSTRING_START":
            around.append(token.string.lstrip("rRfFbBuUtT"))
    return False
