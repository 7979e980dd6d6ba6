"""When an envelope is looked at: one at a time, the newest, and ever more rarely while all of them are refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.verification import Floor, Request, Verified
from edge_agent.update.helper import Helper
from edge_agent.update.intake import FREE_REFUSALS, RETRY_SECONDS, WAIT_SECONDS_MAX, Intake, wait_seconds
from edge_agent.update.store import Store
from tests.simulators.waiting import until

NOW = 1_800_000_000.0
GOOD = Verified(releases=[], rollouts=[], manifests={}, floors=[Floor(role="timestamp", keyset="k", version=1)],
                expires_at=NOW + 9e6, timestamp_expires_at=NOW + 9e6)  # fmt: skip


class Door:
    """An intake whose verifier refuses what starts with `bad` and waits while `gate` is shut."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory / "agent.db")
        self.helper = Helper("verify", lambda: None)
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[Request] = []
        self.accepted: list[str] = []
        self.changes = 0
        self.intake = Intake(
            fleet="plant", root=lambda channel: b"root", store=self.store, verify=self.verify, helper=self.helper,
            accepted=lambda channel, now: self.accepted.append(channel), changed=self.change, chance=lambda: 0.5,
        )  # fmt: skip

    def change(self) -> None:
        self.changes += 1

    def verify(self, request: Request) -> Verified:
        self.asked.append(request)
        assert self.gate.wait(10)
        if request.envelope.startswith(b"bad"):
            raise UpdateRejected.one(ReasonCode.SIGNATURE, "no")
        if request.envelope.startswith(b"late"):
            raise UpdateRejected.one(ReasonCode.EXPIRED, "expired")
        return GOOD

    def settle(self, now: float) -> None:
        def settled() -> bool:
            self.helper.collect(now)
            return self.helper.idle

        until(settled, 30, "the verifier")

    def deliver(self, envelope: bytes, now: float) -> None:
        self.intake.announced("staging", envelope, now)
        self.settle(now)

    def envelopes(self) -> list[bytes]:
        return [request.envelope for request in self.asked]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.gate.set()
    door.helper.stop()
    door.store.close()


def test_waits_grow_to_a_limit_and_two_devices_do_not_wait_alike() -> None:
    assert [wait_seconds(count, 0.0) for count in range(FREE_REFUSALS + 1)] == [0.0] * (FREE_REFUSALS + 1)
    waits = [wait_seconds(count, 0.5) for count in range(FREE_REFUSALS + 1, FREE_REFUSALS + 40)]
    assert waits == sorted(waits)
    assert waits[0] < 2.0
    assert waits[-1] <= WAIT_SECONDS_MAX
    assert wait_seconds(99, 0.0) < wait_seconds(99, 0.9) <= WAIT_SECONDS_MAX


def test_denial_of_service_a_flood_is_looked_at_ever_more_rarely(door: Door) -> None:
    """A thousand false envelopes in a hundred seconds cost a handful of verifications and writes."""
    for number in range(1000):
        door.deliver(b"bad%d" % number, NOW + number / 10)
        door.intake.tick(NOW + number / 10)
        door.settle(NOW + number / 10)
    assert FREE_REFUSALS < len(door.asked) < 20
    assert door.changes == len(door.asked)
    door.intake.announced("staging", b"good", NOW + 100)
    assert door.accepted == []
    due = door.intake.tick(NOW + 100)
    assert due <= NOW + 100 + WAIT_SECONDS_MAX
    door.intake.tick(due)
    door.settle(due)
    assert door.accepted == ["staging"]
    door.deliver(b"bad again", due)  # what was accepted starts the count anew
    assert door.envelopes()[-1] == b"bad again"


def test_denial_of_service_what_cannot_be_unpacked_is_written_down_as_rarely(door: Door) -> None:
    for number in range(1000):
        door.intake.refuse("staging", b"raw", UpdateRejected.one(ReasonCode.MALFORMED, "no"), NOW + number / 10)
    assert FREE_REFUSALS < door.changes < 20
    refusal = door.store.refusal("staging")
    assert refusal is not None
    assert refusal.reasons[0].code is ReasonCode.MALFORMED


def test_of_those_that_wait_only_the_newest_is_looked_at(door: Door) -> None:
    door.gate.clear()
    for number in range(100):
        door.intake.announced("staging", b"good%d" % number, NOW)
    door.gate.set()
    door.settle(NOW)
    assert door.envelopes() == [b"good0", b"good99"]
    assert door.asked[1].accepted == b"good0"


def test_a_clock_set_back_does_not_close_the_door_for_longer(door: Door) -> None:
    for number in range(30):
        door.deliver(b"bad%d" % number, NOW + number * WAIT_SECONDS_MAX)
    door.intake.announced("staging", b"good", NOW - 9e8)
    assert door.intake.tick(NOW - 9e8) <= NOW - 9e8 + WAIT_SECONDS_MAX


def test_what_may_pass_later_is_looked_at_again_without_being_sent_again(door: Door) -> None:
    door.deliver(b"late", NOW)
    due = door.intake.tick(NOW)
    assert NOW < due <= NOW + RETRY_SECONDS
    door.intake.tick(due)
    door.settle(due)
    assert door.envelopes() == [b"late"] * 2


def test_what_the_disk_refused_to_keep_is_kept_when_there_is_room(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise StoreError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(door.store, "save_trust", full)
        with pytest.raises(StoreError):
            door.deliver(b"good", NOW)
    assert door.store.trust("staging") is None
    door.settle(NOW + 5)
    assert door.envelopes() == [b"good"]
    assert door.store.trust("staging") is not None
    assert door.store.floors("staging") == [("timestamp", "k", 1)]
