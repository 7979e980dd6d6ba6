"""Inputs and outputs in the configuration: good ones are opened, each fault is one clear line, secrets stay outside."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge_agent.cli import main
from edge_agent.config import Broker, load
from edge_agent.config.credentials import secret
from edge_agent.contract.errors import ConfigError
from edge_agent.runtime.sinks import open_sink
from edge_agent.runtime.sources import open_source

METRICS = 'source = "metrics"\ncolumns = {x = "cpu_percent"}'
INPUTS = {
    "jsonl": 'source = "jsonl"\npath = "data.jsonl"\nrate_hz = 10\nspeed = 0\ncolumns = {x = "a.x"}',
    "serial": 'source = "serial"\nport = "tty"\nbaud = 115200\ncolumns = {x = "0"}',
    "record": 'source = "serial"\nport = "tty"\nformat = "struct"\nstruct = "<hh"\nsync = "aa"\ncolumns = {x = "1"}',
    "command": 'source = "command"\ncommand = ["true"]\nformat = "regex"\npattern = "(?P<v>.*)"\ncolumns = {x = "v"}',
    "modbus": 'source = "modbus"\nhost = "127.0.0.1"\nport = 1\ncolumns = {x = "holding:1:float32"}',
    "opcua": 'source = "opcua"\nurl = "opc.tcp://127.0.0.1:1/"\ncolumns = {x = "ns=2;s=x"}',
    "sysfs": 'source = "sysfs"\nroot = "tree"\ncolumns = {x = "chip/temp1_input"}',
    "metrics": METRICS,
}
OUTPUTS = {
    "jsonl": 'sink = "jsonl"\npath = "out.jsonl"',
    "command": 'sink = "command"\ncommand = ["cat"]',
    "http": 'sink = "http"\nurl = "https://127.0.0.1:1/in"\ncredential = "token"',
    "spooled": 'sink = "http"\nurl = "http://127.0.0.1:1/"\nspool_mb = 5\nresend_per_second = 50',
    "spooled mqtt": 'sink = "mqtt"\ntopic = "out"\nspool_mb = 5\nbroker = "mqtt://127.0.0.1:1"',
}


def write(directory: Path, source: str = METRICS, sink: str = OUTPUTS["jsonl"]) -> Path:
    (directory / "root.json").touch()
    (directory / "data.jsonl").write_text('{"a": {"x": 1}}\n\n{"a": {"x": 2}}\n{"a": 3}\nnonsense\n{"a": {"x": 4}}\n')
    path = directory / "agent.toml"
    path.write_text(
        f'[device]\nid = "d"\nfleet = "f"\nstate = "state"\n[channel.c]\nroot = "root.json"\n'
        f'[slot.s]\nchannel = "c"\n[slot.s.input]\n{source}\n[slot.s.output]\n{sink}\n'
    )
    return path


@pytest.mark.parametrize("kind", INPUTS)
def test_every_input_is_shown_and_opened(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, INPUTS[kind])
    shown = CliRunner().invoke(main, ["check-config", "--config", str(path)])
    assert shown.exit_code == 0, shown.output
    assert f"channel c, {load(path).slot['s'].input.source} " in shown.output  # type: ignore[attr-defined]
    source = open_source(load(path), "s")
    assert source.columns == ("x",)
    source.close()


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_output_is_shown_and_opened(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, sink=OUTPUTS[kind])
    shown = CliRunner().invoke(main, ["check-config", "--config", str(path)])
    assert shown.exit_code == 0, shown.output
    assert ("spooled up to 5 MB" in shown.output) == ("spool" in kind)
    sink = open_sink(load(path), "s")
    assert sink.room > 0
    assert (tmp_path / "state" / "spool" / "s.db").exists() == ("spool" in kind)
    sink.close()


def test_jsonl_is_replayed_by_the_rules_of_csv(tmp_path: Path) -> None:
    source = open_source(load(write(tmp_path, INPUTS["jsonl"] + "\nrepeat = 2")), "s", start_sequence=1)
    rows: list[Any] = []
    while not source.finished:
        if (samples := source.take(10)) is not None:
            rows += zip(samples.sequences, samples.timestamps, samples.values, strict=True)
    source.close()
    assert rows[:2] == [(1, 100_000_000, 2.0), (4, 400_000_000, 4.0)]
    assert [(number, x) for number, _, x in rows[2:]] == [(5, 1.0), (6, 2.0), (9, 4.0)]
    assert [time for _, time, _ in rows] == sorted(time for _, time, _ in rows)
    assert source.faults == {"missing column": 2, "malformed payload": 2}


FAULTS = [
    (INPUTS["jsonl"], "rate_hz = 10", "", "input.timestamp: missing: name the path"),
    (INPUTS["jsonl"], "speed = 0", "speed = -1", "input.speed: -1.0 must be"),
    (INPUTS["jsonl"], "speed = 0", "repeat = 0", "input.repeat: 0 must be true"),
    (INPUTS["jsonl"], "rate_hz = 10", "rate_hz = -1", "input.rate_hz: -1.0 must be positive"),
    (INPUTS["jsonl"], "data.jsonl", "no.jsonl", "input.path: there is no file"),
    (INPUTS["serial"], "115200", "0", "input.baud: 0 must be positive"),
    (INPUTS["serial"], '"0"', '"x"', "input.columns.x.path: 'x' must be the place of a cell"),
    (INPUTS["serial"], "baud", "struct = 'h'\nbaud", 'input.struct: needs format = "struct"'),
    (INPUTS["serial"], "baud", "pattern = 'h'\nbaud", 'input.pattern: needs format = "regex"'),
    (INPUTS["serial"], "baud = 115200", "parity = 'X'", "input.parity: expected one of E, N, O"),
    (INPUTS["serial"], "baud = 115200", "buad = 1", "input.buad: unknown key; did you mean 'baud'?"),
    (INPUTS["record"], '"<hh"', '"<hj"', "input.struct: '<hj' is no format"),
    (INPUTS["record"], '"<hh"', '""', "input.struct: '' is 0 bytes"),
    (INPUTS["record"], '"aa"', '"xx"', "input.sync: 'xx' must be bytes in hex"),
    (INPUTS["record"], '"aa"', '""', "input.sync: missing: without sync"),
    (INPUTS["record"], '"1"', '"2"', "input.columns.x.path: '2' must be the place of a field"),
    (INPUTS["command"], '["true"]', "[]", "input.command: is empty"),
    (INPUTS["command"], "(?P<v>", "(?P<v", "input.pattern: '(?P<v.*)' is no regular"),
    (INPUTS["command"], 'x = "v"', 'x = "w"', "input.columns.x.path: 'w' is no group of pattern; it has: 1, v"),
    (INPUTS["modbus"], 'host = "127.0.0.1"', "", "input.host: needs either host"),
    (INPUTS["modbus"], "port = 1", "port = 0", "input.port: 0 must be"),
    (INPUTS["modbus"], "port = 1", "unit = 256", "input.unit: 256 must be"),
    (INPUTS["modbus"], "port = 1", "timeout_seconds = 0", "input.timeout_seconds: 0 must be"),
    (INPUTS["modbus"], "port = 1", "rate_hz = 0", "input.rate_hz: 0 must be above 0"),
    (INPUTS["modbus"], "port = 1", 'sequence = "n"', "input.sequence: comes with no value here"),
    (INPUTS["modbus"], "holding", "holdin", "path: 'holdin' is not one of coil, discrete, holding, input; did you"),
    (INPUTS["modbus"], ":1:", ":x:", "path: 'holding:x:float32' needs an address"),
    (INPUTS["modbus"], "float32", "flaot32", "path: 'flaot32' is not one of float32, float64"),
    (INPUTS["opcua"], "opc.tcp://", "http://", "input.url: must be opc.tcp://host"),
    (INPUTS["opcua"], "127.0.0.1", "me:secret@127.0.0.1", "input.url: must not hold credentials"),
    (INPUTS["opcua"], ":1/", ":x/", "is not a URL"),
    (INPUTS["opcua"], "columns", "interval_ms = 0\ncolumns", "input.interval_ms: 0 must be"),
    (INPUTS["opcua"], "columns", 'credential = "a"\ncolumns', "input.username: missing: a password needs"),
    (INPUTS["opcua"], "ns=2;s=x", "x", "path: 'x' is no node id"),
    (INPUTS["sysfs"], "chip/temp1_input", "../../etc/passwd", "path: '../../etc/passwd' must be CHIP/FILE"),
    (METRICS, "cpu_percent", "cpu_precent", "path: 'cpu_precent' is not one of cpu_freq"),
    (METRICS, "cpu_percent", "cpu_percent:1", "path: 'cpu_percent:1': only disk_free_mb, disk_percent, temperature"),
    (METRICS, 'columns = {x = "cpu_percent"}', "", "input.columns: name at least one column"),
    (OUTPUTS["jsonl"], "path", "keep = 0\npath", "output.keep: 0 must be 1 to 1000"),
    (OUTPUTS["jsonl"], "path", "file_mb = 0\npath", "output.file_mb: 0 must be above 0"),
    (OUTPUTS["command"], '["cat"]', "[]", "output.command: is empty"),
    (OUTPUTS["http"], "https", "ftp", "output.url: must be https://host"),
    (OUTPUTS["http"], "https://127.0.0.1", "http://example.org", "output.url: a token would be sent in the clear"),
    (OUTPUTS["http"], "url", 'token_file = "root.json"\nurl', "output.credential: there is a token_file already"),
    (OUTPUTS["http"], "url", 'token_file = "no"\nurl', "output.token_file: there is no file"),
    (OUTPUTS["http"], "url", "batch = 0\nurl", "output.batch: 0 must be"),
    (OUTPUTS["http"], "url", "timeout_seconds = 0\nurl", "output.timeout_seconds: 0 must be"),
    (OUTPUTS["spooled"], "url", 'ca = "root.json"\nurl', "output.url: ca needs an encrypted"),
    (OUTPUTS["spooled"], "spool_mb = 5", "spool_mb = -1", "output.spool_mb: -1 must be 0"),
    (OUTPUTS["spooled"], "= 50", "= 0", "output.resend_per_second: 0 must be above 0"),
]


@pytest.mark.parametrize(("section", "old", "new", "words"), FAULTS, ids=[words for *_, words in FAULTS])
def test_every_fault_is_told_with_its_key(tmp_path: Path, section: str, old: str, new: str, words: str) -> None:
    changed = section.replace(old, new, 1)
    assert changed != section
    path = write(tmp_path, changed) if section.startswith("source") else write(tmp_path, sink=changed)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [("serial", "serial", "serial"), ("modbus", "pymodbus", "modbus"), ("opcua", "asyncua", "opcua"),
     ("metrics", "psutil", "metrics")],
)  # fmt: skip
def test_a_missing_extra_is_one_line_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str, extra: str
) -> None:
    path, find = write(tmp_path, INPUTS[kind]), importlib.util.find_spec
    config = load(path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(ConfigError) as caught:
        load(path)
    words = f"needs the package '{module}', which is not installed: pip install 'fieldcast[{extra}]'"
    assert str(caught.value) == f"{path}: slot.s.input.source: {words}"
    with pytest.raises(ConfigError, match="pip install"):
        open_source(config, "s")


def test_secrets_come_from_files_and_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    assert secret(None, "") is None
    assert secret(tmp_path / "token", "") == b"s3cret"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(OSError, match="LoadCredential=token"):
        secret(None, "token")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Broker(url="mqtt://a", username="u", credential="token").password() == b"s3cret"


def test_a_broker_has_one_password(tmp_path: Path) -> None:
    broker = 'broker = {url = "mqtt://a", username = "u", password_file = "root.json", credential = "c"}'
    with pytest.raises(ConfigError, match=r"broker\.credential: there is a password_file already"):
        load(write(tmp_path, sink=f'sink = "mqtt"\ntopic = "a"\n{broker}'))
    with pytest.raises(ConfigError, match=r"broker\.username: missing"):
        load(write(tmp_path, sink='sink = "mqtt"\ntopic = "a"\nbroker = {url = "mqtt://a", credential = "c"}'))


def test_nothing_of_the_extras_is_imported_without_need() -> None:
    code = (
        "import sys, json, edge_agent.agent, edge_agent.runtime.sources, edge_agent.runtime.sinks\n"
        "print(json.dumps([n for n in ('serial', 'pymodbus', 'asyncua', 'psutil', 'asyncio',"
        " 'edge_agent.runtime.outside', 'edge_agent.runtime.spool') if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
