"""Trees whose meaning lies in how their modules, names and definitions hang together."""

# ruff: noqa: E501 - the tables hold sources and edits
from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulators.trees import Tree, check

TREES = {
    "star of package with __all__ built from submodules": Tree(
        {
            "pkg/__init__.py": """\
from .a import *
from .b import *
from . import a, b
__all__ = a.__all__ + b.__all__
""",
            "pkg/a.py": """\
__all__ = ['fa']
def fa(): return 1
def _hid(): return 2
""",
            "pkg/b.py": """\
__all__ = ['fb']
from .deep.c import fc as fb
""",
            "pkg/deep/__init__.py": "",
            "pkg/deep/c.py": """\
def fc(): return 3
""",
            "m.py": """\
from pkg import *
class F:
    def predict(self, x): return fa() + fb()
""",
        },
        closure=["m.py", "pkg/__init__.py", "pkg/a.py", "pkg/b.py", "pkg/deep/__init__.py", "pkg/deep/c.py"],
        same=[("pkg/a.py", "return 2", "return 9")],
        different=[("pkg/a.py", "return 1", "return 9"), ("pkg/deep/c.py", "return 3", "return 9")],
    ),
    "star imports submodule named in __all__": Tree(
        {
            "pkg/__init__.py": """\
__all__ = ['sub', 'K']
K = 1
""",
            "pkg/sub.py": """\
V = 2
""",
            "pkg/other.py": "",
            "m.py": """\
from pkg import *
class F:
    def predict(self, x): return sub.V + K
""",
        },
        closure=["m.py", "pkg/__init__.py", "pkg/sub.py"],
        different=[("pkg/sub.py", "V = 2", "V = 3"), ("pkg/__init__.py", "K = 1", "K = 2")],
    ),
    "star __all__ extend/append": Tree(
        {
            "pkg/__init__.py": """\
__all__ = []
__all__.append('sub')
__all__.extend(['two'])
__all__ += ('three',)
""",
            "pkg/sub.py": """\
V = 2
""",
            "pkg/two.py": """\
V=2
""",
            "pkg/three.py": """\
V=4
""",
            "m.py": """\
from pkg import *
class F:
    def predict(self, x): return sub.V + two.V + three.V
""",
        },
        closure=["m.py", "pkg/__init__.py", "pkg/sub.py", "pkg/three.py", "pkg/two.py"],
    ),
    "conditional version else branch local": Tree(
        {
            "m.py": """\
import sys
if sys.version_info >= (3, 12):
    from new import f
else:
    from old import f
class F:
    def predict(self, x): return f()
""",
            "new.py": """\
def f(): return 1
""",
            "old.py": """\
def f(): return 1
""",
        },
        closure=["m.py", "new.py", "old.py"],
        different=[("new.py", "1", "2"), ("old.py", "1", "2"), ("m.py", ">= (3, 12)", ">= (3, 13)")],
    ),
    "conditional platform ext missing": Tree(
        {
            "m.py": """\
import platform
if platform.machine() == 'aarch64':
    import nowhere_lib as lib
else:
    import fallback as lib
class F:
    def predict(self, x): return lib.f()
""",
            "fallback.py": """\
def f(): return 1
""",
        },
        closure=["fallback.py", "m.py"],
    ),
    "try nested except local": Tree(
        {
            "m.py": """\
try:
    from fast_missing import f
except ImportError:
    try:
        from mid_missing import f
    except ImportError:
        from slow import f
class F:
    def predict(self, x): return f()
""",
            "slow.py": """\
def f(): return 1
""",
        },
        closure=["m.py", "slow.py"],
        different=[("slow.py", "1", "2")],
    ),
    "relative depth 3 ok": Tree(
        {
            "a/__init__.py": "",
            "a/b/__init__.py": "",
            "a/b/c/__init__.py": "",
            "a/b/c/m.py": """\
from ...side import s
from .. import near
from . import here
from ...b.near import N
class F:
    def predict(self, x): return s() + near.N + here.H + N
""",
            "a/side.py": """\
def s(): return 2
""",
            "a/b/near.py": """\
N = 3
""",
            "a/b/c/here.py": """\
H = 4
""",
        },
        target="a/b/c/m.py:F",
        closure=[
            "a/__init__.py",
            "a/b/__init__.py",
            "a/b/c/__init__.py",
            "a/b/c/here.py",
            "a/b/c/m.py",
            "a/b/near.py",
            "a/side.py",
        ],
        different=[("a/side.py", "2", "9"), ("a/b/near.py", "3", "9"), ("a/b/c/here.py", "4", "9")],
    ),
    "cycle": Tree(
        {
            "m.py": """\
import one
class F:
    def predict(self, x): return one.f(2)
""",
            "one.py": """\
import two
def f(n): return two.g(n) if n else K
K = 5
""",
            "two.py": """\
import one
def g(n): return one.f(n-1) + J
J = 6
""",
        },
        closure=["m.py", "one.py", "two.py"],
        different=[("one.py", "K = 5", "K = 7"), ("two.py", "J = 6", "J = 7")],
    ),
    "decorator with arguments from another module": Tree(
        {
            "m.py": """\
from deco import scale as sc
class F:
    @sc(by=2)
    def predict(self, x): return x
""",
            "deco.py": """\
import functools
FACTOR = 3
def scale(by):
    def wrap(f):
        @functools.wraps(f)
        def inner(self, x): return f(self, x) * by * FACTOR
        return inner
    return wrap
""",
        },
        different=[
            ("m.py", "by=2", "by=3"),
            ("deco.py", "FACTOR = 3", "FACTOR = 4"),
            ("deco.py", "* by", "+ by"),
            ("m.py", "return x", "return -x"),
        ],
    ),
    "metaclass from another module": Tree(
        {
            "m.py": """\
from meta import M
class F(metaclass=M):
    def predict(self, x): return self.tag
""",
            "meta.py": """\
TAG = 1
class M(type):
    def __new__(c, n, b, s):
        s['tag'] = TAG + len(s)
        return super().__new__(c, n, b, s)
""",
        },
        different=[
            ("meta.py", "TAG = 1", "TAG = 2"),
            ("meta.py", "+ len", "- len"),
            ("m.py", "    def predict", "    def other(self): pass\n    def predict"),
        ],
    ),
    "closure value factory": Tree(
        {
            "m.py": """\
from fac import make
inner = make(3)
class F:
    def predict(self, x): return inner(x)
""",
            "fac.py": """\
def make(k):
    def g(x): return x * k
    return g
""",
        },
        different=[("m.py", "make(3)", "make(4)"), ("fac.py", "x * k", "x + k")],
    ),
    "dataclass enum slots": Tree(
        {
            "m.py": """\
from kinds import P, E
class F:
    __slots__ = ('a', 'b')
    def predict(self, x): return P(x).y + E.A.value
""",
            "kinds.py": """\
from dataclasses import dataclass, field
from enum import IntEnum, auto
@dataclass(slots=True)
class P:
    x: int
    y: int = field(default=4)
class E(IntEnum):
    A = auto()
    B = auto()
""",
        },
        different=[
            ("kinds.py", "default=4", "default=5"),
            ("kinds.py", "    A = auto()\n    B = auto()", "    B = auto()\n    A = auto()"),
            ("kinds.py", "slots=True", "slots=False"),
            ("kinds.py", "x: int", "x: float"),
            ("m.py", "('a', 'b')", "('a',)"),
        ],
    ),
    "functools.partial constant": Tree(
        {
            "m.py": """\
from part import go
class F:
    def predict(self, x): return go(x)
""",
            "part.py": """\
import functools
def base(x, k): return x * k + off
off = 3
go = functools.partial(base, k=2)
""",
        },
        different=[("part.py", "k=2", "k=3"), ("part.py", "x * k", "x / k"), ("part.py", "off = 3", "off = 4")],
    ),
    "module __getattr__": Tree(
        {
            "m.py": """\
import lazy
class F:
    def predict(self, x): return lazy.thing
""",
            "lazy.py": """\
def __getattr__(name):
    if name == 'thing':
        from impl import T
        return T
    raise AttributeError(name)
""",
            "impl.py": """\
T = 3
""",
        },
        closure=["impl.py", "lazy.py", "m.py"],
        different=[("impl.py", "3", "4"), ("lazy.py", "'thing'", "'thing2'")],
    ),
    "module getattr via from import": Tree(
        {
            "m.py": """\
from lazy import thing
class F:
    def predict(self, x): return thing
""",
            "lazy.py": """\
def __getattr__(name):
    if name == 'thing':
        import impl
        return impl.T
    raise AttributeError(name)
""",
            "impl.py": """\
T = 3
""",
        },
        closure=["impl.py", "lazy.py", "m.py"],
        different=[("impl.py", "3", "4"), ("lazy.py", "impl.T", "-impl.T")],
    ),
    "lazy package getattr with import_module f-string": Tree(
        {
            "m.py": """\
import pk
class F:
    def predict(self, x): return pk.sub.V
""",
            "pk/__init__.py": """\
import importlib
def __getattr__(name):
    return importlib.import_module(f'.{name}', __name__)
""",
            "pk/sub.py": """\
V = 1
""",
        },
        refused=True,
    ),
    "conditional definitions": Tree(
        {
            "m.py": """\
import sys
if sys.byteorder == 'little':
    def conv(x): return x
else:
    def conv(x): return -x
class F:
    def predict(self, x): return conv(x)
""",
        },
        different=[
            ("m.py", "return x\nelse", "return +x\nelse"),
            ("m.py", "return -x", "return ~x"),
            ("m.py", "'little'", "'big'"),
        ],
    ),
    "helper renamed": Tree(
        {
            "m.py": """\
from h import a
class F:
    def predict(self, x): return a(x)
""",
            "h.py": """\
def a(x): return x
""",
        },
        different=[("h.py", "def a", "a = lambda x: x\ndef b")],
    ),
    "alias changed to other module": Tree(
        {
            "m.py": """\
import one as lib
class F:
    def predict(self, x): return lib.f(x)
""",
            "one.py": """\
def f(x): return x
""",
            "two.py": """\
def f(x): return x
""",
        },
        different=[("m.py", "import one", "import two")],
    ),
    "alias changed external": Tree(
        {
            "m.py": """\
import json as codec
class F:
    def predict(self, x): return codec.dumps(x)
""",
        },
        different=[("m.py", "import json", "import pickle")],
    ),
    "from alias changed external": Tree(
        {
            "m.py": """\
from math import sin as fn
class F:
    def predict(self, x): return fn(x)
""",
        },
        different=[("m.py", "import sin", "import cos")],
    ),
    "inside function alias external": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x):
        from math import sin as fn
        return fn(x)
