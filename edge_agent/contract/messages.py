"""Every topic string and every message body that crosses the broker, except the manifest.

All topics are built here and nowhere else. Bodies are parsed once, at the edge, into frozen structs; what does not
parse is `UpdateRejected` (from the publisher) or shown as unreadable (from a device). Sizes are bounded here.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

import msgspec

from edge_agent.contract.digest import Digest, decode_json, decode_msgpack, encode_json, encode_msgpack
from edge_agent.contract.errors import Reason, ReasonCode, UpdateRejected
from edge_agent.contract.manifest import check_name

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_HEADER",
    "ENVELOPE_BYTES_MAX",
    "ENVELOPE_FORMAT",
    "REPORT_BYTES_MAX",
    "ChunkHeader",
    "Envelope",
    "OutputMessage",
    "ReleaseInfo",
    "Report",
    "Rollout",
    "SlotReport",
    "Topics",
    "decode_envelope",
    "decode_report",
    "encode_envelope",
    "encode_report",
    "release_path",
    "rollout_path",
]

ENVELOPE_FORMAT = 1
ENVELOPE_BYTES_MAX = 1024 * 1024
CHUNK_BYTES = 60_000
REPORT_BYTES_MAX = 256 * 1024
REPORT_TYPE = "application/vnd.fieldcast.report+json"


class Topics:
    """The topics of one fleet (§7). Names are checked, so no wildcard or separator can slip in."""

    def __init__(self, fleet: str) -> None:
        self.fleet = check_name("fleet", fleet)
        self._root = f"fieldcast/{fleet}"

    def trust(self, channel: str) -> str:
        """Retained, publisher: the envelope of one channel."""
        return f"{self._root}/channel/{check_name('channel', channel)}/trust"

    def chunk(self, digest: Digest, index: int) -> str:
        """Retained, publisher: chunk `index` (from 0) of a blob."""
        return f"{self._root}/blob/{digest.hex}/{index}"

    def online(self, device: str) -> str:
        """Retained, device: `1 <session>` at birth, `0` as its last will. A hint, never evidence."""
        return f"{self._root}/device/{check_name('device', device)}/online"

    def report(self, device: str) -> str:
        """Retained, device: what runs, what failed, its profile."""
        return f"{self._root}/device/{check_name('device', device)}/report"

    def event(self, device: str) -> str:
        """QoS 1, device: one transition."""
        return f"{self._root}/device/{check_name('device', device)}/event"

    def every(self, leaf: str) -> str:
        """The filter that matches `leaf` (`report`, `online`, `event`) of every device, for the publisher."""
        return f"{self._root}/device/+/{leaf}"

    def everything(self) -> str:
        """The filter that matches every topic of the fleet, to clear a broker of it."""
        return f"{self._root}/#"

    def device_of(self, topic: str) -> str:
        """Return the device id in a `device/<id>/…` topic of this fleet; raise `ValueError` for any other topic."""
        parts = topic.split("/")
        if len(parts) < 5 or parts[:3] != ["fieldcast", self.fleet, "device"]:
            raise ValueError(f"{topic!r} is no device topic of fleet {self.fleet!r}")
        return check_name("device", parts[3])


# --- trust envelope (T3) -------------------------------------------------------------------------------------------


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """All that a device needs to judge a channel, in one message.

    `metadata` maps TUF file names (`1.root.json`, `7.snapshot.json`, `timestamp.json`, …) to their exact bytes; every
    root version since the first is there. `targets` maps target paths to bytes: the manifests a device may run now and
    one rollout document per pipeline.
    """

    format: int
    fleet: str
    channel: str
    metadata: dict[str, bytes]
    targets: dict[str, bytes]


class _EnvelopeFormat(msgspec.Struct):
    format: int


def encode_envelope(envelope: Envelope) -> bytes:
    """Return the MessagePack bytes of `envelope` (uncompressed: `transport.envelope` does that)."""
    return encode_msgpack(envelope)


def decode_envelope(data: bytes) -> Envelope:
    """Parse an envelope of at most `ENVELOPE_BYTES_MAX` bytes. Raises `UpdateRejected`."""
    if len(data) > ENVELOPE_BYTES_MAX:
        raise UpdateRejected.one(ReasonCode.SIZE, f"envelope of {len(data)} bytes exceeds {ENVELOPE_BYTES_MAX}")
    try:
        found = decode_msgpack(data, _EnvelopeFormat).format
        if found != ENVELOPE_FORMAT:
            raise UpdateRejected.one(
                ReasonCode.FORMAT,
                f"envelope format {found} is not supported (this program reads {ENVELOPE_FORMAT}): update the agent",
            )
        return decode_msgpack(data, Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpdateRejected.one(ReasonCode.MALFORMED, f"envelope cannot be read: {error}") from None


def release_path(pipeline: str, sequence: int) -> str:
    """The TUF target path of a release; role `release` is delegated `release/*`."""
    return f"release/{pipeline}@{sequence}"


def rollout_path(pipeline: str) -> str:
    """The TUF target path of a pipeline's rollout; role `rollout` is delegated `rollout/*`."""
    return f"rollout/{pipeline}"


class ReleaseInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `release` signs about a manifest, in the target's `custom` (T2).

    `digest` is the manifest's. `published` is seconds since 1970, UTC. `sequence` names the release and is never
    compared.
    """

    fleet: str
    channel: str
    pipeline: str
    sequence: int
    digest: Digest
    published: int
    signer: str = ""
    tag: str = ""
    message: str = ""
    commit: str = ""
    dirty: bool = False

    @property
    def name(self) -> str:
        """`pipeline@sequence`, how people name the release."""
        return f"{self.pipeline}@{self.sequence}"


class Rollout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which of the signed releases devices shall run (T2, §11).

    `candidate` and `stable` are sequences of releases that `release` signs now; `stable` is None before the first
    release was superseded. `percent` of the devices (0–100) take the candidate, chosen by `rollout_id`.
    """

    fleet: str
    channel: str
    pipeline: str
    rollout_id: str
    candidate: int
    stable: int | None = None
    percent: float = 100.0
    paused: bool = False
    aborted: bool = False


# --- blob chunks (M1, M2) ------------------------------------------------------------------------------------------

CHUNK_HEADER = struct.Struct(">BBHIIQ8s")  # magic, encoding, reserved, index, count, encoded size, stream id
CHUNK_MAGIC = 0xFC
RAW, ZSTD = 0, 1


class ChunkHeader(msgspec.Struct, frozen=True):
    """The fixed head of every chunk.

    A blob is encoded as a whole (`encoding` 0 raw, 1 zstd) and cut into `count` pieces of `CHUNK_BYTES`; the last may
    be shorter. `stream` is the first 8 bytes of the sha256 of the encoded whole: chunks of two encodings never mix.
    """

    encoding: int
    index: int
    count: int
    encoded_bytes: int
    stream: bytes

    def pack(self) -> bytes:
        """Return the 28 header bytes."""
        return CHUNK_HEADER.pack(CHUNK_MAGIC, self.encoding, 0, self.index, self.count, self.encoded_bytes, self.stream)

    @classmethod
    def split(cls, message: bytes) -> tuple[ChunkHeader, memoryview]:
        """Return header and payload of a chunk message. Raises `ValueError` on anything that is not one."""
        if len(message) < CHUNK_HEADER.size:
            raise ValueError(f"chunk of {len(message)} bytes is shorter than its header")
        magic, encoding, _, index, count, encoded, stream = CHUNK_HEADER.unpack_from(message)
        if magic != CHUNK_MAGIC or encoding not in (RAW, ZSTD):
            raise ValueError("not a blob chunk, or of an encoding this program does not know")
        if count < 1 or index >= count or count != max(1, -(-encoded // CHUNK_BYTES)):
            raise ValueError(f"chunk header contradicts itself: index {index} of {count}, {encoded} bytes")
        payload = memoryview(message)[CHUNK_HEADER.size :]
        expected = CHUNK_BYTES if index < count - 1 else encoded - (count - 1) * CHUNK_BYTES
        if len(payload) != expected:
            raise ValueError(f"chunk {index} of {count} has {len(payload)} bytes, its header says {expected}")
        return cls(encoding, index, count, encoded, stream), payload


# --- pipeline output -----------------------------------------------------------------------------------------------


class OutputMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What an output sink writes for one result.

    `timestamp` is int64 nanoseconds UTC of the newest sample used, `sequence` its number in `stream`, `first` the
    oldest sample's; (`stream`, `sequence`) is the key for at-least-once consumers. `values` maps output columns.
    """

    timestamp: int
    stream: str
    sequence: int
    first: int
    release: str
    probation: bool
    values: dict[str, Any]


# --- device reports (T8) -------------------------------------------------------------------------------------------


class SlotReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one slot runs and what became of the last release it was offered.

    `active`, `candidate` and `last` are release names; digests are manifest digests. `state` is the deployment state
    of `last` (`committed`, `rolled_back`, `rejected`, `deferred`, …) and `reasons` why. `counters` are totals since
    the agent started: `samples`, `outputs`, `errors`, `dropped`.
    """

    pipeline: str
    channel: str
    active: str = ""
    active_digest: str = ""
    candidate: str = ""
    candidate_digest: str = ""
    last: str = ""
    last_digest: str = ""
    state: str = ""
    reasons: list[Reason] = []
    counters: dict[str, int] = {}
    samples_per_second: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device's report. `boot` and `counter` order reports; `time` is seconds UTC by the device's clock."""

    format: int
    fleet: str
    device: str
    boot: int
    counter: int
    time: float
    agent: str
    slots: list[SlotReport]
    labels: dict[str, str] = {}
    profile: dict[str, Any] = {}
    channels: dict[str, dict[str, Any]] = {}


class _Dsse(msgspec.Struct, frozen=True):
    """A Dead Simple Signing Envelope, https://github.com/secure-systems-lab/dsse."""

    payloadType: str  # noqa: N815 - the standard's spelling
    payload: str
    signatures: list[dict[str, str]]


def encode_report(report: Report) -> bytes:
    """Return the report as a DSSE envelope without signatures; the publisher shows it as unsigned."""
    body = base64.b64encode(encode_json(report)).decode()
    return encode_json(_Dsse(payloadType=REPORT_TYPE, payload=body, signatures=[]))


def decode_report(data: bytes) -> Report:
    """Parse a report of at most `REPORT_BYTES_MAX` bytes. Raises `ValueError` with what is wrong."""
    if len(data) > REPORT_BYTES_MAX:
        raise ValueError(f"report of {len(data)} bytes exceeds {REPORT_BYTES_MAX}")
    try:
        envelope = decode_json(data, _Dsse)
        if envelope.payloadType != REPORT_TYPE:
            raise ValueError(f"payload type {envelope.payloadType!r} is not a report")
        report = decode_json(base64.b64decode(envelope.payload, validate=True), Report)
    except (msgspec.DecodeError, binascii.Error) as error:
        raise ValueError(f"report cannot be read: {error}") from None
    if report.format != 1:
        raise ValueError(f"report format {report.format} is not supported")
    return report
