"""What would fail on a device fails at the desk, in clean processes, and says where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.contract.errors import AuthorError, ConfigError
from edge_agent.profile import collect
from edge_agent.sdk import plain
from edge_agent.sdk.pipeline import Pipeline
from publisher.packaging import Package, pack
from publisher.packing import trial as room
from publisher.packing.project import find_pipeline
from publisher.packing.trial import bench
from publisher.preflight import SEEDS, Preflight, Verdict, preflight
from tests.simulators import author
from tests.simulators.workshop import pythons


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def pipeline(desk: Path, body: str) -> Pipeline:
    (desk / "mine.py").write_text(body)
    return find_pipeline("mine.py")


def packed(desk: Path, body: str) -> Package:
    return pack(pipeline(desk, body))


def tried(desk: Path, body: str, **chosen: Any) -> Preflight:
    made = pipeline(desk, body)
    return preflight(pack(made), pipeline=made, **chosen)


def test_a_good_release_says_what_was_seen(desk: Path) -> None:
    found = tried(desk, author.scale(2))
    assert found.words.startswith("loaded in ")
    assert found.words.endswith("2 rows in, 2 out, equal within 1e-04 under 2 hash seeds")
    assert [(one.kind, one.verdict) for one in found.findings] == [("here", Verdict.ACCEPT)]
    assert (found.refused, found.warnings) == (False, [])


def test_without_a_self_test_it_is_only_loaded(desk: Path) -> None:
    body = author.scale(2).replace("self_test=[[0.1], [0.2]],", "")
    assert tried(desk, body).words.endswith("; no self-test shipped")


def test_what_the_author_prints_does_not_disturb(desk: Path) -> None:
    body = author.scale(2).replace("return x", 'print("hello"); return x')
    assert "2 rows in" in tried(desk, 'print("at import")\n' + body).words


def test_what_stands_in_pythons_own_variables_does_not_reach_it(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-I` would see to that too, but ignore the seed."""
    (desk / "site").mkdir()
    (desk / "site" / "only_here.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(desk / "site"))
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    body = failing(
        "import importlib.util, sys\nclass Mine(Filter):\n    def predict(self, x):\n"
        "        return x * 0 + (importlib.util.find_spec('only_here') is None) + 10 * sys.flags.optimize"
    )
    assert "2 rows in" in tried(desk, body).words


def failing(body: str) -> str:
    return author.module(body, "Mine()")


FAILS = {
    # Only what differs between the desk and a device can fail here; the author's process has done all of it once.
    "self-test gives something else": (
        failing(
            "import sys\nclass Mine(Filter):\n    def predict(self, x):\n"
            "        return x * (1 if 'publisher' in sys.modules else 2)"
        ),
        ["stage 'mine' differs first, row 0, column 0: 0.1 in your process, 0.2 in a clean one", "self_test", "row 0"],
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
    with pytest.raises(AuthorError) as caught:
        tried(desk, body)
    said = str(caught.value)
    assert said.startswith("preflight failed, nothing was pushed: ")
    for word in words:
        assert word in said
    # A traceback stands below the one line, indented, so that it cannot be taken for another message.
    assert all(line.startswith("  ") or not line for line in said.splitlines()[1:])


HASHED = "class Hashed(Filter):\n    def predict(self, x):\n        return x * 0 + {}"
SALTED = {
    "hash of text": HASHED.format("hash('kitchen') % 1000"),
    "order of a set": HASHED.format("float(list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})[0].encode()[0])"),
    "chance": HASHED.format("__import__('random').random() * 100"),
}


@pytest.mark.parametrize("case", SALTED)
def test_what_depends_on_the_hash_seed_is_caught_and_the_stage_named(desk: Path, case: str) -> None:
    body = author.module(
        f"class Double(Filter):\n    def predict(self, x):\n        return x * 2\n{SALTED[case]}", "Double(), Hashed()"
    )
    body = body.replace("range=(0, 100)", "")
    with pytest.raises(AuthorError) as caught:
        tried(desk, body)
    said = str(caught.value)
    assert "stage 'hashed' differs first, row 0, column 0: " in said
    assert "under PYTHONHASHSEED=1, " in said
    assert "hashlib" in said


def test_a_hash_that_a_later_stage_hides_is_a_warning(desk: Path) -> None:
    body = author.module(
        f"{SALTED['hash of text']}\nclass Sign(Filter):\n    def predict(self, x):\n        return (x >= 0) * 1.0",
        "Hashed(), Sign()",
    )
    found = tried(desk, body)
    (warning,) = found.warnings
    assert warning.startswith("stage 'hashed' differs first, row 0, column 0: ")
    assert "by luck perhaps" in warning


def test_the_worker_really_runs_under_the_seed(desk: Path) -> None:
    package = packed(desk, failing(SALTED["hash of text"].replace("Hashed", "Mine").replace("% 1000", "% 97")))
    with bench(package) as place:
        for seed in (*SEEDS, 77):
            (seen,) = place.run(seed).outputs
            asked = [sys.executable, "-c", "print(hash('kitchen') % 97)"]
            expected = subprocess.check_output(asked, env={**os.environ, "PYTHONHASHSEED": str(seed)}, text=True)
            assert plain.decode(seen.values)[0, 0] == float(expected)


def test_what_fails_under_one_seed_only_says_so(desk: Path) -> None:
    body = "import os\nif os.environ.get('PYTHONHASHSEED') == '2':\n    raise ValueError('unlucky')\n"
    with pytest.raises(AuthorError, match=r"only under PYTHONHASHSEED=2: start: .*ValueError: unlucky"):
        tried(desk, failing(body + "class Mine(Filter):\n    def predict(self, x):\n        return x"))


def test_two_seeds_cost_little_more_than_one(desk: Path) -> None:
    made = pipeline(desk, author.scale(2))
    package = pack(made)
    for _ in range(5):  # other work on this machine may slow down either
        started = time.monotonic()
        with bench(package) as place:
            place.run(1)
        one = time.monotonic() - started
        started = time.monotonic()
        preflight(package, pipeline=made)
        both = time.monotonic() - started
        if both < 2 * one + 1.0:
            return
    raise AssertionError(f"two took {both:.2f} s where one takes {one:.2f} s")


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


def test_nothing_is_left_behind(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk / "tmp").mkdir()
    monkeypatch.setattr(room.tempfile, "tempdir", str(desk / "tmp"))
    tried(desk, author.scale(2))
    assert list((desk / "tmp").iterdir()) == []


# --- other interpreters ----------------------------------------------------------------------------------------------

elsewhere = pytest.mark.skipif(not pythons(), reason="needs other interpreters: set FIELDCAST_PYTHONS")


@elsewhere
def test_every_interpreter_given_gets_a_verdict_of_its_own(desk: Path) -> None:
    found = tried(desk, author.scale(2), pythons=pythons())
    assert not found.refused
    for python, one in zip(pythons(), found.findings[1:], strict=True):
        version = subprocess.check_output(
            [python, "-c", "import platform; print(platform.python_version())"], text=True
        )
        assert (one.kind, one.name) == ("python", f"Python {version.strip()} ({python})")
        assert (one.verdict, one.words.endswith("equal within 1e-04")) == (Verdict.ACCEPT, True)


@elsewhere
def test_a_stage_that_computes_something_else_there_is_named(desk: Path) -> None:
    here = "{}.{}".format(*sys.version_info)
    body = author.module(
        "import sys\nclass Plus(Filter):\n    def predict(self, x):\n"
        f"        return x + (f'{{sys.version_info[0]}}.{{sys.version_info[1]}}' != '{here}')\n"
        "class Twice(Filter):\n    def predict(self, x):\n        return x * 2",
        "Plus(), Twice()",
    )
    found = tried(desk, body, pythons=pythons())
    assert found.refused
    for one in found.findings[1:]:
        assert one.verdict is Verdict.REFUSE
        assert one.words.startswith("stage 'plus' differs first, row 0, column 0: 0.1 here, 1.1 there. self_test: ")


@elsewhere
def test_an_interpreter_that_admission_refuses_starts_nothing(desk: Path) -> None:
    (desk / "pyproject.toml").write_text('[project]\nname = "x"\nrequires-python = "<3.12"\n')
    if sys.version_info >= (3, 12):
        pytest.skip("this is not 3.11 itself")
    body = "import sys\nif sys.version_info >= (3, 12):\n    raise RuntimeError('started all the same')\n"
    found = tried(desk, body + author.scale(2), pythons=pythons())
    assert [one.verdict for one in found.findings[1:]] == [Verdict.REFUSE] * len(pythons())
    assert all("needs Python" in one.words for one in found.findings[1:])
    assert not any("started" in one.words for one in found.findings)


def test_this_interpreter_may_be_named_too(desk: Path) -> None:
    found = tried(desk, author.scale(2), pythons=[sys.executable])
    assert [one.verdict for one in found.findings] == [Verdict.ACCEPT] * 2


def bare(desk: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(desk / "bare")], check=True, timeout=120)
    return str(desk / "bare" / "bin" / "python")


def test_an_interpreter_without_fieldcast(desk: Path) -> None:
    python = bare(desk)
    with pytest.raises(ConfigError) as caught:
        tried(desk, author.scale(2), pythons=[python])
    assert f"--python {python}: fieldcast does not run there" in str(caught.value)
    assert "No module named 'edge_agent'" in str(caught.value)
    assert f"{python} -m pip install 'fieldcast[device]'" in str(caught.value)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("no-such-python", "no such program"),
        ("/nowhere/python", "no such program"),
        ("/bin/true", "does not run there"),
    ],
)
def test_an_interpreter_that_is_none(desk: Path, python: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        tried(desk, author.scale(2), pythons=[python])
    assert f"--python {python}" in str(caught.value)


def test_a_program_that_the_system_does_not_start(desk: Path) -> None:
    (desk / "odd").write_bytes(b"\x00\x01nothing")
    (desk / "odd").chmod(0o755)
    with pytest.raises(ConfigError, match="cannot be run: Exec format error"):
        tried(desk, author.scale(2), pythons=[str(desk / "odd")])


# --- images and devices ----------------------------------------------------------------------------------------------


def test_images_and_devices_in_one_table(desk: Path) -> None:
    mine = collect()
    old = msgspec.structs.replace(mine, python="3.10.2")
    bare = msgspec.structs.replace(mine, distributions={})
    for name, profile in (("new.json", mine), ("old.json", old)):
        (desk / name).write_text(json.dumps(msgspec.to_builtins(profile), indent=2))
    found = tried(
        desk,
        author.scale(2),
        images=[desk / "new.json", desk / "old.json"],
        profiles=[
            ("m1", msgspec.to_builtins(mine)),
            ("m2", msgspec.to_builtins(bare)),
            ("m3", None),
            ("m4", {}),
            ("m5", {"python": 3}),
        ],
    )
    accept, refuse, silent = Verdict.ACCEPT, Verdict.REFUSE, Verdict.SILENT
    assert [(one.kind, Path(one.name).name, one.verdict) for one in found.findings[1:]] == [
        ("image", "new.json", accept),
        ("image", "old.json", refuse),
        ("device", "m1", accept),
        ("device", "m2", refuse),
        ("device", "m3", silent),
        ("device", "m4", silent),
        ("device", "m5", silent),
    ]
    words = {Path(one.name).name: one.words for one in found.findings}
    assert words["old.json"] == "interpreter: needs Python >=3.11, this device has 3.10.2"
    assert words["m2"] == "requirements: needs numpy, which is not installed here"
    assert found.refused


def test_silence_refuses_nothing(desk: Path) -> None:
    assert not tried(desk, author.scale(2), profiles=[("m1", None)]).refused


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"[]", "is no profile"),
        (b"\xff", "is no profile"),
        (b"", "edge-agent profile"),
    ],
)
def test_a_useless_image_is_found_before_anything_runs(
    desk: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, words: str
) -> None:
    package = packed(desk, author.scale(2))
    monkeypatch.setattr(room.subprocess, "run", lambda *_, **__: pytest.fail("ran"))
    if content is not None:
        (desk / "image.json").write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        preflight(package, images=[desk / "image.json"])
    assert "image.json" in str(caught.value)
