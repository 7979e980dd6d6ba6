"""Equal meaning, equal fingerprint; any edit that may change behaviour, another one (I1–I3)."""

from __future__ import annotations

import json
import operator
import os
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.contract.errors import AuthorError
from publisher.fingerprint import fingerprint

PROJECT = Path(__file__).resolve().parents[2]

FILTERS = '''\
"""Module docstring."""
from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from edge_agent import Filter

from . import dsp
from .dsp import bandpass as filt, lowpass
from .shapes import *
from .store import TABLE, scaled

if TYPE_CHECKING:
    from .unused import Never

HERE = Path(__file__).parent
K = 3
K2 = [1, 2]
K3 = 7
LABELS = {"walk", "run", "rest"}
half = scaled(0.5)


def traced(level):
    def wrap(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            return function(*args, **kwargs)
        return inner
    return wrap


class Meta(type):
    def __new__(cls, name, bases, space):
        space["order"] = list(space)
        return super().__new__(cls, name, bases, space)


class Strange(metaclass=Meta):
    """Strange doc."""
    def first(self): return 1
    def second(self): return 2


class Mode(enum.Enum):
    """Mode doc."""
    FAST = 1
    SLOW = 2


@dataclass
class Point:
    """Point doc."""
    x: int = 0
    y: float = field(default=1.0)


class Base(Filter):
    gain = 2

    def helper(self):
        return dsp.twice(self.gain)


class F(Base):
    """Class docstring."""
    __slots__ = ("a", "b")
    limit: int = 10

    def __init__(self, a: float = 1.5, *, b=K):
        """Init docstring."""
        super().__init__(a=a, b=b)

    @staticmethod
    def fixed(x):
        return x + 1

    @classmethod
    def made(cls, x):
        return cls(x)

    @property
    def level(self):
        return self.limit

    @traced(level=4)
    def marked(self, x):
        return x * 7

    def predict(self, x: np.ndarray) -> np.ndarray:
        from .late import polish
        if (n := len(x)) > 3:
            pass
        match n:
            case 0: return x
            case [a, *rest] if rest: return a
            case {"k": v, **more}: return v
        kept = [i for i in x if i in {1, 2, 3}]
        key = sorted(kept, key=lambda i: -i)
        text = f"{n!r:>{K}} {{literal}} {n=} {'nested'}" f'{x[0]:{n}.{K}f}' "tail"
        return filt(polish(kept)), lowpass, shape(2), half, TABLE, HERE, Point(), Mode.FAST, Strange, text, key, LABELS

    async def apredict(self, x):
        async with x as y:
            return [z async for z in y]

    def weights(self):
        return (HERE / "weights.csv").read_text()


    from .extra import plug
    gathered = [K2 for K2 in K2]

    def late_global(self):
        K3 = 1
        def inner():
            global K3
            K3 += 1
            return K3
        return inner() + K3


def unrelated():
    return 1
'''
TREE = {
    "acme/__init__.py": "",
    "acme/filters.py": FILTERS,
    "acme/dsp.py": "from .deep import far\nC = 5\ndef bandpass(x): return far(x) + C\ndef lowpass(x): return x\n"
    "def highpass(x): return -x\ndef twice(x): return x * 2\n",
    "acme/deep.py": "def far(x):\n    return near(x)\ndef near(x):\n    return x - 1\ndef spare(x): return 0\n",
    "acme/shapes.py": "def shape(n): return [SIDE] * n\nSIDE = 4\n",
    "acme/store.py": "TABLE = {}\nTABLE['a'] = 1\ndef scaled(by):\n    def inner(x): return x * by\n    return inner\n",
    "acme/late.py": "def polish(x): return x\n",
    "acme/unused.py": "class Never: pass\n",
    "acme/extra.py": "def plug(self): return 1\n",
    "acme/weights.csv": "1,2\n",
}
TARGET = "acme/filters.py"


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Build the project, each call in a directory of its own, with replacements in one file."""
    count = iter(range(1000))

    def build(edits: dict[str, list[tuple[str, str]]] | None = None) -> Path:
        root = tmp_path / f"p{next(count)}"
        for name, text in TREE.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            for old, new in (edits or {}).get(name, []):
                assert old in text, f"{old!r} is not in {name}"
                text = text.replace(old, new, 1)
            path.write_text(text)
        return root

    return build


def of(root: Path, attr: str = "F") -> str:
    return fingerprint(f"{root / TARGET}:{attr}").value


EQUAL = {
    "comment": (TARGET, "K = 3", "# why\nK = 3  # because"),
    "blank lines and parentheses": (TARGET, "return x + 1", "return (\n            x\n            + 1\n        )\n"),
    "quotes": (TARGET, '"walk", "run"', "'walk', 'run'"),
    "class docstring": (TARGET, '"""Class docstring."""', '"""Another."""'),
    "no class docstring": (TARGET, '    """Class docstring."""\n', ""),
    "method docstring": (TARGET, '        """Init docstring."""\n', ""),
    "module docstring": (TARGET, '"""Module docstring."""', '"""Other."""'),
    "new docstring": (TARGET, "def fixed(x):", 'def fixed(x):\n        """Say."""'),
    "pass": (TARGET, "return x + 1", "pass\n        return x + 1"),
    "unreached function": (TARGET, "def unrelated():\n    return 1", "def unrelated():\n    return 2"),
    "unreached helper": ("acme/deep.py", "def spare(x): return 0", "def spare(x): return 1"),
    "type checking import": (TARGET, "from .unused import Never", "from .unused import Never as N"),
    "main guard": (TARGET, "def unrelated", "if __name__ == '__main__':\n    print(3)\n\n\ndef unrelated"),
    "line endings": (TARGET, "K = 3\n", "K = 3\r\n"),
    "implicit concatenation": (TARGET, '"tail"', '"ta" "il"'),
    "order of imports": (TARGET, "import enum\nimport functools", "import functools\nimport enum"),
    "another class in the file": (TARGET, "def unrelated", "class G(Base):\n    gain = 9\n\n\ndef unrelated"),
    "a pipeline in the file": (TARGET, "def unrelated", "MODEL = F(a=3)\n\n\ndef unrelated"),
    "order of methods": (
        TARGET,
        "    @staticmethod\n    def fixed(x):\n        return x + 1\n\n    @classmethod\n    def made(cls, x):\n"
        "        return cls(x)\n",
        "    @classmethod\n    def made(cls, x):\n        return cls(x)\n\n    @staticmethod\n    def fixed(x):\n"
        "        return x + 1\n",
    ),
}

DIFFERENT = {
    "method": (TARGET, "return [z async", "return [-z async"),
    "static method": (TARGET, "return x + 1", "return x + 2"),
    "class method": (TARGET, "return cls(x)", "return cls(-x)"),
    "property": (TARGET, "return self.limit", "return -self.limit"),
    "body below a decorator": (TARGET, "return x * 7", "return x * 8"),
    "decorator argument": (TARGET, "@traced(level=4)", "@traced(level=5)"),
    "decorator removed": (TARGET, "    @traced(level=4)\n", ""),
    "decorator's own body": (TARGET, "return function(*args, **kwargs)", "return function(*args)"),
    "default": (TARGET, "a: float = 1.5", "a: float = 1.6"),
    "type of a default": (TARGET, "a: float = 1.5", "a: float = '1.5'"),
    "keyword default": (TARGET, "b=K", "b=4"),
    "annotation of a method": (TARGET, "a: float", "a: int"),
    "annotation of an attribute": (TARGET, "limit: int", "limit: float"),
    "class attribute": (TARGET, "limit: int = 10", "limit: int = 11"),
    "slots": (TARGET, '("a", "b")', '("a", "b", "c")'),
    "base class body": (TARGET, "gain = 2", "gain = 3"),
    "other base": (TARGET, "class F(Base)", "class F(Filter)"),
    "helper": ("acme/dsp.py", "return far(x) + C", "return far(x) - C"),
    "helper of a helper": ("acme/deep.py", "return near(x)", "return -near(x)"),
    "helper at three steps": ("acme/deep.py", "return x - 1", "return x - 2"),
    "helper through a module": ("acme/dsp.py", "return x * 2", "return x * 3"),
    "helper through star": ("acme/shapes.py", "[SIDE] * n", "[SIDE] + n"),
    "constant of a starred helper": ("acme/shapes.py", "SIDE = 4", "SIDE = 5"),
    "helper imported in a method": ("acme/late.py", "return x", "return -x"),
    "constant": (TARGET, "K = 3", "K = 4"),
    "constant of a helper": ("acme/dsp.py", "C = 5", "C = 5.0"),
    "import in a class body": ("acme/extra.py", "return 1", "return 2"),
    "constant that a comprehension shadows": (TARGET, "K2 = [1, 2]", "K2 = [1, 3]"),
    "global inside a function inside a function": (TARGET, "K3 = 7", "K3 = 8"),
    "set constant": (TARGET, '"rest"', '"rests"'),
    "effect on a table": ("acme/store.py", "TABLE['a'] = 1", "TABLE['a'] = 2"),
    "effect elsewhere": ("acme/deep.py", "def spare", "import sys\nsys.setrecursionlimit(99)\ndef spare"),
    "closure value": (TARGET, "scaled(0.5)", "scaled(0.6)"),
    "import alias": (TARGET, "bandpass as filt", "highpass as filt"),
    "module alias": (TARGET, "import numpy as np", "import math as np"),
    "set literal": (TARGET, "{1, 2, 3}", "{1, 2, 4}"),
    "lambda": (TARGET, "lambda i: -i", "lambda i: i"),
    "comprehension": (TARGET, "[i for i in x if", "[i for i in x if not"),
    "match pattern": (TARGET, "case 0:", "case 1:"),
    "match guard": (TARGET, " if rest:", ":"),
    "mapping rest": (TARGET, "**more", "**other"),
    "walrus": (TARGET, "(n := len(x)) > 3", "(n := len(x)) > 4"),
    "format text": (TARGET, "{{literal}}", "{{other}}"),
    "format conversion": (TARGET, "{n!r:>", "{n!s:>"),
    "format spec": (TARGET, ".{K}f", ".{K}e"),
    "async": (TARGET, "async with x as y", "with x as y"),
    "dataclass default": (TARGET, "default=1.0", "default=2.0"),
    "dataclass docstring": (TARGET, "Point doc.", "Other doc."),
    "enum member": (TARGET, "SLOW = 2", "SLOW = 3"),
    "enum docstring": (TARGET, "Mode doc.", "Other doc."),
    "metaclass body": (TARGET, "list(space)", "sorted(space)"),
    "method order under a metaclass": (
        TARGET,
        "    def first(self): return 1\n    def second(self): return 2\n",
        "    def second(self): return 2\n    def first(self): return 1\n",
    ),
    "docstring under a metaclass": (TARGET, "Strange doc.", "Other doc."),
    "docstring that is read": (TARGET, "return self.limit", "return self.__doc__"),
    "data file": ("acme/weights.csv", "1,2", "1,3"),
    "int for bool": (TARGET, "gain = 2", "gain = True"),
    "registration": (TARGET, "def unrelated", "@TABLE.setdefault\ndef unrelated"),
    "new external import": (TARGET, "import enum\n", "import enum\nimport scipy\n"),
    "shadowed builtin": (TARGET, "K = 3\n", "K = 3\ndef len(x): return 0\n"),
    "order of constants": (TARGET, "K = 3\n", "K = 3\nK = len('abc')\n"),
}


@pytest.mark.parametrize("name", EQUAL)
def test_meaning_preserving_edit_keeps_it(name: str, tree: Callable[..., Path]) -> None:
    file, old, new = EQUAL[name]
    assert of(tree()) == of(tree({file: [(old, new)]}))


@pytest.mark.parametrize("name", DIFFERENT)
def test_meaning_changing_edit_changes_it(name: str, tree: Callable[..., Path]) -> None:
    file, old, new = DIFFERENT[name]
    assert of(tree()) != of(tree({file: [(old, new)]}))


def test_docstrings_count_where_they_are_read(tree: Callable[..., Path]) -> None:
    reads = (TARGET, [("return self.limit", "return self.__doc__")])
    one = tree(dict([reads]))
    two = tree({TARGET: [*reads[1], ('"""Class docstring."""', '"""Another."""')]})
    assert of(one) != of(two)


def test_components_name_what_differs(tree: Callable[..., Path]) -> None:
    before = fingerprint(f"{tree() / TARGET}:F").components
    after = fingerprint(f"{tree({'acme/deep.py': [('return x - 1', 'return x - 9')]}) / TARGET}:F").components
    assert [name for name in before if before[name] != after[name]] == ["acme.deep.near"]
    changed = fingerprint(f"{tree({TARGET: [('K = 3', 'K = 8')]}) / TARGET}:F").components
    assert [name for name in before if before[name] != changed[name]] == ["acme.filters.K"]
    assert "acme.deep.spare" not in before
    assert "acme/weights.csv" in before


def test_src_layout_gives_the_same(tree: Callable[..., Path]) -> None:
    root = tree()
    moved = root.parent / "other"
    (moved / "src").mkdir(parents=True)
    shutil.copytree(root / "acme", moved / "src" / "acme")
    (moved / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert fingerprint("acme.filters:F", root=moved) == fingerprint("acme.filters:F", root=root)
    assert of(root) == fingerprint(moved / "src" / f"{TARGET}:F").value


def test_encoding_does_not_count(tmp_path: Path) -> None:
    values = set()
    for index, (head, coding, mark) in enumerate(
        [("", "utf-8", b""), ("# coding: latin-1\n", "latin-1", b""), ("", "utf-8", b"\xef\xbb\xbf")]
    ):
        path = tmp_path / str(index) / "m.py"
        path.parent.mkdir()
        path.write_bytes(mark + (head + "class F:\n    unit = 'µé'\n").encode(coding))
        values.add(fingerprint(f"{path}:F").value)
    assert len(values) == 1


SCRIPT = """
import sys, types, json
try:
    import msgspec
