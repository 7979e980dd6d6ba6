"""A release is tried once, by a real worker, before anything is signed."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent import rehearsal
from edge_agent.contract.errors import ReasonCode
from edge_agent.contract.manifest import encode_manifest
from edge_agent.rehearsal import rehearse
from edge_agent.sdk import plain
from edge_agent.sdk.trace import decode
from publisher.packaging import Package
from tests.simulators.processes import children, descriptors
from tests.simulators.release import Releases
from tests.simulators.workshop import Workshop

HASHED = """
    from edge_agent import Filter
    class Hashed(Filter):
        def predict(self, x):
            return x * 0 + hash("kitchen") % 97
    """


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


def written(directory: Path, package: Package) -> Path:
    (directory / "blobs").mkdir()
    (directory / "manifest.json").write_bytes(package.data)
    for digest, data in package.blobs.items():
        (directory / "blobs" / digest.hex).write_bytes(data)
    return directory


def test_a_good_release_passes_in_words_and_is_cleaned_up(
    releases: Releases, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gc.collect()  # what earlier tests in this process left open
    before = children(), descriptors()
    package = releases.pack([releases.module.Act(note="trace")], self_test=[[1.0], [2.0]])
    found = rehearse(written(tmp_path, package))
    assert found.ok, found
    assert "2 rows in, 2 out, equal within" in found.words
    # The self-test's own copy, and the one that would have served.
    traces = [line.split()[1] for line in capfd.readouterr().err.splitlines() if line.startswith("trace: ")]
    assert traces[-2:] == ["cleanup", "cleanup"]
    assert children() <= before[0]
    assert descriptors() <= before[1]


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("raise in load", ReasonCode.START, "no such sensor"),
        ("exit in load", ReasonCode.EXITED, "status 7"),
        ("hang in load", ReasonCode.START, "not ready after"),
        ("fd in load", ReasonCode.EXITED, "the worker"),
    ],
)
def test_a_bad_release_fails_with_a_reason(
    releases: Releases, tmp_path: Path, how: str, code: ReasonCode, words: str
) -> None:
    before = children()
    package = releases.pack([releases.module.Act(how=how)], start_seconds=1.0 if how == "hang in load" else 30.0)
    found = rehearse(written(tmp_path, package))
    assert not found.ok
    assert found.reasons[0].code is code
    assert words in found.reasons[0].message
    assert children() <= before


def test_a_worker_that_talks_nonsense_is_a_reason(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nonsense(self: object) -> None:
        raise ValueError("message starts with 0x1")

    monkeypatch.setattr(rehearsal.Member, "receive", nonsense)
    found = rehearse(written(tmp_path, releases.pack([releases.module.Act()])))
    assert [reason.code for reason in found.reasons] == [ReasonCode.EXITED]


def test_tampered_and_missing_blobs_are_reasons(releases: Releases, tmp_path: Path) -> None:
    directory = written(tmp_path, releases.pack([releases.module.Act()]))
    (blob,) = (directory / "blobs").iterdir()
    blob.write_bytes(b"else")
    found = rehearse(directory)
    assert [reason.code for reason in found.reasons] == [ReasonCode.CONTENT]


@pytest.mark.parametrize("broken", [False, True])
def test_it_prints_one_json_object(releases: Releases, tmp_path: Path, broken: bool) -> None:
    directory = written(tmp_path, releases.pack([releases.module.Act()]))
    if broken:
        (directory / "manifest.json").unlink()
    done = subprocess.run(
        [sys.executable, "-I", "-m", "edge_agent.rehearsal", str(directory)], capture_output=True, text=True, timeout=60
    )
    found = json.loads(done.stdout)
    assert found["ok"] is not broken, done.stderr
    assert bool(found["reasons"]) == broken


def run(directory: Path, *arguments: str, flags: tuple[str, ...] = ("-I",), **environment: str) -> dict[str, Any]:
    command = [sys.executable, *flags, "-m", "edge_agent.rehearsal", str(directory), *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["python"] == platform.python_version()
    return found


def test_what_each_stage_gave_is_left_behind(releases: Releases, tmp_path: Path) -> None:
    act = releases.module.Act
    package = releases.pack([("one", act()), ("two", act())], self_test=[[1.0], [2.0]])
    assert run(written(tmp_path, package))["ok"]
    seen = decode((tmp_path / "outputs").read_bytes())
    assert [(one.stage, one.rows, plain.decode(one.values).tolist()) for one in seen] == [
        ("one", 2, [[2.0], [4.0]]),
        ("two", 2, [[4.0], [8.0]]),
    ]


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_worker_runs_under_the_seed_that_the_rehearsal_was_given(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: str
) -> None:
    (tmp_path / "project").mkdir()
    workshop = Workshop(tmp_path / "project")
    workshop.write({"hashed.py": HASHED})
    monkeypatch.syspath_prepend(str(workshop.root))
    module = workshop.load("hashed")
    package = releases.pack([module.Hashed()], self_test=[[1.0], [2.0]])
    found = run(written(tmp_path, package), flags=("-s", "-P"), PYTHONHASHSEED=seed)
    asked = [sys.executable, "-c", "print(hash('kitchen') % 97)"]
    expected = float(subprocess.check_output(asked, env={**os.environ, "PYTHONHASHSEED": seed}, text=True))
    (one,) = decode((tmp_path / "outputs").read_bytes())
    assert plain.decode(one.values).tolist() == [[expected], [expected]]
    assert found["ok"] == (expected == hash("kitchen") % 97)
    workshop.forget()


def test_admission_comes_first_if_asked_for(releases: Releases, tmp_path: Path) -> None:
    package = releases.pack([releases.module.Act()])
    manifest = msgspec.structs.replace(package.manifest, requires=["no-such-distribution"])
    directory = written(tmp_path, package)
    (directory / "manifest.json").write_bytes(encode_manifest(manifest))
    assert run(directory)["ok"], "the workstation has what it runs"
    found = run(directory, "--admission")
    assert [reason["code"] for reason in found["reasons"]] == ["requirements"]
    (directory / "manifest.json").write_bytes(package.data)
    assert run(directory, "--admission")["ok"]


def test_main_reports_what_it_cannot_even_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["rehearsal", str(tmp_path / "nowhere")])
    rehearsal.main()
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert "nowhere" in found["reasons"][0]["message"]
