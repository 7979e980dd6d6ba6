"""What a class needs is shipped or refused: every shape of import, data files, encodings, layouts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.contract.errors import AuthorError
from publisher.analysis import origin
from publisher.closure import Closure, collect

Tree = Callable[[dict[str, str | bytes]], Path]
Files = dict[str, str]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def build(files: dict[str, str | bytes]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return build


def shown(closure: Closure) -> list[str]:
    return sorted(closure.shown(file) for file in closure.files)


def refusals(closure: Closure) -> list[tuple[str, int]]:
    return [(refusal.file, refusal.line) for refusal in closure.refused]


PACKAGE = {
    "acme/__init__.py": "",
    "acme/f.py": "",
    "acme/a.py": "X = 1\n",
    "acme/b.py": "Y = 2\n",
    "acme/sub/__init__.py": "from . import deep\n",
    "acme/sub/deep.py": "Z = 3\n",
    "acme/sub/other.py": "",
    "a.py": "X = 'top'\n",
    "sub/__init__.py": "",
}
CHAIN = ["acme/sub/__init__.py", "acme/sub/deep.py"]

# source of acme/f.py -> what comes along besides acme/__init__.py and acme/f.py
SHAPES: dict[str, tuple[str, list[str]]] = {
    "absolute": ("import acme.a\n", ["acme/a.py"]),
    "absolute with alias": ("import acme.a as q\n", ["acme/a.py"]),
    "several": ("import acme.a, acme.b\n", ["acme/a.py", "acme/b.py"]),
    "from package": ("from acme import a\n", ["acme/a.py"]),
    "from module": ("from acme.a import X\n", ["acme/a.py"]),
    "relative module": ("from . import a\n", ["acme/a.py"]),
    "relative name": ("from .a import X\n", ["acme/a.py"]),
    "relative package": ("from .sub import deep\n", CHAIN),
    "relative deep": ("from .sub.deep import Z\n", CHAIN),
    "parents' init": ("import acme.sub.other\n", [*CHAIN, "acme/sub/other.py"]),
    "star": ("from .a import *\n", ["acme/a.py"]),
    "inside a method": ("class F:\n    def p(self):\n        from .a import X\n", ["acme/a.py"]),
    "inside an async function": ("async def p():\n    from .a import X\n", ["acme/a.py"]),
    "inside a branch": ("if 1 + 1:\n    from .a import X\nelse:\n    from .b import Y\n", ["acme/a.py", "acme/b.py"]),
    "inside match": ("match 1:\n    case 1:\n        from .a import X\n", ["acme/a.py"]),
    "inside with, for, while, try": (
        "with open as f:\n    from .a import X\nfor i in ():\n    while i:\n        from .b import Y\n",
        ["acme/a.py", "acme/b.py"],
    ),
    "alternatives": (
        "try:\n    from .a import X\nexcept ImportError:\n    from .b import Y as X\n",
        ["acme/a.py", "acme/b.py"],
    ),
    "missing alternative": (
        "try:\n    from ._fast import X\nexcept ImportError:\n    from .b import Y as X\n",
        ["acme/b.py"],
    ),
    "by version": (
        "import sys\nif sys.version_info >= (3, 12):\n    from .a import X\nelse:\n    from .b import Y\n",
        ["acme/a.py", "acme/b.py"],
    ),
    "by platform": (
        "import sys\nif sys.platform == 'win32':\n    import winthing\nelse:\n    from . import a\n",
        ["acme/a.py"],
    ),
    "literal import_module": ("import importlib\nimportlib.import_module('acme.a')\n", ["acme/a.py"]),
    "renamed import_module": ("from importlib import import_module as im\nim('acme.a')\n", ["acme/a.py"]),
    "renamed importlib": ("import importlib as il\nil.import_module('acme.a')\n", ["acme/a.py"]),
    "relative import_module": (
        "from importlib import import_module\nimport_module('.a', __package__)\n",
        ["acme/a.py"],
    ),
    "keyword import_module": ("import importlib\nimportlib.import_module(name='.a', package='acme')\n", ["acme/a.py"]),
    "dunder import": ("__import__('acme.a')\n", ["acme/a.py"]),
    "dunder import with names": ("__import__('acme', globals(), locals(), ['a'], 0)\n", ["acme/a.py"]),
    "dunder import relative": ("__import__('sub', globals(), None, ('other',), 1)\n", [*CHAIN, "acme/sub/other.py"]),
    "in a lambda": ("f = lambda: __import__('acme.a')\n", ["acme/a.py"]),
    "same name above": ("import a\n", ["a.py"]),
    "same name beside": ("from . import a\nfrom .sub import other\n", ["acme/a.py", *CHAIN, "acme/sub/other.py"]),
    "type checking": ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import X\n", []),
    "type checking by module": (
        "import typing as t\nif t.TYPE_CHECKING:\n    from .a import X\nelse:\n    from .b import Y\n",
        ["acme/b.py"],
    ),
    "type checking renamed": ("from typing import TYPE_CHECKING as T\nif T:\n    import acme.a\n", []),
    "not type checking": (
        "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    from .a import X\n",
        ["acme/a.py"],
    ),
    "main guard": ("if __name__ == '__main__':\n    from .a import X\n", []),
    "stdlib": ("import json, os.path\nfrom collections import abc\n", []),
    "our own": ("from edge_agent import Filter\nimport edge_agent.sdk\n", []),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape_of_import(name: str, tree: Tree) -> None:
    source, along = SHAPES[name]
    root = tree({**PACKAGE, "acme/f.py": source})
    closure = collect("acme.f", root=root)
    assert closure.refused == ()
    assert shown(closure) == sorted({"acme/__init__.py", "acme/f.py", *along})
    assert closure.requires == ()
    assert collect(root / "acme" / "f.py").files == closure.files


def test_name_bound_by_init_is_no_submodule(tree: Tree) -> None:
    root = tree({"p/__init__.py": "thing = 3\n", "p/thing.py": "", "f.py": "from p import thing\n"})
    assert shown(collect(root / "f.py")) == ["f.py", "p/__init__.py"]


def test_package_of_a_resource_comes_along(tree: Tree) -> None:
    source = "from importlib.resources import files\nx = files('p.assets').joinpath('x.csv').read_text()\n"
    files = {"p/__init__.py": "", "p/f.py": source, "p/assets/__init__.py": "import p.more\n", "p/assets/x.csv": ""}
    more = "from pathlib import Path\nopen(Path(__file__).with_name('y.csv'))\n"
    closure = collect("p.f", root=tree({**files, "p/more.py": more, "p/y.csv": ""}))
    assert shown(closure) == ["p/__init__.py", "p/assets/__init__.py", "p/f.py", "p/more.py"]
    assert [file.path for file in closure.data] == ["p/assets/x.csv", "p/y.csv"]


def test_declaration_of_a_reexported_class(tree: Tree) -> None:
    root = tree({"p/__init__.py": "from .f import F\n", "p/f.py": "class F:\n    data = ['x.csv']\n", "p/x.csv": ""})
    assert [file.path for file in collect("p:F", root=root).data] == ["p/x.csv"]


def test_file_may_be_named_from_the_root(tree: Tree) -> None:
    root = tree({"p/__init__.py": "", "p/f.py": ""})
    assert collect("p/f.py", root=root).entry == "p.f"


def test_star_with_all_brings_submodules(tree: Tree) -> None:
    root = tree({"p/__init__.py": "__all__ = ['x']\n__all__ += ['y']\n", "p/x.py": "", "p/y.py": "", "p/z.py": ""})
    (root / "f.py").write_text("from p import *\n")
    assert shown(collect(root / "f.py")) == ["f.py", "p/__init__.py", "p/x.py", "p/y.py"]


def test_cycle_ends(tree: Tree) -> None:
    root = tree(
        {"p/__init__.py": "from . import a\n", "p/a.py": "from . import b\n", "p/b.py": "import p.a\nimport f\n"}
    )
    (root / "f.py").write_text("import p\nimport f\n")
    assert len(collect(root / "f.py").files) == 4


def test_namespace_package(tree: Tree) -> None:
    root = tree(
        {"ns/one.py": "from ns import two\nfrom ns.in_.three import A\n", "ns/two.py": "", "ns/in_/three.py": "A = 1\n"}
    )
    closure = collect("ns.one", root=root)
    assert shown(closure) == ["ns/in_/three.py", "ns/one.py", "ns/two.py"]
    assert closure.refused == ()


def install(site: Path, name: str, files: dict[str, str], direct: str = "") -> None:
    """Lay out an installed distribution as pip leaves it."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))
    if direct:
        (info / "direct_url.json").write_text(direct)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "env" / "site-packages"
    path.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(path))
    return path


