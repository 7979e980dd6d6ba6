"""Commands of operators: what is refused, that nothing is done twice, and who is answered (T8). Real store and keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent import commands as room
from edge_agent.commands import Commands
from edge_agent.config import Config, load
from edge_agent.contract.digest import encode_json
from edge_agent.contract.dsse import COMMAND_TYPE, Signer
from edge_agent.contract.errors import StoreError, TransportError
from edge_agent.contract.messages import Topics
from edge_agent.contract.reports import Answer, Command, encode, parse
from edge_agent.contract.verification import Operator
from edge_agent.update.store import Store, Trust

NOW = 1_800_000_000.0
TOPICS = Topics("plant")
SCOPE = ["ping", "report", "rollback", "exec"]


class Key:
    """An operator's key."""

    def __init__(self, name: str) -> None:
        self.name, self._key = name, Ed25519PrivateKey.generate()
        self.signer = Signer(sign=self._key.sign, keyid=f"id-{name}")

    def listed(self, *scope: str) -> Operator:
        public = self._key.public_key().public_bytes_raw().hex()
        return Operator(name=self.name, keyid=f"id-{self.name}", public=public, scope=list(scope))


OLGA, IVO = Key("olga"), Key("ivo")


class Line:
    """Takes what would be published; refuses it if told to."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Answer]] = []
        self.fault: Exception | None = None

    def publish(self, topic: str, payload: bytes, *, properties: Mapping[str, bytes]) -> None:
        if self.fault is not None:
            raise self.fault
        answer = parse(payload, Answer)[0]
        assert properties == {"CorrelationData": f"{answer.issuer}:{answer.counter}".encode()}
        self.said.append((topic, answer))


class Desk:
    """A device's commands on a store in `directory`; `restart` is another run of its agent."""

    def __init__(self, directory: Path, allow: str = "") -> None:
        (directory / "root.json").write_text("{}")
        (directory / "agent.toml").write_text(_CONFIG + allow)
        self.config: Config = load(directory / "agent.toml")
        self.store = Store(directory / "agent.db")
        self.line, self.reports = Line(), 0
        self.lists("staging", OLGA.listed(*SCOPE))
        self.lists("production", IVO.listed("rollback"))
        self.restart("session-1")

    def restart(self, session: str) -> None:
        self.commands = Commands(
            self.config,
            self.store,
            self.line,  # type: ignore[arg-type]
            session=session,
            signer=None,
            about="fieldcast, boot 1",
            report=self._report,
        )

    def _report(self) -> None:
        self.reports += 1

    def lists(self, channel: str, *operators: Operator, expires: float = NOW + 1000) -> None:
        verified = encode_json({"operators": operators})
        trust = Trust(channel=channel, envelope=b"e", verified=verified, accepted=NOW, expires=expires)
        with self.store.transaction():
            self.store.save_trust(trust, {})

    def takes(self, *messages: bytes, now: float = NOW) -> None:
        for message in messages:
            self.commands.offer(message)
        self.commands.tick(now)

    @property
    def answers(self) -> list[tuple[bool, str]]:
        return [(answer.done, answer.words) for _, answer in self.line.said]


_CONFIG = """
[device]
id = "d1"
fleet = "plant"

[broker]
url = "mqtt://localhost"

[channel.staging]
root = "root.json"

[channel.production]
root = "root.json"

[slot.meter]
channel = "staging"
input = { source = "mqtt", topic = "in", columns = { x = "x" } }
output = { sink = "mqtt", topic = "out" }

[slot.pump]
channel = "production"
input = { source = "mqtt", topic = "in", columns = { x = "x" } }
output = { sink = "mqtt", topic = "out" }
"""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    yield found
    found.store.close()


def command(**fields: Any) -> Command:
    plain = Command(
        format=1,
        fleet="plant",
        device="d1",
        session="session-1",
        type="ping",
        issuer="olga",
        counter=7,
        issued=NOW - 1,
        expires=NOW + 100,
        response_topic=TOPICS.answer("d1", "a1"),
    )
    return msgspec.structs.replace(plain, **fields)


def sent(key: Key = OLGA, **fields: Any) -> bytes:
    return encode(command(**fields), key.signer)


def refused(desk: Desk, words: str, count: int = 1) -> None:
    assert desk.commands.refused == count
    assert words in desk.commands.why
    assert desk.reports == count, "every refusal is told in the report"
    assert desk.store.requests() == []


def test_a_command_is_done_answered_and_its_number_written_down(desk: Desk) -> None:
    desk.takes(sent(), sent(type="report", counter=8))
    assert desk.answers == [(True, "fieldcast, boot 1"), (True, "a fresh report follows")]
    assert desk.line.said[0][0] == TOPICS.answer("d1", "a1")
    assert (desk.commands.refused, desk.reports) == (0, 1)


