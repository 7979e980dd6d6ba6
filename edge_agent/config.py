"""The agent's configuration: one TOML file, parsed once into frozen sections and validated as a whole.

It decides what a valid file is and says in one line per fault what is wrong, at which key, and what was probably
meant. It opens no connection and reads no secret; it only looks whether the files it names are there. Relative paths
are relative to the configuration file.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edge_agent.confinement import sandbox_faults, worker_limit_faults
from edge_agent.contract.dtypes import has_unit, is_scaled
from edge_agent.contract.errors import ConfigError
from edge_agent.faults import condition_faults, limit_faults, window_faults
from edge_agent.health_limits import health_faults, incident_faults
from edge_agent.plug_faults import input_faults, output_faults
from edge_agent.plugs import (
    CommandInput,
    CommandOutput,
    HttpOutput,
    JsonlInput,
    JsonlOutput,
    MetricsInput,
    ModbusInput,
    OpcuaInput,
    SerialInput,
    SysfsInput,
)
from edge_agent.sections import (
    COMMAND_TYPES,
    DEFAULT_PORTS,
    STATE_DIRECTORY,
    Blobs,
    Broker,
    Channel,
    Column,
    Commands,
    Condition,
    Config,
    CsvInput,
    Device,
    HealthLimits,
    IncidentLimits,
    Input,
    LocalPolicy,
    MqttInput,
    MqttOutput,
    Output,
    Sandbox,
    Section,
    Slot,
    SqliteOutput,
    StoreLimits,
    Timestamp,
    WorkerLimits,
)
from edge_agent.tables import Tables, hint, listing

__all__ = [
    "STATE_DIRECTORY",
    "Blobs",
    "Broker",
    "Channel",
    "Column",
    "Commands",
    "Condition",
    "Config",
    "CsvInput",
    "Device",
    "LocalPolicy",
    "MqttInput",
    "MqttOutput",
    "Slot",
    "SqliteOutput",
    "StoreLimits",
    "Timestamp",
    "load",
]

CONFIG_BYTES_MAX = 1024 * 1024
TOPIC_BYTES_MAX = 65_535
SOURCES: dict[str, type[Section]] = {
    "mqtt": MqttInput,
    "csv": CsvInput,
    "jsonl": JsonlInput,
    "serial": SerialInput,
    "command": CommandInput,
    "modbus": ModbusInput,
    "opcua": OpcuaInput,
    "sysfs": SysfsInput,
    "metrics": MetricsInput,
}
SINKS: dict[str, type[Section]] = {
    "mqtt": MqttOutput,
    "sqlite": SqliteOutput,
    "jsonl": JsonlOutput,
    "command": CommandOutput,
    "http": HttpOutput,
}
_SECTIONS = {
    "device": "[device] with id and fleet",
    "channel": '[channel.NAME] with root = "1.root.json"',
    "slot": "[slot.NAME] with channel, input and output",
}
_OPTIONAL = ("broker", "store", "commands", "blobs", "incidents", "limits", "sandbox")
MIRRORS = ("file", "https", "http", "s3", "gs", "az")
_TABLE = re.compile(r"(?!sqlite_)[A-Za-z_][A-Za-z0-9_]{0,62}", re.IGNORECASE)


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


class _Reading(Tables):
    """What the keys of this file mean, and which values they may have."""

    def __init__(self, directory: Path, *, check_files: bool) -> None:
        super().__init__(directory)
        self._check_files = check_files
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
        broker = self._broker("broker", tables["broker"]) if "broker" in tables else None
        channel = self._every("channel", tables.get("channel") or {}, self._channel)
        slot = self._every("slot", tables.get("slot") or {}, self._slot)
        store = self._store("store", tables.get("store", {}))
        commands = self._commands("commands", tables.get("commands", {}))
        blobs = self._blobs("blobs", tables.get("blobs", {}))
        incidents = self._incidents("incidents", tables.get("incidents", {}))
        limits = self._limits("limits", tables.get("limits", {}))
        sandbox = self._sandbox("sandbox", tables.get("sandbox", {}))
        for name, one in slot.items() if not self.faults and broker is None else ():
            self._require_brokers(f"slot.{name}", one)
        if self.faults or None in (device, store, commands, blobs, incidents, limits, sandbox):
            return None
        assert device is not None
        assert store is not None
        assert commands is not None
        assert blobs is not None
        assert incidents is not None
        assert limits is not None
        assert sandbox is not None
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
        self._file(f"{key}.ca", blobs.ca)
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

    def _broker(self, key: str, table: Any) -> Broker | None:
        broker = self.section(key, {"url": table} if isinstance(table, str) else table, Broker)
        if broker is None:
            return None
        fault = _url_fault(broker.url)
        if fault:
            self.fault(f"{key}.url", fault)
            return None
        if (broker.cert is None) != (broker.key is None):
            self.fault(f"{key}.{'key' if broker.key is None else 'cert'}", "missing: cert and key go together")
        if not broker.tls and (broker.ca or broker.cert or broker.key):
            self.fault(f"{key}.url", "ca, cert and key need an encrypted connection: use mqtts://")
        if (broker.password_file is not None or broker.credential) and not broker.username:
            self.fault(f"{key}.username", "missing: a password needs a user name")
        if broker.password_file is not None and broker.credential:
            self.fault(f"{key}.credential", "there is a password_file already: leave one of them out")
        for name in ("ca", "cert", "key", "password_file"):
            self._file(f"{key}.{name}", getattr(broker, name))
        return broker

    def _channel(self, key: str, table: Any) -> Channel | None:
        channel = self.section(key, table, Channel)
        if channel is not None:
            self._file(f"{key}.root", channel.root)
        return channel

    def _commands(self, key: str, table: Any) -> Commands | None:
        commands = self.section(key, table, Commands)
        for name in commands.allow if commands is not None else ():
            if name not in COMMAND_TYPES:
                known = f"{hint(name, COMMAND_TYPES)}; there is {listing(COMMAND_TYPES)}"
                self.fault(f"{key}.allow", f"{name!r} is no command{known}")
        return commands

    def _slot(self, key: str, table: Any) -> Slot | None:
        readers = {"input": self._input, "output": self._output, "policy": self._policy, "health": self._health}
        readers |= {"limits": self._limits}
        slot = self.section(key, table, Slot, readers)
        if slot is not None and slot.channel not in self._channels:
            self.fault(f"{key}.channel", f"there is no [channel.{slot.channel}]{hint(slot.channel, self._channels)}")
        return slot

    def _require_brokers(self, key: str, slot: Slot) -> None:
        """A device without [broker] takes releases from a directory; topics need a broker all the same."""
        for end, plug in (("input", slot.input), ("output", slot.output)):
            if isinstance(plug, MqttInput | MqttOutput) and plug.broker is None:
                self.fault(f"{key}.{end}.broker", 'missing: there is no [broker]; say broker = "mqtt://host"')

    def _store(self, key: str, table: Any) -> StoreLimits | None:
        limits = self.section(key, table, StoreLimits)
        for name, words in limit_faults(limits) if limits is not None else ():
            self.fault(f"{key}.{name}", words)
        return limits

    def _health(self, key: str, table: Any) -> HealthLimits | None:
        limits = self.section(key, table, HealthLimits)
        for name, words in health_faults(limits) if limits is not None else ():
            self.fault(f"{key}.{name}", words)
        return limits

    def _incidents(self, key: str, table: Any) -> IncidentLimits | None:
        limits = self.section(key, table, IncidentLimits)
        for name, words in incident_faults(limits) if limits is not None else ():
            self.fault(f"{key}.{name}", words)
        return limits

    def _limits(self, key: str, table: Any) -> WorkerLimits | None:
        limits = self.section(key, table, WorkerLimits)
        for name, words in worker_limit_faults(limits) if limits is not None else ():
            self.fault(f"{key}.{name}", words)
        return limits

    def _sandbox(self, key: str, table: Any) -> Sandbox | None:
        sandbox = self.section(key, table, Sandbox)
        for name, words in sandbox_faults(sandbox) if sandbox is not None else ():
            self.fault(f"{key}.{name}", words)
        return sandbox

    def _policy(self, key: str, table: Any) -> LocalPolicy | None:
        policy = self.section(key, table, LocalPolicy, {"require": self._conditions})
        for name, words in window_faults(policy) if policy is not None else ():
            self.fault(f"{key}.{name}", words)
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

    def _input(self, key: str, table: Any) -> Section | None:
        kind = self.one_of(key, table, "source", SOURCES)
        readers = {"columns": self._columns, "timestamp": self.short(Timestamp, "path"), "broker": self._broker}
        source = self.section(key, table, kind, readers) if kind is not None else None
        if isinstance(source, MqttInput):
            self._mqtt(key, source.topic, source.qos, wildcards=True)
            if not source.columns:
                self.fault(f"{key}.columns", 'name at least one column: columns = {x = "path.in.payload"}')
        elif isinstance(source, CsvInput):
            self._csv(key, source)
        elif isinstance(source, Input):
            self._told(key, input_faults(source))
            self._file(f"{key}.path", getattr(source, "path", None))
            self._file(f"{key}.password_file", getattr(source, "password_file", None))
        return source

    def _output(self, key: str, table: Any) -> Section | None:
        kind = self.one_of(key, table, "sink", SINKS)
        sink = self.section(key, table, kind, {"broker": self._broker}) if kind is not None else None
        if isinstance(sink, MqttOutput):
            self._mqtt(key, sink.topic, sink.qos, wildcards=False)
        elif isinstance(sink, SqliteOutput) and not _TABLE.fullmatch(sink.table):
            self.fault(f"{key}.table", f"{sink.table!r} cannot name a table: use up to 63 letters, digits and '_'")
        if isinstance(sink, Output):
            self._told(key, output_faults(sink))
            for name in ("token_file", "ca"):
                self._file(f"{key}.{name}", getattr(sink, name, None))
        return sink

    def _told(self, key: str, faults: Iterable[tuple[str, str]]) -> None:
        for name, words in faults:
            self.fault(f"{key}.{name}", words)

    def _columns(self, key: str, table: Any) -> dict[str, Any]:
        columns = self.named(key, table, self.short(Column, "path"))
        for name, column in columns.items():
            if isinstance(column, Column):
                self._column(f"{key}.{name}", column)
        return columns

    def _column(self, key: str, column: Column) -> None:
        if not column.path:
            self.fault(f"{key}.path", "is empty: say where the value lies")
        if not math.isfinite(column.scale) or column.scale == 0:
            self.fault(f"{key}.scale", f"{column.scale} must be finite and not 0")
        if not math.isfinite(column.offset):
            self.fault(f"{key}.offset", f"{column.offset} must be finite")
        if (column.scale != 1 or column.offset != 0) and not is_scaled(column.dtype):
            what = "scale" if column.scale != 1 else "offset"
            words = ": read it as float64" if has_unit(column.dtype) else ""
            self.fault(f"{key}.{what}", f"a column of dtype {column.dtype} cannot be scaled or shifted{words}")
        if column.unit and not has_unit(column.dtype):
            self.fault(f"{key}.unit", f"a column of dtype {column.dtype} has no unit: leave it out")

    def _mqtt(self, key: str, topic: str, qos: int, *, wildcards: bool) -> None:
        fault = _topic_fault(topic, wildcards=wildcards)
        if fault:
            self.fault(f"{key}.topic", fault)
        if qos not in (0, 1):
            self.fault(f"{key}.qos", f"{qos} is not supported: use 0 (at most once) or 1 (at least once)")

    def _csv(self, key: str, source: CsvInput) -> None:
        if not (math.isfinite(source.speed) and source.speed >= 0):
            self.fault(f"{key}.speed", f"{source.speed} must be a positive factor, or 0 for as fast as possible")
        if not (math.isfinite(source.rate_hz) and source.rate_hz >= 0):
            self.fault(f"{key}.rate_hz", f"{source.rate_hz} must be positive")
        if type(source.repeat) is int and source.repeat < 1:
            self.fault(f"{key}.repeat", f"{source.repeat} must be true, or how many times to play the file")
        if source.timestamp is None and not source.rate_hz:
            self.fault(f"{key}.timestamp", 'missing: name the column (timestamp = "time"), or give rate_hz')
        self._file(f"{key}.path", source.path)

    def _file(self, key: str, path: Path | None) -> None:
        if self._check_files and path is not None and not path.is_file():
            self.fault(key, f"there is no file {path}")


def _with_stream(slot: Slot, stream: str) -> Slot:
    if slot.output.stream:
        return slot
    return msgspec.structs.replace(slot, output=msgspec.structs.replace(slot.output, stream=stream))


def _url_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"{url!r} is not a URL: {error}"
    if parts.scheme not in DEFAULT_PORTS:
        return f"{url!r} must start with mqtt:// or mqtts://{hint(parts.scheme, DEFAULT_PORTS)}"
    if parts.username is not None or parts.password is not None:
        return "must not hold credentials: use username and password_file"
    if not parts.hostname or port == 0 or parts.path.strip("/") or parts.query or parts.fragment:
        return f"{url!r} must be {parts.scheme}://host or {parts.scheme}://host:port"
    return ""


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


def _topic_fault(topic: str, *, wildcards: bool) -> str:
    """What is wrong with a topic (or a topic filter): MQTT 5, section 4.7."""
    if not topic or "\0" in topic or len(topic.encode()) > TOPIC_BYTES_MAX:
        return f"{topic[:60]!r} is empty, too long, or holds a NUL"
    levels = topic.split("/")
    if not wildcards and re.search("[+#]", topic):
        return f"{topic[:60]!r} has a wildcard: outputs go to one topic"
    if any(("+" in level and level != "+") or "#" in level for level in levels[:-1]) or not (
        levels[-1] in ("+", "#") or not re.search("[+#]", levels[-1])
    ):
        return f"{topic[:60]!r} has a wildcard in a wrong place: '+' stands for a whole level, '#' for all that follow"
    return ""
