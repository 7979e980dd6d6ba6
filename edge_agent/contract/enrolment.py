"""What travels when a device is enrolled: a request from the device, an answer from the publisher. Pure.

A request is a PKCS#10 certificate request in PEM, signed with the key that it asks for: nobody can ask for another's
key. An answer is one JSON file of texts, whose names are a closed set, so installing one can write nowhere else.
Neither holds a secret, except an answer for a device that could not make its own key.
"""

from __future__ import annotations

import re

import msgspec

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.manifest import check_name

__all__ = [
    "ANSWER_BYTES_MAX",
    "AUTHORITY_FILE",
    "CERTIFICATE_FILE",
    "CONFIG_FILE",
    "KEY_FILE",
    "REQUEST_BYTES_MAX",
    "Answer",
    "decode_answer",
    "encode_answer",
    "root_file",
]

ANSWER_FORMAT = 1
ANSWER_BYTES_MAX = 1024 * 1024
REQUEST_BYTES_MAX = 16 * 1024
AUTHORITY_FILE, CERTIFICATE_FILE, CONFIG_FILE, KEY_FILE = "ca.pem", "device.pem", "agent.toml", "device.key"
_FIXED = {AUTHORITY_FILE, CERTIFICATE_FILE, CONFIG_FILE, KEY_FILE}
_ROOT = re.compile(r"(?P<channel>.+)\.root\.json")


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The publisher's answer: whom it is for, a note for people, and files by name.

    `files` holds `ca.pem`, `device.pem`, `agent.toml` and `<channel>.root.json` for each channel; `device.key` only for
    a device that did not make its own.
    """

    format: int
    fleet: str
    device: str
    note: str
    files: dict[str, str]


def root_file(channel: str) -> str:
    """Return the name of the file with a channel's first root."""
    return f"{check_name('channel', channel)}.root.json"


def encode_answer(answer: Answer) -> bytes:
    """Return an answer as indented JSON: people look into it."""
    return msgspec.json.format(encode_json(answer), indent=2) + b"\n"


def decode_answer(data: bytes) -> Answer:
    """Parse an answer. Raises `ValueError` for what is none, is incomplete, or names a file that does not belong."""
    if len(data) > ANSWER_BYTES_MAX:
        raise ValueError(f"it has {len(data)} bytes, an answer at most {ANSWER_BYTES_MAX}")
    try:
        answer = decode_json(data, Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no answer to an enrolment: {error}") from None
    if answer.format != ANSWER_FORMAT:
        raise ValueError(f"its format is {answer.format}, this program reads {ANSWER_FORMAT}: update the agent")
    check_name("fleet", answer.fleet)
    check_name("device", answer.device)
    missing = sorted(_FIXED - {KEY_FILE} - answer.files.keys())
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    for name in sorted(answer.files.keys() - _FIXED):
        _check_root_name(name)
    return answer


def _check_root_name(name: str) -> None:
    found = _ROOT.fullmatch(name)
    try:
        check_name("channel", found["channel"] if found else name[:80])
    except ValueError:
        found = None
    if found is None:
        raise ValueError(f"it holds a file {name[:80]!r}, which has no place on a device")
