"""What a device says of itself and what it is told (T8): reports, events, commands and answers, as frozen structs.

They are parsed once, at the edge, and refused with what is wrong. Nothing here judges who said it: that needs the
signature beside it, see `dsse`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.dsse import (
    ANSWER_TYPE,
    COMMAND_TYPE,
    EVENT_TYPE,
    REPORT_TYPE,
    Sealed,
    Signer,
    open_sealed,
    seal,
)
from edge_agent.contract.errors import Reason

__all__ = [
    "COMMAND_SECONDS_MAX",
    "Answer",
    "Command",
    "DeviceEvent",
    "Report",
    "SlotReport",
    "decode_report",
    "encode",
    "encode_report",
    "parse",
]

COMMAND_SECONDS_MAX = 300
# What a device may be asked, and the arguments of each.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "ping": (),
    "report": (),
    "rollback": ("SLOT",),
    "retry": ("SLOT", "RELEASE"),
    "hold": ("SLOT", "SECONDS|off"),
}
_WORDS_MAX = 2_000
_ARGUMENTS_MAX = 8
_NUMBER_MAX = 2**53  # exact as a float too: SQLite facts and JavaScript hold it


class SlotReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one slot runs and what became of the last release it was offered.

    `active`, `candidate` and `last` are release names; digests are manifest digests. `state` is the deployment state
    of `last` (`committed`, `rolled_back`, `rejected`, `deferred`, …) and `reasons` why. `counters` are totals since
    the agent started: `samples`, `outputs`, `errors`, `dropped`. `due` ends a postponement (seconds UTC). `pinned` is
    the release that an operator pinned the slot to. `held`: an operator holds updates. `stuck`: every permitted release
    is condemned here, and what runs goes on. `incident` is the number of the slot's last incident, 0 without one.
    `sandbox` says of each layer of the worker's sandbox what came of it: `applied …`, `refused: why`, `not covered:
    why`.
    """

    pipeline: str
    channel: str
    active: str = ""
    active_digest: str = ""
    candidate: str = ""
    candidate_digest: str = ""
    last: str = ""
    last_digest: str = ""
    state: str = ""
    reasons: list[Reason] = []
    counters: dict[str, int] = {}
    samples_per_second: float = 0.0
    due: float = 0.0
    pinned: str = ""
    held: bool = False
    stuck: bool = False
    incident: int = 0
    sandbox: dict[str, str] = {}


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device's report. `boot` and `counter` order reports; `time` is seconds UTC by the device's clock.

    `session` names this run of the agent; a command must name it too. `refused_commands` were refused in it, the last
    of them for the reason `refused_command`. `sources` tells what was wrong last with which source of blobs (`delta`
    for patches); one that works again is not there. `trouble` is what the disk refuses now, in words.
    """

    format: int
    fleet: str
    device: str
    boot: int
    counter: int
    time: float
    agent: str
    slots: list[SlotReport]
    labels: dict[str, str] = {}
    profile: dict[str, Any] = {}
    channels: dict[str, dict[str, Any]] = {}
    session: str = ""
    refused_commands: int = 0
    refused_command: str = ""
    sources: dict[str, str] = {}
    trouble: str = ""


class DeviceEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One transition of a deployment, as the device's journal has it.

    `number` is its line in the journal, by which one that comes twice is known; `dropped` lines before it were too old
    to be sent. `boot` and `counter` order events by when they were sent, `time` is when it happened, seconds UTC.
    """

    format: int
    fleet: str
    device: str
    boot: int
    counter: int
    time: float
    number: int
    slot: str
    channel: str
    release: str
    digest: str
    event: str
    before: str
    after: str
    words: str = ""
    dropped: int = 0


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an operator asks of one device, in one run of its agent.

    `counter` grows with every command of an `issuer`; `issued` and `expires` are seconds UTC, at most
    `COMMAND_SECONDS_MAX` apart. The answer goes to `response_topic` and nowhere else.
    """

    format: int
    fleet: str
    device: str
    session: str
    type: str
    issuer: str
    counter: int
    issued: float
    expires: float
    response_topic: str
    arguments: list[str] = []


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a command, which `issuer`, `counter` and `session` name. `words` say it, or why not."""

    format: int
    fleet: str
    device: str
    session: str
    issuer: str
    counter: int
    time: float
    done: bool
    words: str


Body = TypeVar("Body", Report, DeviceEvent, Command, Answer)
_KINDS: dict[type, str] = {
    Report: REPORT_TYPE,
    DeviceEvent: EVENT_TYPE,
    Command: COMMAND_TYPE,
    Answer: ANSWER_TYPE,
}


def encode(body: Report | DeviceEvent | Command | Answer, signer: Signer | None = None) -> bytes:
    """Return the message that carries `body`, signed if there is a `signer`. Raises `ValueError` if it is too large."""
    return seal(_KINDS[type(body)], encode_json(body), signer)


def parse(data: bytes, kind: type[Body]) -> tuple[Body, Sealed]:
    """Return what a message says, and the envelope it came in, by which to judge it. Raises `ValueError`."""
    sealed = open_sealed(data, _KINDS[kind])
    try:
        body = decode_json(sealed.payload, kind)
    except msgspec.DecodeError as error:
        raise ValueError(f"{sealed.words} cannot be read: {error}") from None
    if body.format != 1:
        raise ValueError(f"{sealed.words} format {body.format} is not supported")
    fault = _fault(body)
    if fault:
        raise ValueError(f"{sealed.words} cannot be read: {fault}")
    return body, sealed


def encode_report(report: Report, signer: Signer | None = None) -> bytes:
    """Return the report as a message; without `signer` it is unsigned, and the publisher says so."""
    return encode(report, signer)


def decode_report(data: bytes) -> Report:
    """Parse a report of at most `REPORT_BYTES_MAX` bytes, whoever sent it. Raises `ValueError` with what is wrong."""
    return parse(data, Report)[0]


def _fault(body: Report | DeviceEvent | Command | Answer) -> str:
    """What no program of ours would send, by number or length; empty when there is nothing."""
    numbers = [getattr(body, name) for name in ("boot", "counter", "number", "dropped") if hasattr(body, name)]
    if any(not 0 <= number <= _NUMBER_MAX for number in numbers):
        return "a counter is out of bounds"
    if isinstance(body, Command) and (len(body.arguments) > _ARGUMENTS_MAX or len(body.response_topic) > 512):
        return "too many arguments, or too long a response topic"
    if isinstance(body, DeviceEvent | Answer) and len(body.words) > _WORDS_MAX:
        return f"more than {_WORDS_MAX} characters of words"
    return ""
