"""Several inputs in one slot: good ones become one input with all columns, each fault is one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.cli import main
from edge_agent.config import Config, load
from edge_agent.config.plugs import MergeInput
from edge_agent.contract.errors import ConfigError

IMU = 'source = "mqtt"\ntopic = "imu"\ncolumns = {z = "z", x = {path = "x", unit = "g"}}'
AIR = 'source = "jsonl"\npath = "air.jsonl"\nrate_hz = 1\ncolumns = {t = "t"}'
HEAD = '[device]\nid = "d"\nfleet = "f"\n[channel.c]\nroot = "r.json"\n[slot.s]\nchannel = "c"\n'
SINK = '[slot.s.output]\nsink = "sqlite"\npath = "out.db"\n'


def read(directory: Path, whole: str = "", broker: bool = True, **parts: str) -> Config:
    text = HEAD + f'[slot.s.input]\nsource = "merge"\n{whole}\n'
    text += "".join(f"[slot.s.input.part.{name}]\n{part}\n" for name, part in parts.items())
    path = directory / "agent.toml"
    path.write_text(text + SINK + ('[broker]\nurl = "mqtt://127.0.0.1"\n' if broker else ""))
    return load(path, check_files=False)


def test_the_columns_are_those_of_all_parts_in_the_order_of_their_names(tmp_path: Path) -> None:
    merged = read(tmp_path, imu=IMU, air=AIR).slot["s"].input
    assert isinstance(merged, MergeInput)
    assert list(merged.columns) == ["t", "z", "x"]
    assert merged.columns["x"].unit == "g"
    assert merged.part["imu"].columns == {name: merged.columns[name] for name in ("z", "x")}


def test_check_config_shows_the_parts(tmp_path: Path) -> None:
    read(tmp_path, imu=IMU, air=AIR)
    for name in ("r.json", "air.jsonl"):
        (tmp_path / name).touch()
    arguments = ["check-config", "--config", str(tmp_path / "agent.toml")]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert f"merge of imu: mqtt imu (z, x); air: jsonl {tmp_path}/air.jsonl (t) -> sqlite" in shown.output
    told = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert told["slot"]["s"]["input"]["part"]["imu"]["topic"] == "imu"


def test_check_config_looks_for_the_columns_of_a_file_among_the_parts(tmp_path: Path) -> None:
    read(tmp_path, air='source = "csv"\npath = "air.csv"\nrate_hz = 1\ncolumns = {t = "temp"}')
    (tmp_path / "r.json").touch()
    (tmp_path / "air.csv").write_text("tempo\n1\n")
    shown = CliRunner().invoke(main, ["check-config", "--config", str(tmp_path / "agent.toml")])
    assert shown.exit_code != 0
    assert "temp" in shown.output


FAULTS = [
    ("", {}, "slot.s.input.part: missing"),
    ("part = {}", {}, "slot.s.input.part: name 1 to 64 inputs"),
    ('columns = {a = "a"}', {"imu": IMU}, "slot.s.input.columns: belongs to the parts"),
    ("late_seconds = 3", {"imu": IMU}, "slot.s.input.late_seconds: belongs to the parts"),
    ("", {"imu": IMU.replace("mqtt", "mqqt")}, "slot.s.input.part.imu.source: 'mqqt' is not one of"),
    ("", {"imu": IMU.replace('"imu"', '"a/#/b"')}, "slot.s.input.part.imu.topic: 'a/#/b' has a wildcard"),
    ("", {"'i/u'": IMU}, "part name 'i/u' is not allowed"),
    ("", {"imu": IMU + "\nlate_seconds = -1"}, "slot.s.input.part.imu.late_seconds: -1 must be positive"),
    ("", {"imu": IMU + "\nlate_seconds = nan"}, "slot.s.input.part.imu.late_seconds: nan must be positive"),
    (
        "",
        {"imu": IMU, "air": AIR.replace('t = "t"', 'x = "t"')},
        "slot.s.input.part.imu.columns.x: the parts 'air' and 'imu' both have a column 'x': rename one",
    ),
    (
        "",
        {"imu": IMU.replace('unit = "g"', 'dtype = "int64"')},
        "slot.s.input.part.imu.columns.x: is int64: merged inputs have float64 columns only",
    ),
    (
        "",
        {"file": 'source = "csv"\npath = "x.csv"\nrate_hz = 1'},
        "slot.s.input.part.file.columns: name the columns",
    ),
    (
        "",
        {"ask": 'source = "inference"\ncolumns = {a = "a"}'},
        "slot.s.input.part.ask.source: requests are no part of another stream",
    ),
    ("", {"imu": IMU + "\nlinger_ms = 2"}, "slot.s.input.part.imu.linger_ms: batches are of all parts together"),
    (
        "",
        {"all": f'source = "merge"\n[slot.s.input.part.all.part.imu]\n{IMU}'},
        "slot.s.input.part.all.source: a part cannot be merged itself",
    ),
]


@pytest.mark.parametrize(("whole", "parts", "words"), FAULTS)
def test_what_is_wrong_is_one_clear_line(tmp_path: Path, whole: str, parts: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, whole, **parts)
    assert words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_part_needs_a_broker_as_every_topic_does(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"slot\.s\.input\.part\.imu\.broker: missing"):
        read(tmp_path, broker=False, imu=IMU, air=AIR)
    assert read(tmp_path, broker=False, imu=IMU + '\nbroker = "mqtt://127.0.0.1"', air=AIR)
