"""What would fail on a device fails at the desk, in a clean process, and says where."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import AuthorError
from publisher import preflight as room
from publisher.packaging import Package, pack
from publisher.preflight import preflight
from publisher.project import find_pipeline
from tests.simulators import author

DECLARED = 'input=Input(["x"]), output=Output(["y"], range=(0, 100)), self_test=[[0.1], [0.2]]'


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def packed(desk: Path, body: str) -> Package:
    (desk / "mine.py").write_text(body)
    return pack(find_pipeline("mine.py"))


def test_a_good_release_says_what_was_seen(desk: Path) -> None:
    words = preflight(packed(desk, author.scale(2)))
    assert words.startswith("loaded in ")
    assert "2 rows in, 2 out, equal within" in words


def test_what_the_author_prints_does_not_disturb(desk: Path) -> None:
    body = author.scale(2).replace("return x", 'print("hello"); return x')
    assert "2 rows in" in preflight(packed(desk, 'print("at import")\n' + body))


def failing(body: str) -> str:
    return author.module(body, "Mine()")


FAILS = {
    # Only what differs between the desk and a device can fail here; the author's process has done all of it once.
    "self-test gives something else": (
        failing(
            "import sys\nclass Mine(Filter):\n    def predict(self, x):\n"
            "        return x * (1 if 'publisher' in sys.modules else 2)"
        ),
        ["self_test", "row 0"],
    ),
    "module-level code raises": (
        failing(
            "import sys\n"
            "if 'publisher' not in sys.modules:\n"
            "    raise ValueError('no such sensor')\n"
            "class Mine(Filter):\n    def predict(self, x):\n        return x"
        ),
        ["no such sensor", "mine.py", "raise ValueError('no such sensor')"],
    ),
    "a stage raises": (
        failing(
            "import sys\n"
            "class Mine(Filter):\n"
            "    def predict(self, x):\n"
            "        if 'publisher' not in sys.modules:\n"
            "            raise ValueError('too hot')  # on purpose\n"
            "        return x"
        ),
        ["mine", "too hot", "raise ValueError('too hot')  # on purpose"],
    ),
    "the process dies": (
        failing(
            "import os, sys\nif 'publisher' not in sys.modules:\n    os._exit(7)\n"
            "class Mine(Filter):\n    def predict(self, x):\n        return x"
        ),
        ["7"],
    ),
}


@pytest.mark.parametrize("case", FAILS)
def test_what_fails_on_a_device_fails_here(desk: Path, case: str) -> None:
    body, words = FAILS[case]
    package = packed(desk, body)
    with pytest.raises(AuthorError) as caught:
        preflight(package)
    said = str(caught.value)
    assert said.startswith("preflight failed, nothing was pushed: ")
    for word in words:
        assert word in said
    # A traceback stands below the one line, indented, so that it cannot be taken for another message.
    assert all(line.startswith("  ") or not line for line in said.splitlines()[1:])


def test_a_rehearsal_that_takes_too_long(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packed(desk, author.scale(2))
    monkeypatch.setattr(room, "SECONDS_MAX", 0.01)
    with pytest.raises(AuthorError, match="did not load within"):
        preflight(package)


def test_a_clean_process_that_says_nothing(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess([], 3, b"", b"no such module\n")

    package = packed(desk, author.scale(2))
    monkeypatch.setattr(room.subprocess, "run", run)
    with pytest.raises(AuthorError, match="ended with status 3: no such module"):
        preflight(package)
