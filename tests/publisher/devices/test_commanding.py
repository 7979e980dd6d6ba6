"""Commands from the publisher: whose key, to whom, and which answers are believed. Real broker, scripted device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.contract.errors import AuthorError, ConfigError, StoreError, TransportError
from edge_agent.contract.messages import Topics
from edge_agent.contract.reports import Answer, Command, Report, encode, parse
from edge_agent.transport.client import Client
from publisher.config import Home
from publisher.devices.commanding import COUNTERS, CommandResult, send
from publisher.founding import init
from publisher.trust.custody import Custodian, add_key
from tests.simulators.broker import Mosquitto

TOPICS = Topics("plant")
SECRET = "secret"
REPORT = Report(format=1, fleet="plant", device="d1", boot=1, counter=1, time=0.0, agent="0", slots=[], session="s1")
Reply = Callable[[Command], list[tuple[str, bytes, bool]]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with Mosquitto() as broker:
        place = tmp_path_factory.mktemp("fleet") / "home"
        found = init("plant", broker.url, passphrase=SECRET, channels=["staging"], home=place)
        add_key(Custodian(home=place, passphrase=SECRET), "staging", "operator", "olga", scope=["ping"])
        yield found


@pytest.fixture
def device(home: Home) -> Iterator[Callable[[Reply], None]]:
    """Make d1 say that it is there, and answer commands by `reply`."""
    replies: list[Reply] = []

    def hear(topic: str, payload: bytes, retain: bool) -> None:
        if replies:
            for answer in replies[-1](parse(payload, Command)[0]):
                client.publish(answer[0], answer[1], retain=answer[2])

    with Client(home.broker.url, "d1", clean_start=True, session_expiry_seconds=0, on_message=hear) as client:
        client.wait_connected(30)
        client.subscribe([TOPICS.command("d1")])
        client.publish(TOPICS.report("d1"), encode(REPORT), retain=True).wait(30)
        client.publish(TOPICS.online("d1"), b"1 s1", retain=True).wait(30)
        yield replies.append


def ask(home: Home, seconds: float = 10.0, to: str = "d1", **options: str) -> CommandResult:
    return send(to, "ping", home=home.path, passphrase=SECRET, timeout_seconds=seconds, **options)


def answer(command: Command, **fields: object) -> bytes:
    plain = Answer(
        format=1,
        fleet="plant",
        device="d1",
        session=command.session,
        issuer=command.issuer,
        counter=command.counter,
        time=0.0,
        done=True,
        words="here",
    )
    return encode(msgspec.structs.replace(plain, **fields))


@pytest.mark.parametrize(("done", "ending"), [(True, "done"), (False, "refused")])
def test_the_answer_is_told_with_its_standing(
    home: Home, device: Callable[[Reply], None], done: bool, ending: str
) -> None:
    heard: list[Command] = []

    def reply(command: Command) -> list[tuple[str, bytes, bool]]:
        heard.append(command)
        return [(command.response_topic, answer(command, done=done), False)]

    device(reply)
    found = [ask(home), ask(home, operator="olga", channel="staging")]
    assert [(one.ending, one.words, one.standing and one.standing.value) for one in found] == [
        (ending, "here", "unsigned")
    ] * 2
    assert heard[0].counter < heard[1].counter
    assert heard[0].response_topic != heard[1].response_topic
    assert (heard[0].session, heard[0].issuer) == ("s1", "olga")


def test_what_is_no_answer_to_it_is_not_believed(home: Home, device: Callable[[Reply], None]) -> None:
    device(
        lambda command: [
            (command.response_topic, b"{", False),
            (command.response_topic, answer(command, device="d2"), False),
            (command.response_topic, answer(command, counter=1), False),
        ]
    )
    found = ask(home, 1.0)
    assert (found.ending, found.standing) == ("timed_out", None)
    assert found.words == "no answer within 1 s; one was for another command"


def test_a_refusal_without_an_answer_is_read_from_the_report(home: Home, device: Callable[[Reply], None]) -> None:
    told = msgspec.structs.replace(REPORT, counter=2, refused_commands=1, refused_command="unknown: nobody")
    device(lambda command: [(TOPICS.report("d1"), encode(told), True)])
    found = ask(home)
    assert (found.ending, found.words) == ("refused", "unknown: nobody (from its report)")


def test_whom_it_cannot_be_sent_to_is_named(home: Home, device: Callable[[Reply], None]) -> None:
    with pytest.raises(ConfigError, match="no device 'd9' has reported; there is d1"):
        ask(home, to="d9")
    with Client(home.broker.url, "x", clean_start=True, session_expiry_seconds=0) as client:
        client.wait_connected(30)
        client.publish(TOPICS.online("d1"), b"0", retain=True).wait(30)
    with pytest.raises(TransportError, match="d1 is offline"):
        ask(home)


def test_who_may_not_send_is_named(home: Home) -> None:
    with pytest.raises(AuthorError, match=r"key of no operator ivo; listed: olga"):
        ask(home, operator="ivo")
    with pytest.raises(ConfigError, match="unknown channel"):
        ask(home, channel="none")


def test_counters_that_cannot_be_read_are_named(home: Home, device: Callable[[Reply], None]) -> None:
    counters = Path(home.path) / COUNTERS
    counters.write_text("{")
    with pytest.raises(StoreError, match=r"commands\.json cannot be used"):
        ask(home)
    counters.unlink()
