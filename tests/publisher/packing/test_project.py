"""A TARGET means one pipeline, or one clear line says why not."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk.pipeline import Pipeline
from publisher.packing.project import find_pipeline, read_pyproject

HEAD = "from edge_agent import Filter, Pipeline\nclass F(Filter):\n    def predict(self, x): return x\n"
ONE = HEAD + "pipeline = Pipeline('one', [F()])\n"
TWO = HEAD + "a = Pipeline('a', [F()])\nb = Pipeline('b', [F()])\nclass Holder:\n    inside = a\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose modules are forgotten afterwards; names are this file's own, since tests share a process."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    yield tmp_path
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        spots = list(getattr(module, "__path__", []))
        if any(Path(one).is_relative_to(tmp_path) for one in [*([file] if file else []), *spots]):
            del sys.modules[name]


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


TARGETS = {
    "module": ({"tp_a.py": ONE}, "tp_a:pipeline", "one"),
    "module in a package": ({"tp_b/__init__.py": "", "tp_b/mod.py": ONE}, "tp_b.mod:pipeline", "one"),
    "module below src": ({"src/tp_c.py": ONE, "pyproject.toml": ""}, "tp_c:pipeline", "one"),
    "attribute of an attribute": ({"tp_d.py": TWO}, "tp_d:Holder.inside", "a"),
    "file": ({"tp_e.py": ONE}, "tp_e.py", "one"),
    "file and attribute": ({"tp_f.py": TWO}, "tp_f.py:b", "b"),
    "file with local imports": (
        {"tp_g.py": "from tp_g_helper import *\nimport tp_g_helper\n" + ONE, "tp_g_helper.py": "K = 1"},
        "tp_g.py",
        "one",
    ),
    "file in a folder": ({"deep/tp_h.py": "import tp_h_x\n" + ONE, "deep/tp_h_x.py": ""}, "deep/tp_h.py", "one"),
    "file in a package": (
        {"tp_i/__init__.py": "", "tp_i/mod.py": "from . import other\n" + ONE, "tp_i/other.py": ""},
        "tp_i/mod.py",
        "one",
    ),
    "file in a package below src": (
        {
            "src/tp_j/__init__.py": "",
            "src/tp_j/m.py": "import tp_j.n\n" + ONE,
            "src/tp_j/n.py": "",
            "pyproject.toml": "",
        },
        "src/tp_j/m.py",
        "one",
    ),
    "package's own file": ({"tp_k/__init__.py": ONE}, "tp_k/__init__.py", "one"),
    "one pipeline under two names": ({"tp_l.py": ONE + "again = pipeline\n"}, "tp_l.py", "one"),
    "import inside a function": (
        {"tp_m.py": ONE + "def late():\n    import tp_m_late\n", "tp_m_late.py": ""},
        "tp_m.py",
        "one",
    ),
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_target_names_its_pipeline(project: Path, case: str) -> None:
    files, target, name = TARGETS[case]
    write(project, files)
    assert find_pipeline(target, directory=project).name == name


def test_nothing_means_what_pyproject_says_from_anywhere_below_it(project: Path) -> None:
    write(
        project,
        {"pyproject.toml": '[tool.fieldcast]\npipeline = "tp_none:pipeline"\n', "tp_none.py": ONE, "deep/er/x": ""},
    )
    assert find_pipeline(directory=project / "deep" / "er").name == "one"


def test_pyproject_may_name_a_file(project: Path) -> None:
    write(project, {"pyproject.toml": '[tool.fieldcast]\npipeline = "lib/tp_file.py"\n', "lib/tp_file.py": ONE})
    assert find_pipeline(directory=project).name == "one"


def test_a_pipeline_is_its_own_target() -> None:
    pipeline = Pipeline("mine")
    assert find_pipeline(pipeline) is pipeline


def test_the_working_directory_is_where_paths_start(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, {"tp_cwd.py": ONE})
    monkeypatch.chdir(project)
    assert find_pipeline("tp_cwd.py").name == "one"
    assert find_pipeline("./tp_cwd.py").name == "one"
    assert find_pipeline(str(project / "tp_cwd.py")).name == "one"


ERRORS: dict[str, tuple[dict[str, str], str | None, str]] = {
    "no such file": ({"er_one.py": ONE}, "er_ones.py", "there is no file .*er_ones.py: did you mean er_one.py"),
    "no such folder": ({}, "nowhere/er.py", "there is no file"),
    "no such module": ({}, "er_nothing:x", "there is no module 'er_nothing' here"),
    "no such submodule": ({"er_pkg/__init__.py": ""}, "er_pkg.nothing:x", "there is no module 'er_pkg.nothing' here"),
    "no such attribute": ({"er_a.py": ONE}, "er_a.py:pipelin", "er_a has no 'pipelin': did you mean 'pipeline'"),
    "nothing alike": ({"er_b.py": TWO}, "er_b.py:zzzzz", "er_b has no 'zzzzz'; it has a, b"),
    "bare word": ({"er_c.py": ONE}, "er_c", "'er_c' names no pipeline: a TARGET is"),
    "blank": ({}, "  ", "names no pipeline"),
    "no name after the colon": ({"er_d.py": ONE}, "er_d.py:", "'' cannot be a name"),
    "not a name": ({"er_e.py": ONE}, "er_e:a-b", "'a-b' cannot be a name"),
    "not a module": ({}, "a-b:c", "names no pipeline"),
    "several": ({"er_f.py": TWO}, "er_f.py", "several pipelines: say er_f.py:a or er_f.py:b"),
    "none": ({"er_g.py": "x = 1\n"}, "er_g.py", "has no pipeline: write pipeline = Pipeline"),
    "only filters": ({"er_h.py": HEAD}, "er_h.py", r"is the filter F, not a pipeline.*Pipeline\('name', \[F\(\)\]"),
    "filter class": ({"er_i.py": ONE}, "er_i:F", "is the filter F, not a pipeline: write pipeline ="),
    "filter instance": ({"er_j.py": ONE + "f = F()\n"}, "er_j:f", "is the filter F, not a pipeline"),
    "something else": ({"er_k.py": "x = 3\n"}, "er_k:x", "er_k:x is a int, not a Pipeline"),
    "syntax": ({"er_l.py": "def (:\n"}, "er_l.py", r"er_l.py does not import: SyntaxError.*line 1"),
    "raises": ({"er_m.py": "x = 1\nraise KeyError('no')\n"}, "er_m.py", r"KeyError: 'no' \(.*er_m.py:2\)"),
    "raises deeper": (
        {"er_n.py": "import er_n_deep\n", "er_n_deep.py": "\n\n1 / 0\n"},
        "er_n.py",
        r"er_n.py does not import: ZeroDivisionError.*er_n_deep.py:3\)",
    ),
    "ends the process": ({"er_o.py": "import sys\nsys.exit(3)\n"}, "er_o.py", r"SystemExit: 3 \(.*er_o.py:2\)"),
    "missing import": ({"er_p.py": "import er_p_missing\n"}, "er_p.py", r"No module named 'er_p_missing' .*er_p.py:1"),
    "missing import of a module": (
        {"er_p2.py": "import er_none\n"},
        "er_p2:x",
        r"No module named 'er_none' .*er_p2.py:1",
    ),
    "bad pipeline": (
        {"er_q.py": HEAD + "pipeline = Pipeline('q', [F])\n"},
        "er_q.py",
        r"er_q.py does not import: TypeError: stage F is a class.*er_q.py:4\)",
    ),
    "refused by us": (
        {"er_r.py": "from edge_agent.contract.errors import AuthorError\nraise AuthorError('mine')\n"},
        "er_r.py",
        r"er_r.py does not import: mine \(.*er_r.py:2\)",
    ),
    "taken name": ({"json.py": ONE}, "json.py", "json.py would be imported as 'json', which here means .*: rename"),
    "no pyproject": ({}, None, "no target given"),
    "pyproject without a word": ({"pyproject.toml": ""}, None, r"does not name one: add \[tool.fieldcast\]"),
    "pyproject with another type": ({"pyproject.toml": "tool = 3\n"}, None, "does not name one"),
    "pyproject naming a number": ({"pyproject.toml": "[tool.fieldcast]\npipeline = 3\n"}, None, "does not name one"),
    "pyproject broken": ({"pyproject.toml": "[tool\n"}, None, "pyproject.toml: "),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong_with_a_target_is_said_in_one_line(project: Path, case: str) -> None:
    files, target, words = ERRORS[case]
    write(project, files)
    with pytest.raises(AuthorError) as caught:
        find_pipeline(target, directory=project)
    assert re.search(words, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [3, object(), int])
def test_anything_else_is_no_target(wrong: object) -> None:
    with pytest.raises(AuthorError, match="not a Pipeline"):
        find_pipeline(wrong)


def test_a_corrected_file_is_read_again(project: Path) -> None:
    write(project, {"fixed.py": "import fixed_part\n" + ONE, "fixed_part.py": "1 / 0\n"})
    with pytest.raises(AuthorError, match="ZeroDivisionError"):
        find_pipeline("fixed.py", directory=project)
    write(project, {"fixed_part.py": "K = 1\n"})
    importlib.invalidate_caches()
    assert find_pipeline("fixed.py", directory=project).name == "one"


def test_the_nearest_pyproject_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": "a = 1\n", "inner/pyproject.toml": "a = 2\n", "inner/deep/x": ""})
    found = read_pyproject(tmp_path / "inner" / "deep")
    assert found is not None
    assert (found[0], found[1]) == (tmp_path / "inner" / "pyproject.toml", {"a": 2})
