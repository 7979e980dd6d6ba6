"""The commands that say what would be shipped and who it is, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from installer.sources import WheelFile

from edge_agent.contract.digest import Digest
from edge_agent.contract.manifest import parse_manifest
from publisher import founding
from publisher.config import Home
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.repository import Channel

PROJECT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]

TREE: dict[str, str | bytes] = {
    "pyproject.toml": '[project]\nname = "x"\nrequires-python = ">=3.11"\ndependencies = ["numpy>=1.26"]\n'
    '[tool.fieldcast]\npipeline = "acme.filters:pipeline"\n',
    "src/acme/__init__.py": "",
    "src/acme/filters.py": """\
from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from edge_agent import Filter, Input, Output, Pipeline, Window

from . import shapes
from .sub.deep import far as near

if TYPE_CHECKING:
    from .never import Never
if sys.version_info >= (3, 12):
    from .new import pick
else:
    from .old import pick
try:
    import no_such_accelerator as fast
except ImportError:
    fast = None

K = 3
print("imported")


class Detector(Filter):
    def __init__(self, limit=80.0):
        super().__init__(limit=limit)

    def predict(self, x):
        from .late import polish
        table = np.loadtxt(Path(__file__).parent / "weights.csv", delimiter=",")
        return polish(near(np.reshape(x, (len(x), -1)))) * K + table[0] + shapes.side() * 0 + (pick() > self.limit)


