"""The composition root: joins transport, update and runtime into one running agent.

Two threads do the work: this one decides and writes (updates, reports, watchdog), the supervisor's moves frames. What
the network thread, the supervisor or a helper has to say is put into one queue and handled here, in order.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import edge_agent
from edge_agent import telemetry, wiring
from edge_agent.commands import Commands
from edge_agent.config import Config, policies
from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.errors import StoreError, UpdateRejected
from edge_agent.contract.messages import Topics
from edge_agent.doorbell import Doorbell
from edge_agent.events import Events
from edge_agent.failures import Failures
from edge_agent.interfaces.opening import Interfaces
from edge_agent.profile import collect
from edge_agent.reporter import Reporter
from edge_agent.runtime.crew import Notice, NoticeKind
from edge_agent.runtime.supervisor import Supervisor
from edge_agent.transport import envelope
from edge_agent.update.deployment import Event, EventKind
from edge_agent.update.opening import StoreLost
from edge_agent.update.ports import Ports
from edge_agent.update.recovery import open_store
from edge_agent.update.trust import Verifier
from edge_agent.update.updater import Updater

__all__ = ["Agent", "event_of", "run_rebuilding"]

log = logging.getLogger(__name__)
LOOP_SECONDS_MAX = 1.0
STORE_RETRY_SECONDS = 5.0
STATUS_SECONDS = 4.0
DATABASE = "agent.db"
REBUILDS_MAX = 5
EVENTS = {
    NoticeKind.PROVEN: EventKind.PROVEN,
    NoticeKind.HEALTHY: EventKind.HEALTHY,
    NoticeKind.FAILED: EventKind.FAILED,
}

Work = Callable[[float], None]


class Agent:
    """One agent on one state directory, until it is told to stop."""

    def __init__(self, config: Config) -> None:
        self._config, state = config, config.device.state
        self._lock = wiring.lock_state(state)
        self._store = open_store(state / DATABASE, state / "releases", time.time())
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._rings: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopping = False
        self._troubles, self._status = {"tick": "", "work": ""}, b"{}"
        self._topics = Topics(config.device.fleet)
        self._systemd = telemetry.Systemd()
        boot, profile = self._count_boot(), collect()
        self._supervisor = Supervisor(wiring.lane(config, name, boot, self._noticed) for name in config.slot)
        self._client = wiring.control_client(config, self._message, self._connection)
        self._fetcher, self._hear = wiring.fetcher(config, self._client)
        signer = wiring.signer(config)
        self._reporter = Reporter(config, self._store, self._supervisor, self._client, profile, boot, signer)
        self._events = Events(self._store, self._client, boot=boot, device=config.device, signer=signer)
        self._commands = Commands(
            config,
            self._store,
            self._client,
            session=self._reporter.session,
            signer=signer,
            about=f"fieldcast {edge_agent.__version__}, boot {boot}",
            report=self._reporter.changed,
        )
        self._interfaces = Interfaces(config, self._supervisor.lanes, self._ask)
        self._reporter.interfaces = self._interfaces.status
        self._reporter.trouble = self._trouble
        self._reporter.sources = lambda: dict(self._fetcher.faults)
        self._fetcher.tell(lambda: self._work.put(lambda _now: self._reporter.changed()))
        self._reporter.refusals = lambda: (self._commands.refused, self._commands.why)
        spare = any(slot.spare for slot in config.slot.values())
        self._verifier = Verifier(state / "verifier.lock", spare=spare)
        self._failures = Failures(config, self._store, profile)
        self._reporter.incidents = self._failures.newest
        self._runtime = wiring.RuntimePort(self._supervisor, config)
        self._updater = Updater(
            device=config.device.id,
            fleet=config.device.fleet,
            slots=wiring.slot_setups(config),
            roots=wiring.roots(config),
            store=self._store,
            releases=state / "releases",
            profile=profile,
            ports=self._ports(),
            retention=policies.retention(config.store),
        )

    def _count_boot(self) -> int:
        boot = int(self._store.fact("boot")) + 1
        self._store.remember("boot", boot)  # a full disk must not keep a device from starting (U3)
        return boot

    def _ports(self) -> Ports:
        return Ports(
            verify=self._verifier.verify,
            fetch=self._fetcher.fetch,
            blob_path=lambda ref: self._fetcher.path(ref.digest),
            proven=self._fetcher.proven,
            runtime=self._runtime,
            wake=self._wake,
            changed=self._changed,
            blobs=self._config.device.state / "blobs",
        )

    def _changed(self) -> None:
        self._failures.stale = True
        self._events.changed()
        self._reporter.changed()

    # --- from other threads --------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._work.put(_nothing)

    def _ask(self, ring: Any) -> None:
        """Have the status put into `ring` as soon as the main loop has composed it."""
        self._rings.put(ring)
        self._wake()

    def _told(self) -> bytes:
        """Return the status as the main loop finds it now; while that is busy for long, the one before."""
        answer: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._ask(answer)
        try:
            self._status = answer.get(timeout=STATUS_SECONDS)
        except queue.Empty:
            log.warning("busy for %.0f s, told an older status", STATUS_SECONDS)
        return self._status

    def _message(self, topic: str, payload: bytes, retain: bool) -> None:
        if self._hear(topic, payload, retain):
            return
        if topic == self._commands.topic:
            self._commands.offer(payload)
            self._wake()
        for channel in self._config.channel:
            if topic == self._topics.trust(channel) and payload:
                self._work.put(functools.partial(self._announced, channel, payload))

    def _connection(self, connected: bool, session_present: bool) -> None:
        self._work.put(functools.partial(self._connected, connected))

    def _noticed(self, notice: Notice) -> None:
        self._work.put(functools.partial(self._judge, notice))

    # --- the main loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises `StoreLost` when the store has to be opened anew, by another `Agent`.

        Raises other `StoreError`s when going on makes no sense.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ask_to_stop())
        sys.setswitchinterval(0.001)  # the supervisor's thread must not wait 5 ms for this one
        doorbell = Doorbell(self._config.device.state, self._told, lambda: None)
        try:
            self._start()
            while not self._stopping:
                self._turn()
        finally:
            doorbell.close()
            self._shut_down()

    def _start(self) -> None:
        config = self._config
        self._supervisor.start()
        self._interfaces.start()
        self._updater.start(time.time())
        self._client.start()
        self._client.subscribe([*(self._topics.trust(channel) for channel in config.channel), self._commands.topic])
        self._systemd.notify("READY=1\nSTATUS=running")
        log.info("ready device=%s slots=%s", config.device.id, ",".join(config.slot))

    def _ask_to_stop(self) -> None:
        self._stopping = True
        self._wake()

    def _turn(self) -> None:
        now = time.time()
        due = min(self._tick(now), self._reporter.due)
        self._reporter.tick(now)
        self._verifier.tend(time.monotonic())
        if self._supervisor.failure is not None:
            raise StoreError(f"the data path stopped: {self._supervisor.failure!r}")
        if self._supervisor.alive(time.monotonic()):
            self._systemd.feed(time.monotonic())
        self._work_until(
            min(max(due - now, 0.05), self._systemd.watchdog_seconds or LOOP_SECONDS_MAX, LOOP_SECONDS_MAX)
        )
        self._answer_rings()

    def _answer_rings(self) -> None:
        """Compose the status only for who asks: it costs a dozen queries, and only this thread may ask the store."""
        waiting = self._rings.qsize()
        try:
            status = self._reporter.status(time.time(), self._trouble()) if waiting else b""
        except StoreError as error:  # a disk that gives read errors, too, is told
            status = encode_json({**decode_json(self._status, dict[str, Any]), "trouble": str(error)})
        for _ in range(waiting):
            self._rings.get_nowait().put(status)

    def _trouble(self) -> str:
        """Return what the disk refuses, in words, empty when all is written."""
        return self._troubles["work"] or self._troubles["tick"] or self._store.unwritable

    def _work_until(self, seconds: float) -> None:
        """Do what is in the queue, waiting up to `seconds` for a first piece."""
        try:
            work = self._work.get(timeout=seconds)
            while True:
                self._do(work)
                work = self._work.get_nowait()
        except queue.Empty:
            return

    def _tick(self, now: float) -> float:
        try:
            due = self._updater.tick(now)
            self._commands.tick(now)
            self._failures.look(now)
            self._events.tick()
            if self._store.unwritable:
                with self._store.transaction():
                    log.info("store written again")
        except StoreLost:
            raise
        except StoreError as error:
            self._note_trouble("tick", error)
            return now + STORE_RETRY_SECONDS
        if self._troubles["tick"]:
            self._reporter.changed()
        self._troubles["tick"] = ""
        return due

    def _note_trouble(self, where: str, error: StoreError) -> None:
        if str(error) != self._troubles[where]:
            self._reporter.changed()
            log.error("not written, tried again every %.0f s reason=%s", STORE_RETRY_SECONDS, error)
        self._troubles[where] = str(error)

    def _do(self, work: Work) -> None:
        """Do one piece of work; what the disk refuses now is tried again, since news comes only once."""
        if work is _nothing:
            return
        try:
            work(time.time())
            self._troubles["work"] = ""
        except StoreLost:
            raise
        except StoreError as error:
            self._note_trouble("work", error)
            timer = threading.Timer(STORE_RETRY_SECONDS, self._work.put, [work])
            timer.daemon = True
            timer.start()

    def _shut_down(self) -> None:
        self._systemd.notify("STOPPING=1")
        with contextlib.ExitStack() as rest:  # whatever fails, the rest of it is done
            acts = (self._lock.close, self._store.close, self._client.stop, self._goodbye)
            for act in (*acts, self._verifier.close, self._interfaces.close, self._supervisor.stop):
                rest.callback(act)
            try:
                self._updater.stop(time.time())
            except StoreError as error:
                log.error("the clean stop could not be written, the next start takes it for a crash reason=%s", error)

    def _goodbye(self) -> None:
        try:
            self._reporter.goodbye(time.time())
        except StoreError as error:
            log.error("no last report reason=%s", error)

    # --- news ----------------------------------------------------------------------------------------------------

    def _connected(self, connected: bool, now: float) -> None:
        log.info("broker %s", "connected" if connected else "lost")
        if connected:
            self._reporter.birth()

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
        stopped = notice.kind is NoticeKind.STOPPED_SERVING
        if stopped and self._updater.mended(notice.key, now):
            return
        self._failures.heard(notice, now)
        if notice.kind is NoticeKind.DOUBTED:
            self._failures.second_opinion(notice, self._runtime)
            return
        if stopped:
            self._updater.stopped_serving(notice.key, reasons, now)
            return
        alone = self._store.active(notice.slot) is None
        self._updater.happen(notice.key, event_of(notice, alone=alone), now)


def event_of(notice: Notice, *, alone: bool) -> Event:
    """Return what the data path's news of a candidate means to its deployment; `alone`: no release is active.

    What the environment ended is put off and tried again, later each time: it must condemn nobody (U6).
    """
    kind = EVENTS.get(notice.kind, EventKind.LOADED_ALONE if alone else EventKind.LOADED)
    if notice.failed_by_environment:
        kind = EventKind.POSTPONED
    return Event(kind=kind, reasons=(notice.reason,) if notice.reason is not None else ())


def run_rebuilding(config: Config) -> None:
    """Run an agent until it is told to stop; when its store is lost under it, another one that opens it anew (U3).

    Raises `StoreLost` when that happens again and again, and what `Agent` raises.
    """
    for left in reversed(range(REBUILDS_MAX)):
        try:
            Agent(config).run()
            return
        except StoreLost as error:
            if not left:
                raise
            log.error("the store is opened anew reason=%s", error)


def _nothing(now: float) -> None:
    """Work that only ends the wait for work."""
