"""An answer to an enrolment is whole and writes nowhere else, or it is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_agent.contract.enrolment import ANSWER_BYTES_MAX, Answer, decode_answer, encode_answer, root_file

FILES = {"ca.pem": "a", "device.pem": "b", "agent.toml": "c", "staging.root.json": "{}", "device.key": "k"}
ANSWER = Answer(format=1, fleet="plant", device="d1", note="", files=FILES)


def test_an_answer_is_read_as_it_was_written() -> None:
    assert decode_answer(encode_answer(ANSWER)) == ANSWER


@pytest.mark.parametrize(
    "name",
    ["../agent.toml", "/etc/passwd", "a/b.root.json", ".root.json", "..root.json", "authorized_keys", "x" * 300, ""],
)
def test_a_file_with_no_place_on_a_device_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no place on a device"):
        decode_answer(_changed(files={**FILES, name: "x"}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format is 2"),
        ({"fleet": "a/b"}, "fleet name"),
        ({"device": "+"}, "device name"),
        ({"files": {}}, "lacks agent.toml, ca.pem, device.pem"),
        ({"files": 1}, "no answer to an enrolment"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_answer(_changed(**change))


def test_an_endless_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        decode_answer(b" " * (ANSWER_BYTES_MAX + 1))


def test_a_channels_root_has_its_name() -> None:
    assert root_file("staging") == "staging.root.json"
    with pytest.raises(ValueError, match="channel name"):
        root_file("../x")


def _changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(encode_answer(ANSWER)), **fields}).encode()
