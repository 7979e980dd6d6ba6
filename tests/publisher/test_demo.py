"""The demonstration as a stranger runs it: it ends as promised, and it leaves nothing when it is stopped."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.messages import Report, SlotReport, Topics, encode_report
from edge_agent.transport.client import Client
from publisher.demo import play
from publisher.demo.meter import Meter
from publisher.demo.screen import DeviceTable, Screen, print_summary
from publisher.demo.stage import Stage
from publisher.devices.fleet import Fleet
from tests.simulators.broker import EXECUTABLE, Mosquitto
from tests.simulators.waiting import until

PLAY = "from publisher.demo import play; play.WATCH_SECONDS = 2.0; from publisher.cli import main; main()"
COMMAND = [sys.executable, "-I", "-c", PLAY, "demo"]  # its devices run each release for a shorter while
MARK = "FIELDCAST_TEST_DEMO"


@contextlib.contextmanager
def demo(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start the demonstration with its temporary files in `directory` and a mark that its processes inherit."""
    with (directory / "stdout").open("w") as stdout, (directory / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [*COMMAND, *options],
            stdout=stdout,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            cwd=directory,
            env={**os.environ, "TMPDIR": str(directory), MARK: str(directory)},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for number in marked(directory):  # only where the test has failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def marked(directory: Path) -> list[int]:
    """Return the processes that carry the mark: the demonstration's, whoever their parent is by now."""
    wanted, found = f"{MARK}={directory}".encode(), []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with contextlib.suppress(OSError):
                if wanted in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
    return found


def left(directory: Path) -> list[str]:
    """What the demonstration has left among temporary files; `.ses` is onnxruntime's own mark on a machine."""
    return sorted(path.name for path in directory.iterdir() if path.name not in ("stdout", "stderr", ".ses"))


def test_it_ends_as_promised_and_leaves_nothing(tmp_path: Path) -> None:
    with demo(tmp_path, "--json") as process:
        assert process.wait(280) == 0, (tmp_path / "stderr").read_text()
        summary = json.loads((tmp_path / "stdout").read_text().splitlines()[-1])
        assert summary["devices"] == 3
        assert summary["committed"] == dict.fromkeys(("device-1", "device-2", "device-3"), "activity@2")
        assert (summary["rolled_back"], summary["samples_lost"], summary["samples_repeated"]) == (3, 0, 0)
        assert summary["samples"] > 5_000
        assert 0.7 < summary["accuracy"]["activity@1"] < 0.9
        assert summary["accuracy"]["activity@2"] > 0.97
        assert [one["outcome"] for one in summary["releases"]] == ["committed", "committed", "rolled_back"]
        assert "confidence" in summary["releases"][2]["reason"]
        assert marked(tmp_path) == []
        assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("stop", "code", "words", "step"),
    [
        (signal.SIGINT, 130, "publisher: interrupted", "preflight in a clean process"),
        (signal.SIGTERM, 143, "", "devices start"),
    ],
)
def test_a_signal_ends_everything_it_started(
    tmp_path: Path, stop: signal.Signals, code: int, words: str, step: str
) -> None:
    with demo(tmp_path) as process:
        until(lambda: step in (tmp_path / "stdout").read_text() or process.poll() is not None, 120, step)
        process.send_signal(stop)
        process.send_signal(stop)  # an impatient second one must not disturb the clearing up
        assert process.wait(60) == code, (tmp_path / "stderr").read_text()
        assert (tmp_path / "stderr").read_text().strip() == words
        until(lambda: not marked(tmp_path), 30, "the end of every process")
        assert left(tmp_path) == []


