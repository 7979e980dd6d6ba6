"""A bundle's modules live in a namespace of their own (I5) and do not notice."""

from __future__ import annotations

import inspect
import itertools
import linecache
import sys
import textwrap
import traceback
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import WorkerFailed
from edge_agent.runtime.namespace import Mount

_COUNTER = itertools.count()
MountFiles = Callable[[dict[str, str]], Mount]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[MountFiles]:
    mounts: list[Mount] = []

    def make(files: dict[str, str]) -> Mount:
        number = next(_COUNTER)
        root = tmp_path / f"bundle{number}"
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(textwrap.dedent(text).encode())
        mounts.append(Mount(root, f"test_{number}"))
        return mounts[-1]

    yield make
    for one in mounts:
        one.unmount()
    assert not [name for name in sys.modules if name.startswith("_fieldcast_test_")]
    assert not [finder for finder in sys.meta_path if isinstance(finder, Mount) and finder in mounts]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Puts modules where installed distributions would be."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def make(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = site / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    yield make
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(site)) or name.startswith("fc_"):
            del sys.modules[name]


PACKAGE = {
    "pkg/__init__.py": "from .helper import K\nfrom pkg.inner.deep import DEEP\n",
    "pkg/helper.py": "K = 'helper'\ndef f(): return 'pkg.helper.f'\n",
    "pkg/late.py": "VALUE = 'late'\n",
    "pkg/star.py": "__all__ = ['A']\nA, B = 'star', 'hidden'\n",
    "pkg/inner/__init__.py": "",
    "pkg/inner/deep.py": "from ..helper import f\nfrom .. import helper\nDEEP = f()\n",
    "pkg/data/table.csv": "1,2\n",
    "spaces/one.py": "ONE = 'namespace'\n",
    "helper.py": "K = 'top'\nX = {'a': 1}\n",
    "data/limits.txt": "limits",
}

