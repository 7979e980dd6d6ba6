"""A stream of bytes cut into lines or binary records, whatever pieces it arrives in.

It holds at most one unfinished line or record. What cannot be one is `BadPayload`, and the next one is looked for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Protocol

from edge_agent.config.plugs import SerialInput
from edge_agent.runtime.fields import Fields, Row, by_place
from edge_agent.runtime.samples import BadPayload

__all__ = ["BAD_CHECKSUM", "LINE_BYTES_MAX", "TOO_LONG", "Framing", "Lines", "Records"]

LINE_BYTES_MAX = 1 << 20
TOO_LONG = "line too long"
BAD_CHECKSUM = "bad checksum"
GARBAGE = "bytes between records"


class Framing(Protocol):
    """What cuts a stream."""

    def feed(self, data: bytes) -> Iterator[bytes | BadPayload]:
        """Yield what is complete with `data`."""
        ...

    def reset(self) -> None:
        """Forget what is unfinished: the stream begins anew, perhaps in the middle."""
        ...


class Lines:
    """Lines that end with a newline, without it; empty ones are left out.

    With `midway` the first piece of a stream is no line: who comes to a device that talks hears the end of one.
    """

    def __init__(self, *, midway: bool = False) -> None:
        self._midway = midway
        self.reset()

    def reset(self) -> None:
        """Forget the unfinished line."""
        self._rest = b""
        self._skipping = False
        self._first = self._midway

    def feed(self, data: bytes) -> Iterator[bytes | BadPayload]:
        """Yield complete lines."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            skipped, self._skipping = self._skipping, False
            stripped = line.strip(b"\r\0 \t")
            first, self._first = self._first, False
            if skipped or not stripped:
                continue
            yield _PartOfLine(stripped) if first else stripped
        if len(self._rest) > LINE_BYTES_MAX:
            self._rest = b""
            if not self._skipping:
                yield BadPayload(TOO_LONG, f"a line is longer than {LINE_BYTES_MAX} bytes")
            self._skipping = True


class _PartOfLine(bytes):
    """A first line, which may be the end of one: no fault if it does not fit."""

    partial = True


class Records:
    """Records of one size that begin with `sync` and end with a checksum, as far as they are configured."""

    def __init__(self, config: SerialInput) -> None:
        self._format = struct.Struct(config.struct)
        self._sync = bytes.fromhex(config.sync)
        self._sum, sum_bytes = _SUMS[config.checksum]
        self._end = len(self._sync) + self._format.size
        self._size = self._end + sum_bytes
        self._fields = Fields(config, texts=False)
        self.reset()

    def reset(self) -> None:
        """Forget the unfinished record."""
        self._rest = b""
        self._aligned = False

    def feed(self, data: bytes) -> Iterator[bytes | BadPayload]:
        """Yield the fields' bytes of complete records."""
        rest = self._rest + data
        at = 0
        while True:
            found = rest.find(self._sync, at)
            if found < 0:
                found = max(at, len(rest) - len(self._sync) + 1)
            if found > at and self._aligned:
                yield BadPayload(GARBAGE, f"{found - at} bytes that begin no record")
                self._aligned = False
            at = found
            if len(rest) - at < self._size:
                break
            record = rest[at : at + self._size]
            if self._sum(record[: self._end]) == record[self._end :]:
                yield record[len(self._sync) : self._end]
                self._aligned = True
                at += self._size
            else:
                if self._aligned:
                    yield BadPayload(BAD_CHECKSUM, f"of a record of {self._size} bytes")
                self._aligned = False
                at += 1
        self._rest = rest[at:]

    def decode(self, record: bytes) -> Row:
        """Return the row of one record. Raises `BadPayload`."""
        return self._fields.row(by_place([_plain(value) for value in self._format.unpack(record)]))


def _plain(value: object) -> object:
    """Struct's texts are bytes, padded with zeros."""
    return value.rstrip(b"\0").decode("utf-8", "replace") if isinstance(value, bytes) else value


def _xor(data: bytes) -> bytes:
    found = 0
    for byte in data:
        found ^= byte
    return bytes((found,))


def _crc16(data: bytes) -> bytes:
    """CRC-16/MODBUS, low byte first (Modbus over Serial Line 1.02, appendix B)."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")


_SUMS: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "": (lambda data: b"", 0),
    "sum8": (lambda data: bytes((sum(data) & 0xFF,)), 1),
    "xor8": (_xor, 1),
    "crc16": (_crc16, 2),
}