""",
        },
        different=[("m.py", "import sin", "import cos")],
    ),
    "latin-1": Tree(
        {
            "m.py": b"# -*- coding: latin-1 -*-\nfrom h import U\nclass F:\n    def predict(self, x): return U\n",
            "h.py": b"# coding: latin-1\nU = '\xb5\xe9'\n",
        },
        same=[("h.py", b"# coding: latin-1\nU = '\xb5\xe9'\n", b"U = '\xc2\xb5\xc3\xa9'\n")],
        different=[("h.py", b"'\xb5\xe9'", b"'\xb5\xea'")],
    ),
    "BOM CRLF tabs": Tree(
        {
            "m.py": b"\xef\xbb\xbffrom h import U\r\nclass F:\r\n\tdef predict(self, x):\r\n\t\treturn '''a\r\nb''' + U\r\n",
            "h.py": b"U = 'x'\r\n",
        },
        same=[
            (
                "m.py",
                b"\xef\xbb\xbffrom h import U\r\nclass F:\r\n\tdef predict(self, x):\r\n\t\treturn '''a\r\nb''' + U\r\n",
                b"from h import U\nclass F:\n    def predict(self, x):\n        return '''a\nb''' + U\n",
            )
        ],
    ),
    "CR only": Tree(
        {
            "m.py": b"from h import U\rclass F:\r  def predict(self, x):\r    return U\r",
            "h.py": b"U = 'x'\n",
        },
        same=[("m.py", b"\r", b"\n")],
    ),
    "class body comprehension": Tree(
        {
            "m.py": """\
