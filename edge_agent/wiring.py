"""Builds the agent's parts from its configuration: lanes, client, updater, and what joins them.

The one place that knows both `update` and `runtime`, besides the agent itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.config import Config, CsvInput, Slot, SqliteOutput, policies
from edge_agent.config.confinement import confinement
from edge_agent.config.health_limits import limits_set, tightened
from edge_agent.config.plugs import AnswerOutput, InferenceInput, JsonlInput, JsonlOutput
from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.dsse import Signer
from edge_agent.contract.errors import ConfigError, StoreError
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.messages import Topics
from edge_agent.identity import DeviceIdentity
from edge_agent.runtime import jsonl_sink
from edge_agent.runtime.crew import Notice, Plan
from edge_agent.runtime.csv_source import CsvSource
from edge_agent.runtime.lane import Lane
from edge_agent.runtime.latency import Latency
from edge_agent.runtime.linger import Linger
from edge_agent.runtime.plan import spare_modules
from edge_agent.runtime.sinks import open_sink
from edge_agent.runtime.sources import open_source
from edge_agent.runtime.sqlite_sink import last_sequence
from edge_agent.runtime.stamps import Stamps
from edge_agent.runtime.supervisor import Supervisor
from edge_agent.spools import open_spool
from edge_agent.trails import first_sequence, open_trail
from edge_agent.transport.client import Client, OnMessage, OnState, Will
from edge_agent.transport.fetcher import Fetcher, Source
from edge_agent.transport.fetchers import Fetchers
from edge_agent.transport.mirror import Mirror
from edge_agent.transport.pace import Pace
from edge_agent.transport.patching import Hints
from edge_agent.transport.puller import Puller
from edge_agent.transport.unconnected import Nowhere, Unconnected
from edge_agent.update.ports import SlotSetup

__all__ = ["RuntimePort", "control_client", "lane", "lock_state", "roots", "signer", "slot_setups"]


class RuntimePort:
    """Turns the updater's wishes into orders for the supervisor."""

    def __init__(self, supervisor: Supervisor, config: Config) -> None:
        self._supervisor, self._config, slots = supervisor, config, config.slot
        self._tunables = {name: dict(slot.tunable) for name, slot in slots.items()}
        self._limits = {name: slot.health for name, slot in slots.items()}
        self.shadow, self.serve = supervisor.shadow, supervisor.serve
        self.keep, self.abandon, self.rename = supervisor.keep, supervisor.abandon, supervisor.rename

    def run(self, slot: str, key: int, root: Path, release: str) -> None:
        """Run a committed release."""
        self._supervisor.run(slot, self._plan(slot, key, root, release))

    def compare(self, slot: str, key: int, root: Path, release: str) -> None:
        """Let the release before the active one compute along."""
        self._supervisor.compare(slot, self._plan(slot, key, root, release))

    def start(self, slot: str, key: int, root: Path, release: str) -> None:
        """Start a candidate."""
        self._supervisor.start_candidate(slot, self._plan(slot, key, root, release))

    def _plan(self, slot: str, key: int, root: Path, release: str) -> Plan:
        manifest = parse_manifest((root / "manifest.json").read_bytes())
        return Plan(
            key=key,
            release=release,
            root=root,
            columns=manifest.input.columns,
            output=manifest.output,
            health=tightened(manifest.health, self._limits[slot]),
            history=manifest.history,
            tunables=self._tunables[slot],
            confinement=confinement(self._config, slot, manifest.limits),
            spare=spare_modules(manifest.requires) if self._config.slot[slot].spare else None,
        )


def lane(config: Config, name: str, boot: int, notify: Callable[[Notice], None]) -> Lane:
    """Return the data path of slot `name`, with its source and sink."""
    slot = config.slot[name]
    known = _known(slot)
    # A file may be read again, and is if the file with its results was removed.
    again = isinstance(slot.input, CsvInput | JsonlInput) and isinstance(slot.output, SqliteOutput | JsonlOutput)
    asked = isinstance(slot.input, InferenceInput)  # who asked is gone with an earlier run
    trail = open_trail(config, name, anew=again and known is None) if not asked else None
    spool, stamps = open_spool(config, name, trail), Stamps(slot.input)
    start = first_sequence(slot, boot, known, trail, spool)
    marks = [*(trail.marks if trail is not None else ()), *(spool.marks if spool is not None else ())]
    source = open_source(config, name, start_sequence=start, answered=marks, stamps=stamps, spool=spool)
    if asked:
        return _answering(config, name, source, notify, stamps)
    sink = open_sink(config, name)
    made = Lane(name, slot.output.stream, source, sink, notify, config.incidents.frames, trail, stamps)
    made.latency = Latency() if config.interfaces.metrics else None
    made.linger = Linger(slot.input.linger_ms / 1000)
    return made


def _answering(config: Config, name: str, source: Any, notify: Callable[[Notice], None], stamps: Stamps) -> Lane:
    """Return the data path of a slot whose input is requests."""
    from edge_agent.runtime.inference import AnsweringSink, Running

    output = config.slot[name].output
    sink = AnsweringSink(source, None if isinstance(output, AnswerOutput) else open_sink(config, name))
    made = Lane(name, output.stream, source, sink, notify, config.incidents.frames, None, stamps)
    made.latency = Latency() if config.interfaces.metrics else None
    made.linger = Linger(config.slot[name].input.linger_ms / 1000)
    made.skipped = source.skipped
    source.look = lambda: Running(*found) if (found := made.running) is not None else None
    return made


