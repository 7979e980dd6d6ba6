"""A blob as chunk messages, and back: pure functions and one pure tracker (M2, F7).

It decides how bytes are cut and compressed, whether a received chunk can belong to the blob that a manifest pins, and
what to ask for next. Nothing is believed past the pinned size. Whether the whole is right only its sha256 can tell;
`puller` asks it last. Every refusal is blamed on the environment: what a broker hands out says nothing about a release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import Blame, ReasonCode, UpdateRejected
from edge_agent.contract.messages import CHUNK_BYTES, CHUNK_HEADER, CHUNK_MAGIC, RAW, ZSTD, ChunkHeader
from edge_agent.transport.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, compress

__all__ = [
    "Progress",
    "accept",
    "chunk_size",
    "continues",
    "count_max",
    "decode",
    "fits",
    "rejected",
    "same_stream",
    "split",
]

LEVEL = 9
# A packed blob is written and hashed apart from its stream on the device; for less than this it is not worth it.
PACKED_SHARE_MAX = 0.98
# 8 MB of history at most: what decoding costs a device is bounded, whatever a frame claims.
WINDOW_LOG_MAX = 23
PIECE_BYTES = 256 * 1024


def split(data: bytes) -> list[bytes]:
    """Return `data` as chunk messages: zstd if that pays, otherwise as it is. An empty blob is one chunk."""
    packed = compress(data, level=LEVEL)
    encoding, encoded = (ZSTD, packed) if len(packed) <= PACKED_SHARE_MAX * len(data) else (RAW, data)
    count = max(1, -(-len(encoded) // CHUNK_BYTES))
    stream = hashlib.sha256(encoded).digest()[:8]
    return [
        ChunkHeader(encoding, index, count, len(encoded), stream).pack()
        + encoded[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        for index in range(count)
    ]


def count_max(size: int) -> int:
    """Return how many chunks a blob of `size` bytes can have at most (`split` never makes it larger)."""
    return max(1, -(-size // CHUNK_BYTES))


def chunk_size(header: ChunkHeader, index: int) -> int:
    """Return the payload bytes of chunk `index` of the stream that `header` belongs to."""
    return min(CHUNK_BYTES, header.encoded_bytes - index * CHUNK_BYTES)


def rejected(ref: BlobRef, code: ReasonCode, why: str) -> UpdateRejected:
    """Return the refusal of a blob, by name, blamed on the environment."""
    message = f"blob {ref.digest.short}: {why}"
    return UpdateRejected.one(code, message, where=str(ref.digest), blame=Blame.ENVIRONMENT)


def fits(ref: BlobRef, header: ChunkHeader) -> bool:
    """Tell whether a stream of the announced size can be the blob: raw exactly as large, compressed smaller."""
    return header.encoded_bytes == ref.size if header.encoding == RAW else header.encoded_bytes < ref.size


def same_stream(one: ChunkHeader, other: ChunkHeader) -> bool:
    """Tell whether two chunks were cut from the same encoded bytes."""
    return (one.encoding, one.encoded_bytes, one.stream) == (other.encoding, other.encoded_bytes, other.stream)


def accept(ref: BlobRef, index: int, message: bytes) -> tuple[ChunkHeader, memoryview]:
    """Return header and payload of what arrived as chunk `index` of `ref`.

    Raises `UpdateRejected`: CONTENT for no chunk, a truncated one, or another's; SIZE when the stream cannot be a blob
    of the pinned size.
    """
    try:
        header, payload = ChunkHeader.split(message)
    except ValueError as error:
        raise rejected(ref, ReasonCode.CONTENT, f"what the broker holds as chunk {index} is damaged: {error}") from None
    if header.index != index:
        raise rejected(ref, ReasonCode.CONTENT, f"the broker holds chunk {header.index} in place of chunk {index}")
    if not fits(ref, header):
        kind = "bytes" if header.encoding == RAW else "compressed bytes"
        raise rejected(
            ref, ReasonCode.SIZE, f"announced as {header.encoded_bytes} {kind}, the manifest says {ref.size}"
        )
    return header, payload


def continues(known: ChunkHeader, index: int, message: bytes) -> bool:
    """Tell whether `message` is chunk `index` of the stream of `known`: all that `accept` asks, at once."""
    head = CHUNK_HEADER.pack(CHUNK_MAGIC, known.encoding, 0, index, known.count, known.encoded_bytes, known.stream)
    whole = index < known.count and len(message) == CHUNK_HEADER.size + chunk_size(known, index)
    return whole and message.startswith(head)


def decode(ref: BlobRef, encoding: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blob's bytes, never more than `ref.size` of them.

    Raises `UpdateRejected`: SIZE when there are more, CONTENT when they are no single, whole zstd frame. A yield is not
    yet verified: the sha256 is the caller's.
    """
    total = 0
    for piece in pieces if encoding == RAW else _decompress(ref, pieces):
        total += len(piece)
        if total > ref.size:
            raise rejected(ref, ReasonCode.SIZE, f"unpacks to more than the {ref.size} bytes the manifest says")
        yield piece


def _decompress(ref: BlobRef, pieces: Iterable[bytes]) -> Iterator[bytes]:
    decompressor = ZstdDecompressor(options={DecompressionParameter.window_log_max: WINDOW_LOG_MAX})
    for piece in pieces:
        if decompressor.eof and piece:
            raise rejected(ref, ReasonCode.CONTENT, "goes on after the end of its zstd frame")
        yield from _feed(ref, decompressor, piece)
    if not decompressor.eof:
        raise rejected(ref, ReasonCode.CONTENT, "ends in the middle of its zstd frame")


def _feed(ref: BlobRef, decompressor: ZstdDecompressor, piece: bytes) -> Iterator[bytes]:
    hungry = False
    while not hungry:
        try:
            unpacked = decompressor.decompress(piece, max_length=PIECE_BYTES)
        except ZstdError as error:
            raise rejected(ref, ReasonCode.CONTENT, f"does not unpack: {error}") from None
        if unpacked:
            yield unpacked
        hungry, piece = decompressor.eof or decompressor.needs_input, b""
    if decompressor.unused_data:
        raise rejected(ref, ReasonCode.CONTENT, "goes on after the end of its zstd frame")


class Progress:
    """Which chunks of a stream of `count` are there, which are asked for, and which come next."""

    def __init__(self, count: int, have: Iterable[int] = ()) -> None:
        self.count = count
        self.have = {index for index in have if index < count}
        self.asked: set[int] = set()
        self._next = 0

    @property
    def missing(self) -> int:
        """How many chunks are not there yet."""
        return self.count - len(self.have)

    def ask(self, window: int) -> list[int]:
        """Return which chunks to ask for now, so that at most `window` are under way; they count as asked."""
        fresh: list[int] = []
        while len(self.asked) < window and self._next < self.count:
            if self._next not in self.have:
                self.asked.add(self._next)
                fresh.append(self._next)
            self._next += 1
        return fresh

    def got(self, index: int) -> bool:
        """Note an arrival; False when it was there already (brokers repeat)."""
        self.asked.discard(index)
        if index in self.have:
            return False
        self.have.add(index)
        return True
