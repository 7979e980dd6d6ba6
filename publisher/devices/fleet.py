"""What the devices say: retained reports and online hints, gathered over the broker (§11).

Every report is judged (`standing`): those that count are in `reports`, the others are shown with their standing and
never believed. `outcome_of` reads from a report what became of one release.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from edge_agent.contract.errors import Reason
from edge_agent.contract.messages import ReleaseInfo, Topics
from edge_agent.contract.reports import Report, SlotReport, parse
from edge_agent.transport.client import Client
from publisher.config import Home
from publisher.devices.authority import certificate_of
from publisher.devices.enrolment import enrolled
from publisher.devices.heard import FILE_NAME, Heard
from publisher.devices.standing import Mark, Standing, Trusted, Verdict, judge

__all__ = ["DeviceOutcome", "DeviceStatus", "Fleet", "Outcome", "believed", "outcome_of"]

QUIET_SECONDS = 0.4


class Outcome(enum.Enum):
    """What became of a release on a device."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"
    PENDING = "pending"


_ENDS = {
    "rolled_back": Outcome.ROLLED_BACK,
    "reverted": Outcome.ROLLED_BACK,
    "rejected": Outcome.REFUSED,
}


class DeviceOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a release on one device, and why."""

    device: str
    outcome: Outcome
    state: str = ""
    reasons: list[Reason] = []

    @property
    def words(self) -> str:
        """How it ended, or how far it is."""
        return (self.state if self.outcome is Outcome.PENDING else self.outcome.value).replace("_", " ")


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What one device last said, and whose word that is.

    `report` is the last one that counts, else the last one that could be read; `counts` tells which. `standing` and
    `why` are those of the last message, `unreadable` is what was wrong with one that could not be read.
    """

    device: str
    online: bool
    report: Report | None = None
    unreadable: str = ""
    standing: Standing = Standing.UNSIGNED
    why: str = ""
    counts: bool = True


def believed(home: Home) -> tuple[Trusted, Heard]:
    """Return whom this home believes (its authority, who is enrolled, what is revoked), and what it has counted.

    Raises `ConfigError` or `StoreError` for what cannot be read, `TransportError` for a remote record.
    """
    marks, authority = Heard(home.path / FILE_NAME), certificate_of(home)
    if authority is None:
        return Trusted(), marks
    known = enrolled(home)
    revoked = frozenset(one.serial for one in known if one.revoked is not None)
    # Who empties the record's list of devices must not make unsigned reports count again.
    return Trusted(authority=authority, enrolled=max(len(known), len(marks.reports)), revoked=revoked), marks


