"""Events as they happen: every transition that a device tells of, with the standing of its word (T8).

An event comes at least once; one that was heard already is passed over. What does not verify is handed on too, marked.
It decides nothing, and keeps nothing but the marks.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_agent.contract.messages import Topics
from edge_agent.contract.reports import DeviceEvent, parse
from publisher.config import load_home
from publisher.devices.fleet import believed
from publisher.devices.heard import Heard
from publisher.devices.standing import Mark, Standing, Trusted, Verdict, judge
from publisher.uplink import connect

__all__ = ["Hearing", "SeenEvent", "events"]

WAITING_MAX = 10_000
SAVE_SECONDS = 10.0


class SeenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event and whose word it is. Without `event` it could not be read, and `why` says what was wrong."""

    device: str
    standing: Standing
    why: str
    counts: bool
    event: DeviceEvent | None = None


class Hearing:
    """Judges what comes in on the topics of a fleet; knows what has come before."""

    def __init__(self, topics: Topics, trusted: Trusted, marks: Heard) -> None:
        self._topics, self._trusted, self.marks = topics, trusted, marks
        self._newest: dict[tuple[str, str], int] = {}

    def seen(self, topic: str, payload: bytes, now: float) -> SeenEvent | None:
        """Return the event of a message, None for one that was heard already and for what is no event."""
        try:
            device = self._topics.device_of(topic)
        except ValueError:
            return None
        if topic != self._topics.event(device):
            return None
        try:
            event, sealed = parse(payload, DeviceEvent)
        except ValueError as error:
            return SeenEvent(device=device, standing=Standing.ALTERED, why=str(error), counts=False)
        verdict = judge(
            event,
            sealed,
            fleet=self._topics.fleet,
            device=device,
            trusted=self._trusted,
            marks=self.marks.events,
            now=now,
        )
        if verdict.counts and self._heard(device, event, verdict):
            return None
        return SeenEvent(
            device=device, standing=verdict.standing, why=verdict.words, counts=verdict.counts, event=event
        )

    def _heard(self, device: str, event: DeviceEvent, verdict: Verdict) -> bool:
        """Tell whether the event came before, in other words or in the same; remember it."""
        who = (device, verdict.serial)
        known = self._newest.get(who, 0)
        self._newest[who] = max(known, event.number)
        if not verdict.serial:
            return event.number <= known
        mark = Mark(boot=event.boot, counter=event.counter)
        again = self.marks.events.get(verdict.serial) == mark
        self.marks.events[verdict.serial] = mark
        return again or event.number <= known


def events(
    *, home: str | Path | None = None, channel: str | None = None, timeout_seconds: float | None = None
) -> Iterator[SeenEvent]:
    """Yield events as they come, of one channel if it is named, for `timeout_seconds` or for ever.

    What cannot be read, or whose word it is not, is yielded too. Raises `ConfigError`, `StoreError`, `TransportError`.
    """
    place = load_home(home)
    wanted = place.require_channel(channel) if channel is not None else None
    found = Hearing(Topics(place.fleet), *believed(place))
    news = queue.Queue[tuple[str, bytes]](WAITING_MAX)
    topics = [Topics(place.fleet).every("event")]
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds

    def hear(topic: str, payload: bytes, retain: bool) -> None:
        if not news.full():  # whoever reads too slowly misses events, and the devices do not wait
            news.put_nowait((topic, payload))

    with connect(place) as client, client.listening(hear):
        client.subscribe(topics)
        try:
            yield from _judged(found, news, wanted, deadline)
        finally:
            client.unsubscribe(topics)
            found.marks.save()


def _judged(
    found: Hearing, news: queue.Queue[tuple[str, bytes]], channel: str | None, deadline: float | None
) -> Iterator[SeenEvent]:
    saved = time.monotonic()
    while deadline is None or time.monotonic() < deadline:
        try:
            topic, payload = news.get(timeout=0.2)
        except queue.Empty:
            continue
        finally:
            if time.monotonic() - saved > SAVE_SECONDS:
                found.marks.save()
                saved = time.monotonic()
        seen = found.seen(topic, payload, time.time())
        if seen is not None and (channel is None or seen.event is None or seen.event.channel == channel):
            yield seen
