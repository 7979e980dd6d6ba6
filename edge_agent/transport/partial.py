"""A blob on its way, on disk: what arrived survives a crash, a restart and a power cut (M2).

Two files in one directory: `<hex>.part` holds the encoded stream, each chunk at its place; `<hex>.map` is a log, first
the stream's header, then (index, crc32) of every chunk. A chunk counts only if its bytes still have that checksum, so
no order of writes and no fsync is needed for it to be safe: what a power cut tore is fetched again. The checksum finds
accidents; sha256 over the whole blob, later, finds everything else.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.messages import CHUNK_BYTES, CHUNK_HEADER, CHUNK_MAGIC, RAW, ZSTD, ChunkHeader
from edge_agent.transport.chunks import chunk_size, count_max, fits

__all__ = ["Partial"]

_ENTRY = struct.Struct(">II")  # index, crc32 of the chunk's payload


class Partial:
    """The collected chunks of one blob. `header` is the stream's (None before the first chunk), `have` what is there.

    Raises `OSError` where the disk refuses.
    """

    def __init__(self, directory: Path, ref: BlobRef) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.data_path = directory / f"{ref.digest.hex}.part"
        self.map_path = directory / f"{ref.digest.hex}.map"
        self.header: ChunkHeader | None = None
        self.have: set[int] = set()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._data = os.open(self.data_path, flags, 0o644)
        try:
            self._map = os.open(self.map_path, flags, 0o644)
        except OSError:
            os.close(self._data)
            raise
        self._restore(ref)

    def begin(self, header: ChunkHeader) -> None:
        """Start over with the stream that `header` belongs to; what was there is dropped."""
        self.have.clear()
        os.ftruncate(self._map, 0)
        os.ftruncate(self._data, 0)
        os.lseek(self._map, 0, os.SEEK_SET)
        _write(self._map, header.pack(), None)
        self.header = header

    def add(self, index: int, payload: memoryview) -> None:
        """Keep one chunk of the stream."""
        _write(self._data, payload, index * CHUNK_BYTES)
        _write(self._map, _ENTRY.pack(index, zlib.crc32(payload)), None)
        self.have.add(index)

    def pieces(self) -> Iterator[bytes]:
        """Yield the encoded stream, chunk by chunk. All chunks must be there."""
        assert self.header is not None
        for index in range(self.header.count):
            yield os.pread(self._data, chunk_size(self.header, index), index * CHUNK_BYTES)

    def sync(self) -> None:
        """Make the encoded stream durable, and nothing but it."""
        assert self.header is not None
        os.ftruncate(self._data, self.header.encoded_bytes)
        os.fsync(self._data)

    def close(self) -> None:
        """Close the files; they stay for the next attempt. Safe to call twice."""
        for descriptor in (self._data, self._map):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._map = -1

    def discard(self) -> None:
        """Close and remove the files."""
        self.close()
        self.map_path.unlink(missing_ok=True)
        self.data_path.unlink(missing_ok=True)

    def _restore(self, ref: BlobRef) -> None:
        size_max = CHUNK_HEADER.size + 2 * count_max(ref.size) * _ENTRY.size
        log = os.pread(self._map, size_max, 0)
        header = _header(log, ref)
        if header is None:
            return
        self.header = header
        entries = log[CHUNK_HEADER.size :]
        whole = len(entries) // _ENTRY.size * _ENTRY.size
        for index, checksum in _ENTRY.iter_unpack(entries[:whole]):
            if index < header.count and self._intact(index, checksum):
                self.have.add(index)
        # A torn last entry would shift everything written after it.
        os.ftruncate(self._map, CHUNK_HEADER.size + whole)
        os.lseek(self._map, 0, os.SEEK_END)

    def _intact(self, index: int, checksum: int) -> bool:
        assert self.header is not None
        size = chunk_size(self.header, index)
        payload = os.pread(self._data, size, index * CHUNK_BYTES)
        return len(payload) == size and zlib.crc32(payload) == checksum


def _header(log: bytes, ref: BlobRef) -> ChunkHeader | None:
    if len(log) < CHUNK_HEADER.size:
        return None
    magic, encoding, _, index, count, encoded, stream = CHUNK_HEADER.unpack_from(log)
    header = ChunkHeader(encoding, index, count, encoded, stream)
    sane = magic == CHUNK_MAGIC and encoding in (RAW, ZSTD) and count == count_max(encoded)
    return header if sane and fits(ref, header) else None


def _write(descriptor: int, data: bytes | memoryview, offset: int | None) -> None:
    view = memoryview(data)
    while view:
        if offset is None:
            written = os.write(descriptor, view)
        else:
            written = os.pwrite(descriptor, view, offset)
            offset += written
        view = view[written:]
