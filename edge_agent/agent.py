"""The composition root: joins transport, update and runtime into one running agent.

Two threads do the work: this one decides and writes (updates, reports, watchdog), the supervisor's moves frames. What
the network thread, the supervisor or a helper has to say is put into one queue and handled here, in order.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import edge_agent
from edge_agent import telemetry
from edge_agent.config import Config, CsvInput, MqttInput, Slot, SqliteOutput
from edge_agent.contract.digest import BlobRef, Digest, encode_json
from edge_agent.contract.errors import ConfigError, ReasonCode, StoreError, TransportError, UpdateRejected
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.messages import Report, Topics, encode_report
from edge_agent.doorbell import Doorbell
from edge_agent.profile import collect
from edge_agent.runtime.crew import Notice, NoticeKind, Plan
from edge_agent.runtime.csv_source import CsvSource
from edge_agent.runtime.lane import Lane
from edge_agent.runtime.sinks import open_sink
from edge_agent.runtime.sources import open_source
from edge_agent.runtime.sqlite_sink import last_sequence
from edge_agent.runtime.supervisor import Supervisor
from edge_agent.transport import envelope
from edge_agent.transport.client import Client, Will
from edge_agent.transport.puller import Puller
from edge_agent.update.deployer import Ports, SlotSetup
from edge_agent.update.deployment import Event, EventKind
from edge_agent.update.store import Store
from edge_agent.update.trust import verify
from edge_agent.update.updater import Updater

__all__ = ["Agent", "lock_state", "slot_setups"]

log = logging.getLogger(__name__)
REPORT_SECONDS = 30.0
FETCH_SECONDS = 600.0
REPORT_SECONDS_MIN = 0.2
LOOP_SECONDS_MAX = 1.0
STORE_RETRY_SECONDS = 5.0
# Samples counted here start at boot counter x 2^32: above every earlier run, and exact in a JavaScript number.
BOOT_BITS = 32
DATABASE = "agent.db"

Work = Callable[[float], None]


class _RuntimePort:
    """Turns the updater's wishes into orders for the supervisor."""

    def __init__(self, supervisor: Supervisor, tunables: dict[str, dict[str, Any]]) -> None:
        self._supervisor, self._tunables = supervisor, tunables
        self.shadow, self.serve = supervisor.shadow, supervisor.serve
        self.keep, self.abandon = supervisor.keep, supervisor.abandon

    def run(self, slot: str, key: int, root: Path, release: str) -> None:
        self._supervisor.run(slot, self._plan(slot, key, root, release))

    def start(self, slot: str, key: int, root: Path, release: str) -> None:
        self._supervisor.start_candidate(slot, self._plan(slot, key, root, release))

    def _plan(self, slot: str, key: int, root: Path, release: str) -> Plan:
        manifest = parse_manifest((root / "manifest.json").read_bytes())
        return Plan(
            key=key,
            release=release,
            root=root,
            columns=manifest.input.columns,
            output=manifest.output,
            health=manifest.health,
            history=manifest.history,
            tunables=self._tunables[slot],
        )