class Fleet:
    """The latest report of every device, kept up to date by the client's network thread.

    `reports` are those that count, `sessions` the run of each agent that its birth message names (a hint).
    """

    def __init__(self, topics: Topics, trusted: Trusted | None = None, kept: Heard | None = None) -> None:
        self._topics, self._kept = topics, kept or Heard()
        self.trusted = trusted or Trusted()
        self._news = threading.Condition()
        self.reports: dict[str, Report] = {}
        self.online: dict[str, bool] = {}
        self.sessions: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}
        self._shown: dict[str, Report] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._heard = time.monotonic()

    @classmethod
    def of(cls, home: Home) -> Fleet:
        """Return the fleet of a home, believing whom that home believes. Raises as `believed` does."""
        return cls(Topics(home.fleet), *believed(home))

    @contextmanager
    def listening(self, client: Client) -> Iterator[Fleet]:
        """Subscribe to all reports for as long as the block runs."""
        wanted = [self._topics.every("report"), self._topics.every("online")]
        with client.listening(self.hear):
            client.subscribe(wanted)
            try:
                yield self
            finally:
                client.unsubscribe(wanted)
                self._kept.save()

    def hear(self, topic: str, payload: bytes, retain: bool) -> None:
        """Take one message of a device."""
        try:
            device = self._topics.device_of(topic)
        except ValueError:
            return
        with self._news:
            self._heard = time.monotonic()
            if topic == self._topics.online(device):
                self.online[device] = payload[:1] == b"1"
                self.sessions[device] = payload[2:66].decode("ascii", "replace")
            elif topic == self._topics.report(device):
                self._take_report(device, payload)
            self._news.notify_all()

    def _take_report(self, device: str, payload: bytes) -> None:
        if not payload:  # a cleared retained message: the device was forgotten
            for known in (self.reports, self._shown, self._verdicts, self.unreadable):
                known.pop(device, None)
            return
        try:
            report, sealed = parse(payload, Report)
        except ValueError as error:
            self.unreadable[device] = str(error)
            self._verdicts[device] = Verdict(standing=Standing.ALTERED, words=str(error))
            return
        self.unreadable.pop(device, None)
        verdict = judge(
            report,
            sealed,
            fleet=self._topics.fleet,
            device=device,
            trusted=self.trusted,
            marks=self._kept.reports,
            now=time.time(),
        )
        if verdict.counts and not verdict.serial and _older(report, self.reports.get(device)):
            verdict = Verdict(standing=Standing.REPLAYED, words="is older than the one before it")
        self._verdicts[device], self._shown[device] = verdict, report
        if verdict.counts:
            self.reports[device] = report
        if verdict.counts and verdict.serial:
            self._kept.reports[verdict.serial] = Mark(boot=report.boot, counter=report.counter)

    def settle(self, timeout_seconds: float = 3.0) -> None:
        """Wait until the retained reports have come in: nothing new for a moment."""
        deadline = time.monotonic() + timeout_seconds
        with self._news:
            self._heard = time.monotonic()
            while (now := time.monotonic()) < deadline and now - self._heard < QUIET_SECONDS:
                self._news.wait(QUIET_SECONDS)

    def wait_for(self, done: Callable[[Fleet], bool], timeout_seconds: float) -> bool:
        """Wait until `done(self)` holds, looking after every message; tell whether it did in time."""
        with self._news:
            return self._news.wait_for(lambda: done(self), timeout_seconds)

    def outcomes(self, info: ReleaseInfo) -> list[DeviceOutcome]:
        """Return what became of a release on every device that follows its channel with that pipeline."""
        return [
            outcome_of(known.device, slot, info, online=known.online)
            for known in self.devices()
            if known.report is not None and known.counts
            for slot in known.report.slots
            if (slot.pipeline, slot.channel) == (info.pipeline, info.channel)
        ]

    def devices(self) -> list[DeviceStatus]:
        """Return what is known of every device at this moment, by name."""
        with self._news:
            return [self._status(device) for device in sorted({*self._shown, *self.unreadable})]

    def counted(self) -> list[DeviceStatus]:
        """Return the devices whose report counts, by name."""
        return [one for one in self.devices() if one.counts and one.report is not None]

    def _status(self, device: str) -> DeviceStatus:
        verdict = self._verdicts[device]
        return DeviceStatus(
            device=device,
            online=self.online.get(device, False),
            report=self.reports.get(device) or self._shown.get(device),
            unreadable=self.unreadable.get(device, ""),
            standing=verdict.standing,
            why=verdict.words,
            counts=device in self.reports,
        )


def _older(report: Report, known: Report | None) -> bool:
    return known is not None and (report.boot, report.counter) < (known.boot, known.counter)


def outcome_of(device: str, slot: SlotReport, info: ReleaseInfo, *, online: bool = True) -> DeviceOutcome:
    """Return what `slot` says of a release. A release of the same bytes under a newer name counts by name."""
    if slot.active == info.name and slot.active_digest == info.digest and not slot.candidate:
        return DeviceOutcome(device=device, outcome=Outcome.COMMITTED, state="committed")
    if slot.last == info.name and slot.last_digest == info.digest:
        found = _ENDS.get(slot.state, Outcome.PENDING)
        return DeviceOutcome(device=device, outcome=found, state=slot.state, reasons=slot.reasons)
    return DeviceOutcome(device=device, outcome=Outcome.PENDING, state="waiting" if online else "offline")