except ImportError:  # this interpreter has no dependencies installed; errors.py needs only the name
    stub = types.ModuleType("msgspec")
    stub.Struct = type("Struct", (), {"__init_subclass__": classmethod(lambda cls, **options: None)})
    sys.modules["msgspec"] = stub
from publisher.fingerprint import fingerprint
found = fingerprint(sys.argv[1])
print(json.dumps([found.value, dict(found.components)]))
"""


def interpreter(version: str) -> str | None:
    """Find a working interpreter on PATH, or below a pyenv whose shims are there."""
    candidates = [shutil.which(f"python{version}")]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        candidates += [str(p) for p in sorted(Path(root).glob(f"versions/{version}.*/bin/python"))] if root else []
    for path in filter(None, candidates):
        done = subprocess.run([path, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, check=False)
        if done.returncode == 0:
            return path
    return None


def ask(python: str, target: str, **environment: str) -> list[object]:
    done = subprocess.run(
        [python, "-c", SCRIPT, target],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        cwd=Path(target).parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result: list[object] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_equal_on_every_interpreter_and_hash_seed(version: str, tree: Callable[..., Path]) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"CPython {version} is not installed here")
    target = f"{tree() / TARGET}:F"
    here = fingerprint(target)
    for seed in ("0", "4711"):
        assert ask(python, target, PYTHONHASHSEED=seed) == [here.value, dict(here.components)]


TRICKY = r"""
class F:
    big = 0xBIG
    lone = "\ud800"
    wide = "\U0001F9EC \u0378 µ"
    numbers = (1e999, 1e-320, 1j, -0.0, 0x10, 1_000, True, ..., b"\x00\xff")
    def p(self, x, y, z):
        return (
            f"{x}", f'{x!r}', f"{x!s:>{y}}", f"{x:{y}.{z}}", f"{x:}", f"{x=}", f"{ x = !r:^20}", f"{{{x}}}", f"{{}}",
            rf"\d{x}\n", f"\N{DIGIT ONE}{x}", f'{x["k"]}', f"{x['k']}", f"{x:%H:%M}", f"a" "b" f"{x}" 'c', "" f"",
            f"{'a' 'b'}", f"{(lambda: 1)()}", f"{x:\t}", f"{x:{'>'}{10}}", F'{x}' U"u", f"{x,}", f"{*x, y}",
            f'''{
                x
            :>{y}}''', f"{ {1: 2}[1] }", f"{x!a}", f"{f'{x}'}", f"{x:{ {1}.pop()}}",
        )
