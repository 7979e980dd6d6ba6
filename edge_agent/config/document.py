"""The agent's configuration: one TOML file, parsed once into frozen sections and validated as a whole.

It decides what a valid file is and says in one line per fault what is wrong, at which key, and what was probably
meant. It opens no connection and reads no secret; it only looks whether the files it names are there. Relative paths
are relative to the configuration file.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edge_agent.config.confinement import sandbox_faults, worker_limit_faults
from edge_agent.config.faults import condition_faults, limit_faults, window_faults
from edge_agent.config.health_limits import health_faults, incident_faults
from edge_agent.config.interfaces import asked_faults, interface_faults
from edge_agent.config.limits import (
    Condition,
    HealthLimits,
    IncidentLimits,
    LocalPolicy,
    Sandbox,
    StoreLimits,
    WorkerLimits,
)
from edge_agent.config.overflow import disk_faults
from edge_agent.config.plug_reading import PlugReading
from edge_agent.config.plugs import MergeInput
from edge_agent.config.sections import (
    COMMAND_TYPES,
    Blobs,
    Channel,
    Commands,
    Config,
    Device,
    Interfaces,
    MqttInput,
    MqttOutput,
    Slot,
)
from edge_agent.config.tables import hint, listing
from edge_agent.contract.errors import ConfigError

__all__ = ["load"]

CONFIG_BYTES_MAX = 1024 * 1024
_SECTIONS = {
    "device": "[device] with id and fleet",
    "channel": '[channel.NAME] with root = "1.root.json"',
    "slot": "[slot.NAME] with channel, input and output",
}
_OPTIONAL = ("broker", "store", "commands", "blobs", "incidents", "interfaces", "limits", "sandbox")
MIRRORS = ("file", "https", "http", "s3", "gs", "az")


def load(path: Path | str, *, check_files: bool = True) -> Config:
    """Read, parse and validate the file at `path`.

    `check_files=False` skips looking for the files it names. Raises `ConfigError` with a line for every fault found.
    """
    path = Path(path).absolute()
    tables = _parse(path)
    reading = _Reading(path.parent, check_files=check_files)
    config = reading.config(path, tables)
    if config is None:
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in reading.faults))
    return config


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
        if len(data) > CONFIG_BYTES_MAX:
            raise ConfigError(f"{path}: larger than {CONFIG_BYTES_MAX} bytes, which no configuration is")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


class _Reading(PlugReading):
    """What the keys of this file mean, and which values they may have."""

    def __init__(self, directory: Path, *, check_files: bool) -> None:
        super().__init__(directory, check_files=check_files)
        self._channels: list[str] = []

    def config(self, path: Path, tables: dict[str, Any]) -> Config | None:
        """Build the whole configuration, or None when there are faults."""
        self.refuse_unknown("", tables, [*_SECTIONS, *_OPTIONAL])
        for name, example in _SECTIONS.items():
            if not tables.get(name):
                self.fault(name, f"missing: the file needs {example}")
        channels = tables.get("channel")
        self._channels = list(channels) if isinstance(channels, dict) else []
        device = self._device("device", tables.get("device") or {}) if tables.get("device") else None
        broker = self.broker("broker", tables["broker"]) if "broker" in tables else None
        channel = self._every("channel", tables.get("channel") or {}, self._channel)
        slot = self._every("slot", tables.get("slot") or {}, self._slot)
        store = self._store("store", tables.get("store", {}))
        commands = self._commands("commands", tables.get("commands", {}))
        blobs = self._blobs("blobs", tables.get("blobs", {}))
        incidents = self._incidents("incidents", tables.get("incidents", {}))
        limits = self._limits("limits", tables.get("limits", {}))
        sandbox = self._sandbox("sandbox", tables.get("sandbox", {}))
        interfaces = self._interfaces("interfaces", tables.get("interfaces", {}))
        for name, one in slot.items() if not self.faults else ():
            self.told(f"slot.{name}", asked_faults(one, interfaces or Interfaces()))
        if not self.faults and device is not None and self._check_files:
            for key, words in disk_faults({name: one.input for name, one in slot.items()}, device.state):
                self.fault(key, words)
        for name, one in slot.items() if not self.faults and broker is None else ():
            self._require_brokers(f"slot.{name}", one)
        if self.faults or None in (device, store, commands, blobs, incidents, limits, sandbox, interfaces):
            return None
        assert device is not None
        assert store is not None
        assert commands is not None
        assert blobs is not None
        assert incidents is not None
        assert limits is not None
        assert sandbox is not None
        assert interfaces is not None
        slot = {name: _with_stream(one, f"{device.id}/{name}") for name, one in slot.items()}
        return Config(
            path=path,
            device=device,
            broker=broker,
            channel=channel,
            slot=slot,
            store=store,
            commands=commands,
            blobs=blobs,
            incidents=incidents,
            limits=limits,
            sandbox=sandbox,
            interfaces=interfaces,
        )

    def _blobs(self, key: str, table: Any) -> Blobs | None:
        blobs = self.section(key, table, Blobs)
        if blobs is None:
            return None
        if not blobs.sources or len(set(blobs.sources)) != len(blobs.sources):
            self.fault(f"{key}.sources", 'name each source once: sources = ["mqtt", "https://mirror.example/fleet"]')
        for url in blobs.sources:
            if url != "mqtt" and (fault := _mirror_fault(url)):
                self.fault(f"{key}.sources", fault)
        if not (math.isfinite(blobs.bytes_per_second) and blobs.bytes_per_second >= 0):
            self.fault(f"{key}.bytes_per_second", f"{blobs.bytes_per_second} must be positive, or 0 for no limit")
        self.file(f"{key}.ca", blobs.ca)
        return blobs

    def _every(self, key: str, table: Any, read: Any) -> dict[str, Any]:
        found = self.named(key, table, read)
        for name in found:
            self.check_name(f"{key}.{name}", key, name)
        return found

    def _device(self, key: str, table: Any) -> Device | None:
        device = self.section(key, table, Device)
        if device is not None:
            self.check_name(f"{key}.id", "device", device.id)
            self.check_name(f"{key}.fleet", "fleet", device.fleet)
        return device

    def _channel(self, key: str, table: Any) -> Channel | None:
        channel = self.section(key, table, Channel)
        if channel is not None:
            self.file(f"{key}.root", channel.root)
        return channel

    def _commands(self, key: str, table: Any) -> Commands | None:
        commands = self.section(key, table, Commands)
        for name in commands.allow if commands is not None else ():
            if name not in COMMAND_TYPES:
                known = f"{hint(name, COMMAND_TYPES)}; there is {listing(COMMAND_TYPES)}"
                self.fault(f"{key}.allow", f"{name!r} is no command{known}")
        return commands

    def _slot(self, key: str, table: Any) -> Slot | None:
        readers = {"input": self.input, "output": self.output, "policy": self._policy, "health": self._health}
        readers |= {"limits": self._limits}
        if isinstance(table, dict) and isinstance(table.get("input"), dict) and "output" not in table:
            asked = table["input"].get("source") == "inference"  # who asks is answered; a record is extra
            table = {**table, "output": {"sink": "answer"}} if asked else table
        slot = self.section(key, table, Slot, readers)
        if slot is not None and slot.channel not in self._channels:
            self.fault(f"{key}.channel", f"there is no [channel.{slot.channel}]{hint(slot.channel, self._channels)}")
        return slot

    def _require_brokers(self, key: str, slot: Slot) -> None:
        """A device without [broker] takes releases from a directory; topics need a broker all the same."""
        parts = slot.input.part if isinstance(slot.input, MergeInput) else {}
        plugs = {"input": slot.input, "output": slot.output, **{f"input.part.{one}": parts[one] for one in parts}}
        for end, plug in plugs.items():
            if isinstance(plug, MqttInput | MqttOutput) and plug.broker is None:
                self.fault(f"{key}.{end}.broker", 'missing: there is no [broker]; say broker = "mqtt://host"')

    def _store(self, key: str, table: Any) -> StoreLimits | None:
        limits = self.section(key, table, StoreLimits)
        self.told(key, limit_faults(limits) if limits is not None else ())
        return limits

    def _health(self, key: str, table: Any) -> HealthLimits | None:
        limits = self.section(key, table, HealthLimits)
        self.told(key, health_faults(limits) if limits is not None else ())
        return limits

    def _incidents(self, key: str, table: Any) -> IncidentLimits | None:
        limits = self.section(key, table, IncidentLimits)
        self.told(key, incident_faults(limits) if limits is not None else ())
        return limits

    def _limits(self, key: str, table: Any) -> WorkerLimits | None:
        limits = self.section(key, table, WorkerLimits)
        self.told(key, worker_limit_faults(limits) if limits is not None else ())
        return limits

    def _sandbox(self, key: str, table: Any) -> Sandbox | None:
        sandbox = self.section(key, table, Sandbox)
        self.told(key, sandbox_faults(sandbox) if sandbox is not None else ())
        return sandbox

    def _interfaces(self, key: str, table: Any) -> Interfaces | None:
        interfaces = self.section(key, table, Interfaces)
        self.told(key, interface_faults(interfaces, self.directory) if interfaces is not None else ())
        return interfaces

    def _policy(self, key: str, table: Any) -> LocalPolicy | None:
        policy = self.section(key, table, LocalPolicy, {"require": self._conditions})
        self.told(key, window_faults(policy) if policy is not None else ())
        return policy

    def _conditions(self, key: str, value: Any) -> list[Condition | None]:
        if not isinstance(value, list):
            self.fault(key, 'expected an array of tables: require = [{file = "/sys/…/capacity", minimum = 40}]')
            return []
        found = [self.section(f"{key}[{number}]", table, Condition) for number, table in enumerate(value)]
        for number, condition in enumerate(found):
            for name, words in condition_faults(condition) if condition is not None else ():
                self.fault(f"{key}[{number}]{name}", words)
        return found


def _with_stream(slot: Slot, stream: str) -> Slot:
    if slot.output.stream:
        return slot
    return msgspec.structs.replace(slot, output=msgspec.structs.replace(slot.output, stream=stream))


def _mirror_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        return f"{url!r} is not a URL: {error}"
    if parts.scheme not in MIRRORS:
        return f"{url!r} must be mqtt, or start with {', '.join(f'{one}://' for one in MIRRORS)}"
    if parts.username is not None or parts.password is not None:
        return "must not hold credentials: they would end in logs"
    if parts.query or parts.fragment or not (parts.path if parts.scheme == "file" else parts.hostname):
        return f"{url!r} must be the root of a mirror: {parts.scheme}://place/path"
    return ""