class Agent:
    """One agent on one state directory, until it is told to stop."""

    def __init__(self, config: Config) -> None:
        self._config, device = config, config.device
        state = device.state
        self._lock = lock_state(state)
        self._store = Store(state / DATABASE)
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._stopping = False
        self._topics = Topics(device.fleet)
        self._profile = collect()
        self._session = os.urandom(8).hex()
        self._boot, self._counter = self._count_boot(), 0
        self._report_due = self._reported = 0.0
        self._trouble = ""
        self._rates = telemetry.Rates()
        self._status = b"{}"
        self._systemd = telemetry.Systemd()
        self._supervisor = self._build_supervisor()
        self._client = self._build_client()
        self._puller = Puller(self._client, self._topics, state / "blobs")
        self._updater = self._build_updater(state)

    # --- wiring --------------------------------------------------------------------------------------------------

    def _count_boot(self) -> int:
        boot = int(self._store.fact("boot")) + 1
        with self._store.transaction():
            self._store.raise_fact("boot", boot)
        return boot

    def _build_supervisor(self) -> Supervisor:
        return Supervisor(self._lane(name, slot) for name, slot in self._config.slot.items())

    def _lane(self, name: str, slot: Slot) -> Lane:
        source = open_source(self._config, name, start_sequence=self._start_sequence(slot))
        return Lane(name, slot.output.stream, source, open_sink(self._config, name), self._noticed)

    def _start_sequence(self, slot: Slot) -> int:
        """Return the first sample number of this run; what is counted here never repeats an earlier run's."""
        output, source = slot.output, slot.input
        known = last_sequence(output.path, output.table, output.stream) if isinstance(output, SqliteOutput) else None
        counted = isinstance(source, MqttInput) and not source.sequence
        return max(known + 1 if known is not None else 0, self._boot << BOOT_BITS if counted else 0)

    def _build_client(self) -> Client:
        broker, device = self._config.broker, self._config.device
        password = broker.password()
        return Client(
            broker.url,
            f"{device.fleet}-{device.id}",
            will=Will(topic=self._topics.online(device.id), payload=b"0"),
            ca=broker.ca,
            cert=broker.cert,
            key=broker.key,
            username=broker.username or None,
            password=password.decode() if password is not None else None,
            on_message=self._message,
            on_state=self._connection,
        )

    def _build_updater(self, state: Path) -> Updater:
        config = self._config
        ports = Ports(
            verify=verify,
            fetch=self._fetch,
            blob_path=lambda ref: self._puller.path(ref.digest),
            runtime=_RuntimePort(self._supervisor, {name: dict(slot.tunable) for name, slot in config.slot.items()}),
            wake=lambda: self._work.put(lambda now: None),
            changed=self._changed,
        )
        return Updater(
            device=config.device.id,
            fleet=config.device.fleet,
            slots=slot_setups(config),
            roots={name: channel.root.read_bytes() for name, channel in config.channel.items()},
            store=self._store,
            releases=state / "releases",
            profile=self._profile,
            ports=ports,
        )

    def _fetch(self, ref: BlobRef, cancel: threading.Event) -> Path:
        try:
            return self._puller.fetch(ref, timeout_seconds=FETCH_SECONDS, stop=cancel)
        except UpdateRejected as error:
            codes = {reason.code for reason in error.reasons}
            if codes & {ReasonCode.CONTENT, ReasonCode.SIZE}:
                log.warning("blob refused digest=%s reasons=%s", ref.digest, error)
            raise

    # --- from other threads --------------------------------------------------------------------------------------

    def _message(self, topic: str, payload: bytes, retain: bool) -> None:
        if self._puller.on_message(topic, payload, retain):
            return
        for channel in self._config.channel:
            if topic == self._topics.trust(channel) and payload:
                self._work.put(functools.partial(self._announced, channel, payload))

    def _connection(self, connected: bool, session_present: bool) -> None:
        self._work.put(functools.partial(self._connected, connected))

    def _noticed(self, notice: Notice) -> None:
        self._work.put(functools.partial(self._judge, notice))

    # --- the main loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises `StoreError` and others when going on makes no sense."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ask_to_stop())
        sys.setswitchinterval(0.001)  # the supervisor's thread must not wait 5 ms for this one
        doorbell = Doorbell(self._config.device.state, lambda: self._status, lambda: self._work.put(lambda now: None))
        try:
            self._supervisor.start()
            self._updater.start(time.time())
            self._refresh_status(time.time())
            self._client.start()
            self._client.subscribe([self._topics.trust(channel) for channel in self._config.channel])
            self._systemd.notify("READY=1\nSTATUS=running")
            log.info(
                "ready device=%s slots=%s boot=%d", self._config.device.id, ",".join(self._config.slot), self._boot
            )
            while not self._stopping:
                self._turn()
        finally:
            doorbell.close()
            self._shut_down()

    def _ask_to_stop(self) -> None:
        self._stopping = True
        self._work.put(lambda now: None)

    def _turn(self) -> None:
        now = time.time()
        due = self._tick(now)
        self._report_if_due(now)
        if self._supervisor.failure is not None:
            raise StoreError(f"the data path stopped: {self._supervisor.failure!r}")
        if self._supervisor.alive(time.monotonic()):
            self._systemd.feed(time.monotonic())
        wait = min(max(due - now, 0.0), max(self._report_due - now, 0.05), LOOP_SECONDS_MAX)
        if self._systemd.watchdog_seconds is not None:
            wait = min(wait, self._systemd.watchdog_seconds)
        try:
            work = self._work.get(timeout=wait)
            while True:
                self._do(work)
                work = self._work.get_nowait()
        except queue.Empty:
            pass
        self._refresh_status(time.time())

    def _tick(self, now: float) -> float:
        try:
            return self._updater.tick(now)
        except StoreError as error:
            self._note_trouble(error)
            return now + STORE_RETRY_SECONDS

    def _note_trouble(self, error: StoreError) -> None:
        if str(error) != self._trouble:
            log.error("not written, tried again every %.0f s reason=%s", STORE_RETRY_SECONDS, error)
        self._trouble = str(error)

    def _do(self, work: Work) -> None:
        """Do one piece of work; what the disk refuses now is tried again, since news comes only once."""
        try:
            work(time.time())
            self._trouble = ""
        except StoreError as error:
            self._note_trouble(error)
            timer = threading.Timer(STORE_RETRY_SECONDS, self._work.put, [work])
            timer.daemon = True
            timer.start()

    def _shut_down(self) -> None:
        self._systemd.notify("STOPPING=1")
        now = time.time()
        self._updater.stop(now)
        self._supervisor.stop()
        if self._client.connected:
            self._publish_report(now)
            self._goodbye()
        self._client.stop()
        self._store.close()
        self._lock.close()

    def _goodbye(self) -> None:
        try:
            self._client.publish(self._topics.online(self._config.device.id), b"0", retain=True).wait(2.0)
        except TransportError as error:
            log.warning("goodbye not delivered reason=%s", error)

    # --- news ----------------------------------------------------------------------------------------------------

    def _connected(self, connected: bool, now: float) -> None:
        log.info("broker %s", "connected" if connected else "lost")
        if connected:
            birth = f"1 {self._session}".encode()
            self._publish(self._topics.online(self._config.device.id), birth)
            self._changed()

    def _announced(self, channel: str, message: bytes, now: float) -> None:
        try:
            self._updater.announced(channel, envelope.unpack(message), now)
        except UpdateRejected as error:
            self._updater.refuse(channel, message, error, now)

    def _judge(self, notice: Notice, now: float) -> None:
        log.info("notice slot=%s kind=%s words=%s", notice.slot, notice.kind.value, notice.words)
        reasons = (notice.reason,) if notice.reason is not None else ()
        if notice.traceback:
            log.warning("traceback slot=%s\n%s", notice.slot, notice.traceback)
        if notice.kind is NoticeKind.STOPPED_SERVING:
            self._updater.stopped_serving(notice.key, reasons, now)
            return
        alone = self._store.active(notice.slot) is None
        kind = {
            NoticeKind.LOADED: EventKind.LOADED_ALONE if alone else EventKind.LOADED,
            NoticeKind.PROVEN: EventKind.PROVEN,
            NoticeKind.HEALTHY: EventKind.HEALTHY,
            NoticeKind.FAILED: EventKind.FAILED,
        }[notice.kind]
        self._updater.happen(notice.key, Event(kind=kind, reasons=reasons), now)

    def _changed(self) -> None:
        self._report_due = min(self._report_due, time.time() + REPORT_SECONDS_MIN)

    # --- reports -------------------------------------------------------------------------------------------------

    def _report_if_due(self, now: float) -> None:
        if now >= self._report_due and now - self._reported >= REPORT_SECONDS_MIN:
            self._report_due, self._reported = now + REPORT_SECONDS, now
            if self._client.connected:
                self._publish_report(now)

    def _publish_report(self, now: float) -> None:
        self._counter += 1
        self._publish(self._topics.report(self._config.device.id), encode_report(self._report(now)))

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
        return telemetry.report(
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

    def _measures(self, slot: str) -> tuple[dict[str, int], float]:
        lane = self._supervisor.lanes[slot]
        counters = {**lane.counters, "rejected": lane.source.rejected, "refused": sum(lane.sink.faults.values())}
        return counters, self._rates.update(slot, counters.get("samples", 0), time.monotonic())

    def _refresh_status(self, now: float) -> None:
        status = msgspec.to_builtins(self._report(now), enc_hook=str)
        status["connection"] = self._client.condition
        status["pid"] = os.getpid()
        status["trouble"] = self._trouble
        for slot in status["slots"]:
            lane = self._supervisor.lanes[slot["pipeline"]]
            slot["input_faults"] = dict(lane.source.faults.messages)
            slot["output_faults"] = dict(lane.sink.faults.messages)
            slot["input_problem"], slot["output_problem"] = lane.source.problem, lane.sink.problem
            slot["sandbox"] = lane.crew.sandbox
        self._status = encode_json(status)


def slot_setups(config: Config) -> dict[str, SlotSetup]:
    """Return what updates need to know of each slot."""
    setups = {}
    for name, slot in config.slot.items():
        columns = list(slot.input.columns)
        if isinstance(slot.input, CsvInput) and not columns:
            columns = list(CsvSource(slot.input).columns)
        told = encode_json({"tunable": slot.tunable, "input": msgspec.to_builtins(slot.input, enc_hook=str)})
        setups[name] = SlotSetup(
            name=name,
            channel=slot.channel,
            columns=columns,
            units={key: column.unit for key, column in slot.input.columns.items() if column.unit},
            tunables=dict(slot.tunable),
            config_digest=Digest.of(told).hex,
        )
    return setups


def lock_state(state: Path) -> Any:
    """Take the state directory for this process. Raises `ConfigError` when another agent has it."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (state / "lock").open("a+")
    except OSError as error:
        raise StoreError(f"the state directory {state} cannot be used: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(f"another edge-agent runs on {state}: stop it, or give this one its own directory") from None
    return file