"""


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_literals_are_equal_on_every_interpreter(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"CPython {version} is not installed here")
    (tmp_path / "tricky.py").write_text(TRICKY.replace("BIG", "f" * 5000), "utf-8")
    target = f"{tmp_path / 'tricky.py'}:F"
    assert ask(python, target)[0] == fingerprint(target).value


def load(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(str(path.parent))
    module = __import__(name)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, name, module)
    return module


SMALL = "class B:\n    def p(self): return 1\n\nclass F(B):\n    k = 3\n    def predict(self, x):\n        return x\n"


def test_live_class_is_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "live_one.py").write_text(SMALL)
    module = load(tmp_path / "live_one.py", "live_one", monkeypatch)
    assert fingerprint(module.F) == fingerprint(f"{tmp_path / 'live_one.py'}:F")


UNUSUAL = '''import abc, enum, functools, dataclasses
from typing import Generic, TypeVar, NamedTuple
from edge_agent import Filter
T = TypeVar("T")
def deco(f):
    @functools.wraps(f)
    def g(*a): return f(*a)
    return g
class A(Filter):
    __hidden = 3
    _x: int = -4
    n = [1, (2, {"a": 3.0})]
    def __init__(self, a=1): super().__init__(a=a)
    def __priv(self): return 1
    @property
    def p(self): return 1
    @p.setter
    def p(self, v): pass
    @functools.cached_property
    def cp(self): return 1
    @functools.lru_cache
    def lc(self): return 1
    @deco
    def d(self): return 1
    @staticmethod
    def s(): return 1
    @classmethod
    def c(cls): return [i for i in (lambda: (1,2))()]
    alias = d
    lam = lambda self: 1
    if True:
        def cond(self): return 1
    def predict(self, x):
        """doc"""
        def inner(): return __class__
        return x
    async def ap(self): yield 1
class C(abc.ABC, Generic[T]):
    @abc.abstractmethod
    def m(self): ...
class E(enum.Enum):
    X = 1
    def f(self): return 1
class N(NamedTuple):
    a: int = 1
    def f(self): return 1
@dataclasses.dataclass
class D:
    a: int = 1
    b: list = dataclasses.field(default_factory=list)
@dataclasses.dataclass(frozen=True, slots=True)
class DS:
    a: int = 1
    def f(self): return self.a
class Sl:
    __slots__ = ("q",)
    def __init__(self): self.q = 1
class Ex(Exception):
    code = 3
    def __str__(self): return "x"
class Outer:
    class Inner:
        z = 1
        def f(self): return 2
A.extra = lambda self: 1
setattr(A, "more", 3)
@functools.total_ordering
class TO:
    def __eq__(self, o): return True
    def __lt__(self, o): return True
def make(k):
    class M(Filter):
        def predict(self, x): return x * k
    return M
M3 = make(3)
Dyn = type("Dyn", (Filter,), {"predict": lambda self, x: x})
'''


def test_unusual_live_classes_are_not_taken_for_patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "live_unusual.py").write_text(UNUSUAL)
    module = load(tmp_path / "live_unusual.py", "live_unusual", monkeypatch)
    names = ["A", "C", "E", "N", "D", "DS", "Sl", "Ex", "Outer.Inner", "TO", "M3", "Dyn"]
    for name in names:
        live = operator.attrgetter(name)(module)
        assert fingerprint(live) == fingerprint(f"{tmp_path / 'live_unusual.py'}:{name}")


PATCHES = {
    "method": lambda m: setattr(m.F, "predict", lambda self, x: -x),
    "method of a base": lambda m: setattr(m.B, "p", lambda self: 2),
    "another method of the class": lambda m: setattr(m.F, "predict", m.B.p),
    "constant": lambda m: setattr(m.F, "k", 4),
    "added method": lambda m: setattr(m.F, "extra", lambda self: 2),
    "removed method": lambda m: delattr(m.F, "predict"),
}


@pytest.mark.parametrize("name", PATCHES)
def test_patched_live_class_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_name = "live_" + name.replace(" ", "_")
    (tmp_path / f"{module_name}.py").write_text(SMALL)
    module = load(tmp_path / f"{module_name}.py", module_name, monkeypatch)
    PATCHES[name](module)
    with pytest.raises(AuthorError, match="is not what"):
        fingerprint(module.F)


def test_edited_file_under_a_live_class_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "live_edit.py").write_text(SMALL)
    module = load(tmp_path / "live_edit.py", "live_edit", monkeypatch)
    (tmp_path / "live_edit.py").write_text(SMALL.replace("return x", "return y"))
    with pytest.raises(AuthorError, match="file changed"):
        fingerprint(module.F)


def test_class_without_source_is_refused() -> None:
    space: dict[str, object] = {"__name__": "nowhere"}
    exec("class E: pass", space)
    made = type("T", (), {"__module__": "__main__"})
    for cls in (space["E"], made, type("T", (), {})):
        with pytest.raises(AuthorError, match="class statement") as caught:
            fingerprint(cls)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_class_inside_a_function_is_refused() -> None:
    class Inner:
        pass

    with pytest.raises(AuthorError, match="inside a function"):
        fingerprint(Inner)


def settle(root: Path) -> None:
    """Wait until every file is old enough for its stamp to be trusted."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        newest = max(path.stat().st_ctime_ns for path in (root, *root.rglob("*")))
        if newest < time.time_ns() - 200_000_000:
            return
        time.sleep(0.02)
    raise AssertionError("files never settled")


