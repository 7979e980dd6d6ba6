"""What a fingerprint reaches, probed by pairs of projects that behave differently, or the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from publisher.fingerprint import fingerprint

Files = dict[str, str]

# name -> a project, and the files in which another one differs from it
DIFFERENT: dict[str, tuple[Files, Files]] = {
    "subclasses registry": (
        {
            "m.py": (
                "class P: pass\n"
                "class A(P): v=1\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return [c.v for c in P.__subclasses__()]\n"
            ),
        },
        {
            "m.py": (
                "class P: pass\n"
                "class A(P): v=2\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return [c.v for c in P.__subclasses__()]\n"
            ),
        },
    ),
    "globals()": (
        {
            "m.py": ("def a(): return 1\nclass F:\n    def p(self, x):\n        return globals()['a']()\n"),
        },
        {
            "m.py": ("def a(): return 2\nclass F:\n    def p(self, x):\n        return globals()['a']()\n"),
        },
    ),
    "getattr module": (
        {
            "m.py": ("import h\nclass F:\n    def p(self, x):\n        return getattr(h, x)()\n"),
            "h.py": "def a(): return 1\n",
        },
        {
            "h.py": "def a(): return 2\n",
        },
    ),
    "sys.modules": (
        {
            "m.py": (
                "import sys\n"
                "def a(): return 1\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return sys.modules[__name__].a()\n"
            ),
        },
        {
            "m.py": (
                "import sys\n"
                "def a(): return 2\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return sys.modules[__name__].a()\n"
            ),
        },
    ),
    "from sys import modules": (
        {
            "m.py": (
                "from sys import modules\n"
                "def a(): return 1\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return modules[__name__].a()\n"
            ),
        },
        {
            "m.py": (
                "from sys import modules\n"
                "def a(): return 2\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return modules[__name__].a()\n"
            ),
        },
    ),
    "attr default factory name": (
        {
            "m.py": ("import h\nT={'a': h.a}\nclass F:\n    def p(self, x):\n        return T[x]()\n"),
            "h.py": "def a(): return 1\n",
        },
        {
            "h.py": "def a(): return 2\n",
        },
    ),
    "reexport": (
        {
            "m.py": ("from p import f\nclass F:\n    def p(self, x):\n        return f(x)\n"),
            "p/__init__.py": "from .q import f\n",
            "p/q.py": "def f(x): return 1\n",
        },
        {
            "p/q.py": "def f(x): return 2\n",
        },
    ),
    "reexport switched": (
        {
            "m.py": ("from p import f\nclass F:\n    def p(self, x):\n        return f(x)\n"),
            "p/__init__.py": "from .q import f\n",
            "p/q.py": "def f(x): return 1\n",
            "p/r.py": "def f(x): return 2\n",
        },
        {
            "p/__init__.py": "from .r import f\n",
        },
    ),
    "module getattr": (
        {
            "m.py": ("import h\nclass F:\n    def p(self, x):\n        return h.zip_(x)\n"),
            "h.py": "def __getattr__(n): return 1\n",
        },
        {
            "h.py": "def __getattr__(n): return 2\n",
        },
    ),
    "submodule chain": (
        {
            "m.py": ("import p.q\nclass F:\n    def p(self, x):\n        return p.q.f(x)\n"),
            "p/__init__.py": "",
            "p/q.py": "def f(x): return 1\n",
        },
        {
            "p/q.py": "def f(x): return 2\n",
        },
    ),
    "import in method alias": (
        {
            "m.py": ("class F:\n    def p(self,x):\n        import p.q as z\n        return z.f(x)\n"),
            "p/__init__.py": "",
            "p/q.py": "def f(x): return 1\n",
        },
        {
            "p/q.py": "def f(x): return 2\n",
        },
    ),
    "import_module in method": (
        {
            "m.py": (
                "import importlib\nclass F:\n    def p(self,x):\n        return importlib.import_module('h').f(x)\n"
            ),
            "h.py": "def f(x): return 1\n",
        },
        {
            "h.py": "def f(x): return 2\n",
        },
    ),
    "import_module relative in method": (
        {
            "p/__init__.py": "",
            "p/m.py": (
                "from importlib import import_module as im\n"
                "class F:\n"
                "    def p(self,x):\n"
                "        return im('.h', __package__).f(x)\n"
            ),
            "p/h.py": "def f(x): return 1\n",
        },
        {
            "p/h.py": "def f(x): return 2\n",
        },
    ),
    "string annotation": (
        {
            "m.py": ("class G: a=1\nclass F:\n    x: 'G'\n"),
        },
        {
            "m.py": ("class G: a=2\nclass F:\n    x: 'G'\n"),
        },
    ),
    "inplace class patch": (
        {
            "m.py": ("class F:\n    def p(self, x):\n        return 1\nF.z = 3\n"),
        },
        {
            "m.py": ("class F:\n    def p(self, x):\n        return 1\nF.z = 4\n"),
        },
    ),
    "init_subclass registry": (
        {
            "m.py": (
                "R=[]\n"
                "class B:\n"
                "    def __init_subclass__(cls): R.append(cls)\n"
                "class G(B): a=1\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return R\n"
            ),
        },
        {
            "m.py": (
                "R=[]\n"
                "class B:\n"
                "    def __init_subclass__(cls): R.append(cls)\n"
                "class G(B): a=2\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return R\n"
            ),
        },
    ),
    "singledispatch": (
        {
            "m.py": (
                "import functools\n"
                "@functools.singledispatch\n"
                "def f(x): return 0\n"
                "@f.register(int)\n"
                "def _(x): return 1\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return f(x)\n"
            ),
        },
        {
            "m.py": (
                "import functools\n"
                "@functools.singledispatch\n"
                "def f(x): return 0\n"
                "@f.register(int)\n"
                "def _(x): return 2\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return f(x)\n"
            ),
        },
    ),
    "unused with builtin effect": (
        {
            "m.py": ("import h\nclass F:\n    def p(self, x):\n        return 1\n"),
            "h.py": ("import builtins\nbuiltins.zz = 1\n"),
        },
        {
            "h.py": ("import builtins\nbuiltins.zz = 2\n"),
        },
    ),
    "eval string": (
        {
            "m.py": ("def a(): return 1\nclass F:\n    def p(self, x):\n        return eval('a()')\n"),
        },
        {
            "m.py": ("def a(): return 2\nclass F:\n    def p(self, x):\n        return eval('a()')\n"),
        },
    ),
    "operator.attrgetter": (
        {
            "m.py": (
                "import h, operator\nclass F:\n    def p(self, x):\n        return operator.attrgetter('a')(h)()\n"
            ),
            "h.py": "def a(): return 1\n",
        },
        {
            "h.py": "def a(): return 2\n",
        },
    ),
    "try fallback": (
        {
            "m.py": (
                "try:\n"
                "    from h import f\n"
                "except ImportError:\n"
                "    f=None\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return f(x)\n"
            ),
            "h.py": "def f(x): return 1\n",
        },
        {
            "h.py": "def f(x): return 2\n",
        },
    ),
    "doc of helper read": (
        {
            "m.py": ("def a():\n    'one'\nclass F:\n    def p(self, x):\n        return a.__doc__\n"),
        },
        {
            "m.py": ("def a():\n    'two'\nclass F:\n    def p(self, x):\n        return a.__doc__\n"),
        },
    ),
    "inspect source": (
        {
            "m.py": ("import inspect\nclass F:\n    def p(self, x):\n        return inspect.getsource(F)\n"),
        },
        {
            "m.py": ("import inspect\nclass F:\n    def p(self, x):\n        return inspect.getsource(F) # c\n"),
        },
    ),
    "star external switch": (
        {
            "m.py": ("from math import *\nclass F:\n    def p(self, x):\n        return sqrt(x)\n"),
        },
        {
            "m.py": ("from cmath import *\nclass F:\n    def p(self, x):\n        return sqrt(x)\n"),
        },
    ),
    "star order": (
        {
            "m.py": ("from a import *\nfrom b import *\nclass F:\n    def p(self, x):\n        return f(x)\n"),
            "a.py": "def f(x): return 1\n",
            "b.py": "def f(x): return 2\n",
        },
        {
            "m.py": ("from b import *\nfrom a import *\nclass F:\n    def p(self, x):\n        return f(x)\n"),
        },
    ),
    "rebinding import order": (
        {
            "m.py": ("from a import f\nfrom b import f\nclass F:\n    def p(self, x):\n        return f(x)\n"),
            "a.py": "def f(x): return 1\n",
            "b.py": "def f(x): return 2\n",
        },
        {
            "m.py": ("from b import f\nfrom a import f\nclass F:\n    def p(self, x):\n        return f(x)\n"),
        },
    ),
    "import then def": (
        {
            "m.py": ("from a import f\ndef f(x): return 9\nclass F:\n    def p(self, x):\n        return f(x)\n"),
            "a.py": "def f(x): return 1\n",
        },
        {
            "m.py": ("def f(x): return 9\nfrom a import f\nclass F:\n    def p(self, x):\n        return f(x)\n"),
        },
    ),
    "order effect vs def": (
        {
            "m.py": ("T=[]\nT.append(1)\nK=len(T)\nclass F:\n    def p(self, x):\n        return K\n"),
        },
        {
            "m.py": ("T=[]\nK=len(T)\nT.append(1)\nclass F:\n    def p(self, x):\n        return K\n"),
        },
    ),
    "module import order w/ effects": (
        {
            "m.py": ("import a\nimport b\nclass F:\n    def p(self, x):\n        return 1\n"),
            "a.py": ("import builtins\nbuiltins.q=1\n"),
            "b.py": ("import builtins\nbuiltins.q=2\n"),
        },
        {
            "m.py": ("import b\nimport a\nclass F:\n    def p(self, x):\n        return 1\n"),
        },
    ),
    "import position vs effects": (
        {
            "m.py": ("import builtins\nbuiltins.q=1\nimport a\nclass F:\n    def p(self, x):\n        return a.k\n"),
            "a.py": "k = q\n",
        },
        {
            "m.py": ("import builtins\nimport a\nbuiltins.q=1\nclass F:\n    def p(self, x):\n        return a.k\n"),
        },
    ),
    "enum order": (
        {
            "m.py": (
                "import enum\nclass F(enum.Enum):\n    A=1\n    def a(self): return 1\n    def b(self): return 2\n"
            ),
        },
        {
            "m.py": (
                "import enum\nclass F(enum.Enum):\n    A=1\n    def b(self): return 2\n    def a(self): return 1\n"
            ),
        },
    ),
    "local enum base order": (
        {
            "m.py": (
                "import enum\n"
                "class M(enum.Enum): pass\n"
                "class F(M):\n"
                "    A=1\n"
                "    def a(self): return 1\n"
                "    def b(self): return 2\n"
            ),
        },
        {
            "m.py": (
                "import enum\n"
                "class M(enum.Enum): pass\n"
                "class F(M):\n"
                "    A=1\n"
                "    def b(self): return 2\n"
                "    def a(self): return 1\n"
            ),
        },
    ),
    "nested class order meta": (
        {
            "m.py": (
                "class M(type): pass\n"
                "class F:\n"
                "    class I(metaclass=M):\n"
                "        def a(self): return 1\n"
                "        def b(self): return 2\n"
            ),
        },
        {
            "m.py": (
                "class M(type): pass\n"
                "class F:\n"
                "    class I(metaclass=M):\n"
                "        def b(self): return 2\n"
                "        def a(self): return 1\n"
            ),
        },
    ),
    "local decorator method order": (
        {
            "m.py": ("def d(c): return c\n@d\nclass F:\n    def a(self): return 1\n    def b(self): return 2\n"),
        },
        {
            "m.py": ("def d(c): return c\n@d\nclass F:\n    def b(self): return 2\n    def a(self): return 1\n"),
        },
    ),
    "data init const": (
        {
            "m.py": (
                "from pathlib import Path\n"
                "T=(Path(__file__).parent/'t.txt').read_text()\n"
                "class F:\n"
                "    def p(self, x):\n"
                "        return T\n"
            ),
            "t.txt": "1",
        },
        {
            "t.txt": "2",
        },
    ),
    "del method": (
        {
            "m.py": ("class F:\n    def a(self): return 1\n    del a\n"),
        },
        {
            "m.py": ("class F:\n    def a(self): return 1\n"),
        },
    ),
    "return None vs return": (
        {
            "m.py": ("class F:\n    def a(self): return None\n"),
        },
        {
            "m.py": ("class F:\n    def a(self): return\n"),
        },
    ),
}

EQUAL: dict[str, tuple[Files, Files]] = {
    "submodule unused": (
        {
            "m.py": ("import p.q\nclass F:\n    def p(self, x):\n        return p.q.f(x)\n"),
            "p/__init__.py": "",
            "p/q.py": ("def f(x): return 1\ndef g(): return 1\n"),
        },
        {
            "p/q.py": ("def f(x): return 1\ndef g(): return 2\n"),
        },
    ),
    "__name__ main": (
        {
            "m.py": ("class F:\n    def p(self, x):\n        return 1\nif __name__=='__main__':\n    print(1)\n"),
        },
        {
            "m.py": ("class F:\n    def p(self, x):\n        return 1\n"),
        },
    ),
    "logging const + pipeline edit": (
        {
            "m.py": (
                "import logging\n"
                "from edge_agent import Filter, Pipeline, Window\n"
                "log = logging.getLogger(__name__)\n"
                "class F(Filter):\n"
                "    def predict(self,x): return x\n"
                "pipeline = Pipeline('a',[Window(3), F(k=1)])\n"
            ),
        },
        {
            "m.py": (
                "import logging\n"
                "from edge_agent import Filter, Pipeline, Window\n"
                "log = logging.getLogger(__name__)\n"
                "class F(Filter):\n"
                "    def predict(self,x): return x\n"
                "pipeline = Pipeline('a',[Window(4), F(k=2)])\n"
            ),
        },
    ),
    "empty module vs none": (
        {
            "m.py": ("class F:\n    def p(self, x):\n        return 1\n"),
        },
        {
            "m.py": ("class F:\n    def p(self, x):\n        return 1\n# x\n"),
        },
    ),
    "method doc numpydoc": (
        {
            "m.py": ("class F:\n    'a'\n    def p(self):\n        'x'\n"),
        },
        {
            "m.py": ("class F:\n    def p(self): pass\n"),
        },
    ),
    "property setter order": (
        {
            "m.py": (
                "class F:\n"
                "    @property\n"
                "    def a(self): return 1\n"
                "    @a.setter\n"
                "    def a(self, v): self.q=v\n"
                "    def b(self): return 1\n"
            ),
        },
        {
            "m.py": (
                "class F:\n"
                "    def b(self): return 1\n"
                "    @property\n"
                "    def a(self): return 1\n"
                "    @a.setter\n"
                "    def a(self, v): self.q=v\n"
            ),
        },
    ),
}


def of(folder: Path, files: Files) -> str:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return fingerprint(f"{folder / ('p/m.py' if 'p/m.py' in files else 'm.py')}:F").value


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_behaviour_is_another_fingerprint(name: str, tmp_path: Path) -> None:
    one, two = DIFFERENT[name]
    assert of(tmp_path / "one", one) != of(tmp_path / "two", {**one, **two})


@pytest.mark.parametrize("name", EQUAL)
def test_same_behaviour_is_the_same_fingerprint(name: str, tmp_path: Path) -> None:
    one, two = EQUAL[name]
    assert of(tmp_path / "one", one) == of(tmp_path / "two", {**one, **two})