pipeline = Pipeline(
    "det",
    [("window", Window(1)), Detector(limit=80.0)],
    input=Input(["t"]),
    output=Output(["t"]),
    self_test=[[1.0], [2.0]],
)
""",
    "src/acme/shapes.py": b"# coding: latin-1\r\nUNIT = '\xb5'\r\ndef side():\r\n\treturn len(UNIT)\r\n",
    "src/acme/sub/__init__.py": "from . import deep\n",
    "src/acme/sub/deep.py": "from ..shapes import side\n\n\ndef far(x):\n    return x + side()\n",
    "src/acme/late.py": "def polish(x):\n    return x\n",
    "src/acme/new.py": "def pick():\n    return 1\n",
    "src/acme/old.py": "def pick():\n    return 1\n",
    "src/acme/never.py": "class Never: pass\n",
    "src/acme/unrelated.py": "raise SystemExit('never imported')\n",
    "src/acme/weights.csv": "1,2\n",
    "src/acme/bad.py": "import importlib\nimport no_such_thing\n\n\nclass B:\n    def predict(self, x):\n"
    "        return importlib.import_module('acme.' + x), open('data.csv')\n",
}
FILES = [
    "src/acme/__init__.py",
    "src/acme/filters.py",
    "src/acme/late.py",
    "src/acme/new.py",
    "src/acme/old.py",
    "src/acme/shapes.py",
    "src/acme/sub/__init__.py",
    "src/acme/sub/deep.py",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write(tmp_path / "project")


def write(root: Path, *edits: tuple[str, str, str]) -> Path:
    for name, content in TREE.items():
        data = content if isinstance(content, bytes) else content.encode()
        for file, old, new in edits:
            if file == name:
                assert old.encode() in data
                data = data.replace(old.encode(), new.encode())
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def command(*arguments: object, cwd: Path | None = None, python: str = sys.executable, **environment: str) -> Any:
        return subprocess.run(
            [python, "-W", "error", "-m", "publisher", *map(str, arguments)],
            cwd=cwd or tmp_path,
            env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    return command


def answer(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def test_closure_of_a_class_however_it_is_named(tree: Path, run: Run) -> None:
    ways = [
        ("acme.filters:Detector", "--root", tree),
        ("src/acme/filters.py:Detector", "--root", tree),
        (tree / "src/acme/filters.py", "--root", tree),
        ("acme.filters:pipeline", "--root", tree),
    ]
    with ThreadPoolExecutor(2) as pool:
        found = [answer(one) for one in pool.map(lambda way: run("closure", *way, "--json"), ways)]
    for one in found:
        assert one == {"files": FILES, "requires": ["numpy"], "data": ["src/acme/weights.csv"], "refused": []}
    inside = answer(run("closure", "--json", cwd=tree))
    assert [name.removeprefix("src/") for name in inside["files"]] == [name.removeprefix("src/") for name in FILES]


def test_closure_in_words(tree: Path, run: Run) -> None:
    done = run("closure", "acme.filters:Detector", "--root", tree)
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == ["files:", "  src/acme/__init__.py"]
    assert "requires:\n  numpy\ndata:\n  src/acme/weights.csv\nrefused: none\n" in done.stdout
    assert "imported" not in done.stdout + done.stderr, "a class is read, not run"


def test_closure_prints_all_that_is_refused_and_exits_with_1(tree: Path, run: Run) -> None:
    found = answer(run("closure", "acme.bad:B", "--root", tree, "--json"), code=1)
    assert found["files"] == ["src/acme/__init__.py", "src/acme/bad.py"]
    assert [(one["file"], one["line"]) for one in found["refused"]] == [
        ("src/acme/bad.py", 2),
        ("src/acme/bad.py", 7),
        ("src/acme/bad.py", 7),
    ]
    done = run("closure", "acme.bad:B", "--root", tree)
    assert done.returncode == 1
    assert "  src/acme/bad.py:2: 'no_such_thing' is neither" in done.stdout


@pytest.mark.parametrize("command", ["closure", "fingerprint", "preflight"])
def test_unknown_target_is_one_line(command: str, tree: Path, run: Run) -> None:
    done = run(command, "acme.gone:F", "--root", tree)
    assert done.returncode == 1
    assert done.stderr.startswith("publisher: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_fingerprint_is_equal_everywhere(tree: Path, tmp_path: Path, run: Run) -> None:
    copy = write(tmp_path / "elsewhere" / "deep", ("src/acme/filters.py", "K = 3", "K = 3  # why"))
    asks = [(tree, "0"), (copy, "1"), (copy, "77")]
    with ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(
                lambda ask: answer(
                    run("fingerprint", "acme.filters:Detector", "--root", ask[0], "--json", PYTHONHASHSEED=ask[1])
                ),
                asks,
            )
        )
    assert found[0] == found[1] == found[2]
    assert len(found[0]["fingerprint"]) == 64
    assert {"acme.filters.Detector", "acme.filters.K", "acme.sub.deep.far", "acme/weights.csv"} <= set(
        found[0]["components"]
    )
    assert "acme.unrelated" not in found[0]["components"]
    words = run("fingerprint", "acme.filters:Detector", "--root", tree).stdout
    assert words.startswith(f"{found[0]['fingerprint']}  acme.filters:Detector\n  ")


def test_fingerprint_of_a_pipeline_is_its_stages(tree: Path, run: Run) -> None:
    whole = answer(run("fingerprint", "--json", cwd=tree))
    single = answer(run("fingerprint", "acme.filters:Detector", "--root", tree, "--json"))
    assert whole["pipeline"] == "det"
    assert [stage["name"] for stage in whole["stages"]] == ["window", "detector"]
    assert whole["stages"][1]["fingerprint"] == single["fingerprint"] == whole["components"]["detector"]
    assert whole["stages"][1]["components"] == single["components"]
    assert whole["stages"][0]["fingerprint"].startswith("builtin:edge_agent.sdk.window:Window")
    words = run("fingerprint", cwd=tree)
    assert f"  {single['fingerprint']}  detector (acme.filters:Detector)\n    " in words.stdout
    assert "imported" not in words.stdout
    assert "imported" in words.stderr


def test_diff_exits_like_diff(tree: Path, tmp_path: Path, run: Run) -> None:
    other = write(tmp_path / "other", ("src/acme/sub/deep.py", "x + side()", "x - side()"))
    target = "acme.filters:Detector"
    same = run("diff", target, target, "--root", tree)
    assert (same.returncode, same.stdout) == (0, "equal in meaning\n")
    done = run("diff", f"{tree}::{target}", f"{other}::{target}")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("helper sub.deep.far\n\n--- a/acme/sub/deep.py\n+++ b/acme/sub/deep.py\n")
    assert "-    return x + side()\n+    return x - side()\n" in done.stdout
    found = answer(run("diff", f"{tree}::{target}", f"{other}::{target}", "--json"), code=1)
    assert found["equal"] is False
    assert [one["words"] for one in found["differences"]] == ["helper sub.deep.far"]
    for wrong in ("acme.gone:F", "nothing@1"):
        failed = run("diff", target, wrong, "--root", tree)
        assert failed.returncode == 2, failed
        assert "Traceback" not in failed.stderr
    words = write(tmp_path / "words", ("src/acme/late.py", "return x", "return x  # polished"))
    reworded = run("diff", f"{tree}::{target}", f"{words}::{target}")
    assert reworded.stdout == "equal in meaning; only comments or formatting differ in acme/late.py\n"


def test_pack_is_deterministic_and_holds_valid_wheels(tree: Path, tmp_path: Path, run: Run) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    found = [answer(run("pack", "--out", out, "--json", cwd=tree)) for out in outs]
    assert found[0] == found[1]
    contents = [
        {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in outs
    ]
    assert contents[0] == contents[1]
    manifest = parse_manifest(contents[0]["manifest.json"])
    assert {f"blobs/{ref.digest.hex}" for ref in manifest.blobs()} <= contents[0].keys()
    for one in found[0]["files"]:
        data = contents[0][one["file"]]
        assert (one["digest"], one["size"]) == (Digest.of(data), len(data))
    (wheel,) = outs[0].glob("*.whl")
    with WheelFile.open(wheel) as opened:
        opened.validate_record()
    (outs[0] / "notes.txt").write_text("mine")
    (tree / "src/acme/late.py").write_text("def polish(x):\n    return x * 2\n")
    words = run("pack", "--out", outs[0], cwd=tree)
    assert words.returncode == 0, words.stderr
    assert len(list(outs[0].glob("*.whl"))) == 1, "what an earlier pack left is replaced"
    assert wheel not in outs[0].glob("*.whl")
    assert (outs[0] / "notes.txt").exists()
    assert words.stdout.count("sha256:") == len(found[0]["files"])


def test_preflight_alone(tree: Path, run: Run) -> None:
    done = run("preflight", "acme.filters:pipeline", "--root", tree)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("det: ")
    assert "2 rows in" in done.stdout


@pytest.fixture
def home(tree: Path, tmp_path: Path, run: Run) -> Home:
    """A fleet with one release in its record."""
    made = founding.init("fleet", "mqtt://127.0.0.1:1", passphrase="secret", home=tmp_path / "home")
    answer(run("pack", "--out", tmp_path / "packed", "--json", cwd=tree))
    record = Record(made.record_location)
    for path in (tmp_path / "packed" / "blobs").iterdir():
        record.put_blob(path.read_bytes())
    Channel(record, made.fleet, "staging").publish(
        (tmp_path / "packed" / "manifest.json").read_bytes(),
        pipeline="det",
        keys=KeyStore(made.keys),
        passphrase="secret",
        tag="v1",
        message="first",
        commit="abc123",
        dirty=True,
        signer="ada",
    )
    return made


def test_show_says_everything_and_notices_damage(home: Home, tmp_path: Path, run: Run) -> None:
    found = answer(run("show", "det@v1", "--home", home.path, "--json"))
    assert found["release"]["signer"] == "ada"
    assert (found["release"]["commit"], found["release"]["tag"], found["offered"]) == ("abc123", "v1", True)
    assert found["signatures"] == ""
    assert [stage["name"] for stage in found["stages"]] == ["window", "detector"]
    assert "acme/filters.py" in found["stages"][1]["files"]
    assert {blob["what"] for blob in found["blobs"]} == {"bundle of stage detector", "self-test"}
    assert found["self_test"]["size"] > 0
    words = run("show", found["release"]["digest"][7:15], "--home", home.path)
    assert words.returncode == 0, words.stderr
    for part in ("det@1 in staging of fleet, offered now", "ada", "abc123 with uncommitted changes", "numpy>=1.26"):
        assert part in words.stdout
    for path in Path(home.record_location).rglob(found["self_test"]["digest"][7:]):
        path.write_bytes(b"x" * found["self_test"]["size"])
    damaged = answer(run("show", "det@staging", "--home", home.path, "--json"), code=1)
    assert "damaged" in damaged["self_test"]["fault"]
    (home.keys / "staging.root.json").unlink()
    unchecked = run("show", "det@1", "--home", home.path)
    assert unchecked.returncode == 1
    assert "not checked" in unchecked.stdout


def test_diff_of_a_release_and_the_source(home: Home, tree: Path, run: Run) -> None:
    same = run("diff", "det@1", "acme.filters:pipeline", "--root", tree, "--home", home.path)
    assert (same.returncode, same.stdout) == (0, "equal in meaning\n"), same.stderr
    single = run("diff", "acme.filters:Detector", "det@1", "--root", tree, "--home", home.path)
    assert (single.returncode, single.stdout) == (0, "equal in meaning\n"), single.stdout + single.stderr
    text = (tree / "src/acme/filters.py").read_text().replace("Detector(limit=80.0)]", "Detector(limit=75.0)]")
    (tree / "src/acme/filters.py").write_text(text)
    done = run("diff", "det@1", "acme.filters:pipeline", "--root", tree, "--home", home.path)
    assert done.returncode == 1
    assert done.stdout == "stage detector: parameter limit: 80.0 -> 75.0\n"
    missing = run("show", "det@9", "--home", home.path)
    assert missing.returncode == 2
    assert "det has det@1 (v1) in staging" in missing.stderr
