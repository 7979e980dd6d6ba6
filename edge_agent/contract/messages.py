"""Every topic string and every message body that crosses the broker, except the manifest.

All topics are built here and nowhere else. Bodies are parsed once, at the edge, into frozen structs; what does not
parse is `UpdateRejected` (from the publisher) or shown as unreadable (from a device: see `reports`). Sizes are bounded.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from edge_agent.contract.digest import BlobRef, Digest, decode_msgpack, encode_msgpack
from edge_agent.contract.dsse import REPORT_BYTES_MAX, REPORT_TYPE
from edge_agent.contract.errors import ReasonCode, UpdateRejected
from edge_agent.contract.manifest import check_name
from edge_agent.contract.reports import Report, SlotReport, decode_report, encode_report

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_HEADER",
    "ENVELOPE_BYTES_MAX",
    "ENVELOPE_FORMAT",
    "REPORT_BYTES_MAX",
    "REPORT_TYPE",
    "WAYS_MAX",
    "ChunkHeader",
    "Envelope",
    "OutputMessage",
    "ReleaseInfo",
    "Report",
    "Rollout",
    "SlotReport",
    "Topics",
    "Way",
    "Ways",
    "decode_envelope",
    "decode_report",
    "decode_ways",
    "encode_envelope",
    "encode_report",
    "encode_ways",
    "release_path",
    "rollout_path",
]

ENVELOPE_FORMAT = 1
ENVELOPE_BYTES_MAX = 1024 * 1024
CHUNK_BYTES = 60_000
WAYS_FORMAT = 1
WAYS_MAX = 16
WAYS_BYTES_MAX = 4096


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

    def ways(self, digest: Digest) -> str:
        """Retained, publisher: how a blob can be made of others (`Ways`). A hint: whoever uses it checks the result."""
        return f"{self._root}/blob/{digest.hex}/ways"

    def every_blob(self, leaf: str) -> str:
        """The filter that matches `leaf` (`0`, the first chunk; `ways`) of every blob; brokers leave some out (M2)."""
        return f"{self._root}/blob/+/{leaf}"

    def blob_of(self, topic: str) -> Digest:
        """Return the digest in a `blob/<sha256>/…` topic of this fleet; raise `ValueError` for any other topic."""
        parts = topic.split("/")
        if len(parts) != 5 or parts[:3] != ["fieldcast", self.fleet, "blob"]:
            raise ValueError(f"{topic!r} is no blob topic of fleet {self.fleet!r}")
        return Digest(f"sha256:{parts[3]}")

    def online(self, device: str) -> str:
        """Retained, device: `1 <session>` at birth, `0` as its last will. A hint, never evidence."""
        return f"{self._root}/device/{check_name('device', device)}/online"

    def report(self, device: str) -> str:
        """Retained, device: what runs, what failed, its profile."""
        return f"{self._root}/device/{check_name('device', device)}/report"

    def event(self, device: str) -> str:
        """QoS 1, device: one transition."""
        return f"{self._root}/device/{check_name('device', device)}/event"

    def command(self, device: str) -> str:
        """QoS 1, operator: one command. The device answers on the topic that it names."""
        return f"{self._root}/device/{check_name('device', device)}/command"

    def answer(self, device: str, name: str) -> str:
        """QoS 1, device: the answer to one command, under a `name` of the asker's choice."""
        return f"{self._root}/device/{check_name('device', device)}/answer/{check_name('answer', name)}"

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

    `digest` is the manifest's. `published` is seconds since 1970, UTC. `sequence` names the release and is compared
    with nothing but `security_floor`: no device goes back by itself to a release of this channel and pipeline below it.
    A `retry_generation` above the one under which the same bytes were condemned lifts that quarantine everywhere.
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
    retry_generation: int = 0
    security_floor: int = 0

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


# --- ways: blobs made of others (M6) -------------------------------------------------------------------------------


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to make a blob: `delta`, unpacked with the blob `base` as its prefix."""

    base: Digest
    delta: BlobRef


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """The ways to make one blob, at most `WAYS_MAX`. Nobody signs it: the result is checked by its own digest."""

    format: int
    ways: list[Way]


def encode_ways(ways: Ways) -> bytes:
    """Return the MessagePack bytes of `ways`."""
    return encode_msgpack(ways)


def decode_ways(data: bytes) -> Ways:
    """Parse a hint. Raises `ValueError` with what is wrong."""
    if len(data) > WAYS_BYTES_MAX:
        raise ValueError(f"a hint of {len(data)} bytes exceeds {WAYS_BYTES_MAX}")
    try:
        found = decode_msgpack(data, Ways)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"a hint cannot be read: {error}") from None
    if found.format != WAYS_FORMAT or len(found.ways) > WAYS_MAX:
        raise ValueError(f"a hint of format {found.format} with {len(found.ways)} ways is not supported")
    return found


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
