"""The `publisher` command as a person or a script meets it: what it prints, how it exits, and that it never raises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Reason, ReasonCode, TransportError
from edge_agent.contract.messages import ReleaseInfo, Report, SlotReport
from publisher import pushing, uplink
from publisher.cli import EXIT_CODES, main
from publisher.devices import overview
from publisher.devices.fleet import DeviceOutcome, DeviceStatus, Outcome
from publisher.devices.overview import ChannelStatus, FleetStatus
from publisher.founding import init
from publisher.pushing import Ending, PushResult
from publisher.trust import passphrase
from tests.simulators import author
from tests.simulators.broker import EXECUTABLE, Mosquitto, free_port
from tests.simulators.fleet import CHANNEL, FleetSimulator

PASSPHRASE = "correct horse"
needs_mosquitto = pytest.mark.skipif(not Path(EXECUTABLE).exists(), reason="mosquitto is not installed")


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose broker nobody runs; tests look at it and leave it as it is."""
    place = tmp_path_factory.mktemp("founded") / ".fieldcast"
    return init("plant", f"mqtt://127.0.0.1:{free_port()}", passphrase=PASSPHRASE, channels=[CHANNEL], home=place).path


@pytest.fixture
def desk(tmp_path: Path, founded: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The author's directory, with a home in the environment and a passphrase."""
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)
    monkeypatch.setattr(uplink, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("FIELDCAST_HOME", str(founded))
    monkeypatch.setenv("FIELDCAST_PASSPHRASE", PASSPHRASE)
    (desk / "good.py").write_text(author.scale(2))
    yield desk
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(desk)):
            del sys.modules[name]


def run(*arguments: str, **environment: str | None) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


def files(*places: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for place in places for path in sorted(place.rglob("*")) if path.is_file()}


NO_PIPELINE = "x = 1\n"
TWO_PIPELINES = author.scale(2) + "\nother = Pipeline('other', [Scale()], input=Input(['x']), output=Output(['y']))\n"
BROKEN = "import os\n\ndef f(:\n    pass\n"
RAISES = "x = 1\ny = x / 0\n"
ONLY_A_FILTER = "from edge_agent import Filter\n\nclass Mine(Filter):\n    def predict(self, x):\n        return x\n"
NO_SOURCE = """
from edge_agent import Filter, Input, Output, Pipeline

namespace = {"__name__": "notebook", "Filter": Filter}
exec("class Made(Filter):\\n    def predict(self, x):\\n        return x", namespace)
pipeline = Pipeline("made", [namespace["Made"]()], input=Input(["x"]), output=Output(["y"]))
"""

