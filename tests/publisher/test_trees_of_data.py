"""Trees that read files beside their source, or import what may not be there."""

# ruff: noqa: E501 - the tables hold sources and edits
from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulators.trees import Tree, check

TREES = {
    "self.HERE inherited from base in other module": Tree(
        {
            "m.py": """\
from base import Base
class F(Base):
    def predict(self, x): return (self.HERE / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "base.py": """\
from pathlib import Path
class Base:
    HERE = Path(__file__).parent
""",
        },
        data=["x.txt"],
    ),
    "property here": Tree(
        {
            "m.py": """\
from pathlib import Path
class F:
    @property
    def here(self): return Path(__file__).parent
    def predict(self, x): return (self.here / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "method here()": Tree(
        {
            "m.py": """\
from pathlib import Path
class F:
    def here(self): return Path(__file__).parent
    def predict(self, x): return (self.here() / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "rebinding p": Tree(
        {
            "m.py": """\
from pathlib import Path
p = Path(__file__).parent
p = p / 'd'
class F:
    def predict(self, x): return (p / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["d/x.txt"],
        refused=None,
    ),
    "augassign p": Tree(
        {
            "m.py": """\
from pathlib import Path
p = Path(__file__).parent
p /= 'd'
class F:
    def predict(self, x): return (p / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["d/x.txt"],
        refused=None,
    ),
    "default arg": Tree(
        {
            "m.py": """\
from pathlib import Path
HERE = Path(__file__).parent
def load(base=HERE): return (base / 'x.txt').read_text()
class F:
    def predict(self, x): return load()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "lambda here": Tree(
        {
            "m.py": """\
from pathlib import Path
here = lambda: Path(__file__).parent
class F:
    def predict(self, x): return (here() / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "ifexp": Tree(
        {
            "m.py": """\
from pathlib import Path
import os
HERE = Path(__file__).parent if '__file__' in globals() else Path.cwd()
class F:
    def predict(self, x): return (HERE / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "env or here": Tree(
        {
            "m.py": """\
from pathlib import Path
import os
HERE = os.environ.get('D') or os.path.dirname(__file__)
class F:
    def predict(self, x): return open(os.path.join(HERE, 'x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "env get default": Tree(
        {
            "m.py": """\
from pathlib import Path
import os
HERE = os.environ.get('D', os.path.dirname(__file__))
class F:
    def predict(self, x): return open(os.path.join(HERE, 'x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "module config instance": Tree(
        {
            "m.py": """\
from cfg import cfg
class F:
    def predict(self, x): return (cfg.base / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "cfg.py": """\
from pathlib import Path
class Cfg:
    def __init__(self): self.base = Path(__file__).parent
cfg = Cfg()
""",
        },
        data=["x.txt"],
    ),
    "SimpleNamespace": Tree(
        {
            "m.py": """\
from cfg import cfg
class F:
    def predict(self, x): return (cfg.base / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "cfg.py": """\
from pathlib import Path
import types
cfg = types.SimpleNamespace(base=Path(__file__).parent)
""",
        },
        data=["x.txt"],
        refused=None,
    ),
    "dataclass field default": Tree(
        {
            "m.py": """\
from cfg import Cfg
class F:
    def predict(self, x): return (Cfg().base / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "cfg.py": """\
from pathlib import Path
from dataclasses import dataclass
@dataclass
class Cfg:
    base: Path = Path(__file__).parent
""",
        },
        data=["x.txt"],
    ),
    "dict of dirs": Tree(
        {
            "m.py": """\
from pathlib import Path
D = {'a': Path(__file__).parent}
class F:
    def predict(self, x): return (D['a'] / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "subscript assign": Tree(
        {
            "m.py": """\
from pathlib import Path
D = {}
D['a'] = Path(__file__).parent
class F:
    def predict(self, x): return (D['a'] / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "attr assign": Tree(
        {
            "m.py": """\
from pathlib import Path
import types
ns = types.SimpleNamespace()
ns.a = Path(__file__).parent
class F:
    def predict(self, x): return (ns.a / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "global stmt": Tree(
        {
            "m.py": """\
from pathlib import Path
HERE = None
def init():
    global HERE
    HERE = Path(__file__).parent
init()
class F:
    def predict(self, x): return (HERE / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "module __file__": Tree(
        {
            "m.py": """\
import pk
from pathlib import Path
class F:
    def predict(self, x): return (Path(pk.__file__).parent / 'x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "pk/__init__.py": "",
            "pk/x.txt": "3",
        },
        data=["pk/x.txt"],
    ),
    "module __path__": Tree(
        {
            "m.py": """\
import pk, os
class F:
    def predict(self, x): return open(os.path.join(pk.__path__[0], 'x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "pk/__init__.py": "",
            "pk/x.txt": "3",
        },
        data=["pk/x.txt"],
        refused=None,
    ),
    "own __path__": Tree(
        {
            "x.txt": "1",
            "d/x.txt": "2",
            "pk/__init__.py": """\
import os
class F:
    def predict(self, x): return open(os.path.join(__path__[0], 'x.txt')).read()
""",
            "pk/x.txt": "3",
        },
        target="pk:F",
        data=["pk/x.txt"],
        refused=None,
    ),
    "inspect.getfile class": Tree(
        {
            "m.py": """\
import inspect, os
class F:
    def predict(self, x): return open(os.path.join(os.path.dirname(inspect.getfile(type(self))), 'x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "inspect.getfile currentframe": Tree(
        {
            "m.py": """\
import inspect, os
class F:
    def predict(self, x): return open(os.path.join(os.path.dirname(inspect.getfile(inspect.currentframe())), 'x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "sys.modules file": Tree(
        {
            "m.py": """\
import sys, os
class F:
    def predict(self, x): return open(os.path.join(os.path.dirname(sys.modules[__name__].__file__), 'x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "sys.modules self.__module__": Tree(
        {
            "m.py": """\
import sys, os
class F:
    def predict(self, x): return open(os.path.join(os.path.dirname(sys.modules[self.__module__].__file__), 'x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "spec origin": Tree(
        {
            "m.py": """\
import os
class F:
    def predict(self, x): return open(os.path.join(os.path.dirname(__spec__.origin), 'x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "find_spec origin": Tree(
        {
            "m.py": """\
import os, importlib.util
class F:
    def predict(self, x): return open(os.path.join(os.path.dirname(importlib.util.find_spec('m').origin), 'x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "loader get_data": Tree(
        {
            "m.py": """\
import os
class F:
    def predict(self, x): return __loader__.get_data(os.path.join(os.path.dirname(__file__), 'x.txt'))
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "with files traversable as name": Tree(
        {
            "m.py": """\
from importlib.resources import files
class F:
    def predict(self, x):
        root = files('pk')
        with (root / 'x.txt').open() as f: return f.read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "pk/__init__.py": "",
            "pk/x.txt": "3",
        },
        data=["pk/x.txt"],
    ),
    "files slash sub": Tree(
        {
            "m.py": """\
import importlib.resources
class F:
    def predict(self, x): return importlib.resources.files('pk.sub').joinpath('x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "pk/__init__.py": "",
            "pk/sub/x.txt": "3",
        },
        data=["pk/sub/x.txt"],
    ),
    "files module attr": Tree(
        {
            "m.py": """\
import importlib.resources as r
from pk import sub
class F:
    def predict(self, x): return r.files(sub).joinpath('x.txt').read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "pk/__init__.py": "",
            "pk/sub/__init__.py": "",
            "pk/sub/x.txt": "3",
        },
        data=["pk/sub/x.txt"],
    ),
    "contents iterate": Tree(
        {
            "m.py": """\
import importlib.resources as r
class F:
    def predict(self, x): return [f.read_text() for f in r.files('pk').iterdir()]
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "pk/__init__.py": "",
            "pk/x.txt": "3",
        },
        data=[],
        refused=True,
    ),
    "os.listdir": Tree(
        {
            "m.py": """\
import os
H = os.path.dirname(__file__)
class F:
    def predict(self, x): return [open(os.path.join(H, 'd', n)).read() for n in os.listdir(os.path.join(H, 'd'))]
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=True,
    ),
    "computed via function param": Tree(
        {
            "m.py": """\
import os
def p(*a): return os.path.join(os.path.dirname(__file__), *a)
class F:
    def predict(self, x): return open(p('x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "percent format": Tree(
        {
            "m.py": """\
import os
class F:
    def predict(self, x): return open('%s/x.txt' % os.path.dirname(__file__)).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "format method": Tree(
        {
            "m.py": """\
import os
class F:
    def predict(self, x): return open('{}/x.txt'.format(os.path.dirname(__file__))).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "sep join": Tree(
        {
            "m.py": """\
import os
class F:
    def predict(self, x): return open(os.sep.join([os.path.dirname(__file__), 'x.txt'])).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "replace m.py": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x): return open(__file__.replace('m.py', 'x.txt')).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "slice": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x): return open(__file__[:-4] + 'x.txt').read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "rsplit": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x): return open(__file__.rsplit('/', 1)[0] + '/x.txt').read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "rpartition": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x): return open(__file__.rpartition('/')[0] + '/x.txt').read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
        refused=None,
    ),
    "walrus path": Tree(
        {
            "m.py": """\
from pathlib import Path
class F:
    def predict(self, x):
        if (p := Path(__file__).parent / 'x.txt').exists(): return p.read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "exists then read": Tree(
        {
            "m.py": """\
from pathlib import Path
class F:
    def predict(self, x):
        p = Path(__file__).parent / 'x.txt'
        return p.read_text() if p.exists() else None
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "np.load kw": Tree(
        {
            "m.py": """\
import numpy as np, os
class F:
    def predict(self, x): return np.load(file=os.path.join(os.path.dirname(__file__), 'x.txt'), allow_pickle=False)
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "os.chdir then open": Tree(
        {
            "m.py": """\
import os
os.chdir(os.path.dirname(__file__))
class F:
    def predict(self, x): return open('x.txt').read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=True,
    ),
    "sqlite": Tree(
        {
            "m.py": """\
import sqlite3, os
class F:
    def predict(self, x): return sqlite3.connect(os.path.join(os.path.dirname(__file__), 'x.txt'))
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "cwd sqlite": Tree(
        {
            "m.py": """\
import sqlite3
class F:
    def predict(self, x): return sqlite3.connect('x.txt')
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=None,
    ),
    "json.load(open())": Tree(
        {
            "m.py": """\
import json
class F:
    def predict(self, x): return json.load(open('x.txt'))
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=True,
    ),
    "Path open cwd": Tree(
        {
            "m.py": """\
from pathlib import Path
class F:
    def predict(self, x): return Path('x.txt').open().read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=True,
    ),
    "Path cwd var": Tree(
        {
            "m.py": """\
from pathlib import Path
P = Path('x.txt')
class F:
    def predict(self, x): return P.read_text()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=True,
    ),
    "open const cwd": Tree(
        {
            "m.py": """\
NAME = 'x.txt'
class F:
    def predict(self, x): return open(NAME).read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=True,
    ),
    "absolute project path": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x): return open('/etc/hostname').read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
    ),
    "io.open": Tree(
        {
            "m.py": """\
import io
class F:
    def predict(self, x): return io.open('x.txt').read()
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=True,
    ),
    "cdll": Tree(
        {
            "m.py": """\
import ctypes, os
class F:
    def predict(self, x): return ctypes.CDLL(os.path.join(os.path.dirname(__file__), 'lib.so'))
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "lib.so": b"",
        },
        data=[],
        refused=True,
    ),
    "onnx session literal": Tree(
        {
            "m.py": """\
import onnxruntime as ort, os
class F:
    def predict(self, x): return ort.InferenceSession(os.path.join(os.path.dirname(__file__), 'x.txt'))
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "config in toml via tomllib": Tree(
        {
            "m.py": """\
import tomllib
from pathlib import Path
with (Path(__file__).parent / 'x.txt').open('rb') as f:
    T = tomllib.load(f)
class F:
    def predict(self, x): return T
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=["x.txt"],
    ),
    "own load function": Tree(
        {
            "m.py": """\
from h import load
class F:
    def predict(self, x): return load('x.txt')
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "h.py": """\
def load(n): return n
""",
        },
        data=[],
    ),
    "optional import none": Tree(
        {
            "m.py": """\
try:
    import nowhere_q
except ImportError:
    nowhere_q = None
class F:
    def predict(self, x): return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
    ),
    "optional import flag": Tree(
        {
            "m.py": """\
try:
    import nowhere_q
    HAS = True
except ModuleNotFoundError:
    HAS = False
class F:
    def predict(self, x): return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
    ),
    "import raise": Tree(
        {
            "m.py": """\
try:
    import nowhere_q
except ImportError as e:
    raise RuntimeError('x') from e
class F:
    def predict(self, x): return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=True,
    ),
    "optional relative generated": Tree(
        {
            "x.txt": "1",
            "d/x.txt": "2",
            "pk/__init__.py": """\
try:
    from ._version import v
except ImportError:
    v = '0'
""",
            "pk/m.py": """\
from . import v
class F:
    def predict(self, x): return v
""",
        },
        target="pk/m.py:F",
        data=[],
    ),
    "nested optional": Tree(
        {
            "m.py": """\
try:
    import nowhere_a as a
except ImportError:
    try:
        import nowhere_b as a
    except ImportError:
        a = None
class F:
    def predict(self, x): return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
    ),
    "all computed": Tree(
        {
            "m.py": """\
from pk import *
class F:
    def predict(self, x): return sub.V
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "pk/__init__.py": """\
import pathlib
__all__ = [p.stem for p in pathlib.Path(__file__).parent.glob('*.py')]
""",
            "pk/sub.py": """\
V = 1
""",
        },
        data=[],
        refused=None,
        different=[("pk/sub.py", "1", "2")],
    ),
    "ns package two dirs": Tree(
        {
            "m.py": """\
import nsx.a, nsx.sub.b
class F:
    def predict(self, x): return nsx.a.A + nsx.sub.b.B
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "nsx/a.py": """\
A = 1
""",
            "nsx/sub/b.py": """\
B = 1
""",
        },
        closure=["m.py", "nsx/a.py", "nsx/sub/b.py"],
        data=[],
        different=[("nsx/a.py", "1", "2"), ("nsx/sub/b.py", "1", "2")],
    ),
    "ns google": Tree(
        {
            "m.py": """\
import google.mine
class F:
    def predict(self, x): return google.mine.A
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "google/mine.py": """\
A = 1
""",
        },
        closure=["google/mine.py", "m.py"],
        requires=[],
        data=[],
        different=[("google/mine.py", "1", "2")],
    ),
    "ns google both": Tree(
        {
            "m.py": """\
import google.mine
from google.protobuf import message
class F:
    def predict(self, x): return google.mine.A
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "google/mine.py": """\
A = 1
""",
        },
        closure=["google/mine.py", "m.py"],
        requires=["protobuf"],
        data=[],
    ),
    "import os.path as local": Tree(
        {
            "m.py": """\
import os.path as p, xml.etree.ElementTree as ET
class F:
    def predict(self, x): return p.join('a')
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        closure=["m.py"],
        data=[],
        different=[("m.py", "os.path as p", "os as p")],
    ),
    "future div": Tree(
        {
            "m.py": """\
from __future__ import annotations, division
class F:
    def predict(self, x): return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        closure=["m.py"],
        data=[],
    ),
    "string concat docs": Tree(
        {
            "m.py": """\
class F:
    'a' 'b'
    def predict(self, x):
        'doc'
        return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        same=[("m.py", "'a' 'b'", "'c'")],
    ),
    "lambda as method": Tree(
        {
            "m.py": """\
from h import k
class F:
    predict = lambda self, x: k(x)
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "h.py": """\
def k(x): return x
""",
        },
        data=[],
        different=[("h.py", "return x", "return -x")],
    ),
    "method assigned from function": Tree(
        {
            "m.py": """\
from h import impl
class F:
    predict = impl
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "h.py": """\
def impl(self, x): return x
""",
        },
        data=[],
        different=[("h.py", "return x", "return -x")],
    ),
    "setattr loop on class": Tree(
        {
            "m.py": """\
from h import OPS
class F:
    pass
for n, f in OPS.items():
    setattr(F, n, f)
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "h.py": """\
def p(self, x): return x
OPS = {'predict': p}
""",
        },
        data=[],
        different=[("h.py", "return x", "return -x")],
    ),
    "mixin from type check at runtime": Tree(
        {
            "m.py": """\
from abc import ABC, abstractmethod
class B(ABC):
    @abstractmethod
    def predict(self, x): ...
class F(B):
    def predict(self, x): return x
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        same=[("m.py", ": ...", ": pass")],
        different=[("m.py", "return x", "return -x")],
    ),
    "global counter default mutable": Tree(
        {
            "m.py": """\
SEEN = []
class F:
    def predict(self, x, s=SEEN):
        s.append(x); return s
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        different=[("m.py", "SEEN = []", "SEEN = [0]")],
    ),
    "class decorator chain order": Tree(
        {
            "m.py": """\
from h import a, b
@a
@b
class F:
    def predict(self, x): return self.v
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "h.py": """\
def a(c):
    c.v = getattr(c, 'v', 1) + 1
    return c
def b(c):
    c.v = 3
    return c
""",
        },
        data=[],
        different=[("m.py", "@a\n@b", "@b\n@a"), ("h.py", "+ 1", "+ 2"), ("h.py", "c.v = 3", "c.v = 4")],
    ),
    "import inside try in function optional": Tree(
        {
            "m.py": """\
class F:
    def predict(self, x): return 1
def g():
    try:
        import nowhere_z
    except ImportError:
        return None
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
    ),
    "py ver tuple order": Tree(
        {
            "m.py": """\
import sys
V = sys.version_info[:2]
if V >= (3, 11):
    from a import f
else:
    from missing_bp import f
class F:
    def predict(self, x): return f()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "a.py": """\
def f(): return 1
""",
        },
        data=[],
        refused=None,
    ),
    "const via sys.version": Tree(
        {
            "m.py": """\
import sys
PY312 = sys.version_info >= (3, 12)
if PY312:
    import a as z
else:
    import missing_bp as z
class F:
    def predict(self, x): return z.f()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "a.py": """\
def f(): return 1
""",
        },
        data=[],
        refused=None,
    ),
    "platform.system()": Tree(
        {
            "m.py": """\
import platform
if platform.system() == 'Windows':
    import winreg
elif platform.system() == 'Linux':
    from lin import f
class F:
    def predict(self, x): return f()
""",
            "x.txt": "1",
            "d/x.txt": "2",
            "lin.py": """\
def f(): return 1
""",
        },
        closure=["lin.py", "m.py"],
        data=[],
    ),
    "sys.platform.startswith": Tree(
        {
            "m.py": """\
import sys
if sys.platform.startswith('win'):
    import win32api_missing
class F:
    def predict(self, x): return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=None,
    ),
    "sys.platform win no else": Tree(
        {
            "m.py": """\
import sys
if sys.platform == 'win32':
    import pywin_missing
class F:
    def predict(self, x): return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=None,
    ),
    "os.name nt": Tree(
        {
            "m.py": """\
import os
if os.name == 'nt':
    import msvcrt, nt_missing
else:
    import termios
class F:
    def predict(self, x): return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        data=[],
        refused=None,
    ),
    "tomllib/tomli": Tree(
        {
            "m.py": """\
try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib
class F:
    def predict(self, x): return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        requires=[],
        data=[],
    ),
    "version_info tomli": Tree(
        {
            "m.py": """\
import sys
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
class F:
    def predict(self, x): return 1
""",
            "x.txt": "1",
            "d/x.txt": "2",
        },
        requires=[],
        data=[],
    ),
}


READS = "class F:\n    def predict(self, x): return open({}).read()\n"
PACKAGED = "from importlib import resources as r\nclass F:\n    def predict(self, x): return {}.joinpath('x.txt').read_text()\n"

# what a path is built from -> imports and the path; `x.txt` lies beside the module
BESIDE = {
    "functions under other names": ("from os.path import dirname as d, join as j", "j(d(__file__), 'x.txt')"),
    "classes under other names": ("from pathlib import Path as P", "P(__file__).with_name('x.txt')"),
    "functions bound to a name": ("import os\nup = os.path.dirname", "up(__file__) + '/x.txt'"),
    "an unpacked pair": ("import os\nhere, name = os.path.split(__file__)", "os.path.join(here, 'x.txt')"),
    "pairs bound at once": ("import os\na, b = os.path.dirname(__file__), 'x.txt'", "os.path.join(a, b)"),
    "the module's globals": ("import os", "os.path.dirname(globals()['__file__']) + '/x.txt'"),
    "the running frame": ("import os, sys", "os.path.dirname(sys._getframe().f_code.co_filename) + '/x.txt'"),
    "a method's code": ("import os", "os.path.dirname(F.predict.__code__.co_filename) + '/x.txt'"),
    "the stack": ("import inspect, os", "os.path.dirname(inspect.stack()[0].filename) + '/x.txt'"),
}
TREES |= {
    f"a path from {name}": Tree(
        {"m.py": f"{head}\n{READS.format(path)}", "x.txt": "1"}, data=["x.txt"], different=[("x.txt", "1", "2")]
    )
    for name, (head, path) in BESIDE.items()
}
TREES |= {
    f"a package named by {anchor}": Tree(
        {"p/__init__.py": "", "p/m.py": PACKAGED.format(f"r.files({anchor})"), "p/x.txt": "1"},
        target="p/m.py:F",
        data=["p/x.txt"] if "choose" not in anchor else None,
        refused="choose" in anchor,
    )
    for anchor in ("__name__.rpartition('.')[0]", "__name__.split('.')[0]", "anchor='p'", "x.choose")
}
ELSEWHERE = {
    "joined": ("import os", "os.path.join('d', 'x.txt')"),
    "a pathlib path": ("from pathlib import Path as P", "P('d') / 'x.txt'"),
    "the current directory": ("import os", "os.path.join(os.getcwd(), x)"),
    "its pathlib twin": ("import pathlib", "pathlib.Path.cwd() / x"),
    "the program's directory": ("import sys", "sys.path[0] + '/x.txt'"),
    "a computed end": ("", "f'd/{x}.txt'"),
    "a format": ("", "'d/{}.txt'.format(x)"),
    "an operator": ("", "'d/%s.txt' % x"),
    "a keyword": ("", "file='d/x.txt'"),
}
TREES |= {
    f"a path that begins elsewhere: {name}": Tree({"m.py": f"{head}\n{READS.format(path)}"}, refused=True)
    for name, (head, path) in ELSEWHERE.items()
}
TREES["a path from a suffix taken away"] = Tree(
    {"m.py": READS.format("__file__.removesuffix('.py') + '.txt'"), "m.txt": "1"}, data=["m.txt"]
)
TREES["a path of an instance that begins elsewhere"] = Tree(
    {
        "m.py": "from pathlib import Path\nclass F:\n    def __init__(self): self.p = Path('d')\n"
        "    def predict(self, x): return self.p.joinpath('x').read_text()\n"
    },
    refused=True,
)
TREES["paths that begin with a value or lie in the system"] = Tree(
    {
        "m.py": "import io, json\nfrom pathlib import Path\nclass F:\n"
        "    def read(self, d): return open(d + '/x'), open('%s/x' % d), open(f'{d}/x'), open('{}/x'.format(d))\n"
        "    def write(self): Path('out').joinpath('x').open('w').write(str(open('log', 'a')))\n"
        "    def predict(self, x): return json.load(io.StringIO('1')), Path('/etc/passwd').exists()\n"
    },
    data=[],
)


@pytest.mark.parametrize("name", TREES)
def test_files_and_imports_are_found_or_refused(name: str, tmp_path: Path) -> None:
    check(TREES[name], tmp_path)