from h import N, scale
class F:
    size = 3
    table = [scale(i) for i in range(N)]
    pairs = {k: v for k, v in zip('ab', range(size))}
    def predict(self, x): return self.table, self.pairs
""",
            "h.py": """\
N = 4
def scale(i): return i * G
G = 2
""",
        },
        different=[("h.py", "N = 4", "N = 5"), ("h.py", "G = 2", "G = 3"), ("m.py", "size = 3", "size = 2")],
    ),
    "property setter elsewhere": Tree(
        {
            "m.py": """\
from h import clip
class F:
    def __init__(self): self._v = 0
    @property
    def v(self): return self._v
    @v.setter
    def v(self, new): self._v = clip(new)
    @v.deleter
    def v(self): self._v = None
    def predict(self, x):
        self.v = x
        return self.v
""",
            "h.py": """\
def clip(x): return min(x, TOP)
TOP = 10
""",
        },
        different=[("h.py", "TOP = 10", "TOP = 11"), ("m.py", "= None", "= 0"), ("m.py", "clip(new)", "clip(-new)")],
    ),
    "lambda default": Tree(
        {
            "m.py": """\
from h import K, fn
class F:
    def predict(self, x, f=lambda v, w=K: fn(v) + w): return f(x)
""",
            "h.py": """\
K = 2
def fn(v): return v
""",
        },
        different=[("h.py", "K = 2", "K = 3"), ("h.py", "return v", "return -v"), ("m.py", "+ w", "- w")],
    ),
    "match class pattern": Tree(
        {
            "m.py": """\
from h import Box, LIM
import h
class F:
    def predict(self, x):
        match x:
            case Box(v=h.SPEC): return 1
            case {'k': h.KEY, **rest}: return rest
            case [1, *more] | (2, *more): return more
            case int() as n if n > LIM: return n
            case _: return 0
""",
            "h.py": """\
class Box:
    __match_args__ = ('v',)
    def __init__(self, v): self.v = v
LIM = 3
SPEC = 1
KEY = 2
""",
        },
        different=[
            ("h.py", "LIM = 3", "LIM = 4"),
            ("h.py", "SPEC = 1", "SPEC = 2"),
            ("h.py", "KEY = 2", "KEY = 3"),
            ("h.py", "('v',)", "('w',)"),
            ("m.py", "[1, *more]", "[3, *more]"),
        ],
    ),
    "walrus in comprehension": Tree(
        {
            "m.py": """\
from h import g
class F:
    def predict(self, x): return [y for v in range(3) if (y := g(v))]
""",
            "h.py": """\
def g(v): return v + Q
Q = 1
""",
        },
        different=[("h.py", "Q = 1", "Q = 2")],
    ),
    "async": Tree(
        {
            "m.py": """\
from h import src
class F:
    async def predict(self, x):
        async for v in src(x):
            return [w async for w in src(v)]
""",
            "h.py": """\
async def src(x):
    yield x + Z
Z = 1
""",
        },
        different=[("h.py", "Z = 1", "Z = 2")],
    ),
    "type alias old": Tree(
        {
            "m.py": """\
from h import Vec
import typing
class F:
    def predict(self, x: 'Vec') -> Vec: return typing.get_type_hints(F.predict)
""",
            "h.py": """\
from typing import List
Vec = List[int]
""",
        },
        different=[("h.py", "List[int]", "List[float]")],
    ),
    "nested class": Tree(
        {
            "m.py": """\
from h import K
class F:
    class Inner:
        k = K
        def go(self): return self.k
    def predict(self, x): return F.Inner().go()
""",
            "h.py": """\
K = 3
""",
        },
        different=[("h.py", "3", "4"), ("m.py", "self.k", "-self.k")],
    ),
    "base chain across modules": Tree(
        {
            "m.py": """\
from b1 import B1
class F(B1):
    pass
""",
            "b1.py": """\
import b2
class B1(b2.B2):
    x = 1
""",
            "b2.py": """\
class Mix:
    z = 2
class B2(Mix):
    def predict(self, x): return self.z
