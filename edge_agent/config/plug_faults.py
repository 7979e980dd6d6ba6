"""What is wrong with the sections of `edge_agent.config.plugs`, though every value has the right type.

`input_faults` and `output_faults` yield (key, words) for `edge_agent.config`; `missing_extra` names the packages that a
source needs and that are not installed. It connects to nothing.
"""

from __future__ import annotations

import importlib.util
import math
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from edge_agent.config import plugs
from edge_agent.config.sections import Input, Output, Spooled
from edge_agent.config.tables import Section, hint, listing

__all__ = ["METRICS", "MODBUS_TYPES", "input_faults", "late_faults", "linger_faults", "missing_extra", "output_faults"]

RATE_HZ_MAX = 1_000.0
LINGER_MS_MAX = 1_000.0
RECORD_BYTES_MAX = 4_096
SPOOL_MB_MAX = 1_048_576.0
REQUEST_ROWS_MAX = 65_536
REQUESTS_MAX = 10_000
DEADLINE_SECONDS_MAX = 600.0
MODBUS_TABLES = ("coil", "discrete", "holding", "input")
MODBUS_TYPES = ("int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
METRICS = (
    *("cpu_percent", "cpu_frequency_mhz", "load_1", "load_5", "load_15", "processes", "uptime_seconds"),
    *("memory_percent", "memory_available_mb", "swap_percent", "disk_percent", "disk_free_mb"),
    *("disk_read_bytes", "disk_write_bytes", "network_sent_bytes", "network_received_bytes", "temperature"),
)
WITH_ARGUMENT = ("disk_percent", "disk_free_mb", "temperature")
_EXTRAS: dict[type[Section], tuple[str, str]] = {
    plugs.SerialInput: ("serial", "serial"),
    plugs.ModbusInput: ("pymodbus", "modbus"),
    plugs.OpcuaInput: ("asyncua", "opcua"),
    plugs.MetricsInput: ("psutil", "metrics"),
}
Faults = Iterator[tuple[str, str]]


def missing_extra(section: Section) -> str:
    """Return what to install for a source of this kind, in words; empty when everything is there."""
    for kind, (module, extra) in _EXTRAS.items():
        if isinstance(section, kind) and importlib.util.find_spec(module) is None:
            return f"needs the package {module!r}, which is not installed: pip install 'fieldcast[{extra}]'"
    return ""


def input_faults(section: Input) -> Faults:
    """Yield what is wrong with an input; the key is relative to it, empty for the whole."""
    if words := missing_extra(section):
        yield "source", words
    if not section.columns:
        yield "columns", 'name at least one column: columns = {x = "…"}'
    yield from _INPUTS[type(section)](section)


def late_faults(section: Input) -> Faults:
    """Yield what is wrong with the bound behind which a sample is late."""
    if not (math.isfinite(section.late_seconds) and section.late_seconds >= 0):
        yield "late_seconds", f"{section.late_seconds:g} must be positive, or 0 to count nothing as late"


def linger_faults(section: Input) -> Faults:
    """Yield what is wrong with how long a batch waits."""
    if not 0 <= section.linger_ms <= LINGER_MS_MAX:
        words = f"{section.linger_ms:g} must be 0 (a batch begins at once) to {LINGER_MS_MAX:g} milliseconds"
        yield "linger_ms", words
    if isinstance(section, plugs.MergeInput):
        for name, part in section.part.items():
            if part.linger_ms:
                yield f"part.{name}.linger_ms", "batches are of all parts together: write it in the input itself"


def output_faults(section: Output) -> Faults:
    """Yield what is wrong with an output."""
    if isinstance(section, plugs.JsonlOutput):
        if not (math.isfinite(section.file_mb) and section.file_mb > 0):
            yield "file_mb", f"{section.file_mb:g} must be above 0"
        if not 1 <= section.keep <= 1000:
            yield "keep", f"{section.keep} must be 1 to 1000 files"
    elif isinstance(section, plugs.CommandOutput):
        yield from _command(section)
    elif isinstance(section, plugs.HttpOutput):
        yield from _http(section)
    if isinstance(section, Spooled):
        if not 0 <= section.spool_mb <= SPOOL_MB_MAX:
            yield "spool_mb", f"{section.spool_mb:g} must be 0 (no spool) to {SPOOL_MB_MAX:g}"
        if not (math.isfinite(section.resend_per_second) and section.resend_per_second > 0):
            yield "resend_per_second", f"{section.resend_per_second:g} must be above 0"


def _http(section: plugs.HttpOutput) -> Faults:
    yield from _url(section.url, ("http", "https"))
    if section.ca is not None and not section.url.startswith("https:"):
        yield "url", "ca needs an encrypted connection: use https://"
    if (section.token_file or section.credential) and section.url.startswith("http:") and not _local(section.url):
        yield "url", "a token would be sent in the clear: use https://"
    if section.token_file is not None and section.credential:
        yield "credential", "there is a token_file already: leave one of them out"
    if not 1 <= section.batch <= 10_000:
        yield "batch", f"{section.batch} must be 1 to 10000 outputs"
    if not 0 < section.timeout_seconds <= 300:
        yield "timeout_seconds", f"{section.timeout_seconds:g} must be above 0 and at most 300"


def _jsonl(section: Any) -> Faults:
    if not (math.isfinite(section.speed) and section.speed >= 0):
        yield "speed", f"{section.speed} must be a positive factor, or 0 for as fast as possible"
    if not (math.isfinite(section.rate_hz) and section.rate_hz >= 0):
        yield "rate_hz", f"{section.rate_hz} must be positive"
    if type(section.repeat) is int and section.repeat < 1:
        yield "repeat", f"{section.repeat} must be true, or how many times to play the file"
    if section.timestamp is None and not section.rate_hz:
        yield "timestamp", 'missing: name the path (timestamp = "t"), or give rate_hz'


def _serial(section: Any) -> Faults:
    if section.baud < 1:
        yield "baud", f"{section.baud} must be positive"
    if section.format != "struct":
        for key in ("struct", "sync", "checksum"):
            if getattr(section, key):
                yield key, f'needs format = "struct", not {section.format!r}'
        yield from _lines(section)
        return
    try:
        fields = len(struct.unpack(section.struct, bytes(struct.calcsize(section.struct))))
        size = struct.calcsize(section.struct)
    except struct.error as error:
        yield "struct", f"{section.struct!r} is no format of Python's struct module: {error}"
        return
    if not 0 < size <= RECORD_BYTES_MAX:
        yield "struct", f"{section.struct!r} is {size} bytes: 1 to {RECORD_BYTES_MAX}"
    try:
        bytes.fromhex(section.sync)
    except ValueError:
        yield "sync", f"{section.sync!r} must be bytes in hex, such as 'aa55'"
    if not section.sync and not section.checksum:
        yield "sync", "missing: without sync or checksum nobody can tell where a record begins"
    for key, path in _paths(section):
        if not (path.isascii() and path.isdigit() and int(path) < fields):
            yield key, f"{path!r} must be the place of a field of {section.struct!r}, 0 to {fields - 1}"


def _lines(section: Any) -> Faults:
    if section.format == "regex":
        try:
            found = re.compile(section.pattern)
        except re.error as error:
            yield "pattern", f"{section.pattern[:60]!r} is no regular expression: {error}"
            return
        groups = [*found.groupindex, *map(str, range(1, found.groups + 1))]
        for key, path in _paths(section):
            if path not in groups:
                yield key, f"{path!r} is no group of pattern; it has: {listing(groups)}{hint(path, groups)}"
    elif section.pattern:
        yield "pattern", f'needs format = "regex", not {section.format!r}'
    elif section.format == "csv":
        for key, path in _paths(section):
            if not (path.isascii() and path.isdigit()):
                yield key, f"{path!r} must be the place of a cell, counted from 0"


def _command(section: Any) -> Faults:
    if not section.command or not section.command[0]:
        yield "command", 'is empty: command = ["/usr/bin/program", "argument"]'
    if not isinstance(section, Output):
        yield from _lines(section)


def _modbus(section: Any) -> Faults:
    yield from _rate(section)
    if bool(section.host) == (section.device is not None):
        yield "host", "needs either host = … (TCP) or device = … (RTU)"
    if not 0 < section.port < 65_536:
        yield "port", f"{section.port} must be 1 to 65535"
    if not 0 <= section.unit <= 255:
        yield "unit", f"{section.unit} must be 0 to 255"
    if not 0 < section.timeout_seconds <= 60:
        yield "timeout_seconds", f"{section.timeout_seconds:g} must be above 0 and at most 60"
    yield from _no_marks(section)
    for key, path in _paths(section):
        table, _, rest = path.partition(":")
        address, _, kind = rest.partition(":")
        if table not in MODBUS_TABLES:
            yield key, f"{table!r} is not one of {listing(MODBUS_TABLES)}{hint(table, MODBUS_TABLES)}"
        elif not (address.isascii() and address.isdigit() and int(address) < 65_536):
            yield key, f"{path!r} needs an address from 0 to 65535: {table}:100"
        elif kind and (table in ("coil", "discrete") or kind not in MODBUS_TYPES):
            yield key, f"{kind!r} is not one of {listing(MODBUS_TYPES)}{hint(kind, MODBUS_TYPES)}"


def _opcua(section: Any) -> Faults:
    yield from _url(section.url, ("opc.tcp",))
    if not 1 <= section.interval_ms <= 3_600_000:
        yield "interval_ms", f"{section.interval_ms:g} must be 1 to 3600000"
    if section.password_file is not None and section.credential:
        yield "credential", "there is a password_file already: leave one of them out"
    if (section.password_file or section.credential) and not section.username:
        yield "username", "missing: a password needs a user name"
    yield from _no_marks(section)
    for key, path in _paths(section):
        if not re.fullmatch(r"(ns=\d+;|nsu=[^;]+;)?[isgb]=.+", path):
            yield key, f"{path!r} is no node id: ns=2;s=Line.Speed or ns=2;i=5"


def _sysfs(section: Any) -> Faults:
    yield from _rate(section)
    yield from _no_marks(section)
    for key, path in _paths(section):
        parts = path.split("/")
        if len(parts) != 2 or not all(parts) or ".." in parts or "." in parts:
            yield key, f"{path!r} must be CHIP/FILE, such as coretemp/temp1_input"


def _metrics(section: Any) -> Faults:
    yield from _rate(section)
    yield from _no_marks(section)
    for key, path in _paths(section):
        name, colon, argument = path.partition(":")
        if name not in METRICS:
            yield key, f"{name!r} is not one of {listing(METRICS)}{hint(name, METRICS)}"
        elif colon and (name not in WITH_ARGUMENT or not argument):
            yield key, f"{path!r}: only {listing(WITH_ARGUMENT)} take an argument, as disk_percent:/var"


def _inference(section: Any) -> Faults:
    if not 1 <= section.rows_max <= REQUEST_ROWS_MAX:
        yield "rows_max", f"{section.rows_max} must be 1 to {REQUEST_ROWS_MAX} rows"
    if not 1 <= section.waiting_max <= REQUESTS_MAX:
        yield "waiting_max", f"{section.waiting_max} must be 1 to {REQUESTS_MAX} requests"
    if not 0 < section.deadline_seconds <= DEADLINE_SECONDS_MAX:
        yield "deadline_seconds", f"{section.deadline_seconds:g} must be above 0 and at most {DEADLINE_SECONDS_MAX:g}"
    yield from _no_marks(section)
    if section.linger_ms:
        yield "linger_ms", "does not suit: each request is a frame of its own; leave it out"
    paths = [column.path for column in section.columns.values()]
    for name, column in section.columns.items():
        if paths.count(column.path) > 1:
            yield f"columns.{name}.path", f"two columns are the tensor {column.path!r}: each needs one of its own"


def _rate(section: plugs.Polled) -> Faults:
    if not (0 < section.rate_hz <= RATE_HZ_MAX):
        yield "rate_hz", f"{section.rate_hz:g} must be above 0 and at most {RATE_HZ_MAX:g}"


def _no_marks(section: Input) -> Faults:
    """Nothing that is asked brings a number or time of its own."""
    for key in ("timestamp", "sequence"):
        if getattr(section, key):
            yield key, "comes with no value here: leave it out"


def _paths(section: Input) -> Iterator[tuple[str, str]]:
    marks = {"sequence": section.sequence, "timestamp": section.timestamp.path if section.timestamp else ""}
    yield from ((f"columns.{name}.path", column.path) for name, column in section.columns.items() if column.path)
    yield from ((key, path) for key, path in marks.items() if path)


def _url(url: str, schemes: tuple[str, ...]) -> Faults:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        yield "url", f"{url[:60]!r} is not a URL: {error}"
        return
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        yield "url", f"must be {schemes[-1]}://host/…{hint(parts.scheme, schemes)}"
    if parts.username is not None or parts.password is not None:
        yield "url", "must not hold credentials: name a file or a systemd credential"


def _local(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")


_INPUTS: dict[type, Callable[[Any], Faults]] = {
    plugs.JsonlInput: _jsonl,
    plugs.SerialInput: _serial,
    plugs.CommandInput: _command,
    plugs.ModbusInput: _modbus,
    plugs.OpcuaInput: _opcua,
    plugs.SysfsInput: _sysfs,
    plugs.MetricsInput: _metrics,
    plugs.InferenceInput: _inference,
}
