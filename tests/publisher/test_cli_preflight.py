"""`publisher preflight` as a user runs it: one table of who accepts, who refuses and why, and who says nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.contract.messages import Report, SlotReport, Topics, encode_report
from edge_agent.profile import collect
from edge_agent.transport.client import Client
from publisher import founding
from publisher.config import Home
from publisher.packing.checking import check
from publisher.preflight import Verdict
from tests.simulators import author
from tests.simulators.broker import EXECUTABLE, Mosquitto, free_port
from tests.simulators.workshop import pythons

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FIELDCAST_HOME", raising=False)
    (tmp_path / "mine.py").write_text(author.scale(2))
    return tmp_path


@pytest.fixture
def run(desk: Path) -> Run:
    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "publisher", "preflight", *map(str, arguments)],
            cwd=desk,
            env={**os.environ, "COLUMNS": "160"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return command


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch, desk: Path) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(desk)
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(desk)):
            del sys.modules[name]


def image(desk: Path, name: str, **changes: Any) -> Path:
    path = desk / name
    path.write_text(json.dumps(msgspec.to_builtins(msgspec.structs.replace(collect(), **changes)), indent=2))
    return path


def test_alone_it_is_one_line(run: Run) -> None:
    done = run("mine.py")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("meter: loaded in ")
    assert line.endswith("2 rows in, 2 out, equal within 1e-04 under 2 hash seeds")


def test_an_image_as_edge_agent_prints_it(run: Run, desk: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "edge_agent.cli", "profile", "--json"],
        cwd=desk,
        capture_output=True,
        timeout=120,
        check=False,
    )
    if not printed.stdout:  # the module is no program: ask as the script does
        asked = "import sys; sys.argv = ['edge-agent', 'profile', '--json']; from edge_agent.cli import main; main()"
        printed = subprocess.run([sys.executable, "-c", asked], cwd=desk, capture_output=True, timeout=120, check=True)
    (desk / "here.json").write_bytes(printed.stdout)
    done = run("mine.py", "--image", "here.json")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()[-1:]] == [["image", "here.json", "accept"]]


def test_whoever_refuses_is_shown_with_the_reason_and_in_the_exit_code(run: Run, desk: Path) -> None:
    image(desk, "good.json")
    image(desk, "bare.json", distributions={})
    done = run("mine.py", "--image", "good.json", "--image", "bare.json")
    assert done.returncode == 3
    header, here, good, bare = done.stdout.splitlines()[2:]
    assert header.split() == ["where", "name", "verdict", "why"]
    assert "accept" in here
    assert "accept" in good
    assert "bare.json" in bare
    assert "refuse   requirements: needs numpy, which is not installed here" in bare
    found = json.loads(run("mine.py", "--image", "bare.json", "--json").stdout)
    assert (found["pipeline"], found["refused"]) == ("meter", True)
    assert [one["verdict"] for one in found["findings"]] == ["accept", "refuse"]
    assert found["findings"][1]["reasons"][0]["code"] == "requirements"
    assert found["preflight"].startswith("loaded in")


@pytest.mark.skipif(not pythons(), reason="needs other interpreters: set FIELDCAST_PYTHONS")
def test_other_interpreters(run: Run) -> None:
    done = run("mine.py", *(word for python in pythons() for word in ("--python", python)), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["findings"]
    assert [(one["kind"], one["verdict"]) for one in found] == [("here", "accept")] + [("python", "accept")] * len(
        pythons()
    )


def test_what_fails_here_ends_with_1_and_names_the_stage(run: Run, desk: Path) -> None:
    (desk / "mine.py").write_text(author.scale(2).replace("return x", "return x * 0 + hash('kitchen') % 97 + x"))
    done = run("mine.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert "stage 'scale' differs first, row 0, column 0: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--python", "no-such-python"), "--python no-such-python: there is no such program"),
        (("--image", "mine.py"), "--image mine.py: is no profile"),
        (("--image", "nowhere.json"), "nowhere.json"),
        (("--home", "nowhere"), "no publisher's home"),
    ],
)
def test_what_is_of_no_use_is_a_wrong_command_line(run: Run, arguments: tuple[str, ...], words: str) -> None:
    done = run("mine.py", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


# --- the fleet -------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(desk: Path) -> Iterator[Home]:
    if not Path(EXECUTABLE).exists():
        pytest.skip("mosquitto is not installed")
    with Mosquitto() as broker:
        yield founding.init("plant", broker.url, passphrase="secret", home=desk / ".fieldcast")


def say(home: Home, device: str, profile: dict[str, Any], *slots: SlotReport) -> None:
    """Let a device report, then go offline."""
    topics = Topics("plant")
    report = Report(
        format=1,
        fleet="plant",
        device=device,
        boot=1,
        counter=1,
        time=0.0,
        agent="0",
        slots=list(slots),
        profile=profile,
    )
    with Client(home.broker.url, f"device-{device}", clean_start=True, session_expiry_seconds=0) as client:
        client.wait_connected(30)
        client.publish(topics.report(device), encode_report(report), retain=True).wait(30)
        client.publish(topics.online(device), b"0", retain=True).wait(30)


def test_every_device_that_was_ever_heard_of_has_a_line(home: Home, imports: None, desk: Path) -> None:
    mine = collect()
    say(home, "good", msgspec.to_builtins(mine))
    say(home, "bare", msgspec.to_builtins(msgspec.structs.replace(mine, distributions={})))
    say(home, "mute", {})
    with Client(home.broker.url, "x", clean_start=True, session_expiry_seconds=0) as client:
        client.wait_connected(30)
        client.publish(Topics("plant").online("seen"), b"1 1", retain=True).wait(30)
        client.publish(Topics("plant").report("odd"), b"?", retain=True).wait(30)
    found = check("mine.py")
    assert [(one.name, one.verdict) for one in found.findings[1:]] == [
        ("bare", Verdict.REFUSE),
        ("good", Verdict.ACCEPT),
        ("mute", Verdict.SILENT),
        ("odd", Verdict.SILENT),
        ("seen", Verdict.SILENT),
    ]
    assert found.refused


def test_a_broker_that_does_not_answer_costs_only_the_devices_verdicts(imports: None, desk: Path) -> None:
    founding.init("plant", f"mqtt://127.0.0.1:{free_port()}", passphrase="secret", home=desk / ".fieldcast")
    found = check("mine.py")
    assert len(found.findings) == 1
    (warning,) = found.warnings
    assert warning.startswith("devices were not judged: broker 127.0.0.1:")


def test_a_home_that_cannot_be_read_is_not_passed_over(run: Run, desk: Path) -> None:
    founding.init("plant", f"mqtt://127.0.0.1:{free_port()}", passphrase="secret", home=desk / ".fieldcast")
    (desk / ".fieldcast" / "publisher.toml").write_text("fleet =")
    done = run("mine.py")
    assert done.returncode == 2
    assert "publisher.toml" in done.stderr


def test_push_warns_of_known_devices_that_will_refuse(home: Home, imports: None, desk: Path) -> None:
    from publisher.pushing import push, rollback

    bare = msgspec.to_builtins(msgspec.structs.replace(collect(), distributions={}))
    follows = SlotReport(pipeline="meter", channel="staging")
    say(home, "bare", bare, follows)
    say(home, "good", msgspec.to_builtins(collect()), follows)
    say(home, "other", bare, SlotReport(pipeline="meter", channel="production"))
    say(home, "mute", {}, follows)
    result = push("mine.py", channel="staging", passphrase="secret", home=home.path)
    assert result.warnings == ["bare will refuse it: requirements: needs numpy, which is not installed here"]
    (desk / "mine.py").write_text(author.scale(3))
    for name in ("mine",):
        sys.modules.pop(name, None)
    second = push("mine.py", channel="staging", passphrase="secret", home=home.path)
    assert (second.release, second.digest != result.digest) == ("meter@2", True)
    back = rollback(channel="staging", passphrase="secret", home=home.path)
    assert back.warnings == result.warnings
