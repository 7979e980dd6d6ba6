"""The sections of `edge_agent.config.sections` for inputs and outputs other than MQTT, CSV and SQLite.

What the `path` of a column means differs by source and stands with each. Secrets are never values here: a section names
the file or the systemd credential that holds one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edge_agent.config.sections import Input, Output, Spooled

__all__ = [
    "AnswerOutput",
    "CommandInput",
    "CommandOutput",
    "HttpOutput",
    "InferenceInput",
    "JsonlInput",
    "JsonlOutput",
    "MergeInput",
    "MetricsInput",
    "ModbusInput",
    "OpcuaInput",
    "Polled",
    "SerialInput",
    "SysfsInput",
]


class MergeInput(Input, frozen=True, kw_only=True):
    """Samples of several inputs in one stream; each `part` is a complete input of its own, of whatever rate.

    `columns` are those of all parts in the order of the parts' names, and are not written. All are float64: a sample of
    one part has NaN where the others' columns are.
    """

    source: Literal["merge"] = "merge"
    part: dict[str, Input]


class JsonlInput(Input, frozen=True, kw_only=True):
    """Samples replayed from a file of one JSON object or array per line; `path` of a column as for MQTT.

    `rate_hz`, `speed` and `repeat` are a CSV replay's.
    """

    source: Literal["jsonl"] = "jsonl"
    path: Path
    rate_hz: float = 0.0
    speed: float = 1.0
    repeat: bool | int = False


class SerialInput(Input, frozen=True, kw_only=True):
    """Samples from a serial port: lines (see `CommandInput`), or with `format = "struct"` binary records.

    `path` of a column is then the field's place from 0; `struct` is a format of Python's struct module, `sync` the
    bytes (in hex) that every record begins with; `checksum` follows each record and covers `sync` and fields.
    """

    source: Literal["serial"] = "serial"
    port: Path
    baud: int = 9600
    bits: Literal[5, 6, 7, 8] = 8
    parity: Literal["N", "E", "O"] = "N"
    stop: Literal[1, 2] = 1
    format: Literal["csv", "json", "regex", "struct"] = "csv"
    pattern: str = ""
    struct: str = ""
    sync: str = ""
    checksum: Literal["", "sum8", "xor8", "crc16"] = ""


class CommandInput(Input, frozen=True, kw_only=True):
    """Samples from the lines that a command prints. It is started again when it ends, and ended with the agent.

    `path` of a column is the cell's place from 0 (`csv`), as for MQTT (`json`), or a group of `pattern` (`regex`).
    """

    source: Literal["command"] = "command"
    command: list[str]
    format: Literal["csv", "json", "regex"] = "csv"
    pattern: str = ""


class Polled(Input, frozen=True, kw_only=True):
    """What is asked `rate_hz` times a second."""

    rate_hz: float = 1.0


class ModbusInput(Polled, frozen=True, kw_only=True):
    """Samples from registers: TCP with `host` (and `port`), RTU with `device` (and `baud`, `parity`, `stop`).

    `path` of a column is `holding:ADDRESS[:TYPE]`, `input:…`, `coil:ADDRESS` or `discrete:ADDRESS`; addresses from 0,
    types `int16`, `uint16` (which is meant without one), `int32` … `float64`.
    """

    source: Literal["modbus"] = "modbus"
    host: str = ""
    port: int = 502
    device: Path | None = None
    baud: int = 19_200
    parity: Literal["N", "E", "O"] = "E"
    stop: Literal[1, 2] = 1
    unit: int = 1
    words: Literal["big", "little"] = "big"
    timeout_seconds: float = 1.0


class OpcuaInput(Input, frozen=True, kw_only=True):
    """Samples from subscribed nodes of an OPC UA server; `path` of a column is a node id, `ns=2;s=Line.Speed`.

    A sample is all columns' latest values whenever one changed, at most every `interval_ms`.
    """

    source: Literal["opcua"] = "opcua"
    url: str
    interval_ms: float = 500.0
    username: str = ""
    password_file: Path | None = None
    credential: str = ""


class SysfsInput(Polled, frozen=True, kw_only=True):
    """Samples from a kernel tree such as hwmon or IIO: one number a file.

    `path` of a column is `CHIP/FILE`; CHIP is a directory below `root`, or what its file `name` says (numbers of chips
    change from boot to boot).
    """

    source: Literal["sysfs"] = "sysfs"
    root: Path = Path("/sys/class/hwmon")


class MetricsInput(Polled, frozen=True, kw_only=True):
    """Samples about this machine; `path` of a column names the metric, such as `cpu_percent`."""

    source: Literal["metrics"] = "metrics"


class InferenceInput(Input, frozen=True, kw_only=True):
    """Samples from requests of local programs (Open Inference Protocol v2); `path` of a column is its tensor's name.

    At most `rows_max` rows a request and `waiting_max` requests that wait; each is answered within `deadline_seconds`.
    """

    source: Literal["inference"] = "inference"
    rows_max: int = 1024
    waiting_max: int = 64
    deadline_seconds: float = 30.0


class AnswerOutput(Output, frozen=True, kw_only=True):
    """Outputs to who asked, and to nobody else."""

    sink: Literal["answer"] = "answer"


class JsonlOutput(Output, frozen=True, kw_only=True):
    """Outputs as lines of JSON. A file of `file_mb` is put aside as `PATH.1`; `keep` such files stay."""

    sink: Literal["jsonl"] = "jsonl"
    path: Path
    file_mb: float = 16.0
    keep: int = 4


class CommandOutput(Output, frozen=True, kw_only=True):
    """Outputs as lines of JSON to a command's standard input. It is started again when it ends."""

    sink: Literal["command"] = "command"
    command: list[str]


class HttpOutput(Spooled, frozen=True, kw_only=True):
    """Outputs posted as lines of JSON (`application/x-ndjson`), at most `batch` at a time.

    `token_file` or `credential` holds a bearer token; `ca` is a PEM file for https (the system's otherwise).
    """

    sink: Literal["http"] = "http"
    url: str
    batch: int = 100
    timeout_seconds: float = 10.0
    token_file: Path | None = None
    credential: str = ""
    ca: Path | None = None
