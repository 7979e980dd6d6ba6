"""The `edge-agent` command, with the agent running, stopped, or never started."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_agent.cli import main, overview
from tests.simulators import author
from tests.simulators.broker import EXECUTABLE, Mosquitto
from tests.simulators.fleet import FleetSimulator

GOOD = """
[device]
id = "dev-1"
fleet = "plant"
state = "state"

[broker]
url = "mqtt://broker.local"

[channel.staging]
root = "1.root.json"

[slot.meter]
channel = "staging"

[slot.meter.input]
source = "csv"
path = "data.csv"
rate_hz = 10

[slot.meter.output]
sink = "sqlite"
path = "out.db"
"""
TWO_SLOTS = GOOD + GOOD[GOOD.index("[slot.meter]") :].replace("slot.meter", "slot.other")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FIELDCAST_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1.root.json").touch()
    (tmp_path / "data.csv").write_text("x\n1\n")
    path = tmp_path / "agent.toml"
    path.write_text(GOOD)
    return path


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


# --- bad input ------------------------------------------------------------------------------------------------------

BAD_CONFIG = {
    "misspelt section": (GOOD.replace("[broker]", "[brokr]"), "brokr"),
    "misspelt key": (GOOD.replace("rate_hz", "rate_hzz"), "slot.meter.input.rate_hzz"),
    "wrong type": (GOOD.replace('"dev-1"', "7"), "device.id"),
    "no such file": (GOOD.replace("data.csv", "nope.csv"), "there is no file"),
    "no TOML": ("[device", "not valid TOML"),
    "unknown channel": (GOOD.replace('channel = "staging"', 'channel = "stging"'), "did you mean 'staging'?"),
    "broker URL": (GOOD.replace("mqtt://", "http://"), "broker.url"),
    "unknown source": (GOOD.replace('"csv"', '"cvs"'), "slot.meter.input.source"),
}


@pytest.mark.parametrize("case", BAD_CONFIG)
@pytest.mark.parametrize("command", ["check-config", "run"])
def test_a_wrong_configuration_is_named_line_by_line(config: Path, case: str, command: str) -> None:
    text, words = BAD_CONFIG[case]
    config.write_text(text)
    result = run(command, "--config", str(config))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert all(line.startswith(f"edge-agent: {config}: ") for line in result.stderr.splitlines())
    assert not (config.parent / "state").exists()


BAD = {
    "no file": (["status", "--config", "nope.toml"], 2, "nope.toml: cannot be read: No such file"),
    "no command": (["stats"], 2, "No such command 'stats'"),
    "log level": (["run", "--log-level", "LOUD"], 2, "'LOUD' is not one of"),
    "never run: status": (["status", "--config", "agent.toml"], 3, "has the agent run on this device yet?"),
    "never run: list": (["release", "list", "--config", "agent.toml"], 3, "has the agent run on this device yet?"),
    "never run: rollback": (
        ["release", "rollback", "--config", "agent.toml"],
        3,
        "has the agent run on this device yet",
    ),
    "never run: pin": (["release", "pin", "--config", "agent.toml"], 3, "has the agent run on this device yet?"),
    "never run: gc": (["gc", "--config", "agent.toml"], 3, "has the agent run on this device yet?"),
    "no such slot: hold": (["hold", "x", "--config", "agent.toml"], 2, "there is no slot 'x' in"),
    "a hold for how long": (["hold", "--for", "soon", "--config", "agent.toml"], 2, "'soon' is not a time"),
    "hold and not": (["hold", "--off", "--for", "1h", "--config", "agent.toml"], 2, "do not go together"),
    "no such slot": (
        ["release", "rollback", "--slot", "x", "--config", "agent.toml"],
        2,
        "there is no slot 'x' in",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(config: Path, case: str) -> None:
    arguments, code, words = BAD[case]
    before = sorted(config.parent.iterdir())
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("edge-agent: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert sorted(config.parent.iterdir()) == before


def test_the_doctor_names_every_fault_of_a_device_that_never_ran(config: Path) -> None:
    config.write_text(GOOD.replace("mqtt://broker.local", "mqtt://127.0.0.1:1"))
    (config.parent / "data.csv").unlink()
    result = run("doctor", "--json", "--config", str(config))
    assert result.exit_code == 1
    found = {check["name"]: check for check in json.loads(result.stdout)}
    assert {name for name, check in found.items() if check["state"] == "fail"} == {"configuration", "roots", "network"}
    assert "there is no file" in found["configuration"]["words"]
    assert "is no root of trust" in found["roots"]["words"]
    assert "Connection refused" in found["network"]["words"]
    assert all(check["advice"] for check in found.values() if check["state"] != "ok")
    shown = run("doctor", "--config", str(config)).stdout
    assert "fail  network         broker 127.0.0.1:1: Connection refused" in shown


def test_the_doctor_tells_a_configuration_that_cannot_be_read(config: Path) -> None:
    config.write_text("[device")
    result = run("doctor", "--config", str(config))
    assert result.exit_code == 1
    assert result.stdout.startswith("fail  configuration")


def test_several_slots_must_be_told_apart(config: Path) -> None:
    config.write_text(TWO_SLOTS)
    result = run("release", "rollback", "--config", str(config))
    assert (result.exit_code, result.stderr) == (2, "edge-agent: which slot? --slot meter|other\n")


def test_a_store_that_is_no_database(config: Path) -> None:
    (config.parent / "state").mkdir()
    (config.parent / "state" / "agent.db").write_bytes(b"rubbish" * 1000)
    result = run("status", "--config", str(config))
    assert result.exit_code == 3
    assert result.stderr.startswith("edge-agent: cannot read the store")


def test_a_directory_of_somebody_else(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: Path) -> None:
        raise PermissionError(13, "Permission denied", "/var/lib/edge-agent")

    (config.parent / "state").mkdir()
    monkeypatch.setattr(overview, "ring", refuses)
    result = run("status", "--config", str(config))
    assert (result.exit_code, result.stderr) == (3, "edge-agent: /var/lib/edge-agent: Permission denied\n")


# --- good input -----------------------------------------------------------------------------------------------------


def test_a_good_configuration_in_words_and_as_json(config: Path) -> None:
    result = run("check-config", "--config", str(config))
    assert (result.exit_code, result.stderr) == (0, "")
    ok, device, slot = result.stdout.splitlines()
    assert ok == f"{config}: ok"
    assert device == "  device dev-1 of fleet plant, broker mqtt://broker.local"
    assert slot.startswith(f"  slot meter: channel staging, csv {config.parent / 'data.csv'} (columns of the file) -> ")
    assert f"sqlite {config.parent / 'out.db'} table " in slot
    found = json.loads(run("check-config", "--json", "--config", str(config)).stdout)
    assert found["slot"]["meter"]["output"]["stream"] == "dev-1/meter"


def test_a_column_that_the_file_lacks_is_found_before_the_agent_runs(config: Path) -> None:
    config.write_text(GOOD.replace("rate_hz = 10", 'rate_hz = 10\ncolumns = { x = "y" }'))
    found = run("check-config", "--config", str(config))
    assert found.exit_code == 2
    assert "has no column 'y'" in found.stderr


def test_the_configuration_is_named_by_the_environment(config: Path) -> None:
    assert run("check-config", FIELDCAST_CONFIG=str(config)).stdout.startswith(f"{config}: ok")


def test_the_profile(config: Path) -> None:
    found = json.loads(run("profile", "--json").stdout)
    assert found["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert "msgspec" in found["distributions"]
    shown = run("profile").stdout
    assert f"  msgspec {found['distributions']['msgspec']}" in shown.splitlines()
    assert "onnxruntime   providers" in shown


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    command = [sys.executable, "-I", "-c", "from edge_agent.cli import main; main()", "profile", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "command",
    [
        *([], ["run"], ["check-config"], ["status"], ["release"], ["release", "list"], ["profile"]),
        *(["release", "pin"], ["release", "unpin"], ["release", "retry"], ["hold"], ["gc"], ["doctor"]),
    ],
)
def test_help_cuts_no_summary(command: list[str]) -> None:
    shown = run(*command, "--help").stdout
    assert "..." not in shown.replace("[ARGS]...", "")


# --- a real agent ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetSimulator]:
    if not Path(EXECUTABLE).exists():
        pytest.skip("mosquitto is not installed")
    with Mosquitto() as broker, FleetSimulator(tmp_path_factory.mktemp("fleet") / "f", broker.url) as found:
        yield found


def test_a_device_running_and_stopped(fleet: FleetSimulator) -> None:
    agent, _ = fleet.settled()
    environment = {"FIELDCAST_CONFIG": str(agent.config)}
    lines = run("status", **environment).stdout.splitlines()
    assert lines[0] == f"device {agent.device} of fleet {fleet.home.fleet}: agent running, pid {agent.pid}, connected"
    assert lines[1].startswith("slot meter: runs meter@1, ")
    assert lines[2].startswith("channel staging: metadata expires ")

    refused = run("release", "rollback", "--json", **environment)
    assert refused.exit_code == 1
    assert "no earlier committed release" in json.loads(refused.stdout)["answer"]

    steer_a_running_device(environment)

    fleet.release(fleet.write("bad.py", author.careless()))
    agent.until_ended("meter@2", "rolled_back")
    shown = run("status", **environment).stdout
    assert "  last offered: meter@2 (rolled back)" in shown
    assert "  because output: " in shown

    assert agent.stop() == 0
    stopped = run("status", **environment)
    assert stopped.exit_code == 0
    assert "agent not running" in stopped.stdout.splitlines()[0]
    assert json.loads(run("status", "--json", **environment).stdout)["running"] is False

    listed = run("release", "list", **environment).stdout.splitlines()
    assert [line[:9] for line in listed] == ["  meter@2", "* meter@1"]
    assert " rolled back  quarantined output: " in listed[0]
    assert listed[1].endswith("committed")
    assert [row["active"] for row in json.loads(run("release", "list", "--json", **environment).stdout)] == [
        False,
        True,
    ]
    assert run("release", "list", "--slot", "other", **environment).stdout == ""

    asked = run("release", "rollback", **environment)
    assert (asked.exit_code, asked.stdout) == (1, "refused: meter has no earlier committed release on this device\n")
    steer_a_stopped_device(environment)


def answer(*command: str, **environment: str) -> str:
    result = run(*command, "--json", **environment)
    assert result.exit_code == 0, result.output
    return str(json.loads(result.stdout)["answer"])


def steer_a_running_device(environment: dict[str, str]) -> None:
    assert answer("release", "pin", **environment) == "meter is pinned to meter@1"
    assert "  pinned to meter@1" in run("status", **environment).stdout
    refused = run("release", "rollback", **environment)
    assert refused.exit_code == 1
    assert "no earlier" in refused.stdout or "pinned" in refused.stdout
    assert answer("release", "unpin", **environment).startswith("meter is no longer pinned")
    assert answer("hold", "meter", "--for", "2h", **environment).startswith("meter is held until 20")
    assert "  held" in run("status", **environment).stdout
    assert answer("hold", "--off", **environment) == "no slot is held any more"
    assert run("release", "retry", "meter@1", **environment).stdout == "refused: meter@1 was not condemned on meter\n"
    assert answer("gc", "--all", **environment).startswith("removed 0 releases")
    seen = run("doctor", "--json", **environment)
    assert seen.exit_code == 0, seen.output
    found = {check["name"]: check for check in json.loads(seen.stdout)}
    assert {name for name, check in found.items() if check["state"] == "fail"} == set()
    assert {"configuration", "roots", "state", "database", "clock", "agent", "mqtt", "channel"} <= found.keys()
    assert found["agent"]["words"].startswith("running, pid ")
    assert found["channel"]["state"] == "ok"


def steer_a_stopped_device(environment: dict[str, str]) -> None:
    assert answer("release", "pin", "meter@1", **environment) == "meter is pinned to meter@1"
    assert run("release", "pin", "meter@2", **environment).exit_code == 1
    assert json.loads(run("release", "list", "--json", **environment).stdout)[1]["pinned"] is True
    assert answer("release", "unpin", "meter@1", **environment).startswith("meter is no longer pinned")
    assert answer("hold", "--for", "90s", **environment).startswith("every slot is held until 20")
    assert json.loads(run("status", "--json", **environment).stdout)["slots"][0]["held"] is True
    assert answer("hold", "--off", **environment) == "no slot is held any more"
    assert answer("release", "retry", "meter@2", **environment) == "meter@2 may be tried again on meter"
    assert json.loads(run("release", "list", "--json", **environment).stdout)[0]["quarantined"] is False
    dry = json.loads(run("gc", "--all", "--dry-run", "--json", **environment).stdout)
    assert dry["dry_run"] is True
    done = json.loads(run("gc", "--all", "--json", **environment).stdout)
    assert (done["blobs"], done["releases"]) == (dry["blobs"], dry["releases"])
    assert json.loads(run("gc", "--all", "--json", **environment).stdout)["blobs"] == []
    shown = run("doctor", **environment)
    assert (shown.exit_code, "not running" in shown.stdout) == (0, True)
