"""A blob on its way, on disk: what arrived survives a crash, a restart and a power cut (M2).

Two files in one directory: `<hex>.part` holds the encoded stream, each chunk at its place; `<hex>.map` is a log, first
the stream's header, then (index, checksum) of every chunk. A chunk counts only if its bytes still have that checksum,
so no order of writes and no fsync is needed for it to be safe: what a power cut tore is fetched again. The checksum
finds accidents; sha256 over the whole blob finds everything else.

A raw stream *is* the blob, and so its sha256 is taken while its chunks pass through, once. Of a chunk that arrives in
its order the checksum is then the beginning of the sha256 of all up to its end: that costs nothing, and who resumes has
to hash all of it again anyway. Every other chunk has a crc32.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.messages import CHUNK_BYTES, CHUNK_HEADER, CHUNK_MAGIC, RAW, ZSTD, ChunkHeader
from edge_agent.transport.chunks import chunk_size, count_max, fits

__all__ = ["Partial"]

_ENTRY = struct.Struct(">II")  # index, checksum of the chunk's payload
# In the index: the checksum is the first 4 bytes of the sha256 of the stream up to the end of this chunk.
_RUNNING = 1 << 31


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
        self._running, self._hashed = hashlib.sha256(), 0
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
        self._running, self._hashed = hashlib.sha256(), 0
        os.ftruncate(self._map, 0)
        os.ftruncate(self._data, 0)
        os.lseek(self._map, 0, os.SEEK_SET)
        _write(self._map, header.pack())
        self.header = header

    def add(self, index: int, payload: memoryview) -> None:
        """Keep one chunk of the stream."""
        self.add_all([(index, payload)])

    def add_all(self, chunks: Sequence[tuple[int, memoryview]]) -> None:
        """Keep chunks of the stream that are not there yet; neighbours that follow each other are written at once."""
        # Hashed before it is written, while it is in the processor's cache; logged after it is written: a kill in
        # between costs the chunk, and never keeps one that is not there.
        entries = b"".join([self._entry(index, payload) for index, payload in chunks])
        start = 0
        for end in range(1, len(chunks) + 1):
            if end == len(chunks) or chunks[end][0] != chunks[end - 1][0] + 1:
                _write_all(self._data, [payload for _, payload in chunks[start:end]], chunks[start][0] * CHUNK_BYTES)
                start = end
        self.have.update(index for index, _ in chunks)
        self._catch_up()
        _write(self._map, entries)

    def _entry(self, index: int, payload: memoryview) -> bytes:
        assert self.header is not None
        if self.header.encoding != RAW or index != self._hashed:
            return _ENTRY.pack(index, zlib.crc32(payload))
        self._running.update(payload)
        self._hashed += 1
        return _ENTRY.pack(index | _RUNNING, _checksum(self._running))

    def _catch_up(self) -> None:
        """Hash what had come before its turn."""
        assert self.header is not None
        while self.header.encoding == RAW and self._hashed in self.have:
            self._running.update(self._read(self._hashed))
            self._hashed += 1

    @property
    def sha256(self) -> str:
        """The sha256 of a raw stream whose chunks are all there, hexadecimal."""
        assert self.header is not None
        assert self._hashed == self.header.count, "not all of a raw stream is there"
        return self._running.hexdigest()

    def pieces(self) -> Iterator[bytes]:
        """Yield the encoded stream, chunk by chunk. All chunks must be there."""
        assert self.header is not None
        for index in range(self.header.count):
            yield self._read(index)

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
        for word, checksum in _ENTRY.iter_unpack(entries[:whole]):
            index = word & ~_RUNNING
            if index < header.count and index not in self.have and self._intact(index, checksum, word != index):
                self.have.add(index)
                self._catch_up()
        # A torn last entry would shift everything written after it.
        os.ftruncate(self._map, CHUNK_HEADER.size + whole)
        os.lseek(self._map, 0, os.SEEK_END)

    def _intact(self, index: int, checksum: int, running: bool) -> bool:
        """Tell whether a chunk is what was written; one that is counts as hashed if it was written in its order."""
        assert self.header is not None
        payload = self._read(index)
        if len(payload) != chunk_size(self.header, index):
            return False
        if not running:
            return zlib.crc32(payload) == checksum
        longer = self._running.copy()
        longer.update(payload)
        if index != self._hashed or _checksum(longer) != checksum:
            return False
        self._running, self._hashed = longer, index + 1
        return True

    def _read(self, index: int) -> bytes:
        assert self.header is not None
        return os.pread(self._data, chunk_size(self.header, index), index * CHUNK_BYTES)


def _header(log: bytes, ref: BlobRef) -> ChunkHeader | None:
    if len(log) < CHUNK_HEADER.size:
        return None
    magic, encoding, _, index, count, encoded, stream = CHUNK_HEADER.unpack_from(log)
    header = ChunkHeader(encoding, index, count, encoded, stream)
    sane = magic == CHUNK_MAGIC and encoding in (RAW, ZSTD) and count == count_max(encoded)
    return header if sane and fits(ref, header) else None


def _checksum(running: hashlib._Hash) -> int:
    return int.from_bytes(running.digest()[:4], "big")


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_all(descriptor: int, views: list[memoryview], offset: int) -> None:
    """Write neighbours at once: chunks end inside pages, and a page that is written in two parts costs twice."""
    while views:
        written = os.pwritev(descriptor, views, offset)
        offset += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if views:
            views[0] = views[0][written:]