""",
        },
        different=[("b2.py", "z = 2", "z = 3"), ("b1.py", "x = 1", "x = 2")],
    ),
    "global mutated through function": Tree(
        {
            "m.py": """\
from h import reg, TABLE
@reg('a')
def fa(x): return x
class F:
    def predict(self, x): return TABLE['a'](x)
""",
            "h.py": """\
TABLE = {}
def reg(n):
    def w(f):
        TABLE[n] = f
        return f
    return w
""",
        },
        different=[("m.py", "return x\nclass", "return -x\nclass")],
    ),
    "plugin registered by import only": Tree(
        {
            "m.py": """\
import plugins.one
from reg import TABLE
class F:
    def predict(self, x): return TABLE['one'](x)
""",
            "plugins/__init__.py": "",
            "plugins/one.py": """\
from reg import TABLE
def one(x): return x
TABLE['one'] = one
""",
            "reg.py": """\
TABLE = {}
""",
        },
        closure=["m.py", "plugins/__init__.py", "plugins/one.py", "reg.py"],
        different=[("plugins/one.py", "return x", "return -x")],
    ),
    "plugin registered via init_subclass": Tree(
        {
            "m.py": """\
import plug
from base import Base
class F:
    def predict(self, x): return [c().go(x) for c in Base.known]
""",
            "plug.py": """\
from base import Base
class P(Base):
    def go(self, x): return x
""",
            "base.py": """\
class Base:
    known = []
    def __init_subclass__(cls): Base.known.append(cls)
""",
        },
        different=[("plug.py", "return x", "return -x")],
    ),
    "dotted access through package attr": Tree(
        {
            "m.py": """\
import pk.sub.deep
class F:
    def predict(self, x): return pk.sub.deep.f(x) + pk.C
""",
            "pk/__init__.py": """\
C = 1
UNUSED = 2
""",
            "pk/sub/__init__.py": "",
            "pk/sub/deep.py": """\
def f(x): return x
""",
        },
        same=[("pk/__init__.py", "UNUSED = 2", "UNUSED = 3")],
        different=[("pk/__init__.py", "C = 1", "C = 2"), ("pk/sub/deep.py", "return x", "return -x")],
    ),
    "submodule shadowed by init function": Tree(
        {
            "m.py": """\
from pk import store
class F:
    def predict(self, x): return store(x)
""",
            "pk/__init__.py": """\
from .store import inner
def store(x): return inner(x) + 1
""",
            "pk/store.py": """\
def inner(x): return x
""",
        },
        different=[("pk/__init__.py", "+ 1", "+ 2"), ("pk/store.py", "return x", "return -x")],
    ),
    "same named modules at levels": Tree(
        {
            "m.py": """\
import util
from pk import util as u2
from pk.sub import util as u3
class F:
    def predict(self, x): return util.f() + u2.f() + u3.f()
""",
            "util.py": """\
def f(): return 1
""",
            "pk/__init__.py": "",
            "pk/util.py": """\
def f(): return 2
""",
            "pk/sub/__init__.py": "",
            "pk/sub/util.py": """\
from ..util import f as g
def f(): return g() + 3
""",
        },
        different=[("util.py", "1", "9"), ("pk/util.py", "2", "9"), ("pk/sub/util.py", "3", "9")],
    ),
    "f-string quoting": Tree(
        {
            "m.py": 'from h import K, D\nclass F:\n    def predict(self, x): return f"{K}" f\'{D["a"]}\' f"""{K!r:>{K}}""" rf"\\d{K}" F"{K=}" f"{x:%Y-%m}" if 0 else f"{K:{K}.{K}f}"\n',
            "h.py": """\
K = 3
D = {'a': 1}
""",
        },
        same=[("m.py", 'f"{K}"', "f'{K}'")],
        different=[
            ("h.py", "K = 3", "K = 4"),
            ("h.py", "'a': 1", "'a': 2"),
            ("m.py", "{K=}", "{K = }"),
            ("m.py", "{K!r", "{K!s"),
        ],
    ),
    "set frozenset literal": Tree(
        {
            "m.py": """\
class F:
    S = frozenset({'a', 'b', 'c'})
    def predict(self, x): return x in {'p', 'q'} or x in self.S
""",
        },
        different=[("m.py", "'q'", "'r'"), ("m.py", "'c'", "'d'")],
    ),
    "resource files data": Tree(
        {
            "pk/__init__.py": "",
            "pk/m.py": """\
from importlib import resources
class F:
    def predict(self, x): return resources.files(__package__).joinpath('d.txt').read_text()
""",
            "pk/d.txt": "hi",
        },
        target="pk/m.py:F",
        data=["pk/d.txt"],
        different=[("pk/d.txt", "hi", "ho")],
    ),
    "resource data in data package": Tree(
        {
            "m.py": """\
import importlib.resources as ir
import assets
class F:
    def predict(self, x): return ir.files('assets').joinpath('x.txt').read_text() + ir.read_text(assets, 'y.txt')
""",
            "assets/__init__.py": "",
            "assets/x.txt": "1",
            "assets/y.txt": "2",
        },
        data=["assets/x.txt", "assets/y.txt"],
    ),
    "resource in namespace dir": Tree(
        {
            "m.py": """\
from importlib.resources import files
class F:
    def predict(self, x): return (files('assets') / 'x.txt').read_text()
""",
            "assets/x.txt": "1",
        },
        data=["assets/x.txt"],
    ),
    "file open dirname join": Tree(
        {
            "m.py": """\