def test_a_rollback_goes_to_the_updater_and_its_words_come_back(desk: Desk) -> None:
    desk.takes(sent(type="rollback", arguments=["meter"]))
    request = desk.store.requests()[0]
    assert (request.kind, request.slot) == ("rollback", "meter")
    assert desk.answers == []
    with desk.store.transaction():
        desk.store.answer(request.number, "refused: nothing runs on meter")
    desk.takes()
    assert desk.answers == [(False, "refused: nothing runs on meter")]
    desk.takes()
    assert len(desk.answers) == 1


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "foreign fleet": ({"fleet": "other"}, "foreign: it is for device d1 of fleet other"),
    "foreign device": ({"device": "d2"}, "foreign: it is for device d2"),
    "foreign session": ({"session": "session-0"}, "foreign: it is for another run"),
    "expired": ({"issued": NOW - 200, "expires": NOW - 100}, "expired: 100 s ago"),
    "good for too long": ({"expires": NOW + 9_000}, "expired: a command is good for 300 s at most"),
    "good for no time": ({"expires": NOW - 2}, "expired: a command is good"),
    "another issuer's name": ({"issuer": "ivo"}, "not listed there for an operator ivo"),
    "out of scope": ({"type": "hold", "arguments": ["meter", "1"]}, "out of scope: olga may send ping"),
    "code": ({"type": "exec", "arguments": ["print(1)"]}, "not allowed: this device takes ping"),
    "no such slot": ({"type": "rollback", "arguments": ["other"]}, "there is no slot 'other'"),
    "no slot": ({"type": "rollback"}, "rollback SLOT is how it is asked for"),
    "a slot of a channel that does not list it": (
        {"type": "rollback", "arguments": ["pump"]},
        "not listed there for an operator olga",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_answered(case: str, desk: Desk) -> None:
    fields, words = REFUSED[case]
    desk.takes(sent(**fields))
    refused(desk, words)
    assert [done for done, _ in desk.answers] == [False]
    assert words in desk.answers[0][1]


def test_replayed_is_refused(desk: Desk) -> None:
    desk.takes(sent(), sent(), sent(counter=6))
    assert desk.commands.refused == 2
    assert "replayed: number 7 of olga was taken already" in desk.commands.why
    assert [done for done, _ in desk.answers] == [True, False, False]


def test_replayed_after_a_restart_is_refused_even_with_the_session_guessed(desk: Desk) -> None:
    desk.takes(sent(type="rollback", arguments=["meter"]))
    desk.restart("session-1")
    desk.takes(sent(type="rollback", arguments=["meter"]))
    assert "replayed" in desk.commands.why
    assert len(desk.store.requests()) == 1


def test_altered_is_refused_and_nobody_is_answered(desk: Desk) -> None:
    whole = sent()
    for at in range(0, len(whole), 7):
        desk.takes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    # A changed key id or a changed letter of JSON's own may leave the signed words as they are, and is then the same.
    assert desk.commands.refused >= len(whole) // 7
    assert [words for done, words in desk.answers if done] in ([], ["fieldcast, boot 1"])


def test_altered_words_under_a_true_signature_are_refused(desk: Desk) -> None:
    from edge_agent.contract.dsse import seal

    signature = OLGA.signer.sign(b"something else")
    forged = Signer(sign=lambda data: signature, keyid="id-olga")
    desk.takes(seal(COMMAND_TYPE, encode_json(command()), forged))
    refused(desk, "altered")
    assert desk.answers == []


def test_an_unknown_key_is_refused_and_nobody_is_answered(desk: Desk) -> None:
    desk.takes(sent(Key("olga")))
    refused(desk, "not signed by an operator")
    assert desk.answers == []


def test_unsigned_is_refused(desk: Desk) -> None:
    desk.takes(encode(command()))
    refused(desk, "not signed by an operator")


def test_a_revoked_operator_is_refused(desk: Desk) -> None:
    desk.lists("staging")
    desk.takes(sent())
    refused(desk, "not signed by an operator whom a channel of this device lists now")


def test_a_list_that_has_expired_lists_nobody(desk: Desk) -> None:
    desk.lists("staging", OLGA.listed(*SCOPE), expires=NOW - 1)
    desk.takes(sent())
    refused(desk, "not signed by an operator")


def test_a_clock_set_back_does_not_bring_an_expired_list_back(desk: Desk) -> None:
    with desk.store.transaction():
        desk.store.raise_fact("clock", NOW + 5_000)
    desk.takes(sent())
    refused(desk, "not signed by an operator")


def test_an_answer_goes_to_a_topic_of_this_device_or_nowhere(desk: Desk) -> None:
    topics = [TOPICS.report("d1"), TOPICS.answer("d2", "a"), "elsewhere", "", TOPICS.answer("d1", "a") + "/b"]
    for count, topic in enumerate(topics, 1):
        desk.takes(sent(response_topic=topic, counter=10 + count))
        refused(desk, "foreign: its answer would go to a topic", count)
    assert desk.answers == []


def test_oversize_and_unreadable_are_refused(desk: Desk) -> None:
    desk.takes(b"x" * 20_000)
    refused(desk, "unreadable: command of 20000 bytes exceeds 16384")
    desk.takes(b"{")
    refused(desk, "unreadable: command cannot be read", 2)


def test_a_flood_is_bounded_and_counted(desk: Desk) -> None:
    desk.takes(*[b"{"] * (room.INBOX_MAX + 5))
    assert desk.commands.refused == room.INBOX_MAX + 5


def test_the_devices_own_configuration_decides_last(tmp_path: Path) -> None:
    desk = Desk(tmp_path, '[commands]\nallow = ["report", "exec"]\n')
    desk.takes(sent())
    refused(desk, "not allowed: this device takes report, exec")
    desk.takes(sent(type="exec"))
    refused(desk, "unknown: this agent cannot do that", 2)
    desk.store.close()


def test_a_disk_that_refuses_lets_nothing_be_done(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(desk.store, "raise_fact", full)
    desk.takes(sent(type="rollback", arguments=["meter"]))
    refused(desk, "failed: disk full")
    assert desk.answers == [(False, "refused, failed: disk full")]


def test_a_broker_that_is_away_is_no_reason_to_do_it_again(desk: Desk) -> None:
    desk.line.fault = TransportError("gone")
    desk.takes(sent())
    desk.line.fault = None
    desk.takes(sent())
    assert "replayed" in desk.commands.why
