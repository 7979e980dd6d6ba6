"""Sends one event for each transition that the journal holds, in order, until the broker has confirmed it.

The journal is the store of record: what was not confirmed is read from it again after a lost connection, a restart or a
power cut, so an event arrives at least once. Bounded: of a longer backlog only the newest lines go out, with the number
of those that were left out. It decides nothing.
"""

from __future__ import annotations

import logging
from collections import deque

from edge_agent.config import Device
from edge_agent.contract.dsse import Signer
from edge_agent.contract.errors import StoreError, TransportError
from edge_agent.contract.messages import Topics
from edge_agent.contract.reports import DeviceEvent, encode
from edge_agent.transport.client import Client
from edge_agent.transport.delivery import Delivery
from edge_agent.update.ledger import JournalLine
from edge_agent.update.store import Store

__all__ = ["BACKLOG_MAX", "Events"]

log = logging.getLogger(__name__)
BACKLOG_MAX = 256
IN_FLIGHT_MAX = 16
WORDS_MAX = 1_000
CONFIRMED = "event"  # the fact: number of the last journal line that the broker has


class Events:
    """One device's events. All calls come from the agent's main loop."""

    def __init__(self, store: Store, client: Client, *, device: Device, boot: int, signer: Signer | None) -> None:
        self._store, self._client, self._signer = store, client, signer
        self._device, self._boot = device, boot
        self._topic = Topics(device.fleet).event(device.id)
        self._counter = 0
        self._confirmed = self._sent = _confirmed(store)
        self._open: deque[tuple[int, Delivery]] = deque()
        self._more = True

    def changed(self) -> None:
        """The journal has a new line."""
        self._more = True

    def tick(self) -> None:
        """Note what the broker has confirmed and send what is new. Raises `StoreError`."""
        self._confirm()
        if self._more and self._client.connected and len(self._open) < IN_FLIGHT_MAX:
            self._send()

    def _confirm(self) -> None:
        confirmed = self._confirmed
        while self._open and self._open[0][1].done:
            number, delivery = self._open.popleft()
            try:
                delivery.wait(0)
            except TransportError as error:
                log.warning("event not taken number=%d reason=%s", number, error)
                self._again()
                break
            confirmed = number
        if confirmed != self._confirmed:
            with self._store.transaction():
                self._store.raise_fact(CONFIRMED, confirmed)
            self._confirmed = confirmed

    def _again(self) -> None:
        self._open.clear()
        self._sent, self._more = self._confirmed, True

    def _send(self) -> None:
        room = IN_FLIGHT_MAX - len(self._open)
        lines = self._store.journal_after(self._sent, newest=BACKLOG_MAX, limit=room)
        self._more = len(lines) == room
        for line in lines:
            try:
                delivery = self._client.publish(self._topic, encode(self._event(line), self._signer))
            except (TransportError, StoreError) as error:
                log.warning("event not sent number=%d reason=%s", line.number, error)
                self._more = True
                return
            self._sent = line.number
            self._open.append((line.number, delivery))

    def _event(self, line: JournalLine) -> DeviceEvent:
        self._counter += 1
        return DeviceEvent(
            format=1,
            fleet=self._device.fleet,
            device=self._device.id,
            boot=self._boot,
            counter=self._counter,
            time=line.at,
            number=line.number,
            slot=line.slot,
            channel=line.channel,
            release=line.release,
            digest=line.digest,
            event=line.event,
            before=line.before,
            after=line.after,
            words=line.words[:WORDS_MAX],
            dropped=line.number - self._sent - 1,
        )


def _confirmed(store: Store) -> int:
    """Return the last line that the broker has, 0 if the journal has begun anew: the fact outlives a lost database."""
    newest = store.journal_after(0, newest=1, limit=1)
    number = int(store.fact(CONFIRMED))
    return number if newest and number <= newest[0].number else 0
