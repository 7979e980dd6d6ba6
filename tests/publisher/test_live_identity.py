"""The identity of what lives only in this process: everything it reaches counts, and nothing else."""

from __future__ import annotations

import linecache
import sys
import types
from typing import Any

import pytest

from publisher.analysis.live_identity import live_fingerprint
from publisher.fingerprint import Fingerprint
from publisher.packing.by_value import pin

RICH = """
import collections, enum, functools, logging, math
import numpy as np
from edge_agent import Filter

LOG = logging.getLogger("rich")
TABLE = {"a": [1, 2.5, None], "b": (b"x", frozenset({3, 4}))}
GRID = np.arange(4.0)

class Mode(enum.Enum):
    UP = 1
    DOWN = 2

class Settings:
    def __init__(self, level):
        self.level = level
        self.me = self

SETTINGS = Settings(7)
by_two = functools.partial(pow, 2)

def even(n):
    return True if n == 0 else odd(n - 1)

def odd(n):
    return False if n == 0 else even(n - 1)

def logged(function):
    @functools.wraps(function)
    def inner(*arguments):
        LOG.debug("called")
        return function(*arguments)
    return inner

class Rich(Filter):
    mode = Mode.UP
    limits = {"low": -1.0, "high": 1.0}

    class Inner:
        size = 3

    @property
    def twice(self):
        return self.level * 2

    @functools.cached_property
    def level(self):
        return SETTINGS.level

    @staticmethod
    def clip(x):
        return math.floor(x)

    @classmethod
    def made(cls):
        return cls()

    @logged
    def predict(self, x, *, power=2):
        return [by_two(v) if even(v) and self.mode is Mode.UP else TABLE for v in x] + [GRID, self.Inner.size]
"""

EDITS = {
    "enum member": ("DOWN = 2", "DOWN = 3"),
    "object behind a global": ("Settings(7)", "Settings(8)"),
    "partial": ("partial(pow, 2)", "partial(pow, 3)"),
    "mutual recursion": ("return False if n == 0", "return None if n == 0"),
    "array": ("arange(4.0)", "arange(5.0)"),
    "nested value": ("frozenset({3, 4})", "frozenset({3, 5})"),
    "logger": ('getLogger("rich")', 'getLogger("poor")'),
    "wrapper of a decorator": ('debug("called")', 'debug("used")'),
    "decorator": ("    @logged\n", ""),
    "nested class": ("size = 3", "size = 4"),
    "class attribute": ('"low": -1.0', '"low": -2.0'),
    "enum attribute": ("mode = Mode.UP", "mode = Mode.DOWN"),
    "property": ("self.level * 2", "self.level * 3"),
    "cached property": ("return SETTINGS.level", "return -SETTINGS.level"),
    "static method": ("math.floor", "math.ceil"),
    "class method": ("return cls()", "return cls"),
    "keyword default": ("power=2", "power=3"),
    "kind of method": ("@staticmethod", "@classmethod"),
}


def identity(source: str, *, text: bool, shown: str = "") -> Fingerprint:
    """Return the identity of class `Rich`, with its text to be had (as in a notebook) or not (as from exec).

    `shown` is a text that was edited since.
    """
    name = f"<cell {hash(source)} {text}>"
    module: Any = types.ModuleType("__main_of_test__")
    if text:
        linecache.cache[name] = (len(source), None, (shown or source).splitlines(True), name)
        module.__file__ = name  # what `inspect` asks for the text of a class
    exec(compile(source, name, "exec"), vars(module))
    try:
        made = pin(module.Rich, {})
        with pytest.MonkeyPatch.context() as patch:
            if text:
                patch.setitem(sys.modules, module.__name__, module)
            return live_fingerprint(module.Rich, made.names, [])
    finally:
        linecache.cache.pop(name, None)


@pytest.mark.parametrize("text", [False, True], ids=["code only", "with text"])
@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_counts(edit: str, text: bool) -> None:
    assert RICH.count(EDITS[edit][0]) >= 1
    assert identity(RICH.replace(*EDITS[edit]), text=text).value != identity(RICH, text=text).value


@pytest.mark.parametrize("text", [False, True], ids=["code only", "with text"])
def test_comments_lines_and_repetition_do_not_count(text: bool) -> None:
    before = identity(RICH, text=text)
    assert identity(RICH, text=text) == before
    assert identity(RICH.replace("def even(n):", "# is it?\n\n\ndef even(n):  # yes"), text=text).value == before.value


def test_a_docstring_does_not_count_where_the_text_is_known() -> None:
    described = RICH.replace("class Rich(Filter):\n", 'class Rich(Filter):\n    """Says something."""\n')
    assert identity(described, text=True).value == identity(RICH, text=True).value


def test_text_that_says_something_else_is_not_believed() -> None:
    """A file that was edited after it was run must not speak for the class that lives."""
    edited = RICH.replace("return cls()", "return cls")
    found = identity(RICH, text=True, shown=edited).components["__main_of_test__.Rich"]
    assert found == identity(RICH, text=False).components["__main_of_test__.Rich"]
    assert found != identity(RICH, text=True).components["__main_of_test__.Rich"], "else the text was never asked"


def test_components_say_what_differs() -> None:
    before, after = (
        identity(source, text=False).components for source in (RICH, RICH.replace("return False if", "return 0 if"))
    )
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"__main_of_test__.odd"}
