"""Where streams go on after the agent ended: after the trail, above everything, or after what the output has."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.config import Config, load
from edge_agent.trails import BOOT_BITS, first_sequence, open_trail
from tests.edge_agent.runtime.test_trail import samples

INPUTS = {
    "numbered here": 'source = "mqtt"\ntopic = "s"\ncolumns = { x = "x" }',
    "numbered there": 'source = "mqtt"\ntopic = "s"\nsequence = "n"\ncolumns = { x = "x" }',
    "a file": 'source = "csv"\npath = "in.csv"\ncolumns = { x = "x" }\nrate_hz = 1.0',
}
# input, what the output has, the trail (none, whole, or perhaps not whole), the first number
GOES_ON = [
    ("numbered here", None, "", 3 << BOOT_BITS),
    ("numbered here", (9 << BOOT_BITS) + 5, "", (9 << BOOT_BITS) + 6),
    ("numbered here", 4, "whole", 8),
    ("numbered here", 4, "stale", 3 << BOOT_BITS),
    ("numbered there", 4, "", 5),
    ("numbered there", 4, "stale", 8),
    ("a file", None, "", 0),
    ("a file", 4, "", 5),
    ("a file", 4, "whole", 8),
    ("a file", 40, "stale", 8),
]


@pytest.mark.parametrize(("kind", "known", "state", "expected"), GOES_ON)
def test_a_stream_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, known: int | None, state: str, expected: int
) -> None:
    config = _config(tmp_path, INPUTS[kind])
    trail = open_trail(config, "meter")
    assert trail is not None
    if state:
        trail.append(samples(0, 8), 100)
        if state == "stale":
            monkeypatch.setattr("edge_agent.trails._BOOT_ID", tmp_path / "none")  # another kernel's life
        trail = open_trail(config, "meter")
    assert first_sequence(config.slot["meter"], 3, known, trail) == expected


def test_a_changed_input_and_a_removed_output_begin_a_trail_anew(tmp_path: Path) -> None:
    config = _config(tmp_path, INPUTS["numbered here"])
    first = open_trail(config, "meter")
    assert first is not None
    first.append(samples(0, 8), 100)
    for other in (
        open_trail(_config(tmp_path, INPUTS["numbered here"].replace('"s"', '"t"')), "meter"),
        open_trail(config, "meter", anew=True),
    ):
        assert other is not None
        assert other.newest is None


def test_a_slot_runs_without_a_trail_where_the_disk_refuses_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(tmp_path, INPUTS["numbered here"])
    (config.device.state / "streams" / "meter.trail").mkdir(parents=True)
    assert open_trail(config, "meter") is None
    assert "unfinished windows will not outlive the agent" in caplog.text
    assert first_sequence(config.slot["meter"], 2, None, None) == 2 << BOOT_BITS


def _config(directory: Path, given: str) -> Config:
    path = directory / "agent.toml"
    path.write_text(
        '[device]\nid = "d"\nfleet = "f"\nstate = "state"\n[broker]\nurl = "mqtt://127.0.0.1"\n'
        '[channel.c]\nroot = "c.json"\n[slot.meter]\nchannel = "c"\n'
        f'[slot.meter.input]\n{given}\n[slot.meter.output]\nsink = "sqlite"\npath = "out.db"\n'
    )
    return load(path, check_files=False)