def _known(slot: Slot) -> int | None:
    """Return the newest sample number that the output has, None where it has none or cannot tell."""
    output = slot.output
    if isinstance(output, SqliteOutput):
        return last_sequence(output.path, output.table, output.stream)
    if isinstance(output, JsonlOutput):
        return jsonl_sink.last_sequence(output.path, output.stream)
    return None


def control_client(config: Config, on_message: OnMessage, on_state: OnState) -> Client:
    """Return the control plane's connection, not started. Raises `ConfigError` for files that cannot be read."""
    broker, device = config.broker, config.device
    if broker is None:
        return Unconnected(f"{device.fleet}-{device.id}")
    try:
        password = broker.password()
    except OSError as error:
        raise ConfigError(f"broker.password_file {broker.password_file} cannot be read: {error.strerror}") from None
    return Client(
        broker.url,
        f"{device.fleet}-{device.id}",
        will=Will(topic=Topics(device.fleet).online(device.id), payload=b"0"),
        ca=broker.ca,
        cert=broker.cert,
        key=broker.key,
        username=broker.username or None,
        password=password.decode() if password is not None else None,
        on_message=on_message,
        on_state=on_state,
    )


def signer(config: Config) -> Signer | None:
    """Return what signs the device's messages, None for a device without identity. Raises `ConfigError`."""
    identity = DeviceIdentity.load(config)
    return Signer(sign=identity.sign, cert=identity.certificate_pem.decode("ascii")) if identity is not None else None


def fetcher(config: Config, client: Client) -> tuple[Fetchers, Callable[[str, bytes, bool], bool]]:
    """Return what fetches blobs, one for each slot at a time, and who must hear every message of `client` first."""
    pace = Pace(config.blobs.bytes_per_second)
    # Two for each slot: it may mend what is committed while it fetches what comes next.
    made = [_fetcher(config, client, pace) for _ in range(2 * len(config.slot))]

    def hear(topic: str, payload: bytes, retain: bool) -> bool:
        # Every one hears it: two may have asked for the same hint.
        answers = [heard(topic, payload, retain) for _, heard in made]
        return any(answers)

    return Fetchers([one for one, _ in made]), hear


def _fetcher(config: Config, client: Client, pace: Pace) -> tuple[Fetcher, Callable[[str, bytes, bool], bool]]:
    topics, directory = Topics(config.device.fleet), config.device.state / "blobs"
    puller, hints = Puller(client, topics, directory, pace=pace), Hints(client, topics)
    sources: list[Source] = [
        puller if name == "mqtt" else Mirror(name, directory, ca=config.blobs.ca, pace=pace)
        for name in config.blobs.sources
        if name != "mqtt" or config.broker is not None
    ] or [Nowhere()]

    def hear(topic: str, payload: bytes, retain: bool) -> bool:
        return hints.on_message(topic, payload, retain) or puller.on_message(topic, payload, retain)

    return Fetcher(directory, sources, hints if config.blobs.deltas and config.broker else None), hear


def roots(config: Config) -> dict[str, bytes]:
    """Return each channel's first root. Raises `ConfigError` for one that cannot be read."""
    found = {}
    for name, channel in config.channel.items():
        try:
            found[name] = channel.root.read_bytes()
        except OSError as error:
            raise ConfigError(f"channel.{name}.root {channel.root} cannot be read: {error.strerror}") from None
    return found


def slot_setups(config: Config) -> dict[str, SlotSetup]:
    """Return what updates need to know of each slot."""
    setups = {}
    for name, slot in config.slot.items():
        columns = list(slot.input.columns)
        if isinstance(slot.input, CsvInput) and not columns:
            columns = list(CsvSource(slot.input).columns)
        limits = limits_set(slot.health)
        told = encode_json(
            {"tunable": slot.tunable, "input": msgspec.to_builtins(slot.input, enc_hook=str)}
            | ({"health": limits} if limits else {})
        )
        setups[name] = SlotSetup(
            name=name,
            channel=slot.channel,
            columns=columns,
            units={key: column.unit for key, column in slot.input.columns.items() if column.unit},
            dtypes={key: column.dtype for key, column in slot.input.columns.items()},
            tunables=dict(slot.tunable),
            config_digest=Digest.of(told).hex,
            policy=policies.policy(slot.policy),
        )
    return setups


def lock_state(state: Path) -> Any:
    """Take the state directory for this process. Raises `ConfigError` when another agent has it.

    On a disk that lets nobody make the file, the directory itself is what is locked.
    """
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = _lock_file(state)
    except OSError as error:
        raise StoreError(f"the state directory {state} cannot be used: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(f"another edge-agent runs on {state}: stop it, or give this one its own directory") from None
    return file


def _lock_file(state: Path) -> Any:
    for mode in ("a+", "r"):
        try:
            return (state / "lock").open(mode)
        except OSError as error:
            refused = error
    if refused.errno == errno.ENOENT:
        return os.fdopen(os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), closefd=True)
    raise refused