def test_a_killed_demonstration_leaves_no_process(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        until(lambda: "publisher push" in (tmp_path / "stdout").read_text(), 120, "running agents")
        process.kill()
        process.wait()
        until(lambda: not marked(tmp_path), 30, "the end of every process")


@pytest.mark.skipif(not Path(EXECUTABLE).exists(), reason="mosquitto is not installed")
def test_somebody_elses_broker_is_left_clean_and_the_directory_kept(tmp_path: Path) -> None:
    with Mosquitto() as broker, demo(tmp_path, "--keep", "--broker", broker.url) as process:
        until(lambda: "device-1: committed" in (tmp_path / "stdout").read_text(), 120, "a release")
        assert len(marked(tmp_path)) >= 5, "the demonstration, its meter and three agents"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        until(lambda: not marked(tmp_path), what="the end of every process")
        (kept,) = left(tmp_path)
        assert f"everything is left in {tmp_path / kept}" in (tmp_path / "stderr").read_text()
        assert (tmp_path / kept / "home" / "publisher.toml").is_file()
        assert retained(broker.url) == []


def retained(url: str) -> list[str]:
    """Return the topics that hold a message; a marker published last tells that all have come."""
    heard: list[str] = []
    with Client(
        url, "looker", clean_start=True, session_expiry_seconds=0, on_message=lambda t, p, r: heard.append(t)
    ) as client:
        client.wait_connected(30)
        client.subscribe(["#"])
        client.publish("marker", b"x").wait(30)
        until(lambda: "marker" in heard, 30)
    return [topic for topic in heard if topic != "marker"]


def test_an_unreachable_broker_is_one_line(tmp_path: Path) -> None:
    with demo(tmp_path, "--broker", "mqtt://127.0.0.1:9") as process:
        assert process.wait(60) == 6
        assert (tmp_path / "stderr").read_text().startswith("publisher: broker 127.0.0.1:9 cannot be reached")
        assert (tmp_path / "stderr").read_text().count("\n") == 1
        assert (left(tmp_path), marked(tmp_path)) == ([], [])


# --- the parts ------------------------------------------------------------------------------------------------------


class Message:
    def __init__(self, device: str, **result: Any) -> None:
        self.topic = f"p/results/{device}"
        self.payload = json.dumps({"release": "a@1", "values": {"activity": "walk"}, **result})


def meter(sent: int) -> Meter:
    found = Meter([{"label": "walk"}] * 100 + [{"label": "run"}] * 100, "p", ["d1", "d2"], 10.0)
    found.sent = dict.fromkeys(found.devices, sent)
    return found


COUNTS = {
    "all answered": ([(0, 9), (10, 19)], (0, 0)),
    "nothing answered": ([], (20, 0)),
    "a gap": ([(0, 9), (12, 19)], (2, 0)),
    "an overlap": ([(0, 9), (8, 19)], (0, 2)),
    "twice the same": ([(0, 19), (0, 19)], (0, 20)),
    "the end is missing": ([(0, 14)], (5, 0)),
}


@pytest.mark.parametrize("case", COUNTS)
def test_the_meter_counts_what_is_lost_and_repeated(case: str) -> None:
    covered, expected = COUNTS[case]
    counting = meter(20)
    for first, last in covered:
        counting.heard(None, None, Message("d1", first=first, sequence=last))
    counting.heard(None, None, Message("d2", first=0, sequence=19))
    assert counting.counts() == expected


def test_the_meter_compares_with_labels_it_keeps_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    counting = meter(200)
    counting.heard(None, None, Message("d1", first=0, sequence=99))
    counting.heard(None, None, Message("d1", first=100, sequence=199))
    counting.tell(final=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["accuracy"], told["outputs"], told["final"]) == ({"a@1": 0.5}, {"a@1": 2}, True)


def test_the_table_shows_a_device_before_and_after_its_first_report() -> None:
    topics = Topics("plant")
    fleet = Fleet(topics)
    table = DeviceTable(["d1"], fleet, lambda: {"accuracy": {"a@1": 0.5}, "answered": {"d1": 10}})
    assert table.rows()[0] | {"samples/s": ""} == {
        "device": "d1",
        "release": "-",
        "state": "no release yet",
        "samples/s": "",
        "accuracy": "-",
        "last reason": "",
    }
    slot = SlotReport(pipeline="a", channel="s", active="a@1", last="a@2", state="rolled_back")
    report = Report(format=1, fleet="plant", device="d1", boot=1, counter=1, time=0, agent="0", slots=[slot])
    fleet.hear(topics.report("d1"), encode_report(report), True)
    row = table.rows()[0]
    assert (row["release"], row["state"], row["accuracy"]) == ("a@1", "a@2 rolled back", "50%")


SUMMARY = {
    "devices": 3,
    "committed": dict.fromkeys(play.DEVICES, "a@2"),
    "rolled_back": 3,
    "samples": 1000,
    "samples_lost": 0,
    "samples_repeated": 0,
    "accuracy": {"a@1": 0.8},
    "releases": [
        {"release": f"a@{number}", "outcome": "rolled_back", "sent_bytes": 1234, "seconds": 1.0, "reason": ""}
        for number in (1, 2, 3)
    ],
}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, []),
        ({"committed": {"device-1": "a@2"}}, ["every device runs a@2"]),
        ({"rolled_back": 2}, ["3 devices roll the third release back"]),
        ({"samples_lost": 1, "samples_repeated": 1}, ["no sample is lost", "no sample is repeated"]),
    ],
)
def test_a_broken_promise_is_named(wrong: dict[str, Any], words: list[str]) -> None:
    assert play._broken_promises({**SUMMARY, **wrong}) == words


def test_a_broken_promise_ends_with_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(play, "_play", lambda *_, **__: {**SUMMARY, "samples_lost": 1})
    with pytest.raises(SystemExit) as caught:
        play.run_demo(broker_url="mqtt://h")
    assert caught.value.code == 1
    assert capsys.readouterr().err == "publisher: not as promised: no sample is lost\n"


def test_the_summary_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(SUMMARY)
    said = capsys.readouterr().out
    for words in ("a@1", "80.0%", "rolled back", "1,234 B", "device-3 a@2", "3 of 3 devices", "0 lost, 0 repeated"):
        assert words in said


def test_the_live_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    screen = Screen(lambda: [{"device": "d1", "samples/s": "250"}], quiet=False)
    shown = Console(file=io.StringIO(), force_terminal=True, width=80)
    screen._console = shown
    screen.step("one")
    screen._live = play.contextlib.nullcontext()  # type: ignore[assignment] # lines are collected, not printed
    screen.step("two")
    screen.detail("first")
    screen.detail("second")
    shown.print(screen._render())
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "two  · second" in text
    assert "first" not in text
    assert "250" in text


def test_a_stage_ends_what_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("publisher.demo.stage.END_SECONDS", 0.2)
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    stage = Stage.__new__(Stage)
    stage._processes = [process]
    stage.__exit__()
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