import os
HERE = os.path.dirname(os.path.abspath(__file__))
class F:
    PATH = os.path.join(HERE, 'd', 'x.json')
    def predict(self, x):
        with open(self.PATH) as f: return f.read()
""",
            "d/x.json": "{}",
        },
        data=["d/x.json"],
    ),
    "class attr path via type(self)": Tree(
        {
            "m.py": """\
from pathlib import Path
class F:
    HERE = Path(__file__).parent
    def predict(self, x): return (type(self).HERE / 'x.txt').read_text() + (F.HERE / 'y.txt').read_text()
""",
            "x.txt": "1",
            "y.txt": "2",
        },
        data=["x.txt", "y.txt"],
    ),
    "data loop over literal names": Tree(
        {
            "m.py": """\
from pathlib import Path
class F:
    def predict(self, x): return [ (Path(__file__).parent / n).read_text() for n in ('x.txt','y.txt')]
""",
            "x.txt": "1",
            "y.txt": "2",
        },
        refused=None,
    ),
    "helper loads by name param": Tree(
        {
            "m.py": """\
from h import load
class F:
    def predict(self, x): return load('x.txt')
""",
            "h.py": """\
from pathlib import Path
HERE = Path(__file__).parent
def load(name): return (HERE / name).read_text()
""",
            "x.txt": "1",
        },
        refused=None,
    ),
    "computed import in helper": Tree(
        {
            "m.py": """\
import h
class F:
    def predict(self, x): return h.get('a')
""",
            "h.py": """\
import importlib
def get(n): return importlib.import_module('mods.' + n)
""",
            "mods/__init__.py": "",
            "mods/a.py": "",
        },
        refused=True,
    ),
    "computed import declared": Tree(
        {
            "m.py": """\
import importlib
class F:
    imports = ['mods.a']
    def predict(self, x): return importlib.import_module('mods.' + 'a').V
""",
            "mods/__init__.py": "",
            "mods/a.py": """\
V = 1
""",
        },
        closure=["m.py", "mods/__init__.py", "mods/a.py"],
        different=[("mods/a.py", "1", "2")],
    ),
    "broken local": Tree(
        {
            "m.py": """\
import h
class F: pass
""",
            "h.py": """\
