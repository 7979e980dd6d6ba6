"""Samples as checksummed records one behind the other, as trail and input spool have them on disk.

A record says how many rows it has and which number the first one bears; reading stops at the first record that is not
whole or does not follow. It knows no file.
"""

from __future__ import annotations

import functools
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from edge_agent.runtime.samples import Samples

__all__ = [
    "MARKS",
    "encode",
    "end_of",
    "flags_of",
    "part",
    "records",
    "row_of",
    "samples_of",
    "shape_in",
    "shape_of",
    "torn_rows",
]

RECORD = struct.Struct("<IIQIIII")  # checksum; bytes, first row, rows, flags, columns' checksum, bytes of padding
CHECKED = 4  # from here on the checksum counts
_AFTER_CHECKSUM = struct.Struct("<IQIIII")
MARKS, CELLS = 1, 2
ROWS_MAX = 1 << 20


def records(area: memoryview) -> Iterator[memoryview]:
    """Yield the records up to the first that does not follow."""
    at, expected = 0, None
    while at + RECORD.size <= len(area):
        check, size, start, rows, _, _ = RECORD.unpack_from(area, at)[:6]
        record = area[at : at + size]
        if size < RECORD.size or len(record) != size or not rows or (expected is not None and start != expected):
            return
        if zlib.crc32(record[CHECKED:]) != check:
            return
        yield record
        at, expected = at + size, start + rows


def encode(samples: Samples, start: int) -> bytes:
    """Return samples as one record whose first row has the number `start`."""
    flags = 0
    values: Any = samples.values
    if samples.marks:
        flags |= MARKS
    if samples.dtypes:
        flags |= CELLS
        values = msgspec.msgpack.encode([samples.dtypes, values])
    body = b"".join((samples.sequences, samples.timestamps, samples.marks, values))
    padding = -len(body) % 8
    size = RECORD.size + len(body) + padding
    head = _AFTER_CHECKSUM.pack(size, start, samples.rows, flags, shape_of(samples.columns), padding)
    record = b"".join((head, body, bytes(padding)))
    return zlib.crc32(record).to_bytes(CHECKED, "little") + record


def samples_of(record: memoryview, columns: tuple[str, ...]) -> Samples | None:
    """Return the samples of a record, None if it cannot be of these columns."""
    _, size, _, rows, flags, _, padding = RECORD.unpack_from(record)
    body = record[RECORD.size + 8 * rows * (3 if flags & MARKS else 2) : size - padding]
    values: Any
    dtypes: Sequence[str] = ()
    if flags & CELLS:
        dtypes, values = msgspec.msgpack.decode(body)
    else:
        values = array("d", bytes(body))
    if len(values) != rows * len(columns):
        return None
    return Samples(columns, part(record, 0), part(record, 1), values, tuple(dtypes))


def part(record: memoryview, place: int) -> array[int]:
    """Return sequences (place 0), timestamps (1) or marks (2, if `flags_of` has `MARKS`) of a record."""
    rows = RECORD.unpack_from(record)[3]
    at = RECORD.size + 8 * rows * place
    return array("q", bytes(record[at : at + 8 * rows]))


def flags_of(record: memoryview) -> int:
    """Return a record's flags."""
    return int(RECORD.unpack_from(record)[4])


def row_of(record: memoryview) -> int:
    """Return the number of a record's first row."""
    return int(RECORD.unpack_from(record)[2])


def end_of(record: memoryview) -> int:
    """Return the number of the row after a record's last."""
    return row_of(record) + int(RECORD.unpack_from(record)[3])


def shape_in(record: memoryview) -> int:
    """Return the checksum of the columns that a record is of; see `shape_of`."""
    return int(RECORD.unpack_from(record)[5])


@functools.cache
def shape_of(columns: tuple[str, ...]) -> int:
    """Return a checksum of column names, of which a process has few."""
    return zlib.crc32("\0".join(columns).encode())


def torn_rows(area: memoryview, at: int, expected: int) -> int:
    """Return how many rows the unreadable record at `at` says it has, 1 if it does not say so believably."""
    if at + RECORD.size > len(area):
        return 1
    _, _, start, rows, _, _, _ = RECORD.unpack_from(area, at)
    return rows if start == expected and 0 < rows <= ROWS_MAX else 1