def test_remembered_until_something_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "live_memo.py").write_text("import helper_memo\n" + SMALL.replace("return x", "return helper_memo.h()"))
    (tmp_path / "helper_memo.py").write_text("def h(): return 1\n")
    module = load(tmp_path / "live_memo.py", "live_memo", monkeypatch)
    # A search directory in which other tests make files just now is never trusted: the checkout is one.
    monkeypatch.setattr(sys, "path", [one for one in sys.path if Path(one).resolve() != PROJECT])
    settle(tmp_path)
    first = fingerprint(module.F, root=tmp_path)
    assert fingerprint(module.F, root=tmp_path) is first
    (tmp_path / "helper_memo.py").write_text("def h(): return 2\n")
    second = fingerprint(module.F, root=tmp_path)
    assert second.value != first.value
    settle(tmp_path)
    assert fingerprint(module.F, root=tmp_path) == second
    (tmp_path / "helper_memo").mkdir()
    (tmp_path / "helper_memo" / "__init__.py").write_text("def h(): return 3\n")
    assert fingerprint(module.F, root=tmp_path).value not in (first.value, second.value)
    settle(tmp_path)
    fingerprint(module.F, root=tmp_path)
    module.F.predict.__code__ = (lambda self, x: 0).__code__
    with pytest.raises(AuthorError, match="is not what"):
        fingerprint(module.F, root=tmp_path)


def test_edits_in_quick_succession_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "quick.py"
    values = []
    for number in range(9):
        path.write_text(f"class F:\n    k = {number}\n")
        values.append(fingerprint(f"{path}:F").value)
    assert len(set(values)) == 9


def test_unknown_attribute_is_refused(tree: Callable[..., Path]) -> None:
    with pytest.raises(AuthorError, match="no 'Nope'"):
        fingerprint(f"{tree() / TARGET}:Nope")