def (:
""",
        },
        refused=True,
    ),
    "null byte local": Tree(
        {
            "m.py": """\
import h
class F: pass
""",
            "h.py": b"x = 1\x00\n",
        },
        refused=True,
    ),
    "bad encoding": Tree(
        {
            "m.py": """\
import h
class F: pass
""",
            "h.py": b"x = '\xff'\n",
        },
        refused=True,
    ),
    "extension": Tree(
        {
            "m.py": """\
import fast
class F: pass
""",
            "fast.abi3.so": b"",
        },
        refused=True,
    ),
    "type checking else": Tree(
        {
            "m.py": """\
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from a import T
else:
    from b import T
class F:
    def predict(self, x): return T
""",
            "a.py": """\
T = 1
""",
            "b.py": """\
T = 2
""",
        },
        closure=["b.py", "m.py"],
        same=[("a.py", "1", "5")],
        different=[("b.py", "2", "3")],
    ),
    "type checking typing.TYPE_CHECKING alias": Tree(
        {
            "m.py": """\
import typing as t
if t.TYPE_CHECKING:
    from a import T
class F:
    def predict(self, x: 'T'): return 1
""",
            "a.py": """\
T = 1
""",
        },
        closure=["m.py"],
    ),
    "not TYPE_CHECKING": Tree(
        {
            "m.py": """\
from typing import TYPE_CHECKING
if not TYPE_CHECKING:
    from a import T
class F:
    def predict(self, x): return T
""",
            "a.py": """\
T = 1
""",
        },
        closure=["a.py", "m.py"],
    ),
    "TYPE_CHECKING and": Tree(
        {
            "m.py": """\
from typing import TYPE_CHECKING
if TYPE_CHECKING and True:
    from a import T
class F:
    def predict(self, x): return 1
""",
            "a.py": """\
T = 1
""",
        },
        closure=["m.py"],
    ),
    "import in class body and default": Tree(
        {
            "m.py": """\
class F:
    import h
    from h import K as kk
    def predict(self, x, a=__import__('h').K): return self.h.K + self.kk + a
""",
            "h.py": """\
K = 1
""",
        },
        closure=["h.py", "m.py"],
        different=[("h.py", "1", "2")],
    ),
    "exec computed": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x):
        exec('import h')
        return 1
""",
            "h.py": "",
        },
        refused=True,
    ),
    "importlib.util.find_spec conditional": Tree(
        {
            "m.py": """\
import importlib.util
if importlib.util.find_spec('h'):
    import h
class F:
    def predict(self, x): return h.K
""",
            "h.py": """\
K = 1
""",
        },
        closure=["h.py", "m.py"],
        different=[("h.py", "1", "2")],
    ),
    "contextlib suppress import": Tree(
        {
            "m.py": """\
import contextlib
with contextlib.suppress(ImportError):
    import nowhere_xyz
class F:
    def predict(self, x): return 1
""",
        },
    ),
    "decorated class": Tree(
        {
            "m.py": """\
from h import reg
@reg(3)
class F:
    def predict(self, x): return self.extra
""",
            "h.py": """\
def reg(n):
    def w(c):
        c.extra = n * M
        return c
    return w
M = 1
""",
        },
        different=[("h.py", "M = 1", "M = 2"), ("m.py", "reg(3)", "reg(4)")],
    ),
    "class made by call": Tree(
        {
            "m.py": """\
from h import make
F = make(2)
""",
            "h.py": """\
def make(k):
    class C:
        def predict(self, x): return x * k
    return C
""",
        },
        different=[("m.py", "2", "3"), ("h.py", "x * k", "x + k")],
    ),
    "class re-exported": Tree(
        {
            "pk/__init__.py": """\
from .impl import F
""",
            "pk/impl.py": """\
from .h import g
class F:
    def predict(self, x): return g(x)
""",
            "pk/h.py": """\
def g(x): return x
""",
        },
        target="pk:F",
        closure=["pk/__init__.py", "pk/h.py", "pk/impl.py"],
        different=[("pk/h.py", "return x", "return -x"), ("pk/impl.py", "g(x)", "-g(x)")],
    ),
    "attribute docs __doc__ format": Tree(
        {
            "m.py": """\
class F:
    'doc {0}'
    def predict(self, x): return type(self).__doc__.format(x)
""",
        },
        different=[("m.py", "doc {0}", "dok {0}")],
    ),
    "del and rebinding": Tree(
        {
            "m.py": """\
from h import a as f
del f
from h import b as f
class F:
    def predict(self, x): return f(x)
""",
            "h.py": """\
def a(x): return x
def b(x): return x*2
""",
        },
        different=[("h.py", "x*2", "x*3")],
    ),
    "augmented constant": Tree(
        {
            "m.py": """\
K = [1]
K += [2]
class F:
    def predict(self, x): return K
""",
        },
        different=[("m.py", "[2]", "[3]"), ("m.py", "[1]", "[9]")],
    ),
    "tuple unpack const": Tree(
        {
            "m.py": """\
from h import A
class F:
    def predict(self, x): return A
""",
            "h.py": """\
A, B = 1, 2
(C, *D) = [B, 4]
""",
        },
        different=[("h.py", "1, 2", "3, 2")],
    ),
    "for-loop const": Tree(
        {
            "m.py": """\
T = {}
for i in range(3):
    T[i] = i * 2
class F:
    def predict(self, x): return T
""",
        },
        different=[("m.py", "i * 2", "i * 3"), ("m.py", "range(3)", "range(4)")],
    ),
    "with const": Tree(
        {
            "m.py": """\
import io
with io.StringIO('a') as f:
    T = f.read()
class F:
    def predict(self, x): return T
""",
        },
        different=[("m.py", "'a'", "'b'")],
    ),
    "monkeypatch of local class in other module": Tree(
        {
            "m.py": """\
import patch
from base import B
class F(B):
    pass
""",
            "base.py": """\
class B:
    def predict(self, x): return x
""",
            "patch.py": """\
import base
def new(self, x): return x * 7
base.B.predict = new
""",
        },
        different=[("patch.py", "7", "8")],
    ),
    "super multi": Tree(
        {
            "m.py": """\
from b import B, C
class F(B, C):
    def predict(self, x): return super().predict(x)
""",
            "b.py": """\
class B:
    def predict(self, x): return super().predict(x) + 1
class C:
    def predict(self, x): return x
""",
        },
        different=[("m.py", "(B, C)", "(C, B)"), ("b.py", "+ 1", "+ 2"), ("b.py", "return x\n", "return -x\n")],
    ),
    "getattr on module dynamic": Tree(
        {
            "m.py": """\
import h
class F:
    def predict(self, x): return getattr(h, 'f_' + str(1))()
""",
            "h.py": """\
def f_1(): return 1
def f_2(): return 2
""",
        },
        different=[("h.py", "return 1", "return 9"), ("h.py", "return 2", "return 9")],
    ),
    "getattr on imported-from pkg": Tree(
        {
            "m.py": """\
from pk import h
class F:
    def predict(self, x): return getattr(h, 'f_1')()
""",
            "pk/__init__.py": "",
            "pk/h.py": """\
def f_1(): return 1
""",
        },
        different=[("pk/h.py", "return 1", "return 9")],
    ),
    "module passed as value": Tree(
        {
            "m.py": """\
import h
LIBS = [h]
class F:
    def predict(self, x): return LIBS[0].f()
""",
            "h.py": """\
def f(): return 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "operator attrgetter of module": Tree(
        {
            "m.py": """\
import pk.h, operator
import pk
class F:
    def predict(self, x): return operator.attrgetter('h.f')(pk)()
""",
            "pk/__init__.py": "",
            "pk/h.py": """\
def f(): return 1
""",
        },
        different=[("pk/h.py", "1", "2")],
    ),
    "string in globals()": Tree(
        {
            "m.py": """\
def f1(): return 1
class F:
    def predict(self, x): return globals()['f' + '1']()
""",
        },
        different=[("m.py", "return 1", "return 2")],
    ),
    "typing NamedTuple & Protocol": Tree(
        {
            "m.py": """\
from typing import NamedTuple, Protocol
class R(NamedTuple):
    a: int = 1
    b: int = 2
class Pr(Protocol):
    x: int
class F:
    def predict(self, x): return R()
""",
        },
        different=[("m.py", "    a: int = 1\n    b: int = 2", "    b: int = 2\n    a: int = 1")],
    ),
    "annotations runtime via own meta lib": Tree(
        {
            "m.py": """\
from h import wire
class F:
    a: int = 1
    def predict(self, x): return wire(self)
""",
            "h.py": """\
def wire(o): return o.__annotations__
""",
        },
        different=[("m.py", "a: int", "a: float")],
    ),
    "pep604 generics PEP695 absent": Tree(
        {
            "m.py": """\
from __future__ import annotations
class F:
    def predict(self, x: int | None = None) -> list[int]: return x
""",
        },
        different=[("m.py", "int | None", "str | None")],
    ),
    "except star and groups": Tree(
        {
            "m.py": """\
from h import E1
class F:
    def predict(self, x):
        try:
            raise ExceptionGroup('g', [E1()])
        except* E1 as eg:
            return K
K = 1
""",
            "h.py": """\
class E1(Exception): pass
""",
        },
        same=[("h.py", "pass", "'''d'''")],
        different=[("m.py", "K = 1", "K = 2"), ("h.py", "(Exception)", "(ValueError)")],
    ),
    "nonlocal closures": Tree(
        {
            "m.py": """\
from h import step
class F:
    def predict(self, x):
        n = 0
        def inc():
            nonlocal n
            n += step
            return n
        return inc()
""",
            "h.py": """\
step = 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "class var used in nested fn shadow": Tree(
        {
            "m.py": """\
from h import limit
class F:
    limit = 5
    def predict(self, x): return limit
""",
            "h.py": """\
limit = 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "parameter shadows global": Tree(
        {
            "m.py": """\
from h import limit
class F:
    def predict(self, limit): return limit
""",
            "h.py": """\
limit = 1
""",
        },
        same=[("h.py", "1", "2")],
    ),
    "comprehension var shadows in first iter": Tree(
        {
            "m.py": """\
from h import v
class F:
    def predict(self, x): return [v for v in v]
""",
            "h.py": """\
v = [1]
""",
        },
        different=[("h.py", "[1]", "[2]")],
    ),
    "except name shadows": Tree(
        {
            "m.py": """\
from h import e
class F:
    def predict(self, x):
        try:
            return x
        except ValueError as e:
            return e
""",
            "h.py": """\
e = 1
""",
        },
    ),
    "string annotation names helper": Tree(
        {
            "m.py": """\
import typing
from h import T
class F:
    def predict(self, x: 'T'): return typing.get_type_hints(self.predict)
""",
            "h.py": """\
T = int
""",
        },
        different=[("h.py", "int", "float")],
    ),
    "keyword only lambda in dict const": Tree(
        {
            "m.py": """\
from h import OPS
class F:
    def predict(self, x): return OPS['a'](x)
""",
            "h.py": """\
def g(x): return x
OPS = {'a': lambda x, *, k=2: g(x) * k}
""",
        },
        different=[("h.py", "k=2", "k=3"), ("h.py", "return x", "return -x")],
    ),
    "singledispatch": Tree(
        {
            "m.py": """\
from h import show
class F:
    def predict(self, x): return show(x)
""",
            "h.py": """\
from functools import singledispatch
@singledispatch
def show(x): return 0
@show.register
def _(x: int): return 1
@show.register(str)
def _(x): return 2
""",
        },
        different=[("h.py", "return 1", "return 9"), ("h.py", "return 2", "return 9"), ("h.py", "x: int", "x: float")],
    ),
    "singledispatch in other module": Tree(
        {
            "m.py": """\
from h import show
import ext
class F:
    def predict(self, x): return show(x)
""",
            "h.py": """\
from functools import singledispatch
@singledispatch
def show(x): return 0
""",
            "ext.py": """\
from h import show
@show.register
def _i(x: int): return 1
""",
        },
        different=[("ext.py", "return 1", "return 9")],
    ),
    "atexit / logging effect": Tree(
        {
            "m.py": """\
import logging
logging.getLogger('x').setLevel(10)
class F:
    def predict(self, x): return 1
""",
        },
        different=[("m.py", "(10)", "(20)")],
    ),
    "np.random.seed effect in helper": Tree(
        {
            "m.py": """\
import h
class F:
    def predict(self, x): return 1
""",
            "h.py": """\
import random
random.seed(3)
""",
        },
        different=[("h.py", "3", "4")],
    ),
    "stdlib name local submodule": Tree(
        {
            "pk/__init__.py": "",
            "pk/json.py": """\
def dumps(x): return 'mine'
""",
            "pk/m.py": """\
from . import json
from .json import dumps
class F:
    def predict(self, x): return json.dumps(x)
""",
        },
        target="pk/m.py:F",
        closure=["pk/__init__.py", "pk/json.py", "pk/m.py"],
        different=[("pk/json.py", "mine", "your")],
    ),
    "local same as installed regular": Tree(
        {
            "m.py": """\
import click
class F:
    def predict(self, x): return click.K
""",
            "click/__init__.py": """\
K = 1
""",
        },
        closure=["click/__init__.py", "m.py"],
        requires=[],
    ),
    "pathlib read in module level constant in helper pkg": Tree(
        {
            "m.py": """\
from cfg.load import CFG
class F:
    def predict(self, x): return CFG
""",
            "cfg/__init__.py": "",
            "cfg/load.py": """\
import json
from pathlib import Path
CFG = json.loads((Path(__file__).resolve().parent / 'data' / 'c.json').read_text())
""",
            "cfg/data/c.json": '{"a": 1}',
        },
        data=["cfg/data/c.json"],
        different=[("cfg/data/c.json", "1", "2")],
    ),
    "np.load dirname f-string": Tree(
        {
            "m.py": """\
import os
class F:
    def predict(self, x): return open(f'{os.path.dirname(__file__)}/w.bin','rb').read()
""",
            "w.bin": b"\x00",
        },
        data=["w.bin"],
    ),
    "pkgutil get_data": Tree(
        {
            "pk/__init__.py": "",
            "pk/m.py": """\
import pkgutil
class F:
    def predict(self, x): return pkgutil.get_data(__name__, 'x.txt')
""",
            "pk/x.txt": "1",
        },
        target="pk/m.py:F",
        data=["pk/x.txt"],
    ),
    "declared data": Tree(
        {
            "m.py": """\
from pathlib import Path
class F:
    data = ['d/*.txt', 'one.bin']
    def predict(self, x): return [(Path(__file__).parent / 'd' / n).read_text() for n in x]
""",
            "d/a.txt": "1",
            "d/b.txt": "2",
            "one.bin": "3",
        },
        data=["d/a.txt", "d/b.txt", "one.bin"],
        different=[("d/a.txt", "1", "2"), ("one.bin", "3", "4")],
    ),
    "positional only & star defaults": Tree(
        {
            "m.py": """\
from h import K
class F:
    def predict(self, x, /, *a, k=K, **kw): return k
""",
            "h.py": """\
K = 1
""",
        },
        different=[("h.py", "1", "2"), ("m.py", "x, /, *a", "x, *a")],
    ),
    "big int / nan const": Tree(
        {
            "m.py": """\
class F:
    a = 10**50
    b = float('nan')
    c = 1e309
    d = -0.0
    def predict(self, x): return self.d
""",
        },
        different=[("m.py", "-0.0", "0.0")],
    ),
    "unicode ident normalization": Tree(
        {
            "m.py": "from h import ﬁle\nclass F:\n    def predict(self, x): return file\n",
            "h.py": """\
file = 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "import as package attr set in init": Tree(
        {
            "m.py": """\
import pk
class F:
    def predict(self, x): return pk.api.go(x)
""",
            "pk/__init__.py": """\
from . import impl as api
""",
            "pk/impl.py": """\
def go(x): return x
""",
        },
        closure=["m.py", "pk/__init__.py", "pk/impl.py"],
        different=[("pk/impl.py", "return x", "return -x")],
    ),
    "sibling submodule reached through package": Tree(
        {
            "m.py": """\
import pk.a
class F:
    def predict(self, x): return pk.b.f(x)
""",
            "pk/__init__.py": "",
            "pk/a.py": """\
import pk.b
""",
            "pk/b.py": """\
def f(x): return x
""",
        },
        different=[("pk/b.py", "return x", "return -x")],
    ),
    "enum with methods & functional api": Tree(
        {
            "m.py": """\
from enum import Enum
C = Enum('C', 'R G B')
class F:
    def predict(self, x): return C.R.value
""",
        },
        different=[("m.py", "R G B", "G R B")],
    ),
    "namedtuple functional": Tree(
        {
            "m.py": """\
from collections import namedtuple
P = namedtuple('P', 'x y', defaults=[1])
class F:
    def predict(self, x): return P(1)
""",
        },
        different=[("m.py", "x y", "y x"), ("m.py", "[1]", "[2]")],
    ),
    "type() made base": Tree(
        {
            "m.py": """\
Base = type('Base', (), {'predict': lambda self, x: x})
class F(Base): pass
""",
        },
        different=[("m.py", "x: x", "x: -x")],
    ),
    "descriptor": Tree(
        {
            "m.py": """\
from h import D
class F:
    v = D(3)
    def predict(self, x): return self.v
""",
            "h.py": """\
class D:
    def __init__(self, n): self.n = n
    def __set_name__(self, o, name): self.name = name
    def __get__(self, o, t): return self.n * M
M = 2
""",
        },
        different=[("h.py", "M = 2", "M = 3"), ("m.py", "D(3)", "D(4)")],
    ),
    "unused sibling class": Tree(
        {
            "m.py": """\
class G:
    k = 1
class F:
    def predict(self, x): return x
""",
        },
        same=[("m.py", "k = 1", "k = 2")],
    ),
    "unused sibling w/ decorator effect": Tree(
        {
            "m.py": """\
from h import reg
@reg
class G:
    k = 1
class F:
    def predict(self, x): return x
""",
            "h.py": """\
SEEN = []
def reg(c):
    SEEN.append(c)
    return c
""",
        },
        different=[("m.py", "k = 1", "k = 2")],
    ),
    "cached property lru": Tree(
        {
            "m.py": """\
import functools
class F:
    @functools.cached_property
    def t(self): return h(2)
    @functools.lru_cache(maxsize=3)
    def predict(self, x): return self.t
def h(x): return x
""",
        },
        different=[
            ("m.py", "def h(x): return x", "def h(x): return -x"),
            ("m.py", "maxsize=3", "maxsize=4"),
            ("m.py", "h(2)", "h(3)"),
        ],
    ),
    "starred dict const merges": Tree(
        {
            "m.py": """\
from h import A
B = {**A, 'z': 1}
class F:
    def predict(self, x): return B
""",
            "h.py": """\
A = {'y': 2}
""",
        },
        different=[("h.py", "2", "3")],
    ),
    "chained assign": Tree(
        {
            "m.py": """\
a = b = [1]
class F:
    def predict(self, x):
        b.append(1)
        return a
""",
        },
        different=[("m.py", "[1]", "[2]")],
    ),
    "assert & debug": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x):
        assert x > 0, 'neg'
        return __debug__
""",
        },
        different=[("m.py", "x > 0", "x > 1")],
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_closure_and_fingerprint_of_a_tree(name: str, tmp_path: Path) -> None:
    check(TREES[name], tmp_path)
