"""Composes what the agent says of itself: the retained report, the status behind the doorbell, birth and goodbye.

It reads the store and the lanes and publishes when something changed or a report is due; it decides nothing. A device
with an identity signs its reports (T8).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

import edge_agent
from edge_agent import telemetry
from edge_agent.config import Config
from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import encode_json
from edge_agent.contract.dsse import Signer
from edge_agent.contract.errors import StoreError, TransportError
from edge_agent.contract.messages import Topics
from edge_agent.contract.reports import Report, encode_report
from edge_agent.runtime import overflow
from edge_agent.runtime.supervisor import Supervisor
from edge_agent.transport.client import Client
from edge_agent.update.store import Store

__all__ = ["Reporter"]

log = logging.getLogger(__name__)
REPORT_SECONDS = 30.0
REPORT_SECONDS_MIN = 0.2
GOODBYE_SECONDS = 2.0
TROUBLE_MAX = 300


class Reporter:
    """One device's voice. Times are seconds UTC; all calls come from the agent's main loop.

    `session` names this run of the agent. `refusals` tells how many commands were refused in it, and why the last was.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        supervisor: Supervisor,
        client: Client,
        profile: Profile,
        boot: int,
        signer: Signer | None = None,
    ) -> None:
        self._config, self._store, self._supervisor = config, store, supervisor
        self._client, self._profile, self._boot = client, profile, boot
        self._topics = Topics(config.device.fleet)
        self._signer = signer
        self.session = os.urandom(8).hex()
        self.refusals: Callable[[], tuple[int, str]] = lambda: (0, "")
        self.trouble: Callable[[], str] = str
        self.sources: Callable[[], dict[str, str]] = dict
        self.incidents: Callable[[str], int] = lambda slot: 0
        self.interfaces: dict[str, Any] = {}
        self._rates = telemetry.Rates()
        self._counter = 0
        self._last = self.due = 0.0

    def changed(self) -> None:
        """Something worth telling happened: report soon, but not for every little step."""
        self.due = min(self.due, time.time() + REPORT_SECONDS_MIN)

    def tick(self, now: float) -> None:
        """Publish a report if one is due."""
        if self._last > now:
            self._last = self.due = now - REPORT_SECONDS_MIN  # the clock was set back
        if now < self.due or now - self._last < REPORT_SECONDS_MIN:
            return
        self._last, self.due = now, now + REPORT_SECONDS
        if self._client.connected:
            self._publish_report(now)

    def birth(self) -> None:
        """Say that the device is there, in this session."""
        self._publish(self._topics.online(self._config.device.id), f"1 {self.session}".encode())
        self.changed()

    def goodbye(self, now: float) -> None:
        """Publish a last report and leave, rather than let the will say it."""
        if not self._client.connected:
            return
        self._publish_report(now)
        try:
            online = self._topics.online(self._config.device.id)
            self._client.publish(online, b"0", retain=True).wait(GOODBYE_SECONDS)
        except TransportError as error:
            log.warning("goodbye not delivered reason=%s", error)

    def status(self, now: float, trouble: str) -> bytes:
        """Return everything the agent knows of itself, as JSON for whoever rings the doorbell."""
        status = msgspec.to_builtins(self._report(now), enc_hook=str)
        status |= {"connection": self._client.condition, "pid": os.getpid(), "trouble": trouble}
        status["interfaces"] = self.interfaces
        for slot in status["slots"]:
            lane = self._supervisor.lanes[slot["pipeline"]]
            slot["input_faults"] = dict(lane.source.faults.messages)
            slot["output_faults"] = dict(lane.sink.faults.messages)
            slot["input_problem"], slot["output_problem"] = lane.source.problem, lane.sink.problem
            slot["input_spooled"] = overflow.spooled(lane.source)
            slot["probation"] = lane.progress(time.monotonic())
        return encode_json(status)

    def _publish_report(self, now: float) -> None:
        self._counter += 1
        try:
            message = encode_report(self._report(now), self._signer)
        except (ValueError, StoreError) as error:
            log.error("no report reason=%s", error)
            return
        self._publish(self._topics.report(self._config.device.id), message)

    def _publish(self, topic: str, payload: bytes) -> None:
        try:
            self._client.publish(topic, payload, retain=True)
        except TransportError as error:
            log.warning("not published topic=%s reason=%s", topic, error)

    def _report(self, now: float) -> Report:
        device = self._config.device
        slots = [
            telemetry.slot_report(self._store, name, slot.channel, *self._measures(name))
            for name, slot in self._config.slot.items()
        ]
        slots = [msgspec.structs.replace(one, **self._seen(one.pipeline)) for one in slots]
        refused, why = self.refusals()
        report = telemetry.report(
            fleet=device.fleet,
            device=device.id,
            labels=device.labels,
            boot=self._boot,
            counter=self._counter,
            version=edge_agent.__version__,
            slots=slots,
            channels={name: telemetry.channel_status(self._store, name, now) for name in self._config.channel},
            profile=self._profile,
        )
        return msgspec.structs.replace(
            report,
            session=self.session,
            refused_commands=refused,
            refused_command=why,
            sources=self.sources(),
            trouble=self.trouble()[:TROUBLE_MAX],
        )

    def _seen(self, slot: str) -> dict[str, Any]:
        return {"incident": self.incidents(slot), "sandbox": self._supervisor.lanes[slot].crew.sandbox}

    def _measures(self, slot: str) -> tuple[dict[str, int], float]:
        lane = self._supervisor.lanes[slot]
        counters = {**lane.counters, "rejected": lane.source.rejected, "refused": sum(lane.sink.faults.values())}
        counters |= overflow.counts(lane.source)
        return counters, self._rates.update(slot, counters.get("samples", 0), time.monotonic())
