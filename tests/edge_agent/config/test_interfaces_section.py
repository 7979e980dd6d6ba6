"""[interfaces] is off by default, local only, and fits the slots; slots that answer are told what else they need."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import Config, load
from edge_agent.config.plugs import AnswerOutput, InferenceInput
from edge_agent.config.sections import Interfaces
from edge_agent.contract.errors import ConfigError

HEAD = '[device]\nid = "d"\nfleet = "f"\n[broker]\nurl = "mqtt://b"\n[channel.s]\nroot = "r.json"\n'
ASKED = '[slot.m]\nchannel = "s"\n[slot.m.input]\nsource = "inference"\ncolumns = { x = "x" }\n'
PLAIN = '[slot.m]\nchannel = "s"\n[slot.m.input]\nsource = "mqtt"\ntopic = "t"\ncolumns = { x = "x" }\n'
RECORD = '[slot.m.output]\nsink = "sqlite"\npath = "a.db"\n'
ON = "[interfaces]\ninference = true\n"


def read(directory: Path, text: str) -> Config:
    path = directory / "agent.toml"
    path.write_text(HEAD + text)
    return load(path, check_files=False)


def test_nothing_listens_unless_asked_to(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN + RECORD).interfaces == Interfaces()
    assert (Interfaces().inference, Interfaces().metrics) == (False, False)


def test_a_slot_that_answers_needs_no_output_and_may_have_a_record(tmp_path: Path) -> None:
    slot = read(tmp_path, ASKED + ON).slot["m"]
    assert isinstance(slot.input, InferenceInput)
    assert slot.output == AnswerOutput(stream="d/m")
    assert read(tmp_path, ASKED + RECORD + ON).slot["m"].output.stream == "d/m"


FAULTS = {
    "nobody can ask": (ASKED, "slot.m.input.source: nobody can ask: write [interfaces] with inference = true"),
    "nobody asks": (
        PLAIN + '[slot.m.output]\nsink = "answer"\n',
        "slot.m.output.sink: 'answer' is for source = \"inference\"",
    ),
    "no output": (PLAIN, "slot.m.output: missing"),
    "network": (ASKED + ON + 'listen = "0.0.0.0:80"\n', "interfaces.listen: '0.0.0.0:80' can be reached from"),
    "unknown": (ASKED + ON + "port = 80\n", "interfaces.port: unknown key"),
    "no truth value": (ASKED + "[interfaces]\ninference = 1\n", "interfaces.inference: expected true or false"),
    "rows": (ASKED + "rows_max = 0\n" + ON, "slot.m.input.rows_max: 0 must be 1 to"),
    "waiting": (ASKED + "waiting_max = 0\n" + ON, "slot.m.input.waiting_max: 0 must be 1 to"),
    "deadline": (ASKED + "deadline_seconds = 0\n" + ON, "slot.m.input.deadline_seconds: 0 must be above 0"),
    "sequence": (ASKED + 'sequence = "id"\n' + ON, "slot.m.input.sequence: comes with no value here"),
    "linger": (ASKED + "linger_ms = 1\n" + ON, "slot.m.input.linger_ms: does not suit"),
    "overflow": (ASKED + 'overflow = "drop_oldest"\n' + ON, "slot.m.input.overflow: 'drop_oldest' does not suit"),
    "same tensor": (ASKED.replace("x = ", 'y = "x", x = ') + ON, "two columns are the tensor 'x'"),
    "no columns": (ASKED.replace('x = "x"', "") + ON, "slot.m.input.columns: name at least one column"),
    "part of a merged input": (
        '[slot.m]\nchannel = "s"\n[slot.m.input]\nsource = "merge"\n'
        '[slot.m.input.part.a]\nsource = "inference"\ncolumns = { x = "x" }\n' + RECORD + ON,
        "slot.m.input.part.a.source: requests are no part of another stream",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_does_not_fit_is_said_at_its_key(tmp_path: Path, case: str) -> None:
    text, words = FAULTS[case]
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    assert words in str(refused.value)


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def found(name: str, *rest: Any) -> Any:
        return None if name == "h11" else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    with pytest.raises(ConfigError, match=r"pip install 'fieldcast\[serve\]'"):
        read(tmp_path, ASKED + ON)