def test_namespace_shared_with_an_installed_distribution(site: Path, tree: Tree) -> None:
    install(site, "Goo.Proto_buf", {"goo/protobuf/__init__.py": ""})
    install(site, "goo-auth", {"goo/auth.py": ""})
    root = tree({"w/goo/mine.py": "", "w/f.py": "import goo.mine\nimport goo.protobuf\nfrom goo import auth\n"}) / "w"
    closure = collect("f", root=root)
    assert shown(closure) == ["f.py", "goo/mine.py"]
    assert closure.requires == ("goo-auth", "goo-proto-buf")
    assert closure.refused == ()


def test_installed_package_wins_over_a_folder_of_its_name(site: Path, tree: Tree) -> None:
    install(site, "signals", {"signals/__init__.py": "", "signals/io.py": ""})
    root = tree({"w/signals/notes.txt": "", "w/signals/tool.py": "", "w/f.py": "import signals.io\n"}) / "w"
    closure = collect("f", root=root)
    assert (shown(closure), closure.requires, closure.refused) == (["f.py"], ("signals",), ())


def test_editable_install_is_local(site: Path, tree: Tree) -> None:
    root = tree(
        {"lib/src/edit/__init__.py": "from . import core\n", "lib/src/edit/core.py": "", "w/f.py": "import edit\n"}
    )
    finder = f"MAPPING: dict[str, str] = {{'edit': {str(root / 'lib/src/edit')!r}}}\n"
    files = {"__editable___edit_1_0_finder.py": finder}
    install(site, "edit", files, '{"url": "file:///x", "dir_info": {"editable": true}}')
    closure = collect("f", root=root / "w")
    assert [file.path for file in closure.files] == ["edit/__init__.py", "edit/core.py", "f.py"]
    assert (closure.requires, closure.refused) == ((), ())


