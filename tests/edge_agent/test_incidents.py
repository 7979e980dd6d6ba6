"""Incidents on disk and at the command line: whole or not at all, bounded, and without what is to be left out."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge_agent.cli import main
from edge_agent.contract.errors import Reason, ReasonCode, StoreError
from edge_agent.incidents import DIRECTORY, Incident, Incidents, frames_of, listed, read
from edge_agent.runtime.samples import Samples

CONFIG = """
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


def incident(time: float = 1000.0, slot: str = "meter", **more: Any) -> Incident:
    reason = Reason(code=ReasonCode.ERRORS, message="3 of 5 frames failed, last: boom")
    fields = {"release": "meter@2", "digest": "sha256:" + "0" * 64, "state": "rolled_back", "reason": reason} | more
    return Incident(time=time, slot=slot, **fields)


def rows(start: int, count: int = 2) -> Samples:
    numbers = array("q", range(start, start + count))
    values = array("d", [float(value) for number in numbers for value in (number, -number)])
    return Samples(("x", "card"), numbers, numbers, values)


# --- keeping --------------------------------------------------------------------------------------------------------


def test_an_incident_is_read_as_it_was_kept(tmp_path: Path) -> None:
    kept = Incidents(tmp_path, keep=5)
    frames = frames_of([rows(1)], count=8, kilobytes=10)
    number = kept.add(incident(traceback="line", evidence={"frames": 5}, stages={"act": 12}, frames=frames))
    found = read(tmp_path, number)
    assert (found.number, found.traceback, found.evidence, found.stages) == (1, "line", {"frames": 5}, {"act": 12})
    assert found.frames[0].values == [[1.0, -1.0], [2.0, -2.0]]
    assert kept.newest("meter") == 1
    assert kept.newest("other") == 0
    assert Incidents(tmp_path, keep=5).newest("meter") == 1


def test_what_is_put_off_again_and_again_is_kept_once(tmp_path: Path) -> None:
    kept = Incidents(tmp_path, keep=3)
    assert [kept.add(incident(time=3600.0 * hour, state="deferred")) for hour in range(5)] == [1] * 5
    assert kept.add(incident(time=3600.0 * 9)) == 2


def test_the_oldest_goes_first_and_numbers_go_on(tmp_path: Path) -> None:
    kept = Incidents(tmp_path, keep=3)
    for number in range(6):
        kept.add(incident(time=1000.0 * number))
    assert listed(tmp_path) == [4, 5, 6]
    assert Incidents(tmp_path, keep=3).add(incident(time=1e6)) == 7


def test_a_loop_does_not_push_the_others_out(tmp_path: Path) -> None:
    kept = Incidents(tmp_path, keep=3)
    assert [kept.add(incident(time=1000.0 + second)) for second in range(5)] == [1] * 5
    assert kept.add(incident(time=1001.0, release="meter@3")) == 2
    assert kept.add(incident(time=1002.0, slot="other")) == 3
    assert kept.add(incident(time=5000.0)) == 4


def test_a_disk_that_takes_nothing_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    kept = Incidents(tmp_path, keep=3)
    (tmp_path / DIRECTORY).write_text("in the way")
    with pytest.raises(StoreError, match="incident not kept"):
        kept.add(incident())
    (tmp_path / DIRECTORY).unlink()
    assert kept.add(incident()) == 1
    assert [path.name for path in (tmp_path / DIRECTORY).iterdir()] == ["1"]


def test_what_is_damaged_or_newer_is_refused_in_words(tmp_path: Path) -> None:
    kept = Incidents(tmp_path, keep=3)
    kept.add(incident())
    with pytest.raises(StoreError, match="there is no incident 9 on this device; there is 1"):
        read(tmp_path, 9)
    (tmp_path / DIRECTORY / "1" / "incident.msgpack").write_bytes(b"\xc1")
    with pytest.raises(StoreError, match="cannot be read"):
        read(tmp_path, 1)
    assert Incidents(tmp_path, keep=3).add(incident()) == 2
    Incidents(tmp_path, keep=3).add(incident(time=9e9, format=2))
    with pytest.raises(StoreError, match="format 2"):
        read(tmp_path, 3)