STATEMENTS = {
    "absolute": ("import helper; r = helper.K", "top"),
    "absolute from": ("from helper import K as r", "top"),
    "package": ("import pkg; r = pkg.K", "helper"),
    "dotted binds the top": ("import pkg.inner.deep; r = pkg.inner.deep.DEEP", "pkg.helper.f"),
    "dotted as": ("import pkg.inner.deep as d; r = d.DEEP", "pkg.helper.f"),
    "submodule by from": ("from pkg import late; r = late.VALUE", "late"),
    "deep by from": ("from pkg.inner.deep import helper; r = helper.K", "helper"),
    "star": ("from pkg.star import *; r = A + str('B' in globals())", "starFalse"),
    "namespace": ("import spaces.one; r = spaces.one.ONE", "namespace"),
    "namespace by from": ("from spaces import one; r = one.ONE", "namespace"),
    "dunder import": ("r = __import__('helper').K", "top"),
    "dunder import dotted": ("r = __import__('pkg.late').late.VALUE", "late"),
    "exec": ("n = {}; exec('import helper; r = helper.K', globals(), n); r = n['r']", "top"),
    "import_module": ("import importlib; r = importlib.import_module('pkg.late').VALUE", "late"),
    "import_module by from": ("from importlib import import_module as i; r = i('helper').K", "top"),
    "import_module relative": ("import importlib; r = importlib.import_module('.late', 'pkg').VALUE", "late"),
    "import_module relative to a package's own name": (
        "import importlib, pkg; r = importlib.import_module('..late', pkg.inner.__name__).VALUE",
        "late",
    ),
    "import_module private name": (
        "import importlib, pkg; r = importlib.import_module(pkg.__name__ + '.late').VALUE",
        "late",
    ),
    "import_module of the installation": ("import importlib; r = importlib.import_module('json').__name__", "json"),
    "find_spec": ("import importlib.util; r = str(importlib.util.find_spec('pkg.late') is not None)", "True"),
    "find_spec of nothing": ("import importlib.util as u; r = str(u.find_spec('pkg.nothing'))", "None"),
    "find_spec of the installation": ("from importlib.util import find_spec as s; r = s('json').name", "json"),
    "resources": (
        "import importlib.resources as r; r = r.files('pkg').joinpath('data/table.csv').read_text()",
        "1,2\n",
    ),
    "resources by from": (
        "from importlib import resources; r = (resources.files('pkg.data') / 'table.csv').read_text()",
        "1,2\n",
    ),
    "resources of a folder": (
        "from importlib.resources import files; r = (files('data') / 'limits.txt').read_text()",
        "limits",
    ),
    "resources of a module": (
        "import importlib.resources as i, pkg; r = (i.files(pkg) / 'data/table.csv').read_text()",
        "1,2\n",
    ),
    "resources beside a plain module": (
        "import importlib.resources; r = (importlib.resources.files('helper') / 'data/limits.txt').read_text()",
        "limits",
    ),
    "resources as_file": (
        "import importlib.resources as i\nwith i.as_file(i.files('data') / 'limits.txt') as p: r = p.read_text()",
        "limits",
    ),
    "read_text": ("from importlib.resources import read_text; r = read_text('data', 'limits.txt')", "limits"),
    "pkgutil": ("import pkgutil; r = pkgutil.get_data('pkg', 'data/table.csv').decode()", "1,2\n"),
    "pkgutil.resolve_name": ("import pkgutil; r = pkgutil.resolve_name('pkg.helper:f')()", "pkg.helper.f"),
    "pkgutil.resolve_name dotted": ("import pkgutil; r = pkgutil.resolve_name('pkg.helper.K')", "helper"),
    "importlib children": (
        "from importlib import metadata, abc; r = metadata.__name__ + abc.__name__",
        "importlib.metadataimportlib.abc",
    ),
    "importlib.abc dotted": ("import importlib.abc; r = importlib.abc.Loader.__name__", "Loader"),
    "importlib passes the rest": (
        "import importlib; r = str('reload' in dir(importlib) and importlib.reload is not None)",
        "True",
    ),
    "file": ("import os; r = os.path.basename(__file__)", "main.py"),
    "package attribute": ("r = repr(__package__)", "''"),
    "alternatives": (
        "try:\n    import no_such_thing as t\nexcept ImportError:\n    import helper as t\nr = t.K",
        "top",
    ),
    "os.path": ("import os.path; r = os.path.basename('/a/b')", "b"),
    "from the installation": (
        "from os import path; from xml.etree import ElementTree as E; r = E.__name__",
        "xml.etree.ElementTree",
    ),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated. Use files:DeprecationWarning")
@pytest.mark.parametrize(
    ("case", "inside"),
    [(case, inside) for case in STATEMENTS for inside in ("module", "method") if (case, inside) != ("star", "method")],
)
def test_every_shape_of_import_finds_the_bundles_own_modules(mount: MountFiles, case: str, inside: str) -> None:
    statement, expected = STATEMENTS[case]
    body = textwrap.indent(f"{statement}\nreturn r\n", " " * 8)
    source = {
        "module": f"{statement}\nclass C:\n    def go(self): return r\n",
        "method": f"class C:\n    def go(self):\n{body}",
    }[inside]
    mounted = mount({**PACKAGE, "main.py": source})

    assert typing.cast(typing.Any, mounted.load("main:C"))().go() == expected
    assert "helper" not in sys.modules
    assert "pkg" not in sys.modules


def test_resources_without_an_anchor_mean_the_calling_module(mount: MountFiles) -> None:
    source = (
        "from importlib.resources import files\nclass C:\n    def go(self): return (files() / 'a.txt').read_text()\n"
    )
    mounted = mount({"pkg/__init__.py": "", "pkg/main.py": source, "pkg/a.txt": "A", "top.py": source, "a.txt": "TOP"})
    assert mounted.load("pkg.main:C")().go() == "A"
    assert mounted.load("top:C")().go() == "TOP"


REFUSALS = {
    "missing local module": ("import pkg.nothing", ModuleNotFoundError, "No module named 'pkg.nothing'"),
    "missing module": ("import no_such_module", ModuleNotFoundError, "No module named 'no_such_module'"),
    "missing name": ("from pkg import nothing", ImportError, "cannot import name 'nothing'"),
    "module as package": ("import helper.x", ModuleNotFoundError, "No module named 'helper.x'"),
    "relative at the top": ("from . import helper", ImportError, "no known parent package"),
    "computed beyond the top": ("import importlib; importlib.import_module('...x', 'pkg')", ImportError, "beyond"),
    "beyond the top in a package": ("from pkg.bad import x", ImportError, "beyond top-level package"),
    "missing part of a namespace": ("import spaces.two", ModuleNotFoundError, "spaces"),
    "missing name of a namespace": ("from spaces import two", ImportError, "cannot import name 'two'"),
    "missing below a data folder": ("import data.two", ModuleNotFoundError, "data"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_there_fails_as_it_does_outside_a_bundle(mount: MountFiles, case: str) -> None:
    statement, error, words = REFUSALS[case]
    mounted = mount({**PACKAGE, "pkg/bad.py": "from ... import x", "main.py": f"{statement}\nclass C: pass\n"})
    with pytest.raises(error, match=words):
        mounted.load("main:C")
    assert not [name for name in sys.modules if name.startswith(f"{mounted.prefix}.")]


def test_a_local_half_of_a_namespace_does_not_hide_the_installed_half(
    mount: MountFiles, installed: Callable[[dict[str, str]], None]
) -> None:
    installed({"fc_google/protobuf.py": "P = 'installed'", "fc_google/deep/part.py": "D = 'deep'"})
    mounted = mount(
        {
            "fc_google/mine.py": "M = 'mine'",
            "a.py": "import fc_google.mine\nimport fc_google.protobuf\nimport fc_google.deep.part\n"
            "class C: v = (fc_google.mine.M, fc_google.protobuf.P, fc_google.deep.part.D)\n",
            "b.py": "from fc_google import protobuf, mine\nclass C: v = (mine.M, protobuf.P)\n",
            "c.py": "class C:\n    def go(self):\n        from fc_google.protobuf import P\n        return P\n",
        }
    )
    assert mounted.load("b:C").v == ("mine", "installed")
    assert mounted.load("a:C").v == ("mine", "installed", "deep")
    assert mounted.load("c:C")().go() == "installed"
    assert not hasattr(sys.modules["fc_google"], "mine")


def test_a_package_that_extends_its_path_is_shared_too(
    mount: MountFiles, installed: Callable[[dict[str, str]], None]
) -> None:
    installed({"fc_old/__init__.py": "", "fc_old/theirs.py": "T = 'theirs'"})
    extend = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
    source = "from fc_old import ours, theirs\nimport fc_old.theirs as t\nclass C: v = (ours.O, theirs.T, t.T)\n"
    mounted = mount({"fc_old/__init__.py": extend, "fc_old/ours.py": "O = 'ours'", "main.py": source})
    assert mounted.load("main:C").v == ("ours", "theirs", "theirs")


def test_a_regular_local_package_is_not_mixed_with_an_installed_one(
    mount: MountFiles, installed: Callable[[dict[str, str]], None]
) -> None:
    installed({"fc_same/__init__.py": "", "fc_same/extra.py": "raise SystemExit('foreign code ran')"})
    files = {"fc_same/__init__.py": "", "main.py": "import fc_same.extra\nclass C: pass\n"}
    with pytest.raises(ModuleNotFoundError, match=r"fc_same\.extra"):
        mount(files).load("main:C")


def test_a_data_folder_does_not_hide_an_installed_package_of_its_name(
    mount: MountFiles, installed: Callable[[dict[str, str]], None]
) -> None:
    installed({"fc_lib/__init__.py": "L = 'installed'"})
    source = "import fc_lib\nfrom fc_lib import L\nclass C: v = (fc_lib.L, L)\n"
    assert mount({"fc_lib/a.txt": "x", "main.py": source}).load("main:C").v == ("installed", "installed")


def test_two_bundles_with_modules_of_the_same_name_never_meet(mount: MountFiles) -> None:
    source = "import utils\nclass C:\n    def go(self):\n        from utils import V\n        return utils.V, V\n"
    first = mount({"main.py": source, "utils.py": "V = 1"})
    second = mount({"main.py": source, "utils.py": "V = 2"})
    one, two = first.load("main:C"), second.load("main:C")
    assert (one().go(), two().go(), one().go()) == ((1, 1), (2, 2), (1, 1))
    assert one is not two


def test_old_new_and_old_again_in_one_process(mount: MountFiles) -> None:
    def version(number: int) -> dict[str, str]:
        return {"main.py": f"from state import bump\nclass C:\n    v = {number}\n    def go(self): return bump()\n",
                "state.py": f"n = {number * 10}\ndef bump():\n    global n\n    n += 1\n    return n\n"}  # fmt: skip

    first, second = mount(version(1)), mount(version(2))
    old = first.load("main:C")
    assert (old.v, old().go()) == (1, 11)
    assert (second.load("main:C").v, second.load("main:C")().go()) == (2, 21)
    again = mount(version(1)).load("main:C")
    assert (again.v, again().go(), old().go()) == (1, 11, 12)


RICH = '''
"""Module docstring."""
from __future__ import annotations
import abc, dataclasses, enum, typing
from helper import X
if typing.TYPE_CHECKING:
    from nowhere import Nothing

class Color(enum.Enum):
    RED = 1

class Flags(enum.Flag):
    A = enum.auto()
    B = enum.auto()

class Point(typing.NamedTuple):
    x: int

@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    color: Color
    total: typing.ClassVar[int] = 3
    point: Point = Point(1)
    extra: list[int] = dataclasses.field(default_factory=list)

class Meta(abc.ABCMeta):
    pass

class C(metaclass=Meta):
    class Inner:
        marker = 7
    def typed(self, color: Color, d: Data) -> typing.Optional[Point]:
        return None
    def fail(self):
        return 1 / 0  # the line that fails
'''


def test_classes_keep_all_that_introspection_wants(mount: MountFiles) -> None:
    found = typing.cast(typing.Any, mount({**PACKAGE, "main.py": RICH}).load("main:C"))
    module = sys.modules[found.__module__]
    data = module.Data(color=module.Color.RED)

    assert data == module.Data(color=module.Color(1))
    assert "total" not in data.__slots__
    assert typing.get_type_hints(found.typed)["d"] is module.Data
    assert typing.get_type_hints(module.Data)["color"] is module.Color
    assert str(module.Flags.A | module.Flags.B) == "Flags.A|B"
    assert "the line that fails" in inspect.getsource(found)
    assert inspect.getsource(found.fail).strip().startswith("def fail")
    assert inspect.getmodule(found) is module
    assert module.__doc__ == "Module docstring."


def test_a_nested_class_can_be_the_target(mount: MountFiles) -> None:
    assert typing.cast(typing.Any, mount({**PACKAGE, "main.py": RICH}).load("main:C.Inner")).marker == 7


def test_tracebacks_show_the_authors_lines(mount: MountFiles) -> None:
    mounted = mount({**PACKAGE, "main.py": RICH})
    try:
        typing.cast(typing.Any, mounted.load("main:C"))().fail()
    except ZeroDivisionError as error:
        shown = "".join(traceback.format_exception(error))
    assert "return 1 / 0  # the line that fails" in shown
    assert str(mounted.root / "main.py") in shown


def test_tracebacks_of_a_failing_import_show_the_lines_without_importlibs_own_frames(mount: MountFiles) -> None:
    mounted = mount({"main.py": "import broken", "broken.py": "x = 1\nraise KeyError('here')  # this line\n"})
    with pytest.raises(KeyError) as caught:
        mounted.load("main:C")
    shown = "".join(traceback.format_exception(caught.value))
    assert "# this line" in shown
    assert "importlib._bootstrap" not in shown, shown


def test_sources_in_other_encodings_load(mount: MountFiles) -> None:
    mounted = mount({"pkg/__init__.py": ""})
    mounted.unmount()
    (mounted.root / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nclass C: v = 'é'\n".encode("latin-1"))
    (mounted.root / "mark.py").write_bytes(b"\xef\xbb\xbfclass C: v = 1\n")
    with Mount(mounted.root, "test_encodings") as again:
        assert typing.cast(typing.Any, again.load("latin:C")).v == "é"
        assert typing.cast(typing.Any, again.load("mark:C")).v == 1


def test_import_cycles_work(mount: MountFiles) -> None:
    files = {
        "a.py": "import b\nfrom pkg import x\nclass C:\n    def go(self): return b.name(), x.Y\nNAME = 'a'\n",
        "b.py": "import a\ndef name(): return a.NAME\n",
        "pkg/__init__.py": "from . import x\n",
        "pkg/x.py": "from pkg import y\nfrom . import y as z\nY = y.V\n",
        "pkg/y.py": "import pkg.x\nV = 'y'\n",
    }
    assert typing.cast(typing.Any, mount(files).load("a:C"))().go() == ("a", "y")


FAILED = {
    "module": ("nothing:C", ModuleNotFoundError),
    "class": ("main:Nothing", WorkerFailed),
    "not a class": ("main:value", WorkerFailed),
    "syntax": ("syntax:C", SyntaxError),
    "raises": ("raises:C", RuntimeError),
    "raises AttributeError itself": ("attribute:C", AttributeError),
    "ends the process": ("leaves:C", SystemExit),
}


@pytest.mark.parametrize("case", FAILED)
def test_a_failed_load_leaves_nothing_behind_and_a_later_one_works(mount: MountFiles, case: str) -> None:
    mounted = mount(
        {
            **PACKAGE,
            "main.py": "import pkg\nvalue = 1\nclass C: pass\n",
            "syntax.py": "import helper\ndef (:\n",
            "raises.py": "import pkg.late\nraise RuntimeError('no')\n",
            "attribute.py": "import helper\nhelper.nothing\n",
            "leaves.py": "import helper\nraise SystemExit(3)\n",
        }
    )
    before, path = set(sys.modules), list(sys.path)
    target, error = FAILED[case]
    with pytest.raises(error):
        mounted.load(target)
    assert set(sys.modules) - before == set()
    assert sys.path == path
    assert mounted.load("main:C").__name__ == "C"
    with pytest.raises(error):
        mounted.load(target)
    assert f"{mounted.prefix}.pkg" in sys.modules, "what an earlier load brought stays"


def test_a_failed_import_of_a_submodule_does_not_stay_on_its_package(mount: MountFiles) -> None:
    files = {"pkg/__init__.py": "class C: pass\n", "pkg/late.py": "import pkg.ok\nraise ValueError\n", "pkg/ok.py": ""}
    mounted = mount(files)
    mounted.load("pkg:C")
    with pytest.raises(ValueError):
        mounted.load("pkg.late:C")
    assert not hasattr(sys.modules[f"{mounted.prefix}.pkg"], "ok")


def test_no_bytecode_is_written_or_believed(mount: MountFiles) -> None:
    mounted = mount({"main.py": "class C: v = 1\n"})
    mounted.load("main:C")
    assert [path.name for path in mounted.root.rglob("*")] == ["main.py"]


def test_unmounting_forgets_everything_and_lets_the_tag_be_used_again(mount: MountFiles) -> None:
    mounted = mount({"main.py": "class C:\n    def go(self):\n        return 1\n"})
    found = typing.cast(typing.Any, mounted.load("main:C"))
    inspect.getsource(found)
    with pytest.raises(ValueError, match="in use"):
        Mount(mounted.root, mounted.prefix.removeprefix("_fieldcast_"))
    mounted.unmount()
    mounted.unmount()
    assert found().go() == 1
    assert not [name for name in linecache.cache if name.startswith(str(mounted.root))]
    with Mount(mounted.root, mounted.prefix.removeprefix("_fieldcast_")) as again:
        assert again.load("main:C") is not found


@pytest.mark.parametrize("tag", ["", "a.b", "a-b", "é"])
def test_a_tag_that_is_no_part_of_a_module_name_is_refused(tmp_path: Path, tag: str) -> None:
    with pytest.raises(ValueError, match="mount tag"):
        Mount(tmp_path, tag)


def test_a_package_wins_over_a_module_and_a_module_over_a_folder(mount: MountFiles) -> None:
    files = {"x.py": "V = 'module'", "x/__init__.py": "V = 'package'", "y.py": "V = 'module'", "y/z.txt": ""}
    mounted = mount(
        {**files, "main.py": "import x, y\nclass C: v = (x.V, y.V)\n", "v1.2/skip.py": "", "__init__.py": ""}
    )
    assert typing.cast(typing.Any, mounted.load("main:C")).v == ("package", "module")
