"""What the agent tells others: systemd, the journal, the fleet. Composes words; decides nothing.

`NOTIFY_SOCKET` and the watchdog follow sd_notify(3); without systemd every call is a no-op.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from edge_agent.contract.compatibility import Profile
from edge_agent.contract.errors import ReasonCode
from edge_agent.contract.messages import Report, SlotReport
from edge_agent.update.clock import clock_doubt
from edge_agent.update.deployment import Deployment, State
from edge_agent.update.store import STUCK, Store

__all__ = ["Rates", "Systemd", "channel_status", "profile_summary", "report", "set_up_logging", "slot_report"]

_SEVERITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class Systemd:
    """Readiness, status and watchdog messages to the service manager."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        own = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = int(environment.get("WATCHDOG_USEC", "0") or 0) if own else 0
        self.watchdog_seconds = usec / 1e6 / 3 if usec else None
        self._fed = 0.0

    def notify(self, message: str) -> None:
        """Send one message, such as `READY=1`."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
            contextlib.suppress(OSError),
        ):
            sock.connect(address)
            sock.sendall(message.encode())

    def feed(self, now: float) -> None:
        """Feed the watchdog, at a third of its interval (monotonic seconds)."""
        if self.watchdog_seconds is not None and now - self._fed >= self.watchdog_seconds:
            self._fed = now
            self.notify("WATCHDOG=1")


def set_up_logging(level: str = "INFO") -> None:
    """Log one line an event to standard error; under systemd the journal adds the time, and takes the level."""
    handler = logging.StreamHandler(sys.stderr)
    style = "%(levelname)s %(name)s: %(message)s"
    handler.setFormatter(
        _Journal(style) if os.environ.get("JOURNAL_STREAM") else logging.Formatter(f"%(asctime)s {style}")
    )
    logging.basicConfig(level=level, handlers=[handler])


class _Journal(logging.Formatter):
    """Puts the level before every line as the journal reads it, see sd-daemon(3); a traceback has many lines."""

    def format(self, record: logging.LogRecord) -> str:
        severity = next((number for level, number in _SEVERITIES if record.levelno >= level), 7)
        return "\n".join(f"<{severity}>{line}" for line in super().format(record).splitlines())


class Rates:
    """Samples per second of each slot, over the time between two looks."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}

    def update(self, slot: str, samples: int, now: float) -> float:
        """Return the current rate, given the total so far at `now` (monotonic seconds)."""
        at, before = self._last.get(slot, (now, samples))
        if now - at >= 0.5 or slot not in self._last:
            self._rates[slot] = (samples - before) / (now - at) if now > at else 0.0
            self._last[slot] = (now, samples)
        return round(self._rates.get(slot, 0.0), 1)


def slot_report(store: Store, slot: str, channel: str, counters: Mapping[str, int], rate: float) -> SlotReport:
    """Return what the slot runs and what became of the last release it was offered."""
    active, under_way = store.active(slot), store.under_way(slot)
    last = under_way or _newest(active, store.last_ended(slot))
    pin = store.pin(slot)
    return SlotReport(
        pipeline=slot,
        channel=channel,
        active=active.release if active else "",
        active_digest=active.digest if active else "",
        candidate=under_way.release if under_way else "",
        candidate_digest=under_way.digest if under_way else "",
        last=last.release if last else "",
        last_digest=last.digest if last else "",
        state=last.state.value if last else "",
        reasons=list(last.reasons) if last else [],
        counters=dict(sorted(counters.items())),
        samples_per_second=rate,
        due=round(under_way.due, 3) if under_way is not None else 0.0,
        pinned=pin.release if pin is not None else "",
        held=bool(store.holds(slot, time.time())),
        stuck=store.note(f"{STUCK}{slot}") != "",
    )


def _newest(active: Deployment | None, ended: Deployment | None) -> Deployment | None:
    """Return what happened last: the end of a failed deployment, unless the active one was committed after it."""
    if active is None or ended is None:
        return active or ended
    return ended if ended.updated >= active.updated and ended.state is not State.SUPERSEDED else active


def channel_status(store: Store, channel: str, now: float) -> dict[str, Any]:
    """Return how fresh a channel's metadata is, why the last envelope was refused, and what is wrong with the clock."""
    trust, refusal = store.trust(channel), store.refusal(channel)
    status: dict[str, Any] = {}
    if trust is not None:
        status["accepted"] = round(trust.accepted)
        status["expires"] = round(trust.expires)
        if max(now, store.fact("clock")) > trust.expires:
            status["stale_since"] = round(trust.expires)
    doubt = clock_doubt(now, store.fact("clock"), None)
    if refusal is not None:
        doubts = [reason.message for reason in refusal.reasons if reason.code is ReasonCode.CLOCK]
        doubt = "; ".join([doubt, *doubts]).removeprefix("; ")
        status["refused_at"] = round(refusal.at)
        status["refused"] = msgspec.to_builtins(refusal.reasons)
    if doubt:
        status["clock"] = doubt
    return status


def profile_summary(profile: Profile) -> dict[str, Any]:
    """Return the part of the profile that travels in every report; the whole is `edge-agent profile`."""
    return {
        "python": profile.python,
        "machine": profile.machine,
        # Of some 900 tags those that bundles can have, and the first, which says what machine it is.
        "tags": [*profile.tags[:1], *(tag for tag in profile.tags[1:] if tag.endswith("-none-any"))],
        "distributions": profile.distributions,
        "providers": profile.providers,
        "opsets": profile.opsets,
    }


def report(
    *,
    fleet: str,
    device: str,
    labels: dict[str, str],
    boot: int,
    counter: int,
    version: str,
    slots: list[SlotReport],
    channels: dict[str, dict[str, Any]],
    profile: Profile,
) -> Report:
    """Compose the device's report at this moment."""
    return Report(
        format=1,
        fleet=fleet,
        device=device,
        boot=boot,
        counter=counter,
        time=round(time.time(), 3),
        agent=version,
        slots=slots,
        labels=labels,
        profile=profile_summary(profile),
        channels=channels,
    )
