"""Whose word a device's message is (T8): every way in which it can be somebody else's has a test of its own."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from edge_agent.contract.dsse import Signer
from edge_agent.contract.errors import StoreError
from edge_agent.contract.messages import Topics
from edge_agent.contract.reports import Answer, DeviceEvent, Report, SlotReport, encode, parse
from publisher.devices.authority import Authority, new_key
from publisher.devices.fleet import Fleet
from publisher.devices.heard import Heard
from publisher.devices.standing import AHEAD_SECONDS_MAX, Mark, Standing, Trusted, Verdict, judge, judge_answer
from publisher.devices.watching import Hearing, SeenEvent

NOW = time.time()
AUTHORITY = Authority.found("plant", new_key(), NOW)
TOPICS = Topics("plant")


class Device:
    """A device with a key and a certificate."""

    def __init__(self, name: str, authority: Authority = AUTHORITY, *, days: int = 30, now: float = NOW) -> None:
        from edge_agent.contract.certificates import read

        self.name, self.key = name, new_key()
        self.cert = authority.client(name, self.key.public_key(), now, days)
        self.serial = read(self.cert).serial

    @property
    def signer(self) -> Signer:
        return signer(self.key, self.cert)

    def report(self, boot: int = 1, counter: int = 1, at: float = NOW, fleet: str = "plant") -> Report:
        return Report(format=1, fleet=fleet, device=self.name, boot=boot, counter=counter, time=at, agent="0", slots=[])

    def says(self, **fields: Any) -> bytes:
        return encode(self.report(**fields), self.signer)


def signer(key: ec.EllipticCurvePrivateKey, cert: bytes) -> Signer:
    return Signer(sign=lambda data: key.sign(data, ec.ECDSA(SHA256())), cert=cert.decode())


D1, D2 = Device("d1"), Device("d2")
TRUSTED = Trusted(authority=AUTHORITY.pem, enrolled=2)


def judged(
    data: bytes, device: str = "d1", trusted: Trusted = TRUSTED, marks: dict[str, Mark] | None = None
) -> Verdict:
    report, sealed = parse(data, Report)
    return judge(report, sealed, fleet="plant", device=device, trusted=trusted, marks=marks or {}, now=NOW)


def refused(found: Verdict, standing: Standing, words: str) -> None:
    assert (found.standing, found.counts) == (standing, False)
    assert words in found.words


def test_a_device_that_is_enrolled_and_signs_is_verified_and_counts() -> None:
    found = judged(D1.says())
    assert (found.standing, found.counts, found.serial) == (Standing.VERIFIED, True, D1.serial)


def test_an_unsigned_report_does_not_count_once_a_device_is_enrolled() -> None:
    refused(judged(encode(D1.report())), Standing.UNSIGNED, "not signed")


@pytest.mark.parametrize("trusted", [Trusted(), Trusted(authority=AUTHORITY.pem, enrolled=0)])
def test_an_unsigned_report_counts_while_no_device_is_enrolled(trusted: Trusted) -> None:
    found = judged(encode(D1.report()), trusted=trusted)
    assert (found.standing, found.counts) == (Standing.UNSIGNED, True)


def test_a_signature_that_nobody_can_check_is_as_good_as_none() -> None:
    found = judged(D1.says(), trusted=Trusted())
    assert (found.standing, found.counts) == (Standing.UNSIGNED, True)
    assert "ca.pem" in found.words


def test_foreign_a_certificate_of_another_authority() -> None:
    stranger = Device("d1", Authority.found("plant", new_key(), NOW))
    refused(judged(stranger.says()), Standing.FOREIGN, "not issued by the fleet's authority")


def test_foreign_the_certificate_of_another_device() -> None:
    data = encode(D1.report(), D2.signer)
    refused(judged(data), Standing.FOREIGN, "certificate of d2")


def test_foreign_another_devices_report_on_this_devices_topic() -> None:
    refused(judged(D2.says(), device="d1"), Standing.FOREIGN, "claims to be device d2")


def test_foreign_another_fleets_report_on_this_fleets_topic() -> None:
    refused(judged(D1.says(fleet="other")), Standing.FOREIGN, "of fleet other")


def test_foreign_a_certificate_that_is_no_devices() -> None:
    key = new_key()
    data = encode(D1.report(), signer(key, AUTHORITY.server(["localhost"], key.public_key(), NOW)))
    refused(judged(data), Standing.FOREIGN, "not for a client")


def test_foreign_no_certificate_at_all() -> None:
    refused(judged(encode(D1.report(), signer(D1.key, b""))), Standing.FOREIGN, "not a certificate")


def altered(data: bytes, **fields: Any) -> bytes:
    envelope = json.loads(data)
    body = {**json.loads(base64.b64decode(envelope["payload"])), **fields}
    return json.dumps({**envelope, "payload": base64.b64encode(json.dumps(body).encode()).decode()}).encode()


def test_altered_a_changed_field() -> None:
    refused(judged(altered(D1.says(), agent="9.9")), Standing.ALTERED, "altered")


def test_altered_a_signature_made_with_another_key() -> None:
    refused(judged(encode(D1.report(), signer(D2.key, D1.cert))), Standing.ALTERED, "altered")


def test_altered_a_reports_signature_under_an_event() -> None:
    stolen = json.loads(D1.says())["signatures"]
    event = json.loads(encode(EVENT))
    data = json.dumps({**event, "signatures": stolen}).encode()
    body, sealed = parse(data, DeviceEvent)
    found = judge(body, sealed, fleet="plant", device="d1", trusted=TRUSTED, marks={}, now=NOW)
    refused(found, Standing.ALTERED, "altered")


def test_revoked_a_certificate_that_is_on_the_list() -> None:
    trusted = msgspec.structs.replace(TRUSTED, revoked=frozenset({D1.serial}))
    refused(judged(D1.says(), trusted=trusted), Standing.REVOKED, "revoked certificate")
    assert judged(D2.says(), device="d2", trusted=trusted).counts


def test_expired_a_certificate_past_its_time() -> None:
    old = Device("d1", days=1, now=NOW - 10 * 86_400)
    refused(judged(old.says()), Standing.EXPIRED, "expired")


@pytest.mark.parametrize(("boot", "counter"), [(2, 4), (1, 99)])
def test_replayed_an_old_report_does_not_count(boot: int, counter: int) -> None:
    """(1, 99): the counter starts again with every boot, so a high one of an earlier boot is old."""
    marks = {D1.serial: Mark(boot=2, counter=5)}
    refused(judged(D1.says(boot=boot, counter=counter), marks=marks), Standing.REPLAYED, "old one")


@pytest.mark.parametrize(("boot", "counter"), [(2, 5), (2, 6), (3, 1)])
def test_the_same_report_again_and_newer_ones_count(boot: int, counter: int) -> None:
    marks = {D1.serial: Mark(boot=2, counter=5)}
    assert judged(D1.says(boot=boot, counter=counter), marks=marks).counts


def test_misdated_a_clock_far_ahead() -> None:
    refused(judged(D1.says(at=NOW + AHEAD_SECONDS_MAX + 60)), Standing.MISDATED, "660 s ahead")
    assert judged(D1.says(at=0.0)).counts, "a clock at 1970 is no reason: boot and counter order reports"


def test_an_answer_is_judged_as_a_report_is() -> None:
    answer = Answer(
        format=1, fleet="plant", device="d1", session="s", issuer="o", counter=1, time=NOW, done=True, words=""
    )
    for who, standing in ((D1.signer, Standing.VERIFIED), (D2.signer, Standing.FOREIGN), (None, Standing.UNSIGNED)):
        body, sealed = parse(encode(answer, who), Answer)
        found = judge_answer(body, sealed, fleet="plant", device="d1", trusted=TRUSTED, now=NOW)
        assert (found.standing, found.counts) == (standing, standing is Standing.VERIFIED)


# --- what a fleet makes of it --------------------------------------------------------------------------------------


def heard(fleet: Fleet, device: Device, data: bytes) -> tuple[str, bool, int]:
    fleet.hear(TOPICS.report(device.name), data, True)
    found = next(one for one in fleet.devices() if one.device == device.name)
    assert found.report is not None
    return found.standing.value, found.counts, found.report.counter


def test_what_does_not_count_is_shown_and_a_later_good_one_counts() -> None:
    fleet = Fleet(TOPICS, TRUSTED)
    assert heard(fleet, D1, encode(D1.report(counter=1))) == ("unsigned", False, 1)
    assert fleet.reports == {}
    assert fleet.counted() == []
    assert heard(fleet, D1, D1.says(counter=2)) == ("verified", True, 2)
    assert heard(fleet, D1, encode(D1.report(counter=3))) == ("unsigned", True, 2), "the one that counts is shown"
    assert heard(fleet, D1, D1.says(counter=1)) == ("replayed", True, 2)


def test_an_outcome_is_taken_from_what_counts_only() -> None:
    from edge_agent.contract.digest import Digest
    from edge_agent.contract.messages import ReleaseInfo

    digest = Digest.of(b"x")
    info = ReleaseInfo(fleet="plant", channel="s", pipeline="m", sequence=1, digest=digest, published=0)
    slot = SlotReport(pipeline="m", channel="s", active="m@1", active_digest=digest)
    report = msgspec.structs.replace(D1.report(), slots=[slot])
    fleet = Fleet(TOPICS, TRUSTED)
    fleet.hear(TOPICS.report("d1"), encode(report), True)
    assert fleet.outcomes(info) == []
    fleet.hear(TOPICS.report("d1"), encode(report, D1.signer), True)
    assert [one.outcome.value for one in fleet.outcomes(info)] == ["committed"]


def test_a_replayed_retained_report_does_not_count_in_a_later_run_either(tmp_path: Path) -> None:
    path = tmp_path / "heard.json"
    first = Fleet(TOPICS, TRUSTED, Heard(path))
    assert heard(first, D1, D1.says(boot=3, counter=7))[1]
    first._kept.save()
    for boot, counter, standing in ((3, 6, "replayed"), (2, 99, "replayed"), (3, 7, "verified")):
        later = Fleet(TOPICS, TRUSTED, Heard(path))
        assert heard(later, D1, D1.says(boot=boot, counter=counter))[0] == standing


def test_marks_of_two_publishers_at_once_only_grow(tmp_path: Path) -> None:
    path = tmp_path / "heard.json"
    one, other = Heard(path), Heard(path)
    one.reports["a"], other.reports["a"] = Mark(boot=2, counter=1), Mark(boot=1, counter=9)
    one.events["b"] = Mark(boot=1, counter=1)
    one.save()
    other.save()
    found = Heard(path)
    assert found.reports == {"a": Mark(boot=2, counter=1)}
    assert found.events == {"b": Mark(boot=1, counter=1)}


def test_damaged_marks_are_named(tmp_path: Path) -> None:
    (tmp_path / "heard.json").write_bytes(b"{")
    with pytest.raises(StoreError, match=r"heard\.json is damaged"):
        Heard(tmp_path / "heard.json")


def test_marks_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    marks = Heard(tmp_path / "none" / "heard.json")
    marks.reports["a"] = Mark(boot=1, counter=1)
    with pytest.raises(StoreError, match="cannot be read or written"):
        marks.save()


# --- events --------------------------------------------------------------------------------------------------------

EVENT = DeviceEvent(
    format=1,
    fleet="plant",
    device="d1",
    boot=1,
    counter=1,
    time=NOW,
    number=5,
    slot="m",
    channel="staging",
    release="m@1",
    digest="d",
    event="failed",
    before="live",
    after="rolled_back",
    words="output: \x1b[2Jnan",
)


def watcher(tmp_path: Path) -> Hearing:
    return Hearing(TOPICS, TRUSTED, Heard(tmp_path / "heard.json"))


def seen(found: Hearing, who: Signer | None = D1.signer, **fields: Any) -> SeenEvent | None:
    event = msgspec.structs.replace(EVENT, **fields)
    return found.seen(TOPICS.event("d1"), encode(event, who), NOW)


def test_an_event_comes_once_however_often_it_is_sent(tmp_path: Path) -> None:
    found = watcher(tmp_path)
    first = seen(found)
    assert first is not None
    assert (first.standing, first.counts, first.event) == (Standing.VERIFIED, True, EVENT)
    assert seen(found) is None, "the broker sent it twice"
    assert seen(found, counter=2) is None, "the device sent the same line again"
    assert seen(found, counter=3, number=6) is not None


def test_an_event_of_an_earlier_watch_is_replayed_and_an_unsigned_one_does_not_count(tmp_path: Path) -> None:
    found = watcher(tmp_path)
    seen(found, boot=2, counter=8)
    again = seen(found, boot=2, counter=7, number=9)
    assert again is not None
    assert (again.standing, again.counts) == (Standing.REPLAYED, False)
    unsigned = seen(found, None, number=10)
    assert unsigned is not None
    assert (unsigned.standing, unsigned.counts) == (Standing.UNSIGNED, False)


def test_what_is_no_event_is_named_or_passed_over(tmp_path: Path) -> None:
    found = watcher(tmp_path)
    unreadable = found.seen(TOPICS.event("d1"), b"{", NOW)
    assert unreadable is not None
    assert (unreadable.event, unreadable.counts) == (None, False)
    assert found.seen("elsewhere", b"", NOW) is None
    assert found.seen(TOPICS.report("d1"), D1.says(), NOW) is None


def test_a_line_for_people_says_who_what_and_why_and_cannot_steer_the_terminal(tmp_path: Path) -> None:
    from publisher.cli.watch import line

    found = watcher(tmp_path)
    good, bad = seen(found, dropped=3), seen(found, None)
    assert good is not None
    assert bad is not None
    assert "d1 m m@1 live -> rolled back: output: \N{REPLACEMENT CHARACTER}[2Jnan (and 3 before" in line(good)
    assert "[unsigned] d1" in line(bad)
    assert "not counted: it is not signed" in line(bad)
    unreadable = found.seen(TOPICS.event("d1"), b"{", NOW)
    assert unreadable is not None
    assert line(unreadable).startswith("[altered] d1: event cannot be read")
