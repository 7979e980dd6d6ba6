"""What a slot reads and where it writes, as said in the configuration: which keys each kind has, and their values.

Faults are collected; whether a source or sink can be opened is found out when it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edge_agent.config.merging import merge_faults, merged_columns
from edge_agent.config.overflow import overflow_faults
from edge_agent.config.plug_faults import input_faults, late_faults, linger_faults, output_faults
from edge_agent.config.plugs import (
    AnswerOutput,
    CommandInput,
    CommandOutput,
    HttpOutput,
    InferenceInput,
    JsonlInput,
    JsonlOutput,
    MergeInput,
    MetricsInput,
    ModbusInput,
    OpcuaInput,
    SerialInput,
    SysfsInput,
)
from edge_agent.config.sections import (
    DEFAULT_PORTS,
    Broker,
    Column,
    CsvInput,
    Input,
    MqttInput,
    MqttOutput,
    Output,
    SqliteOutput,
    Timestamp,
)
from edge_agent.config.tables import Section, Tables, hint
from edge_agent.contract.dtypes import has_unit, is_scaled

__all__ = ["PlugReading"]

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
    "inference": InferenceInput,
    "merge": MergeInput,
}
SINKS: dict[str, type[Section]] = {
    "mqtt": MqttOutput,
    "sqlite": SqliteOutput,
    "jsonl": JsonlOutput,
    "command": CommandOutput,
    "http": HttpOutput,
    "answer": AnswerOutput,
}
_TABLE = re.compile(r"(?!sqlite_)[A-Za-z_][A-Za-z0-9_]{0,62}", re.IGNORECASE)


class PlugReading(Tables):
    """Reads brokers, inputs and outputs. `check_files=False` skips looking for the files they name."""

    def __init__(self, directory: Path, *, check_files: bool) -> None:
        super().__init__(directory)
        self._check_files = check_files

    def broker(self, key: str, table: Any) -> Broker | None:
        """Read a broker: a table, or its URL alone."""
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
            self.file(f"{key}.{name}", getattr(broker, name))
        return broker

    def input(self, key: str, table: Any) -> Section | None:
        """Read what a slot is fed from."""
        kind = self.one_of(key, table, "source", SOURCES)
        if kind is MergeInput:
            return self._merge(key, table)
        readers = {"columns": self._columns, "timestamp": self.short(Timestamp, "path"), "broker": self.broker}
        source = self.section(key, table, kind, readers) if kind is not None else None
        if isinstance(source, MqttInput):
            self._mqtt(key, source.topic, source.qos, wildcards=True)
            if not source.columns:
                self.fault(f"{key}.columns", 'name at least one column: columns = {x = "path.in.payload"}')
        elif isinstance(source, CsvInput):
            self._csv(key, source)
        elif isinstance(source, Input):
            self.told(key, input_faults(source))
            self.file(f"{key}.path", getattr(source, "path", None))
            self.file(f"{key}.password_file", getattr(source, "password_file", None))
        if isinstance(source, Input):
            self.told(key, late_faults(source))
            self.told(key, linger_faults(source))
            self.told(key, overflow_faults(source))
        return source

    def _merge(self, key: str, table: Any) -> Section | None:
        """Read several inputs that are one: the parts by the rules of an input each, then what they are together."""
        before = len(self.faults)
        readers = {"part": self._parts, "columns": self._columns, "timestamp": self.short(Timestamp, "path")}
        merged = self.section(key, table, MergeInput, readers)
        if merged is None or len(self.faults) > before:
            return None
        self.told(key, merge_faults(merged, table))
        self.told(key, linger_faults(merged))
        self.told(key, overflow_faults(merged))
        return msgspec.structs.replace(merged, columns=merged_columns(merged.part))

    def _parts(self, key: str, table: Any) -> dict[str, Any]:
        found = self.named(key, table, self.input)
        for name in found:
            self.check_name(f"{key}.{name}", "part", name)
        return found

    def output(self, key: str, table: Any) -> Section | None:
        """Read where a slot's results go."""
        kind = self.one_of(key, table, "sink", SINKS)
        sink = self.section(key, table, kind, {"broker": self.broker}) if kind is not None else None
        if isinstance(sink, MqttOutput):
            self._mqtt(key, sink.topic, sink.qos, wildcards=False)
        elif isinstance(sink, SqliteOutput) and not _TABLE.fullmatch(sink.table):
            self.fault(f"{key}.table", f"{sink.table!r} cannot name a table: use up to 63 letters, digits and '_'")
        if isinstance(sink, Output):
            self.told(key, output_faults(sink))
            for name in ("token_file", "ca"):
                self.file(f"{key}.{name}", getattr(sink, name, None))
        return sink

    def told(self, key: str, faults: Iterable[tuple[str, str]]) -> None:
        """Collect faults of the section at `key`."""
        for name, words in faults:
            self.fault(f"{key}.{name}", words)

    def file(self, key: str, path: Path | None) -> None:
        """Collect a fault when there is no such file."""
        if self._check_files and path is not None and not path.is_file():
            self.fault(key, f"there is no file {path}")

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
        self.file(f"{key}.path", source.path)


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
