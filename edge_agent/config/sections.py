"""The sections of the agent's configuration file, as frozen values.

A field is a key of the file, its default what holds when the key is missing. Nothing is checked here:
`edge_agent.config` does that, and is where the rest of the program imports these from. Those that say what the device
allows are in `limits`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from edge_agent.config.credentials import secret
from edge_agent.config.limits import HealthLimits, IncidentLimits, LocalPolicy, Sandbox, StoreLimits, WorkerLimits
from edge_agent.config.tables import Section
from edge_agent.contract.dtypes import DEFAULT, Dtype
from edge_agent.contract.errors import ConfigError

__all__ = [
    "STATE_DIRECTORY",
    "Blobs",
    "Broker",
    "Channel",
    "Column",
    "Commands",
    "Config",
    "CsvInput",
    "Device",
    "Input",
    "Interfaces",
    "MqttInput",
    "MqttOutput",
    "Output",
    "Slot",
    "Spooled",
    "SqliteOutput",
    "Timestamp",
]

STATE_DIRECTORY = Path("/var/lib/edge-agent")
# Those that run code (`exec`, `call`, `dev`) have no effect in this version, but may be forbidden or allowed by name.
COMMAND_TYPES = ("ping", "report", "rollback", "retry", "hold", "exec", "call", "dev")
DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


class Device(Section, frozen=True, kw_only=True):
    """Who this device is. `state` is the directory that the agent owns."""

    id: str
    fleet: str
    state: Path = STATE_DIRECTORY
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class Broker(Section, frozen=True, kw_only=True):
    """A broker and how to authenticate there: `mqtt://host[:port]` or `mqtts://host[:port]`.

    `ca`, `cert` and `key` are PEM files and need `mqtts`. The password stays in `password_file`, or with systemd as
    `credential`, until it is needed.
    """

    url: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    username: str = ""
    password_file: Path | None = None
    credential: str = ""

    @property
    def host(self) -> str:
        """Name or address, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port, 1883 or 8883 when the URL names none."""
        parts = urlsplit(self.url)
        return parts.port or DEFAULT_PORTS[parts.scheme]

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.url).scheme == "mqtts"

    @property
    def address(self) -> str:
        """`host:port` for messages."""
        return f"{self.host}:{self.port}"

    def password(self) -> bytes | None:
        """Read the password, without a trailing newline. Raises `OSError`."""
        return secret(self.password_file, self.credential)


class Blobs(Section, frozen=True, kw_only=True):
    """Where blobs come from, in this order: `mqtt`, or the URL of a mirror (`file`, `https`, `http`, `s3`, `gs`, `az`).

    `ca` is a PEM file that https mirrors are checked against (the system's otherwise). `bytes_per_second` limits what
    is fetched, 0 is no limit. Without `deltas` blobs are always fetched whole.
    """

    sources: list[str] = msgspec.field(default_factory=lambda: ["mqtt"])
    ca: Path | None = None
    bytes_per_second: float = 0.0
    deltas: bool = True


class Channel(Section, frozen=True, kw_only=True):
    """A channel this device follows, and the root of its trust (`1.root.json`)."""

    root: Path


class Commands(Section, frozen=True, kw_only=True):
    """Which commands of operators this device takes over the network, whatever their keys allow."""

    allow: list[str] = msgspec.field(default_factory=lambda: ["ping", "report", "rollback"])


class Column(Section, frozen=True, kw_only=True):
    """Where a column's values lie in a payload or file, and what they are.

    Numbers, alone or in a vector, become `value * scale + offset`, in `unit` afterwards.
    """

    path: str
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    dtype: Dtype = DEFAULT


class Timestamp(Section, frozen=True, kw_only=True):
    """Where a sample's time lies, as a number of `unit` since 1970, UTC."""

    path: str
    unit: Literal["s", "ms", "us", "ns"] = "s"


class Input(Section, frozen=True, kw_only=True):
    """Where samples come from: columns, and in it a sample's time and number where it brings them.

    Samples stamped more than `late_seconds` behind the device's clock are counted as late; 0 counts none.
    `overflow` says what becomes of samples that come faster than they are taken (None: what suits the source, see
    `edge_agent.config.overflow`); `queue_rows` wait in memory, `spool_mb` on disk.
    A batch waits until its oldest sample is `linger_ms` old, or until it is full; 0 is no waiting.
    """

    columns: dict[str, Column] = msgspec.field(default_factory=dict)
    timestamp: Timestamp | None = None
    sequence: str = ""
    overflow: Literal["block", "drop_oldest", "spool"] | None = None
    queue_rows: int | None = None
    spool_mb: float | None = None
    linger_ms: float = 0.0
    late_seconds: float = 60.0


class Output(Section, frozen=True, kw_only=True):
    """Where outputs go. `stream` is their name there."""

    stream: str = ""


class Spooled(Output, frozen=True, kw_only=True):
    """An output that may be out of reach: `spool_mb` on disk hold what waits; without them the source waits.

    It is resent at `resend_per_second` at the most.
    """

    spool_mb: float = 0.0
    resend_per_second: float = 1000.0


class MqttInput(Input, frozen=True, kw_only=True):
    """Samples from an MQTT topic (wildcards allowed), one JSON object or array per message.

    Without `timestamp` the time of arrival counts, without `sequence` samples are counted. `broker` is where the
    topic is when that is not the agent's own broker.
    """

    source: Literal["mqtt"] = "mqtt"
    topic: str
    columns: dict[str, Column]
    qos: int = 1
    timestamp: Timestamp | None = None
    sequence: str = ""
    broker: Broker | None = None


class CsvInput(Input, frozen=True, kw_only=True):
    """Samples replayed from a CSV file whose header names the columns.

    `columns` maps logical names to header names; empty: every column of the file but timestamp and sequence. Time runs
    `speed` times as fast as the timestamps (or `rate_hz`, for a file without) say; 0 is as fast as samples are taken.
    `repeat` is true (for ever), or how many times the file is played.
    """

    source: Literal["csv"] = "csv"
    path: Path
    columns: dict[str, Column] = msgspec.field(default_factory=dict)
    timestamp: Timestamp | None = None
    sequence: str = ""
    rate_hz: float = 0.0
    speed: float = 1.0
    repeat: bool | int = False


class MqttOutput(Spooled, frozen=True, kw_only=True):
    """Outputs as JSON messages to one topic. With `retain`, the broker keeps the last one."""

    sink: Literal["mqtt"] = "mqtt"
    topic: str
    qos: int = 1
    retain: bool = False
    stream: str = ""
    broker: Broker | None = None


class SqliteOutput(Output, frozen=True, kw_only=True):
    """Outputs as rows of an SQLite table, keyed by (stream, sequence)."""

    sink: Literal["sqlite"] = "sqlite"
    path: Path
    table: str = "output"
    stream: str = ""


class Interfaces(Section, frozen=True, kw_only=True):
    """What local programs may ask over HTTP at `listen`: a loopback address, or `unix:PATH`. Each is off by default.

    With `inference`, slots whose source that is answer requests; with `metrics`, `/metrics` is told to Prometheus.
    """

    listen: str = "127.0.0.1:8080"
    inference: bool = False
    metrics: bool = False


class Slot(Section, frozen=True, kw_only=True):
    """A place where the pipeline of the same name runs: its channel, its tunable values, its input and output.

    With `spare`, a worker waits beside the one that works, and a verifier for the next envelope, so that the next
    release or replacement starts sooner.
    """

    channel: str
    input: Input
    output: Output
    tunable: dict[str, Any] = msgspec.field(default_factory=dict)
    policy: LocalPolicy = LocalPolicy()
    health: HealthLimits = HealthLimits()
    limits: WorkerLimits = WorkerLimits()
    spare: bool = False


class Config(Section, frozen=True, kw_only=True):
    """The whole file. Paths are absolute; every `stream` is filled in (`<device>/<slot>` unless named).

    A device without `broker` hears and tells nothing: what it runs comes with `edge-agent import`.
    """

    path: Path
    device: Device
    broker: Broker | None = None
    channel: dict[str, Channel]
    slot: dict[str, Slot]
    store: StoreLimits = StoreLimits()
    commands: Commands = Commands()
    blobs: Blobs = Blobs()
    limits: WorkerLimits = WorkerLimits()
    sandbox: Sandbox = Sandbox()
    incidents: IncidentLimits = IncidentLimits()
    interfaces: Interfaces = Interfaces()

    def broker_of(self, plug: MqttInput | MqttOutput) -> Broker:
        """Return the broker of a topic: its own, else the agent's. Raises `ConfigError` when there is neither."""
        found = plug.broker or self.broker
        if found is None:
            raise ConfigError(f"topic {plug.topic} has no broker: write [broker], or broker = with the topic")
        return found
