"""What the devices say: retained reports and online hints, gathered over the broker (§11).

Reports are shown as they come; an unreadable or foreign one is named, never believed. `outcome_of` reads from them what
became of one release.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from edge_agent.contract.errors import Reason
from edge_agent.contract.messages import ReleaseInfo, Report, SlotReport, Topics, decode_report
from edge_agent.transport.client import Client

__all__ = ["DeviceOutcome", "DeviceStatus", "Fleet", "Outcome", "outcome_of"]

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
    """What one device last said. `report` is the last readable one, `unreadable` what was wrong with a later one."""

    device: str
    online: bool
    report: Report | None = None
    unreadable: str = ""


class Fleet:
    """The latest report of every device, kept up to date by the client's network thread."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._news = threading.Condition()
        self.reports: dict[str, Report] = {}
        self.online: dict[str, bool] = {}
        self.unreadable: dict[str, str] = {}
        self._heard = time.monotonic()

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
            elif topic == self._topics.report(device):
                self._take_report(device, payload)
            self._news.notify_all()

    def _take_report(self, device: str, payload: bytes) -> None:
        if not payload:  # a cleared retained message: the device was forgotten
            self.reports.pop(device, None)
            return
        try:
            report = decode_report(payload)
        except ValueError as error:
            self.unreadable[device] = str(error)
            return
        self.unreadable.pop(device, None)
        if (report.device, report.fleet) != (device, self._topics.fleet):
            self.unreadable[device] = f"claims to be device {report.device} of fleet {report.fleet}"
            return
        known = self.reports.get(device)
        if known is None or (report.boot, report.counter) >= (known.boot, known.counter):
            self.reports[device] = report

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
            if known.report is not None
            for slot in known.report.slots
            if (slot.pipeline, slot.channel) == (info.pipeline, info.channel)
        ]

    def devices(self) -> list[DeviceStatus]:
        """Return what is known of every device at this moment, by name."""
        with self._news:
            return [
                DeviceStatus(
                    device=device,
                    online=self.online.get(device, False),
                    report=self.reports.get(device),
                    unreadable=self.unreadable.get(device, ""),
                )
                for device in sorted({*self.reports, *self.unreadable})
            ]


def outcome_of(device: str, slot: SlotReport, info: ReleaseInfo, *, online: bool = True) -> DeviceOutcome:
    """Return what `slot` says of a release. A release of the same bytes under a newer name counts by name."""
    if slot.active == info.name and slot.active_digest == info.digest and not slot.candidate:
        return DeviceOutcome(device=device, outcome=Outcome.COMMITTED, state="committed")
    if slot.last == info.name and slot.last_digest == info.digest:
        found = _ENDS.get(slot.state, Outcome.PENDING)
        return DeviceOutcome(device=device, outcome=found, state=slot.state, reasons=slot.reasons)
    return DeviceOutcome(device=device, outcome=Outcome.PENDING, state="waiting" if online else "offline")