def test_installed_distribution_is_required(tree: Tree) -> None:
    root = tree({"f.py": "import packaging.version\nimport msgspec\n"})
    assert collect(root / "f.py").requires == ("msgspec", "packaging")


@pytest.mark.parametrize("layout", ["src", "lib"])
def test_source_layouts(layout: str, tree: Tree) -> None:
    pyproject = "[project]\nname='x'\n[tool.setuptools.packages.find]\nwhere = ['lib']\n"
    root = tree({"pyproject.toml": pyproject, f"{layout}/pk/__init__.py": "", f"{layout}/pk/m.py": "import pk.n\n"})
    (root / layout / "pk" / "n.py").write_text("")
    by_name, by_file = collect("pk.m", root=root), collect(root / layout / "pk" / "m.py")
    assert [file.path for file in by_name.files] == ["pk/__init__.py", "pk/m.py", "pk/n.py"]
    assert shown(by_name)[1] == f"{layout}/pk/m.py"
    assert by_name.entry == by_file.entry == "pk.m"
    assert by_file.files == by_name.files


def test_path_inserted_by_the_source(tree: Tree) -> None:
    head = "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).parent / 'vendor'))\n"
    root = tree({"f.py": head + "import extra\n", "vendor/extra.py": ""})
    closure = collect(root / "f.py")
    assert ([file.path for file in closure.files], closure.refused) == (["extra.py", "f.py"], ())


