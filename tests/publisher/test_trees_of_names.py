"""Trees in which names are bound, rebound, patched and looked up in every way that Python has."""

# ruff: noqa: E501 - the tables hold sources and edits
from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulators.trees import Tree, check

TREES = {
    "class keyword from constant": Tree(
        {
            "m.py": """\
from h import Base, K
class F(Base, tag=K):
    pass
""",
            "h.py": """\
K = 1
class Base:
    def __init_subclass__(cls, tag): cls.tag = tag
    def predict(self, x): return self.tag
""",
        },
        different=[("h.py", "K = 1", "K = 2"), ("h.py", "= tag\n", "= -tag\n")],
    ),
    "star override order": Tree(
        {
            "m.py": """\
from a import *
from b import *
class F:
    def predict(self, x): return f()
""",
            "a.py": """\
def f(): return 1
""",
            "b.py": """\
def f(): return 2
""",
        },
        different=[
            ("m.py", "from a import *\nfrom b import *", "from b import *\nfrom a import *"),
            ("b.py", "2", "3"),
        ],
    ),
    "star external and local": Tree(
        {
            "m.py": """\
from math import *
from b import *
class F:
    def predict(self, x): return sin(x)
""",
            "b.py": """\
def sin(x): return 2
""",
        },
        different=[
            ("b.py", "2", "3"),
            ("m.py", "from math import *\nfrom b import *", "from b import *\nfrom math import *"),
        ],
    ),
    "def in class-level if": Tree(
        {
            "m.py": """\
import sys
from h import K
class F:
    if K > 1:
        def predict(self, x): return 1
    else:
        def predict(self, x): return 2
""",
            "h.py": """\
K = 1
""",
        },
        different=[("h.py", "1", "2"), ("m.py", "return 2", "return 3")],
    ),
    "base from registry": Tree(
        {
            "m.py": """\
from h import REG
class F(REG['a']): pass
""",
            "h.py": """\
REG = {}
class A:
    def predict(self, x): return 1
REG['a'] = A
""",
        },
        different=[("h.py", "return 1", "return 2")],
    ),
    "base by call": Tree(
        {
            "m.py": """\
from h import base
class F(base(3)): pass
""",
            "h.py": """\
def base(n):
    class B:
        def predict(self, x): return n
    return B
""",
        },
        different=[("m.py", "3", "4"), ("h.py", "return n", "return -n")],
    ),
    "decorator bound method": Tree(
        {
            "m.py": """\
from h import app
class F:
    @app.wrap
    def predict(self, x): return x
""",
            "h.py": """\
class App:
    def __init__(self, k): self.k = k
    def wrap(self, f):
        return lambda s, x: f(s, x) * self.k
app = App(2)
""",
        },
        different=[("h.py", "App(2)", "App(3)"), ("h.py", "* self.k", "+ self.k")],
    ),
    "helper doc read elsewhere": Tree(
        {
            "m.py": """\
import h
class F:
    def predict(self, x): return h.f.__doc__
""",
            "h.py": """\
def f():
    'one'
""",
        },
        different=[("h.py", "one", "two")],
    ),
    "class doc via inspect": Tree(
        {
            "m.py": """\
import inspect
class F:
    'one'
    def predict(self, x): return inspect.getdoc(self)
""",
        },
        different=[("m.py", "one", "two")],
    ),
    "self-referential constant": Tree(
        {
            "m.py": """\
from h import X
class F:
    def predict(self, x): return X
""",
            "h.py": """\
A = 1
X = A if A > 0 else -A
X = X + 1
""",
        },
        different=[("h.py", "A = 1", "A = 2"), ("h.py", "X + 1", "X + 2")],
    ),
    "function-local relative import": Tree(
        {
            "m.py": """\
from pk.f import F
""",
            "pk/__init__.py": "",
            "pk/f.py": """\
class F:
    def predict(self, x):
        from .sub import one as o
        from . import sub as s
        return o() + s.two()
""",
            "pk/sub.py": """\
def one(): return 1
def two(): return 2
def three(): return 3
""",
        },
        target="pk/f.py:F",
        different=[("pk/sub.py", "return 1", "return 9"), ("pk/sub.py", "return 2", "return 9")],
    ),
    "try else finally top": Tree(
        {
            "m.py": """\
try:
    A = int('1')
except ValueError:
    A = 2
else:
    B = A + 1
finally:
    C = 5
class F:
    def predict(self, x): return B + C
""",
        },
        different=[("m.py", "A + 1", "A + 2"), ("m.py", "C = 5", "C = 6"), ("m.py", "A = 2", "A = 3")],
    ),
    "class attr lambda": Tree(
        {
            "m.py": """\
from h import K
class F:
    f = staticmethod(lambda x: x * K)
    def predict(self, x): return self.f(x)
""",
            "h.py": """\
K = 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "literal spellings": Tree(
        {
            "m.py": "class F:\n    a = 0x10\n    b = 1_000\n    c = '\\x41'\n    d = 0.10\n    e = (1)\n    g = [1, 2,]\n    def predict(self, x): return self.a; \n",
        },
        same=[
            ("m.py", "0x10", "16"),
            ("m.py", "1_000", "1000"),
            ("m.py", "'\\x41'", "'A'"),
            ("m.py", "0.10", "0.1"),
            ("m.py", "[1, 2,]", "[\n    1,\n    2]"),
            ("m.py", "(1)", "1"),
        ],
        different=[("m.py", "0x10", "16.0"), ("m.py", "'\\x41'", "b'A'"), ("m.py", "[1, 2,]", "(1, 2,)")],
    ),
    "line continuation": Tree(
        {
            "m.py": "def g(a,\n      b): return a + \\\n    b\nclass F:\n    def predict(self, x): return g(x, 1)\n",
        },
        same=[("m.py", "a + \\\n    b", "a + b"), ("m.py", "a,\n      b", "a, b")],
    ),
    "vars(module)": Tree(
        {
            "m.py": """\
import h
class F:
    def predict(self, x): return vars(h)['f']()
""",
            "h.py": """\
def f(): return 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "module dict": Tree(
        {
            "m.py": """\
import h
class F:
    def predict(self, x): return h.__dict__['f']()
""",
            "h.py": """\
def f(): return 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "sys.modules": Tree(
        {
            "m.py": """\
import h, sys
class F:
    def predict(self, x): return sys.modules['h'].f()
""",
            "h.py": """\
def f(): return 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "import_module literal attr": Tree(
        {
            "m.py": """\
import importlib
class F:
    def predict(self, x): return importlib.import_module('h').f()
""",
            "h.py": """\
def f(): return 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "dunder import literal": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x): return __import__('h').f()
""",
            "h.py": """\
def f(): return 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "eval literal": Tree(
        {
            "m.py": """\
def helper(x): return x
class F:
    def predict(self, x): return eval('helper(1)')
""",
        },
        different=[("m.py", "return x\nclass", "return -x\nclass")],
    ),
    "eval imported helper": Tree(
        {
            "m.py": """\
from h import helper
class F:
    def predict(self, x): return eval('helper(1)')
""",
            "h.py": """\
def helper(x): return x
""",
        },
        different=[("h.py", "return x", "return -x")],
    ),
    "locals lookup": Tree(
        {
            "m.py": """\
def helper(x): return x
class F:
    def predict(self, x):
        h = helper
        return locals()['h'](x)
""",
        },
        different=[("m.py", "return x\nclass", "return -x\nclass")],
    ),
    "class getitem": Tree(
        {
            "m.py": """\
from h import K
class F:
    def __class_getitem__(cls, i): return K[i]
    def predict(self, x): return F[0]
""",
            "h.py": """\
K = [1]
""",
        },
        different=[("h.py", "[1]", "[2]")],
    ),
    "class __getattr__": Tree(
        {
            "m.py": """\
import h
class F:
    def __getattr__(self, n): return getattr(h, n)
    def predict(self, x): return self.k
""",
            "h.py": """\
k = 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "typed dict total": Tree(
        {
            "m.py": """\
from typing import TypedDict
class T(TypedDict, total=False):
    a: int
class F:
    def predict(self, x): return T.__annotations__
""",
        },
        different=[("m.py", "total=False", "total=True"), ("m.py", "a: int", "a: str")],
    ),
    "generic base param": Tree(
        {
            "m.py": """\
from typing import Generic, TypeVar
T = TypeVar('T')
class B(Generic[T]):
    def predict(self, x): return self.__orig_bases__
class F(B[int]): pass
""",
        },
        different=[("m.py", "B[int]", "B[str]")],
    ),
    "abc register": Tree(
        {
            "m.py": """\
from h import Base
import abc
class X: pass
Base.register(X)
class F:
    def predict(self, x): return isinstance(X(), Base)
""",
            "h.py": """\
import abc
class Base(abc.ABC): pass
""",
        },
        different=[("m.py", "Base.register(X)\n", "")],
    ),
    "context manager helper": Tree(
        {
            "m.py": """\
from h import cm
class F:
    def predict(self, x):
        with cm(x) as v: return v
""",
            "h.py": """\
import contextlib
@contextlib.contextmanager
def cm(x):
    yield x + K
K = 1
""",
        },
        different=[("h.py", "K = 1", "K = 2"), ("h.py", "x + K", "x - K")],
    ),
    "generator expression helper": Tree(
        {
            "m.py": """\
from h import g
class F:
    def predict(self, x): return sum(g(i) for i in range(3) if g(i))
""",
            "h.py": """\
def g(i): return i
""",
        },
        different=[("h.py", "return i", "return -i")],
    ),
    "nested comprehension scopes": Tree(
        {
            "m.py": """\
from h import g, n
class F:
    def predict(self, x): return [[g(i) for i in range(n)] for n in range(n)]
""",
            "h.py": """\
def g(i): return i
n = 2
""",
        },
        different=[("h.py", "n = 2", "n = 3"), ("h.py", "return i", "return -i")],
    ),
    "class scope not visible in method": Tree(
        {
            "m.py": """\
from h import k
class F:
    k = 5
    v = k
    def predict(self, x): return k + self.v
""",
            "h.py": """\
k = 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "global assigned in function": Tree(
        {
            "m.py": """\
N = 0
def bump():
    global N
    N += 2
bump()
class F:
    def predict(self, x): return N
""",
        },
        different=[("m.py", "N += 2", "N += 3"), ("m.py", "N = 0", "N = 1")],
    ),
    "global created in function": Tree(
        {
            "m.py": """\
def init():
    global TAB
    TAB = [1]
init()
class F:
    def predict(self, x): return TAB
""",
        },
        different=[("m.py", "[1]", "[2]")],
    ),
    "global set lazily in other function": Tree(
        {
            "m.py": """\
_c = None
def get():
    global _c
    if _c is None: _c = make()
    return _c
def make(): return 3
class F:
    def predict(self, x): return get()
""",
        },
        different=[("m.py", "return 3", "return 4")],
    ),
    "lazy global set elsewhere": Tree(
        {
            "m.py": """\
_c = None
def setup():
    global _c
    _c = make()
def make(): return 3
class F:
    def __init__(self): setup()
    def predict(self, x): return _c
""",
        },
        different=[("m.py", "return 3", "return 4")],
    ),
    "module attr set from other module": Tree(
        {
            "m.py": """\
import h
h.K = 5
class F:
    def predict(self, x): return h.f()
""",
            "h.py": """\
K = 1
def f(): return K
""",
        },
        different=[("m.py", "h.K = 5", "h.K = 6"), ("h.py", "return K", "return -K")],
    ),
    "module attr set in function": Tree(
        {
            "m.py": """\
import h
class F:
    def __init__(self): h.K = 5
    def predict(self, x): return h.f()
""",
            "h.py": """\
K = 1
def f(): return K
""",
        },
        different=[("m.py", "h.K = 5", "h.K = 6"), ("h.py", "return K", "return -K")],
    ),
    "setattr module": Tree(
        {
            "m.py": """\
import h
setattr(h, 'K', 5)
class F:
    def predict(self, x): return h.f()
""",
            "h.py": """\
K = 1
def f(): return K
""",
        },
        different=[("m.py", "5", "6")],
    ),
    "imported module monkeypatched by third": Tree(
        {
            "m.py": """\
import h, p
class F:
    def predict(self, x): return h.f()
""",
            "h.py": """\
def f(): return 1
""",
            "p.py": """\
import h
def better(): return 7
h.f = better
""",
        },
        different=[("p.py", "7", "8")],
    ),
    "patch via function call": Tree(
        {
            "m.py": """\
import h, p
p.apply()
class F:
    def predict(self, x): return h.f()
""",
            "h.py": """\
def f(): return 1
""",
            "p.py": """\
import h
def apply():
    h.f = lambda: 7
""",
        },
        different=[("p.py", "7", "8")],
    ),
    "function attribute": Tree(
        {
            "m.py": """\
def g(): return g.k
g.k = 3
class F:
    def predict(self, x): return g()
""",
        },
        different=[("m.py", "g.k = 3", "g.k = 4")],
    ),
    "function attribute in other module": Tree(
        {
            "m.py": """\
from h import g
class F:
    def predict(self, x): return g()
""",
            "h.py": """\
def g(): return g.k
g.k = 3
""",
        },
        different=[("h.py", "g.k = 3", "g.k = 4")],
    ),
    "class attribute set after in other module": Tree(
        {
            "m.py": """\
from h import C
class F:
    def predict(self, x): return C.k
""",
            "h.py": """\
class C: pass
C.k = 3
""",
        },
        different=[("h.py", "C.k = 3", "C.k = 4")],
    ),
    "del attr": Tree(
        {
            "m.py": """\
from h import C
class F:
    def predict(self, x): return hasattr(C, 'k')
""",
            "h.py": """\
class C:
    k = 1
del C.k
""",
        },
        different=[("h.py", "del C.k\n", "")],
    ),
    "assert at module level": Tree(
        {
            "m.py": """\
from h import K
assert K == 1
class F:
    def predict(self, x): return 1
""",
            "h.py": """\
K = 1
""",
        },
        different=[("h.py", "K = 1", "K = 2")],
    ),
    "reexport chain alias": Tree(
        {
            "m.py": """\
from a import z
class F:
    def predict(self, x): return z()
""",
            "a.py": """\
from b import y as z
""",
            "b.py": """\
from c import x as y, w
""",
            "c.py": """\
def x(): return 1
def w(): return 2
""",
        },
        same=[("c.py", "return 2", "return 9")],
        different=[("c.py", "return 1", "return 9"), ("b.py", "x as y, w", "w as y, x")],
    ),
    "reexport through package and submodule of same name": Tree(
        {
            "m.py": """\
from pk.thing import thing
class F:
    def predict(self, x): return thing()
""",
            "pk/__init__.py": """\
from .thing import thing
""",
            "pk/thing.py": """\
def thing(): return 1
""",
        },
        different=[("pk/thing.py", "1", "2")],
    ),
    "package attribute is function not submodule": Tree(
        {
            "m.py": """\
import pk.thing
class F:
    def predict(self, x): return pk.thing()
""",
            "pk/__init__.py": "",
            "pk/thing.py": """\
def go(): return 1
""",
            "pk/zz.py": "",
        },
    ),
    "import pk then from inside init overwrites submodule": Tree(
        {
            "m.py": """\
import pk
class F:
    def predict(self, x): return pk.thing()
""",
            "pk/__init__.py": """\
from .thing import thing
""",
            "pk/thing.py": """\
def thing(): return 1
""",
        },
        different=[("pk/thing.py", "1", "2")],
    ),
    "enum auto via mixin": Tree(
        {
            "m.py": """\
from h import Color
class F:
    def predict(self, x): return Color.A.label
""",
            "h.py": """\
import enum
class Lab:
    @property
    def label(self): return self.name + SUF
SUF = '!'
class Color(Lab, enum.Enum):
    A = 1
""",
        },
        different=[("h.py", "'!'", "'?'")],
    ),
    "dataclass default_factory local": Tree(
        {
            "m.py": """\
from h import P
class F:
    def predict(self, x): return P().v
""",
            "h.py": """\
import dataclasses as dc
def mk(): return [1]
@dc.dataclass
class P:
    v: list = dc.field(default_factory=mk)
""",
        },
        different=[("h.py", "[1]", "[2]")],
    ),
    "dataclass method order same": Tree(
        {
            "m.py": """\
from h import P
class F:
    def predict(self, x): return P().a()
""",
            "h.py": """\
class P:
    def a(self): return 1
    def b(self): return 2
""",
        },
        same=[
            (
                "h.py",
                "    def a(self): return 1\n    def b(self): return 2",
                "    def b(self): return 2\n    def a(self): return 1",
            )
        ],
    ),
    "import hooks meta path": Tree(
        {
            "m.py": """\
import sys
from h import Finder
sys.meta_path.append(Finder())
class F:
    def predict(self, x): return 1
""",
            "h.py": """\
class Finder:
    def find_spec(self, *a): return None
""",
        },
        different=[("h.py", "return None", "return 0")],
    ),
    "conditional redefinition later": Tree(
        {
            "m.py": """\
def f(): return 1
if True:
    def f(): return 2
class F:
    def predict(self, x): return f()
""",
        },
        different=[("m.py", "return 2", "return 3")],
    ),
    "while loop const": Tree(
        {
            "m.py": """\
n = 1
while n < 10:
    n *= 2
class F:
    def predict(self, x): return n
""",
        },
        different=[("m.py", "n *= 2", "n *= 3"), ("m.py", "n < 10", "n < 20")],
    ),
    "walrus at module level": Tree(
        {
            "m.py": """\
if (K := 3) > 2:
    pass
class F:
    def predict(self, x): return K
""",
        },
        different=[("m.py", "K := 3", "K := 4")],
    ),
    "match at module level": Tree(
        {
            "m.py": """\
import sys
match 1:
    case 1:
        K = 3
    case _:
        K = 4
class F:
    def predict(self, x): return K
""",
        },
        different=[("m.py", "K = 3", "K = 5")],
    ),
    "with suppress import": Tree(
        {
            "m.py": """\
import contextlib
f = None
with contextlib.suppress(ImportError):
    from h import f
class F:
    def predict(self, x): return f()
""",
            "h.py": """\
def f(): return 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "import in loop": Tree(
        {
            "m.py": """\
for n in (1,):
    from h import f
class F:
    def predict(self, x): return f()
""",
            "h.py": """\
def f(): return 1
""",
        },
        different=[("h.py", "1", "2")],
    ),
    "submodule attr after from pkg import": Tree(
        {
            "m.py": """\
from pk import sub
class F:
    def predict(self, x): return sub.deep.f()
""",
            "pk/__init__.py": "",
            "pk/sub/__init__.py": """\
from . import deep
""",
            "pk/sub/deep.py": """\
def f(): return 1
def g(): return 2
""",
        },
        same=[("pk/sub/deep.py", "return 2", "return 9")],
        different=[("pk/sub/deep.py", "return 1", "return 9")],
    ),
    "instance of helper class made at module level": Tree(
        {
            "m.py": """\
from h import EST
class F:
    def predict(self, x): return EST.run(x)
""",
            "h.py": """\
class Est:
    def __init__(self, k): self.k = k
    def run(self, x): return self._go(x)
    def _go(self, x): return x * self.k
EST = Est(k=3)
""",
        },
        different=[("h.py", "k=3", "k=4"), ("h.py", "x * self.k", "x + self.k")],
    ),
    "tuple of functions": Tree(
        {
            "m.py": """\
from h import OPS
class F:
    def predict(self, x): return [o(x) for o in OPS]
""",
            "h.py": """\
def a(x): return x
def b(x): return -x
OPS = (a, b)
""",
        },
        different=[("h.py", "(a, b)", "(b, a)"), ("h.py", "return -x", "return +x")],
    ),
    "comparison of order in dict": Tree(
        {
            "m.py": """\
class F:
    D = {'a': 1, 'b': 2}
    def predict(self, x): return list(self.D)
""",
        },
        different=[("m.py", "'a': 1, 'b': 2", "'b': 2, 'a': 1")],
    ),
    "string prefix r": Tree(
        {
            "m.py": "class F:\n    A = r'\\d'\n    def predict(self, x): return self.A\n",
        },
        same=[("m.py", "r'\\d'", "'\\\\d'")],
    ),
    "fstring vs concat": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x): return f'{x}a' 'b'
""",
        },
        same=[("m.py", "f'{x}a' 'b'", "f'{x}ab'")],
        different=[("m.py", "f'{x}a'", "f'{x!s}a'")],
    ),
    "future annotations removed": Tree(
        {
            "m.py": """\
from __future__ import annotations
class F:
    a: int = 1
    def predict(self, x): return F.__annotations__
""",
        },
        different=[("m.py", "from __future__ import annotations\n", "")],
    ),
    "future annotations in helper removed": Tree(
        {
            "m.py": """\
from h import C
class F:
    def predict(self, x): return C.__annotations__
""",
            "h.py": """\
from __future__ import annotations
class C:
    a: int = 1
""",
        },
        different=[("h.py", "from __future__ import annotations\n", "")],
    ),
    "__slots__ order": Tree(
        {
            "m.py": """\
class F:
    __slots__ = ('a', 'b')
    def predict(self, x): return self.__slots__
""",
        },
        different=[("m.py", "('a', 'b')", "('b', 'a')")],
    ),
    "__name__ use & module constant": Tree(
        {
            "m.py": """\
import logging
LOG = logging.getLogger(__name__)
class F:
    def predict(self, x): return LOG.name
""",
        },
        different=[("m.py", "__name__", "'z'")],
    ),
    "__version__ in package init used": Tree(
        {
            "m.py": """\
import pk
class F:
    def predict(self, x): return pk.__version__
""",
            "pk/__init__.py": """\
__version__ = '1'
""",
        },
        different=[("pk/__init__.py", "'1'", "'2'")],
    ),
    "package dunder file const": Tree(
        {
            "m.py": """\
from pk import __version__ as v
class F:
    def predict(self, x): return v
""",
            "pk/__init__.py": """\
__version__ = '1'
__author__ = 'a'
""",
        },
        same=[("pk/__init__.py", "'a'", "'b'")],
        different=[("pk/__init__.py", "'1'", "'2'")],
    ),
    "mangled private": Tree(
        {
            "m.py": """\
class F:
    __k = 1
    def __go(self): return self.__k
    def predict(self, x): return self.__go()
""",
        },
        different=[("m.py", "__k = 1", "__k = 2")],
    ),
    "super attribute through mixin const": Tree(
        {
            "m.py": """\
from h import Mix
class F(Mix):
    def predict(self, x): return super().scale(x)
""",
            "h.py": """\
class Mix:
    def scale(self, x): return x * G
G = 2
""",
        },
        different=[("h.py", "G = 2", "G = 3")],
    ),
    "async gen/await helper": Tree(
        {
            "m.py": """\
from h import go
import asyncio
class F:
    def predict(self, x): return asyncio.run(go(x))
""",
            "h.py": """\
async def go(x): return await inner(x)
async def inner(x): return x
""",
        },
        different=[("h.py", "return x", "return -x")],
    ),
    "raise custom exception from": Tree(
        {
            "m.py": """\
from h import Bad
class F:
    def predict(self, x):
        try: raise Bad(1)
        except Bad as e: return e.code
""",
            "h.py": """\
class Bad(Exception):
    code = 1
""",
        },
        different=[("h.py", "code = 1", "code = 2")],
    ),
    "isinstance of tuple const": Tree(
        {
            "m.py": """\
from h import KINDS
class F:
    def predict(self, x): return isinstance(x, KINDS)
""",
            "h.py": """\
KINDS = (int, float)
""",
        },
        different=[("h.py", "(int, float)", "(str, float)")],
    ),
    "__init_subclass__ hook in grandparent reading dict order": Tree(
        {
            "m.py": """\
from h import A
class B(A): pass
class F(B):
    def a(self): pass
    def predict(self, x): return self.names
""",
            "h.py": """\
class A:
    def __init_subclass__(cls): cls.names = [n for n in cls.__dict__ if n[0] != '_']
""",
        },
        different=[
            (
                "m.py",
                "    def a(self): pass\n    def predict(self, x): return self.names\n",
                "    def predict(self, x): return self.names\n    def a(self): pass\n",
            )
        ],
    ),
    "decorator on nested function": Tree(
        {
            "m.py": """\
from h import d
class F:
    def predict(self, x):
        @d
        def g(): return 1
        return g()
""",
            "h.py": """\
def d(f): return lambda: f() + 1
""",
        },
        different=[("h.py", "+ 1", "+ 2")],
    ),
    "annotation-only var no effect": Tree(
        {
            "m.py": """\
x: int
class F:
    def predict(self, x): return 1
""",
        },
    ),
    "star-args call defaults dict": Tree(
        {
            "m.py": """\
from h import CFG
class F:
    def predict(self, x): return dict(**CFG)
""",
            "h.py": """\
from c import BASE
CFG = dict(BASE, a=1)
""",
            "c.py": """\
BASE = {'z': 0}
""",
        },
        different=[("c.py", "0", "1")],
    ),
}


def body(returns: str) -> str:
    return f"class F:\n    def predict(self, x): return {returns}\n"


LISTED = "    def pa(self): pass\n    def pb(self): return 1\n"
TURNED = "    def pb(self): return 1\n    def pa(self): pass\n"
NAMES = "[n for n in {} if n.startswith('p')]\n"

TREES |= {
    "an effect whose result nobody uses": Tree(
        {
            "m.py": "import numpy as np, decimal\nfrom numpy.random import seed\nold = np.seterr(all='raise')\n"
            "_ = seed(1)\nc = decimal.setcontext(decimal.Context(prec=5))\n" + body("np.random.rand()")
        },
        different=[("m.py", "'raise'", "'ignore'"), ("m.py", "seed(1)", "seed(2)"), ("m.py", "prec=5", "prec=6")],
    ),
    "a constant nobody uses": Tree(
        {"m.py": "import numpy as np\nsettings = np.array([1])\nr = np.random.default_rng(1)\n" + body("x")},
        same=[("m.py", "[1]", "[2]"), ("m.py", "rng(1)", "rng(2)")],
    ),
    "a function that lists a class": Tree(
        {
            "m.py": "from h import names\n" + body("names(F)") + LISTED,
            "h.py": "def names(c): return " + NAMES.format("vars(c)"),
        },
        different=[("m.py", LISTED, TURNED)],
    ),
    "a base that lists its class": Tree(
        {
            "m.py": "from h import B\nclass F(B):\n    def predict(self, x): return self.names()\n" + LISTED,
            "h.py": "class B:\n    def names(self): return " + NAMES.format("type(self).__dict__"),
        },
        different=[("m.py", LISTED, TURNED)],
    ),
    "an instance that lists itself": Tree(
        {"m.py": body("dict(self.__dict__), vars(self)") + LISTED}, same=[("m.py", LISTED, TURNED)]
    ),
    "a property of the author's own": Tree(
        {
            "m.py": "class property:\n    n = 0\n    def __init__(self, f):\n        property.n += 1; self.k = property.n\n"
            "    def __get__(self, o, t): return self.k\n"
            + body("self.a, self.b")
            + "    @property\n    def a(self): return 1\n    @property\n    def b(self): return 1\n"
        },
        different=[
            (
                "m.py",
                "def a(self): return 1\n    @property\n    def b",
                "def b(self): return 1\n    @property\n    def a",
            )
        ],
    ),
    "a star that binds a name anew": Tree(
        {
            "m.py": "from a import K\ndef G(): return 1\nfrom b import *\n" + body("K, G()"),
            "a.py": "K = 1\n",
            "b.py": "K = 2\ndef G(): return 3\n",
        },
        different=[
            ("b.py", "K = 2", "K = 4"),
            ("b.py", "return 3", "return 4"),
            (
                "m.py",
                "from a import K\ndef G(): return 1\nfrom b import *\n",
                "from b import *\nfrom a import K\ndef G(): return 1\n",
            ),
        ],
    ),
    "a quoted name in an alias": Tree(
        {
            "m.py": "import typing\nclass H: u = 1\nA = typing.Optional['H']\nclass F:\n    z: A\n"
            "    def predict(self, x): return typing.get_args(typing.get_type_hints(F)['z'])[0].u\n"
        },
        different=[("m.py", "u = 1", "u = 2")],
    ),
}
CHOICE = "if {}:\n    from h import K\nelse:\n    K = 1\n" + body("K")
TREES |= {
    f"a TYPE_CHECKING of one's own: {name}": Tree(
        {"m.py": head + CHOICE.format(test), "h.py": "K = 5\nTYPE_CHECKING = True\n"},
        closure=["h.py", "m.py"],
        different=[("h.py", "5", "6")],
    )
    for name, head, test in (
        ("of a module", "import h\n", "h.TYPE_CHECKING"),
        ("imported", "from h import TYPE_CHECKING\n", "TYPE_CHECKING"),
        ("set again", "TYPE_CHECKING = False\nTYPE_CHECKING = True\n", "TYPE_CHECKING"),
    )
}
TREES |= {
    f"typing's TYPE_CHECKING: {name}": Tree(
        {"m.py": head + CHOICE.format(test), "h.py": "K = 5\n"}, closure=["m.py"], same=[("h.py", "5", "6")]
    )
    for name, head, test in (
        ("twice", "import typing as t\nimport typing\n", "t.TYPE_CHECKING or typing.TYPE_CHECKING"),
        (
            "guarded",
            "try:\n    from typing import TYPE_CHECKING\nexcept ImportError:\n    TYPE_CHECKING = False\n",
            "TYPE_CHECKING",
        ),
    )
}
TREES |= {
    f"a name looked up by {call}": Tree(
        {"m.py": f"import pydoc, pkgutil\n{body(call)}", "h.py": "K = 1\n"}, refused=True
    )
    for call in ("pydoc.locate('h.K')", "pkgutil.resolve_name('h:K')")
}


@pytest.mark.parametrize("name", TREES)
def test_whatever_a_name_leads_to_counts(name: str, tmp_path: Path) -> None:
    check(TREES[name], tmp_path)
