"""What devices say is taken as it comes, and read without being believed."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.contract.messages import ReleaseInfo, Report, SlotReport, Topics, encode_report
from publisher.devices.fleet import DeviceOutcome, Fleet, Outcome, outcome_of

TOPICS = Topics("plant")
DIGEST, OTHER = Digest.of(b"one"), Digest.of(b"two")
INFO = ReleaseInfo(fleet="plant", channel="staging", pipeline="activity", sequence=2, digest=DIGEST, published=0)
WHY = [Reason(code=ReasonCode.OUTPUT, message="nan")]


def slot(**fields: Any) -> SlotReport:
    return SlotReport(**{"pipeline": "activity", "channel": "staging", **fields})


def report(device: str = "d1", *slots: SlotReport, fleet: str = "plant", boot: int = 1, counter: int = 1) -> Report:
    return Report(
        format=1, fleet=fleet, device=device, boot=boot, counter=counter, time=0.0, agent="0", slots=list(slots)
    )


def hear(fleet: Fleet, said: Report, device: str = "") -> None:
    fleet.hear(TOPICS.report(device or said.device), encode_report(said), True)


def known(fleet: Fleet) -> dict[str, tuple[bool, bool, str]]:
    return {one.device: (one.online, one.report is not None, one.unreadable) for one in fleet.devices()}


def test_reports_and_presence() -> None:
    fleet = Fleet(TOPICS)
    hear(fleet, report("d2"))
    hear(fleet, report("d1"))
    fleet.hear(TOPICS.online("d1"), b"1 abc", True)
    fleet.hear(TOPICS.online("d2"), b"0", True)
    fleet.hear(TOPICS.online("d3"), b"1 abc", True)
    assert known(fleet) == {"d1": (True, True, ""), "d2": (False, True, "")}


@pytest.mark.parametrize(("boot", "counter", "newer"), [(1, 2, True), (2, 0, True), (1, 0, False), (0, 9, False)])
def test_the_newest_report_counts(boot: int, counter: int, newer: bool) -> None:
    fleet = Fleet(TOPICS)
    hear(fleet, report("d1"))
    hear(fleet, report("d1", slot(), boot=boot, counter=counter))
    assert bool(fleet.reports["d1"].slots) is newer


def test_a_cleared_report_is_forgotten() -> None:
    fleet = Fleet(TOPICS)
    hear(fleet, report("d1"))
    fleet.hear(TOPICS.report("d1"), b"", True)
    assert known(fleet) == {}


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"{", "cannot be read"),
        (encode_report(report("d9")), "claims to be device d9"),
        (encode_report(report("d1", fleet="other")), "of fleet other"),
    ],
)
def test_what_cannot_be_believed_is_named_until_a_good_one_comes(payload: bytes, words: str) -> None:
    fleet = Fleet(TOPICS)
    fleet.hear(TOPICS.report("d1"), payload, True)
    found = fleet.devices()[0]
    assert words in found.why
    assert not found.counts
    assert fleet.counted() == []
    hear(fleet, report("d1"))
    assert known(fleet) == {"d1": (False, True, "")}


@pytest.mark.parametrize("topic", ["fieldcast/other/device/d1/report", "fieldcast/plant/device/d1/event", "x"])
def test_other_topics_are_passed_over(topic: str) -> None:
    fleet = Fleet(TOPICS)
    fleet.hear(topic, encode_report(report("d1")), True)
    assert known(fleet) == {}


OUTCOMES = {
    "runs it": (slot(active="activity@2", active_digest=DIGEST), Outcome.COMMITTED, "committed"),
    "runs it, tries another": (
        slot(active="activity@2", active_digest=DIGEST, candidate="activity@3"),
        Outcome.PENDING,
        "waiting",
    ),
    "runs other bytes of that name": (slot(active="activity@2", active_digest=OTHER), Outcome.PENDING, "waiting"),
    "tries it": (slot(last="activity@2", last_digest=DIGEST, state="shadow"), Outcome.PENDING, "shadow"),
    "rolled back": (
        slot(last="activity@2", last_digest=DIGEST, state="rolled_back"),
        Outcome.ROLLED_BACK,
        "rolled back",
    ),
    "reverted": (slot(last="activity@2", last_digest=DIGEST, state="reverted"), Outcome.ROLLED_BACK, "rolled back"),
    "rejected": (slot(last="activity@2", last_digest=DIGEST, state="rejected"), Outcome.REFUSED, "refused"),
    "rejected another": (slot(last="activity@1", last_digest=DIGEST, state="rejected"), Outcome.PENDING, "waiting"),
    "has heard nothing": (slot(), Outcome.PENDING, "waiting"),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_outcome(case: str) -> None:
    said, outcome, words = OUTCOMES[case]
    found = outcome_of("d1", said, INFO)
    assert (found.outcome, found.words) == (outcome, words)


def test_reasons_come_along() -> None:
    said = slot(last="activity@2", last_digest=DIGEST, state="rolled_back", reasons=WHY)
    assert outcome_of("d1", said, INFO).reasons == WHY


def test_outcomes_are_of_slots_that_follow_the_channel_with_that_pipeline() -> None:
    fleet = Fleet(TOPICS)
    hear(fleet, report("d1", slot(pipeline="other"), slot(channel="production")))
    hear(fleet, report("d2", slot(active="activity@2", active_digest=DIGEST)))
    hear(fleet, report("d3", slot()))
    fleet.hear(TOPICS.online("d2"), b"1 x", True)
    assert fleet.outcomes(INFO) == [
        DeviceOutcome(device="d2", outcome=Outcome.COMMITTED, state="committed"),
        DeviceOutcome(device="d3", outcome=Outcome.PENDING, state="offline"),
    ]


def test_waiting_looks_after_every_message() -> None:
    fleet = Fleet(TOPICS)
    teller = threading.Timer(0.05, hear, (fleet, report("d1")))
    teller.start()
    assert fleet.wait_for(lambda fleet: "d1" in fleet.reports, 10.0)
    assert not fleet.wait_for(lambda fleet: "d2" in fleet.reports, 0.05)
    teller.join()