# Arguments, files of the author's, environment, exit code, words of the one line on standard error.
BAD: dict[str, tuple[list[str], dict[str, str], dict[str, str | None], int, str]] = {
    "no such file": (["push", "nope.py"], {}, {}, 1, "there is no file"),
    "a file nearly so named": (["push", "goood.py"], {}, {}, 1, "did you mean good.py?"),
    "no such module": (["push", "nope:pipeline"], {}, {}, 1, "there is no module 'nope'"),
    "no such attribute": (["push", "good.py:pipline"], {}, {}, 1, "did you mean 'pipeline'?"),
    "attribute that is no name": (["push", "good.py:1"], {}, {}, 1, "cannot be a name"),
    "file without pipeline": (["push", "a.py"], {"a.py": NO_PIPELINE}, {}, 1, "a.py has no pipeline: write"),
    "file with a filter only": (["push", "a.py"], {"a.py": ONLY_A_FILTER}, {}, 1, "filter Mine, not a pipeline"),
    "file with two pipelines": (["push", "a.py"], {"a.py": TWO_PIPELINES}, {}, 1, "say a.py:other or a.py:pipeline"),
    "syntax error": (["push", "a.py"], {"a.py": BROKEN}, {}, 1, "a.py, line 3"),
    "file that raises": (["push", "a.py"], {"a.py": RAISES}, {}, 1, "a.py:2)"),
    "class without source": (["push", "a.py", "--require-portable"], {"a.py": NO_SOURCE}, {}, 1, "Made"),
    "no target at all": (["push"], {}, {}, 1, "[tool.fieldcast]"),
    "pyproject names nothing": (["push"], {"pyproject.toml": ""}, {}, 1, '[tool.fieldcast] pipeline = "module:attr"'),
    "unknown channel": (
        ["push", "good.py", "-c", "nope"],
        {},
        {},
        2,
        "unknown channel 'nope': fleet plant has staging",
    ),
    "wrong passphrase": (["push", "good.py"], {}, {"FIELDCAST_PASSPHRASE": "x"}, 1, "wrong passphrase for key"),
    "empty passphrase": (["push", "good.py"], {}, {"FIELDCAST_PASSPHRASE": ""}, 1, "$FIELDCAST_PASSPHRASE is empty"),
    "nobody to ask": (["push", "good.py"], {}, {"FIELDCAST_PASSPHRASE": None}, 1, "no passphrase: set"),
    "no passphrase file": (
        ["push", "good.py", "--passphrase-file", "no"],
        {},
        {},
        1,
        "passphrase file no cannot be read",
    ),
    "no broker": (["push", "good.py"], {}, {}, 6, "cannot be reached (Connection refused)"),
    "no broker for status": (["status"], {}, {}, 6, "cannot be reached (Connection refused)"),
    "no home": (["push", "good.py", "--home", "no"], {}, {}, 2, "is no publisher's home"),
    "empty message": (["push", "good.py", "-m", ""], {}, {}, 2, "the message is empty"),
    "message of two lines": (["push", "good.py", "-m", "a\nb"], {}, {}, 2, "the message must be one line"),
    "empty tag": (["push", "good.py", "--tag", ""], {}, {}, 2, "the tag is empty"),
    "tag with a newline": (["push", "good.py", "--tag", "a\nb"], {}, {}, 2, "tag name 'a\\nb' is not allowed"),
    "timeout is no number": (["push", "good.py", "--wait", "--timeout", "soon"], {}, {}, 2, "'soon' is not a valid"),
    "timeout below 0": (["push", "good.py", "--wait", "--timeout", "-1"], {}, {}, 2, "-1.0 is not in the range"),
    "timeout nan": (["push", "good.py", "--wait", "--timeout", "nan"], {}, {}, 2, "'nan' is not a number of seconds"),
    "timeout inf": (["push", "good.py", "--wait", "--timeout", "inf"], {}, {}, 2, "inf is not in the range"),
    "devices below 0": (["push", "good.py", "--wait", "--devices", "-1"], {}, {}, 2, "-1 is not in the range"),
    "devices without wait": (["push", "good.py", "--devices", "2"], {}, {}, 2, "add --wait"),
    "rollback of nothing": (["rollback"], {}, {}, 2, "no releases yet"),
    "rollback to no number": (["rollback", "--to", "x"], {}, {}, 2, "'x' is not a valid integer"),
    "unknown command": (["pusj"], {}, {}, 2, "No such command 'pusj'"),
    "unknown option": (["status", "--jsn"], {}, {}, 2, "No such option"),
    "init again": (["init", "--fleet", "a", "--broker", "mqtt://h"], {}, {}, 2, "exists already: nothing was changed"),
    "init without fleet": (["init", "--broker", "mqtt://h"], {}, {}, 2, "Missing option '--fleet'"),
    "init, bad fleet": (
        ["init", "--fleet", "a/b", "--broker", "mqtt://h", "--home", "h"],
        {},
        {},
        2,
        "fleet name 'a/b'",
    ),
    "init, bad channel": (
        ["init", "--fleet", "a", "--broker", "mqtt://h", "--home", "h", "--channel", "#"],
        {},
        {},
        2,
        "channel name '#'",
    ),
    "init, no URL": (["init", "--fleet", "a", "--broker", "???", "--home", "h"], {}, {}, 2, "scheme '' is not known"),
    "init, other URL": (["init", "--fleet", "a", "--broker", "http://h", "--home", "h"], {}, {}, 2, "use mqtt://"),
    "init, no port": (["init", "--fleet", "a", "--broker", "mqtt://h:x", "--home", "h"], {}, {}, 2, "cannot be read"),
    "init, nobody to ask": (
        ["init", "--fleet", "a", "--broker", "mqtt://h", "--home", "h"],
        {},
        {"FIELDCAST_PASSPHRASE": None},
        1,
        "no passphrase: set",
    ),
    "init below a file": (["init", "--fleet", "a", "--broker", "mqtt://h", "--home", "good.py/h"], {}, {}, 2, "made"),
    "demo, no URL": (["demo", "--broker", "???"], {}, {}, 2, "scheme '' is not known"),
    "demo with TLS": (["demo", "--broker", "mqtts://h"], {}, {}, 2, "without TLS"),
    "broker elsewhere": (["broker", "run", "--host", "192.0.2.1"], {}, {}, 2, "loopback"),
    "broker, no port": (["broker", "run", "--port", "70000"], {}, {}, 2, "port 70000 is none"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(desk: Path, founded: Path, case: str) -> None:
    arguments, written, environment, code, words = BAD[case]
    for name, text in written.items():
        (desk / name).write_text(text)
    if arguments[0] in ("push", "rollback") and "-c" not in arguments:
        arguments = [*arguments, "-c", CHANNEL]
    before = files(desk, founded)
    result = run(*arguments, **environment)
    said = [line for line in result.stderr.splitlines() if not line.startswith("  ")]
    assert (result.exit_code, len(said)) == (code, 1), result.output
    assert said[0].startswith("publisher: ")
    assert words in said[0]
    assert result.stdout == ""
    assert {path: data for path, data in files(desk, founded).items() if "__pycache__" not in path} == before


def test_a_wrong_publisher_toml_names_file_and_key(desk: Path) -> None:
    home = desk / "home"
    home.mkdir()
    (home / "publisher.toml").write_text('fleet = 1\nchannels = ["a"]\n[broker]\nurl = "mqtt://h"\n')
    result = run("status", "--home", str(home))
    assert result.exit_code == 2
    assert result.stderr == f"publisher: {home}/publisher.toml: fleet: Expected str, got int\n"


def test_a_mistake_of_ours_stays_a_traceback(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(overview, "status", fails)
    assert isinstance(run("status").exception, RuntimeError)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (TransportError("gone"), 6, "publisher: gone"),
        (PermissionError(13, "Permission denied", "/x"), 1, "publisher: /x: Permission denied"),
        (OSError("odd"), 1, "publisher: odd"),
        (click.Abort(), 130, "publisher: interrupted"),
        (KeyboardInterrupt(), 130, "publisher: interrupted"),
    ],
)
def test_families_of_errors(
    desk: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    def fails(**_: object) -> None:
        raise error

    monkeypatch.setattr(overview, "status", fails)
    result = run("status")
    assert (result.exit_code, result.stderr.strip()) == (code, words)


def test_every_ending_has_its_code() -> None:
    assert set(EXIT_CODES) == {ending.value for ending in Ending}
    apart = [EXIT_CODES[one] for one in ("committed", "refused", "rolled_back", "timed_out")]
    assert apart == [0, 3, 4, 5]


class TestInit:
    def test_says_what_to_keep_and_what_to_copy(self, desk: Path) -> None:
        result = run("init", "--fleet", "hall", "--broker", "mqtt://h", "--home", "h", "--channel", "one")
        assert (result.exit_code, result.stderr) == (0, "")
        first, keep, copy = result.stdout.splitlines()
        assert first == f"fleet hall founded in {desk / 'h'} with the channels one"
        assert f"keep a copy of {desk / 'h'}/" in keep
        assert "agent.toml" in copy
        assert (desk / "h" / "device" / "one.root.json").is_file()

    def test_asks_twice_at_a_terminal(self, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[dict[str, Any]] = []

        def prompt(_: str, **options: Any) -> str:
            asked.append(options)
            return "typed"

        monkeypatch.delenv("FIELDCAST_PASSPHRASE")
        monkeypatch.setattr(passphrase.click, "prompt", prompt)
        monkeypatch.setattr(passphrase.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
        assert passphrase.ask(new=True) == "typed"
        assert passphrase.ask() == "typed"
        assert [one["confirmation_prompt"] for one in asked] == [True, False]
        assert all(one["hide_input"] and one["err"] for one in asked)


class TestPassphrase:
    def test_a_file_comes_before_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FIELDCAST_PASSPHRASE", "environment")
        (tmp_path / "p").write_text("file\r\n")
        assert passphrase.ask(tmp_path / "p") == "file"
        assert passphrase.ask() == "environment"

    @pytest.mark.parametrize(("content", "words"), [(b"\n", "is empty"), (b"\xff", "not text")])
    def test_a_useless_file(self, tmp_path: Path, content: bytes, words: str) -> None:
        (tmp_path / "p").write_bytes(content)
        with pytest.raises(passphrase.AuthorError, match=words):
            passphrase.ask(tmp_path / "p")


REASON = Reason(code=ReasonCode.OUTPUT, message="confidence = nan", where="model")


def pushed(ending: Ending, *devices: DeviceOutcome, release: str = "meter@3") -> PushResult:
    return PushResult(
        ending=ending,
        channel="staging",
        pipeline="meter",
        digest=Digest.of(b""),
        release=release,
        preflight="fine",
        warnings=["numpy is not declared"],
        sent_bytes=12_345,
        seconds=1.25,
        devices=list(devices),
    )


class TestPush:
    def test_a_dry_run(self, desk: Path) -> None:
        result = run("push", "good.py", "-c", CHANNEL, "--dry-run", FIELDCAST_PASSPHRASE=None)
        assert result.exit_code == 0
        assert result.stdout.splitlines()[0].startswith("meter -> staging: dry run  (")
        assert "  preflight: loaded in" in result.stdout
        assert "bytes sent" not in result.stdout
        assert [line for line in result.stderr.splitlines() if line.startswith("  ")] == [
            "  packing",
            "  preflight in a clean process",
        ]

    def test_without_target_the_project_names_it(self, desk: Path) -> None:
        (desk / "pyproject.toml").write_text('[tool.fieldcast]\npipeline = "good:pipeline"\n')
        result = run("push", "-c", CHANNEL, "--dry-run", "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        assert json.loads(result.stdout)["pipeline"] == "meter"

    @pytest.mark.parametrize(
        ("ending", "outcome", "line"),
        [
            (Ending.COMMITTED, DeviceOutcome(device="d1", outcome=Outcome.COMMITTED), "  d1: committed"),
            (
                Ending.ROLLED_BACK,
                DeviceOutcome(device="d1", outcome=Outcome.ROLLED_BACK, reasons=[REASON]),
                "  d1: rolled back, output: confidence = nan (model)",
            ),
            (Ending.REFUSED, DeviceOutcome(device="d1", outcome=Outcome.REFUSED, state="rejected"), "  d1: refused"),
            (Ending.TIMED_OUT, DeviceOutcome(device="d1", outcome=Outcome.PENDING, state="offline"), "  d1: offline"),
        ],
    )
    def test_an_ending_in_words_and_as_code(
        self, monkeypatch: pytest.MonkeyPatch, ending: Ending, outcome: DeviceOutcome, line: str
    ) -> None:
        monkeypatch.setattr(pushing, "push", lambda target, **chosen: pushed(ending, outcome))
        result = run("push", "x.py", "-c", "staging", "--wait")
        assert result.exit_code == EXIT_CODES[ending.value]
        words = ending.value.replace("_", " ")
        assert result.stdout.splitlines() == [
            f"meter@3 -> staging: {words}  ({Digest.of(b'').hex[:12]})",
            "  preflight: fine",
            "  12,345 bytes sent, 1.2 s in all",
            line,
        ]
        assert result.stderr == "warning: numpy is not declared\n"

    def test_nobody_listened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pushing, "push", lambda target, **chosen: pushed(Ending.TIMED_OUT))
        result = run("push", "x.py", "-c", "staging", "--wait")
        assert result.exit_code == 5
        assert "no device has reported that it follows this channel" in result.stdout

    def test_arguments_arrive(self, monkeypatch: pytest.MonkeyPatch) -> None:
        got: dict[str, Any] = {}

        def rollback(pipeline: str | None, **chosen: Any) -> PushResult:
            got.update(chosen, pipeline=pipeline)
            return pushed(Ending.PUBLISHED)

        monkeypatch.setattr(pushing, "rollback", rollback)
        result = run("rollback", "meter", "-c", "s", "--to", "4", "-m", "why", "--wait", "--devices", "2", "--json")
        assert json.loads(result.stdout)["ending"] == "published"
        del got["passphrase"], got["progress"]
        assert got == {
            "pipeline": "meter",
            "channel": "s",
            "sequence": 4,
            "message": "why",
            "wait": True,
            "devices": 2,
            "timeout_seconds": 120.0,
        }


class TestStatus:
    def found(self, *devices: DeviceStatus, expires: float = 4e9) -> FleetStatus:
        info = ReleaseInfo(
            fleet="plant", channel="s", pipeline="meter", sequence=2, digest=Digest.of(b""), published=0, tag="v2"
        )
        return FleetStatus(
            fleet="plant",
            broker="mqtt://h",
            channels={
                "s": ChannelStatus(offered={"meter": info}, expires=expires),
                "p": ChannelStatus(offered={}, expires=expires),
            },
            devices=list(devices),
        )

    def report(self, *slots: SlotReport, **channels: Any) -> Report:
        facts = {"format": 1, "fleet": "plant", "device": "d", "boot": 1, "counter": 1, "time": 0, "agent": "0"}
        return Report(**facts, slots=list(slots), channels=channels)

    def test_nobody_has_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(overview, "status", lambda home: self.found(expires=0.0))
        lines = run("status").stdout.splitlines()
        assert lines[0] == "fleet plant, broker mqtt://h"
        assert lines[1].startswith("channel s: offers meter@2 (v2); its signatures EXPIRED ")
        assert lines[2].startswith("channel p: offers nothing yet; ")
        assert lines[3] == "no device has reported yet"

    def test_a_row_a_slot_and_the_reasons_below(self, monkeypatch: pytest.MonkeyPatch) -> None:
        failed = SlotReport(
            pipeline="meter",
            channel="s",
            active="meter@1",
            last="meter@2",
            state="rolled_back",
            reasons=[REASON],
            samples_per_second=50.0,
        )
        held, other = (
            {"stale_since": 86_400, "refused": [REASON, REASON], "refused_at": 60},
            SlotReport(pipeline="m", channel="s"),
        )
        found = self.found(
            DeviceStatus(device="hall-1", online=True, report=self.report(failed, s=held)),
            DeviceStatus(device="hall-2", online=False, report=self.report(other, s={"refused": 7})),
            DeviceStatus(device="hall-3", online=True, unreadable="no JSON"),
        )
        monkeypatch.setattr(overview, "status", lambda home: found)
        output = run("status").stdout
        rows = [" ".join(line.split()) for line in output.splitlines()]
        assert "hall-1 unsigned yes meter (s) meter@1 50 meter@2 rolled back" in rows
        assert "hall-2 unsigned no m (s) nothing - nothing offered yet" in rows
        assert rows[-1].startswith("No device is enrolled: reports count unsigned")
        assert "hall-1: meter@2 rolled back, output: confidence = nan (model)" in rows
        assert "hall-3: its report cannot be read: no JSON" in rows
        assert "hall-1: channel s: STALE since 1970-01-02 00:00 UTC: no update begins" in rows
        assert "hall-1: channel s: refused at 1970-01-01 00:01 UTC what was announced, output: x (and 1 more)" in [
            row.replace(str(REASON), "output: x") for row in rows
        ]
        assert any(row.startswith("hall-2: channel s: what it says of it cannot be read") for row in rows)
        assert json.loads(run("status", "--json").stdout)["devices"][2]["unreadable"] == "no JSON"


class TestHelp:
    def test_every_screen_fits_and_cuts_no_summary(self) -> None:
        waiting: list[list[str]] = [[]]
        while waiting:
            command = waiting.pop()
            result = run(*command, "--help", COLUMNS="80")
            assert result.exit_code == 0, command
            assert max(map(len, result.stdout.splitlines())) <= 80, command
            assert "..." not in re.sub(r"(\[\w+\]|\w+)\.\.\.", "", result.stdout.partition("Options:")[0]), command
            assert "..." not in result.stdout.partition("Commands:")[2], command
            found: click.Command = main
            for name in command:
                assert isinstance(found, click.Group)
                found = found.commands[name]
            if isinstance(found, click.Group):
                waiting += [[*command, name] for name in found.commands]

    def test_without_a_command_help_is_shown(self) -> None:
        result = run()
        assert "Commands:" in result.output
        assert run("--version").stdout.startswith("publisher, version ")


COMMAND = [sys.executable, "-I", "-c", "from publisher.cli import main; main()"]


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "push", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_the_command_starts_without_its_heavy_parts() -> None:
    code = "import sys, publisher.cli; print(sorted({'numpy', 'tuf', 'rich', 'paho', 'obstore'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@needs_mosquitto
def test_exit_codes_on_a_real_fleet(tmp_path: Path) -> None:
    with Mosquitto() as broker, FleetSimulator(tmp_path / "fleet", broker.url) as fleet:
        for name, text in {"one.py": author.scale(2), "two.py": author.scale(3), "bad.py": author.careless()}.items():
            fleet.write(name, text)

        def push(name: str, *options: str) -> subprocess.CompletedProcess[str]:
            done = fleet.publisher("push", name, "-c", CHANNEL, "--wait", *options)
            assert "Traceback" not in done.stderr
            return done

        assert push("one.py", "--timeout", "0.3").returncode == 5
        agent = fleet.agent()
        fleet.feed(agent)
        agent.until_active("meter@1")
        committed = push("two.py", "--tag", "v2", "--json", "--timeout", "120")
        assert (committed.returncode, committed.stderr) == (0, "")
        assert json.loads(committed.stdout)["devices"][0]["outcome"] == "committed"
        back = push("bad.py", "--timeout", "120")
        assert back.returncode == 4
        assert f"  {agent.device}: rolled back" in back.stdout
        shown = fleet.publisher("status")
        assert shown.returncode == 0
        assert agent.device in shown.stdout
        rolled = fleet.publisher("rollback", "-c", CHANNEL, "--wait", "--timeout", "120")
        assert rolled.returncode == 0, rolled.stderr
        fleet.agent(columns='other = "x"')
        refused = push("one.py", "--timeout", "120", "--devices", "2")
        assert refused.returncode == 3
        assert "columns: needs the columns x" in refused.stdout
