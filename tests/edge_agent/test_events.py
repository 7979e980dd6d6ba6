"""One event for each transition, at least once and in order, from the journal. Real store; a broker on demand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent import events as room
from edge_agent.config import Device
from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Reason, ReasonCode, TransportError
from edge_agent.contract.reports import DeviceEvent, parse
from edge_agent.events import Events
from edge_agent.transport.delivery import Delivery
from edge_agent.update.deployment import State
from edge_agent.update.store import Store

DEVICE = Device(id="d1", fleet="plant")


class Line:
    """A connection that keeps what is published, and confirms it when the test says so."""

    def __init__(self) -> None:
        self.connected = True
        self.said: list[DeviceEvent] = []
        self.open: list[Delivery] = []
        self.fault: Exception | None = None

    def publish(self, topic: str, payload: bytes) -> Delivery:
        if self.fault is not None:
            raise self.fault
        assert topic == "fieldcast/plant/device/d1/event"
        self.said.append(parse(payload, DeviceEvent)[0])
        self.open.append(Delivery(topic, len(payload), describe=lambda: "the broker"))
        return self.open[-1]

    def confirm(self, refusal: str = "") -> None:
        for delivery in self.open:
            delivery.settle(refusal)
        self.open.clear()

    @property
    def numbers(self) -> list[int]:
        return [event.number for event in self.said]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "agent.db")
    yield opened
    opened.close()


@pytest.fixture
def line() -> Line:
    return Line()


def write(store: Store, lines: int = 1) -> None:
    with store.transaction():
        made = store.add_deployment(slot="m", channel="c", release="m@1", digest=Digest.of(b"m"), now=5.0)
        for at in range(lines):
            store.save_deployment(made, event="admitted", before=State.ANNOUNCED, now=6.0 + at)


def agent(store: Store, line: Line, boot: int = 1) -> Events:
    return Events(store, line, device=DEVICE, boot=boot, signer=None)  # type: ignore[arg-type]


def test_an_event_says_what_became_of_which_release_and_why(store: Store, line: Line) -> None:
    reason = Reason(code=ReasonCode.OUTPUT, message="nan")
    with store.transaction():
        made = store.add_deployment(slot="m", channel="c", release="m@1", digest=Digest.of(b"m"), now=5.0)
        from msgspec.structs import replace

        failed = replace(made, state=State.ROLLED_BACK, reasons=(reason,))
        store.save_deployment(failed, event="failed", before=State.LIVE, now=6.0)
    agent(store, line, boot=3).tick()
    assert line.said == [
        DeviceEvent(
            format=1,
            fleet="plant",
            device="d1",
            boot=3,
            counter=1,
            time=6.0,
            number=1,
            slot="m",
            channel="c",
            release="m@1",
            digest=Digest.of(b"m"),
            event="failed",
            before="live",
            after="rolled_back",
            words="output: nan",
        )
    ]


def test_each_line_is_sent_once_while_all_goes_well(store: Store, line: Line) -> None:
    found = agent(store, line)
    write(store, 3)
    for _ in range(3):
        found.tick()
        line.confirm()
    assert line.numbers == [1, 2, 3]
    write(store)
    found.tick()
    assert line.numbers == [1, 2, 3], "nobody said that there is more"
    found.changed()
    found.tick()
    assert line.numbers == [1, 2, 3, 4]


def test_what_was_not_confirmed_is_sent_again_after_a_restart(store: Store, line: Line) -> None:
    write(store, 3)
    first = agent(store, line)
    first.tick()
    line.open.pop().settle("")  # the last alone: the ones before it are not known to have arrived
    first.tick()
    second = agent(store, line, boot=2)
    second.tick()
    assert line.numbers == [1, 2, 3, 1, 2, 3]
    assert [event.boot for event in line.said[3:]] == [2, 2, 2]
    line.confirm()
    second.tick()
    third = agent(store, line, boot=3)
    third.tick()
    assert len(line.said) == 6


def test_nothing_is_sent_without_connection_and_nothing_is_lost(store: Store, line: Line) -> None:
    line.connected = False
    found = agent(store, line)
    write(store, 2)
    found.tick()
    assert line.said == []
    line.connected = True
    found.tick()
    assert line.numbers == [1, 2]


def test_what_the_broker_refuses_or_the_client_cannot_take_is_sent_again(store: Store, line: Line) -> None:
    write(store, 2)
    found = agent(store, line)
    line.fault = TransportError("queue full")
    found.tick()
    line.fault = None
    found.tick()
    line.confirm("not authorised")
    found.tick()
    assert line.numbers == [1, 2, 1, 2]


def test_no_more_than_a_few_are_on_their_way_and_all_go_in_order(store: Store, line: Line) -> None:
    lines = 2 * room.IN_FLIGHT_MAX + 3
    write(store, lines)
    found = agent(store, line)
    for _ in range(2):
        found.tick()
        assert len(line.open) == room.IN_FLIGHT_MAX
    while line.open:
        line.confirm()
        found.tick()
    assert line.numbers == list(range(1, lines + 1))


def test_a_journal_that_began_anew_is_sent_from_its_start(store: Store, line: Line) -> None:
    with store.transaction():
        store.raise_fact(room.CONFIRMED, 500)  # as the mirror brings it back after the database was lost
    write(store, 2)
    agent(store, line).tick()
    assert line.numbers == [1, 2]


def test_of_a_long_backlog_the_newest_go_out_and_the_gap_is_told(store: Store, line: Line) -> None:
    write(store, room.BACKLOG_MAX + 40)
    found = agent(store, line)
    found.tick()
    while line.open:
        line.confirm()
        found.tick()
    assert line.numbers == list(range(41, room.BACKLOG_MAX + 41))
    assert [event.dropped for event in line.said[:2]] == [40, 0]