# --- frames ---------------------------------------------------------------------------------------------------------


def test_frames_are_bounded_by_number_and_by_bytes() -> None:
    given = [rows(start) for start in range(10)]
    assert len(frames_of(given, count=3, kilobytes=100)) == 3
    assert frames_of(given, count=0, kilobytes=100) == []
    large = [rows(0, 500), rows(500, 500)]
    assert len(frames_of(large, count=8, kilobytes=20)) == 1
    assert frames_of([large[0], large[0], rows(7)], count=8, kilobytes=200)[1].sequences == [7, 8]


def test_redacted_columns_are_not_kept() -> None:
    frame = frames_of([rows(1)], count=1, kilobytes=10, redact=["card"])[0]
    assert frame.columns == ["x", "card"]
    assert frame.values == [[1.0, None], [2.0, None]]


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FIELDCAST_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.toml").write_text(CONFIG)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["incident", *arguments, "--config", "agent.toml"])


def test_no_incident_is_said(state: Path) -> None:
    assert run("list").output == "no incident on this device\n"
    assert json.loads(run("list", "--json").output) == []
    done = run("show", "1")
    assert done.exit_code == 3
    assert "there is no incident 1" in done.output


def test_incidents_are_listed_newest_first_and_shown(state: Path) -> None:
    kept = Incidents(state, keep=5)
    kept.add(incident())
    frames = frames_of([rows(1)], count=8, kilobytes=10, redact=["card"])
    more = {"evidence": {"frames": 5, "apart_most": float("inf")}, "stages": {"act": 1500}, "redacted": ["card"]}
    kept.add(incident(time=9000.0, traceback="Traceback …\n", versions={"numpy": "2.0"}, frames=frames, **more))
    listed_lines = run("list").output.splitlines()
    assert [line.split()[0] for line in listed_lines] == ["2", "1"]
    assert "errors: 3 of 5 frames failed" in listed_lines[0]
    assert [one["number"] for one in json.loads(run("list", "--json").output)] == [2, 1]
    shown = run("show", "2").output
    for words in (
        "numpy 2.0",
        "frames 5",
        "act took 1.5 ms",
        "1 input frames kept, 2 rows",
        "without the columns card",
    ):
        assert words in shown
    assert shown.endswith("Traceback …\n")
    assert json.loads(run("show", "2", "--json").output)["evidence"] == {"frames": 5.0, "apart_most": "inf"}


def test_an_unreadable_incident_hides_no_other(state: Path) -> None:
    kept = Incidents(state, keep=5)
    for time in (0.0, 5000.0):
        kept.add(incident(time=time))
    (state / DIRECTORY / "1" / "incident.msgpack").write_bytes(b"")
    assert [line.split()[0] for line in run("list").output.splitlines()] == ["2", "1"]
    assert "cannot be read" in json.loads(run("list", "--json").output)[1]["unreadable"]


def test_an_incident_is_exported_once_and_over_nothing(state: Path, tmp_path: Path) -> None:
    Incidents(state, keep=5).add(incident(frames=frames_of([rows(1)], count=8, kilobytes=10)))
    assert run("export", "1", "out.json").exit_code == 0
    assert json.loads((tmp_path / "out.json").read_text())["frames"][0]["sequences"] == [1, 2]
    again = run("export", "1", "out.json", "--json")
    assert again.exit_code == 3
    assert "is there already" in again.output
    assert json.loads(run("export", "1", "new.json", "--json").output) == {"number": 1, "file": "new.json", "frames": 1}
    assert "cannot be written" in run("export", "1", "gone/new.json").output