REFUSED: dict[str, tuple[str, int, str]] = {
    "computed": ("import importlib\n\nimportlib.import_module('x' + name)\n", 3, "computed"),
    "by getattr": ("import importlib\ngetattr(importlib, 'import_module')('acme')\n", 2, "by name"),
    "in exec": ("\nexec('import acme')\n", 2, "imports"),
    "computed in a method": ("class F:\n    def p(self, n):\n        return __import__(n)\n", 3, "computed"),
    "f-string": ("from importlib import import_module\nimport_module(f'acme.{n}')\n", 2, "computed"),
    "handed on": ("import importlib\nload = importlib.import_module\n", 2, "passed on"),
    "relative to computed": ("import importlib\nimportlib.import_module('.a', package=p)\n", 2, "computed"),
    "by file": ("import importlib.util as u\nu.spec_from_file_location('x', 'x.py')\n", 2, "from a file"),
    "unknown": ("\nimport no_such_module_anywhere\n", 2, "neither"),
    "unknown local": ("from . import missing\n", 1, "neither"),
    "no alternative": ("try:\n    import nope_a\nexcept ImportError:\n    import nope_b\n", 4, "neither"),
    "above the top": ("from ... import x\n", 1, "climbs"),
    "extension": ("from . import fast\n", 1, "extension module"),
    "bytecode": ("from . import old\n", 1, "no source"),
    "broken": ("from . import broken\n", 1, "does not parse"),
    "shadow": ("import colorsys\n", 1, "hides"),
    "cwd": ("x = open('table.csv').read()\n", 1, "working directory"),
    "cwd by Path": ("from pathlib import Path\nx = Path('t.csv').read_text()\n", 2, "working directory"),
    "cwd by numpy": ("import numpy as np\nx = np.load('w.npy')\n", 2, "working directory"),
    "computed data": (
        "from pathlib import Path\ndef p(n):\n    return (Path(__file__).parent / n).read_text()\n",
        3,
        "comput",
    ),
    "computed name": (
        "import os\nH = os.path.dirname(__file__)\ndef p(n):\n    return open(os.path.join(H, n))\n",
        4,
        "comput",
    ),
    "computed f-string": (
        "import os\nH = os.path.dirname(__file__)\ndef p(n):\n    return open(f'{H}/{n}.csv')\n",
        4,
        "comput",
    ),
    "computed resource": (
        "from importlib import resources\ndef p(n):\n    return resources.files('acme') / n\n",
        3,
        "comput",
    ),
    "missing data": (
        "from pathlib import Path\nx = (Path(__file__).parent / 'gone.csv').read_text()\n",
        2,
        "does not exist",
    ),
    "listed": (
        "from pathlib import Path\nfor f in (Path(__file__).parent / 'd').iterdir():\n    pass\n",
        2,
        "director",
    ),
    "machine code": (
        "import ctypes, os\nctypes.CDLL(os.path.join(os.path.dirname(__file__), 'l.so'))\n",
        2,
        "machine code",
    ),
    "above": ("from pathlib import Path\nx = open(Path(__file__).parents[2] / 'up.csv')\n", 2, "above"),
}
AROUND = {
    "w/acme/__init__.py": "",
    "w/acme/fast.cpython-311-x86_64-linux-gnu.so": "",
    "w/acme/old.pyc": "",
    "w/acme/broken.py": "def\n",
    "w/acme/d/x.csv": "",
    "w/acme/l.so": "",
    "w/colorsys.py": "",
    "up.csv": "",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_place_and_reason(name: str, tree: Tree) -> None:
    source, line, words = REFUSED[name]
    root = tree({**AROUND, "w/acme/f.py": source}) / "w"
    closure = collect("acme.f", root=root)
    assert len(closure.refused) == 1, closure.refused
    refusal = closure.refused[0]
    assert words in refusal.reason
    assert (refusal.file, refusal.line) == ("acme/broken.py" if name == "broken" else "acme/f.py", line)


HEAD = "import os\nfrom pathlib import Path\nfrom importlib import resources\nimport importlib.resources\n"
READ: dict[str, str] = {
    "pathlib": "open(Path(__file__).parent / 'd' / 'x.csv')",
    "resolve": "open(Path(__file__).resolve().parent / 'd/x.csv')",
    "joinpath": "Path(__file__).parent.joinpath('d', 'x.csv').read_text()",
    "parents": "Path(__file__).parents[0] / 'd' / 'x.csv'",
    "with_name": "(Path(__file__).with_name('d') / 'x.csv').read_bytes()",
    "os.path": "open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'd', 'x.csv'))",
    "plus": "open(os.path.dirname(__file__) + '/d/x.csv')",
    "f-string": "open(f'{os.path.dirname(__file__)}/d/x.csv')",
    "up and down": "open(Path(__file__).parent.parent / 'acme' / 'd' / 'x.csv')",
    "constant": "HERE = Path(__file__).parent\nDATA = HERE / 'd'\nopen(DATA / 'x.csv')",
    "constant elsewhere": "from .place import HERE\nopen(HERE / 'd' / 'x.csv')",
    "constant of a module": "from . import place\nopen(place.HERE / 'd' / 'x.csv')",
    "function elsewhere": "from .place import here\nopen(here() / 'd' / 'x.csv')",
    "class attribute": "class F:\n    D = Path(__file__).parent / 'd'\n    def p(self): return open(self.D / 'x.csv')",
    "local": "def p():\n    here = Path(__file__).parent\n    return open(here / 'd' / 'x.csv')",
    "files": "importlib.resources.files('acme').joinpath('d/x.csv').read_text()",
    "files of package": "(resources.files(__package__) / 'd' / 'x.csv').read_text()",
    "files of module": "import acme\nresources.files(acme) / 'd' / 'x.csv'",
    "as_file": "with resources.as_file(resources.files('acme') / 'd' / 'x.csv') as path:\n    open(path)",
    "read_text": "resources.read_text('acme.d', 'x.csv')",
    "get_data": "import pkgutil\npkgutil.get_data('acme', 'd/x.csv')",
    "glob": "list((Path(__file__).parent / 'd').glob('*.csv'))",
    "declared": "class F:\n    data = ['d/x.csv']",
    "declared folder": "class F:\n    data = ['d']\n    def p(self, n): return open(Path(__file__).parent / n)",
    "declared pattern": "class F:\n    data: list[str] = ['d/*.csv']",
    "declared from the root": "class F:\n    data = ('acme/d/x.csv',)",
    "declared on a base": "from .place import Base\nclass F(Base):\n    pass",
}
PLACE = """from pathlib import Path
HERE = Path(__file__).parent
def here():
    return HERE
class Base:
    data = ['d']
"""


@pytest.mark.parametrize("name", READ)
def test_data_file_is_found(name: str, tree: Tree) -> None:
    files = {"acme/__init__.py": "", "acme/f.py": HEAD + READ[name] + "\n", "acme/place.py": PLACE, "acme/d/x.csv": "1"}
    root = tree({**files, "acme/other.csv": "2"})
    target = "acme.f:F" if "class F" in READ[name] else "acme.f"
    closure = collect(target, root=root)
    assert [(file.path, file.source) for file in closure.data] == [("acme/d/x.csv", b"1")]
    assert closure.refused == ()


NO_DATA = {
    "written": "open(Path(__file__).parent / 'out.txt', 'w')",
    "written by method": "(Path(__file__).parent / 'out.txt').write_text('x')",
    "asked": "(Path(__file__).parent / 'maybe').exists()",
    "own source": "open(__file__).read()",
    "named": "print(f'{__file__}: hello')",
    "device file": "open('/etc/hostname').read()",
    "written through a name": "p = Path(__file__).parent / 'out'\nwith p.open('w') as f:\n    f.write('x')",
    "another object's method": "def p(store):\n    return store.load('weights')",
    "parameter": "def p(path):\n    return open(path).read()",
}


@pytest.mark.parametrize("name", NO_DATA)
def test_not_a_data_file(name: str, tree: Tree) -> None:
    closure = collect(tree({"f.py": HEAD + NO_DATA[name] + "\n"}) / "f.py")
    assert (closure.data, closure.refused) == ((), ())


@pytest.mark.parametrize("declared", ["['plug.a', 'plug.b']", "['plug.*']"])
def test_declared_imports_answer_a_computed_one(declared: str, tree: Tree) -> None:
    source = f"class F:\n    imports = {declared}\n    def p(self, n):\n        return __import__('plug.' + n)\n"
    root = tree({"f.py": source, "plug/__init__.py": "", "plug/a.py": "", "plug/b.py": "import json\n"})
    closure = collect(f"{root / 'f.py'}:F")
    assert (shown(closure), closure.refused) == (["f.py", "plug/__init__.py", "plug/a.py", "plug/b.py"], ())


def test_declared_requirement_answers_a_missing_distribution(tree: Tree) -> None:
    source = (
        "import tflite_runtime\nclass F:\n    requires = ['tflite-runtime>=2.1; python_version<\"4\"', 'msgspec']\n"
    )
    closure = collect(f"{tree({'f.py': source}) / 'f.py'}:F")
    assert (closure.requires, closure.refused) == (("msgspec", "tflite-runtime"), ())
    assert closure.declared[0].startswith("tflite-runtime>=2.1")


def test_computed_declaration_is_refused(tree: Tree) -> None:
    closure = collect(f"{tree({'f.py': 'class F:' + chr(10) + '    data = [n for n in x]' + chr(10)}) / 'f.py'}:F")
    assert refusals(closure) == [("f.py", 2)]


def test_declared_data_must_exist(tree: Tree) -> None:
    closure = collect(
        f"{tree({'f.py': 'class F:' + chr(10) + '    data = [' + repr('no.csv') + ']' + chr(10)}) / 'f.py'}:F"
    )
    assert refusals(closure) == [("f.py", 2)]


def test_encodings(tree: Tree) -> None:
    files: dict[str, str | bytes] = {
        "f.py": "import bom, latin, dos\n",
        "bom.py": b"\xef\xbb\xbfx = '\xc2\xb5'\n",
        "latin.py": b"# -*- coding: latin-1 -*-\nx = '\xb5'\n",
        "dos.py": b"x = 1\r\ny = 2\r\n",
    }
    closure = collect(tree(files) / "f.py")
    assert closure.refused == ()
    assert {file.path: file.source for file in closure.files}["latin.py"] == files["latin.py"]


@pytest.mark.parametrize("data", [b"x = '\xb5'\n", b"# coding: nonsense\n", b"x = 1\0\n", b"def f(:\n"])
def test_unreadable_source_is_refused(data: bytes, tree: Tree) -> None:
    closure = collect(tree({"f.py": "import g\n", "g.py": data}) / "f.py")
    assert [refusal.file for refusal in closure.refused] == ["g.py"]


def test_nothing_is_executed(tree: Tree) -> None:
    root = tree({"p/__init__.py": "raise SystemExit\n", "p/f.py": "open('/tmp/never', 'w')\nraise SystemExit\n"})
    assert len(collect("p.f", root=root).files) == 2
    assert "p" not in sys.modules


TARGETS = {
    "no file": ("gone.py", "no such file"),
    "no module": ("gone.module:F", "was not found"),
    "not a name": ("my-file.py", "not a Python name"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_unknown_target(name: str, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    target, words = TARGETS[name]
    monkeypatch.chdir(tree({"my-file.py": ""}))
    with pytest.raises(AuthorError, match=words):
        collect(target)


def test_root_must_hold_the_file(tree: Tree) -> None:
    root = tree({"a/f.py": "", "b/g.py": ""})
    with pytest.raises(AuthorError, match="not below the root"):
        collect(root / "a" / "f.py", root=root / "b")
    with pytest.raises(AuthorError, match="not a directory"):
        collect(root / "a" / "f.py", root=root / "c")


def test_installed_target_is_not_shipped(site: Path) -> None:
    install(site, "inst", {"inst/__init__.py": "class F: pass\n"})
    with pytest.raises(AuthorError, match="installed distribution"):
        collect(site / "inst" / "__init__.py")


def test_entry_named_like_the_standard_library_is_refused(tree: Tree) -> None:
    closure = collect(tree({"signal.py": "class F: pass\n"}) / "signal.py")
    assert refusals(closure) == [("signal.py", 1)]


def test_same_bytes_wherever_it_lies(tree: Tree, tmp_path: Path) -> None:
    root = tree({"one/f.py": "import g\n", "one/g.py": "", "two/three/f.py": "import g\n", "two/three/g.py": ""})
    one, two = collect(root / "one" / "f.py"), collect(root / "two" / "three" / "f.py")
    assert [(f.path, f.source) for f in one.files] == [(f.path, f.source) for f in two.files]


def test_json_form(tree: Tree) -> None:
    root = tree({"src/p/__init__.py": "", "src/p/f.py": "import msgspec\nx = open('a')\n"})
    assert collect("p.f", root=root).to_json() == {
        "files": ["src/p/__init__.py", "src/p/f.py"],
        "requires": ["msgspec"],
        "data": [],
        "refused": [{"file": "src/p/f.py", "line": 2, "reason": collect("p.f", root=root).refused[0].reason}],
    }


def test_standard_library_is_the_same_set_for_every_version() -> None:
    assert {"distutils", "asyncore", "tomllib", "annotationlib", "telnetlib"} <= origin.STDLIB


LAYOUTS: dict[str, tuple[Files, str, str, list[str]]] = {
    "script beside a package": (
        {"f.py": "import p.a\n", "p/__init__.py": "", "p/a.py": ""},
        "f.py",
        "f",
        ["p/__init__.py", "p/a.py"],
    ),
    "namespace package below a project": (
        {"pyproject.toml": "", "ns/f.py": "from ns.a import x\n", "ns/a.py": "x = 1\n"},
        "ns/f.py",
        "ns.f",
        ["ns/a.py"],
    ),
    "relative import out of a folder": (
        {"o/i/f.py": "from ..a import x\n", "o/a.py": "x = 1\n"},
        "o/i/f.py",
        "o.i.f",
        ["o/a.py"],
    ),
    "script of a src project": (
        {"setup.py": "", "tools/f.py": "import p\n", "src/p/__init__.py": ""},
        "tools/f.py",
        "f",
        ["p/__init__.py"],
    ),
    "namespace in src": (
        {"pyproject.toml": "", "src/ns/f.py": "from . import a\n", "src/ns/a.py": ""},
        "src/ns/f.py",
        "ns.f",
        ["ns/a.py"],
    ),
    "hatch": (
        {
            "pyproject.toml": "[tool.hatch.build.targets.wheel]\npackages = ['python/p']\n",
            "python/p/f.py": "import p.a\n",
            "python/p/a.py": "",
        },
        "python/p/f.py",
        "p.f",
        ["p/a.py"],
    ),
    "package itself": ({"p/__init__.py": "from .a import x\n", "p/a.py": "x = 1\n"}, "p", "p", ["p/a.py"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_root_is_found_without_being_told(name: str, tree: Tree) -> None:
    files, target, entry, along = LAYOUTS[name]
    root = tree(dict(files))
    closure = collect(root / target)
    assert (closure.entry, closure.refused) == (entry, ())
    own = entry.replace(".", "/") + ("/__init__.py" if name == "package itself" else ".py")
    assert [file.path for file in closure.files] == sorted([own, *along])


def test_module_is_found_from_the_working_directory(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree({"src/p/__init__.py": "", "src/p/f.py": "class F: pass\n"}))
    closure = collect("p.f:F")
    assert (closure.entry, closure.attr) == ("p.f", "F")


def test_data_has_a_limit(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("publisher.closure.MAX_DATA_BYTES", 3)
    root = tree({"f.py": "open(__file__.replace('f.py', 'x.bin'), 'rb')\n", "x.bin": "1234"})
    closure = collect(root / "f.py")
    assert (closure.data, [refusal.file for refusal in closure.refused]) == ((), ["x.bin"])
