"""The files of an input spool as they lie in its directory: which are there, and what in them is to be believed.

It reads, and removes what is not believed; what is written is `input_spool`'s.

A file, `NUMBER.rows` by the number of its first row, is a header (magic, what the samples mean, that number, checksum)
and records one behind the other. `done` holds the number below which everything is done with, and its checksum.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from edge_agent.runtime.records import end_of, records, row_of, torn_rows

__all__ = ["HEADER_BYTES", "Scan", "SpoolFile", "done_at", "done_bytes", "found", "header", "scan"]

log = logging.getLogger(__name__)
_HEADER = struct.Struct("<8s32sQ4xI")  # magic, layout, first row, checksum of what stands before
_MAGIC = b"FCINPUT1"
_DONE = struct.Struct("<QI")
HEADER_BYTES = _HEADER.size


class SpoolFile(NamedTuple):
    """A file: the number of its first row, where it is, its size in bytes."""

    start: int
    path: Path
    size: int


class Scan(NamedTuple):
    """The whole records of a file, and how many rows, about, could not be read behind them (0: it is whole)."""

    records: list[memoryview]
    torn: int

    def end(self, start: int) -> int:
        """Return the number of the row after the last, `start` without any."""
        return end_of(self.records[-1]) if self.records else start


def header(layout: bytes, start: int) -> bytes:
    """Return what a file begins with."""
    head = _HEADER.pack(_MAGIC, layout, start, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "little")


def scan(file: SpoolFile) -> Scan:
    """Read a file up to the first record that is not whole."""
    try:
        data = memoryview(file.path.read_bytes())[HEADER_BYTES:]
    except OSError as error:
        log.warning("spooled samples cannot be read path=%s reason=%s", file.path, error)
        return Scan([], 1)
    whole = list(records(data))
    if whole and row_of(whole[0]) != file.start:
        whole = []
    read = sum(len(record) for record in whole)
    expected = end_of(whole[-1]) if whole else file.start
    return Scan(whole, torn_rows(data, read, expected) if read < len(data) else 0)


def found(directory: Path, layout: bytes, done: int) -> tuple[list[SpoolFile], int]:
    """Return the files of `layout` that may be believed, oldest first, and how many rows from `done` on others had.

    Others are removed, and what a kill left half written, too.
    """
    believed: list[SpoolFile] = []
    lost = 0
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError:
        return [], 0
    for name in names:
        start, dot, kind = name.partition(".")
        if not dot or not start.isdigit() or kind not in ("rows", "new"):
            continue
        path = directory / name
        if kind == "rows":
            why, rows = _refused(path, int(start), layout, done)
            if not why:
                believed.append(SpoolFile(int(start), path, path.stat().st_size))
                continue
            log.warning("spooled samples are not used path=%s rows=%d reason=%s", path, rows, why)
            lost += rows
        with contextlib.suppress(OSError):  # it is tried again at the next start
            path.unlink()
    return believed, lost


def _refused(path: Path, start: int, layout: bytes, done: int) -> tuple[str, int]:
    """Return why a file is not believed and how many rows, about, are lost with it; no words: it is believed."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        return str(error), 1
    if len(head) < HEADER_BYTES:
        return "torn", int(size > 0)
    magic, theirs, first, check = _HEADER.unpack(head)
    if magic != _MAGIC or zlib.crc32(head[:-4]) != check or first != start:
        return "damaged", 1
    if theirs != layout:
        rows = scan(SpoolFile(start, path, size)).end(start) - max(start, done)
        return "other columns or units", max(0, rows)
    return "", 0


def done_bytes(number: int) -> bytes:
    """Return what the file `done` holds."""
    return _DONE.pack(number, zlib.crc32(number.to_bytes(8, "little")))


def done_at(path: Path) -> int:
    """Return the number in the file, 0 if there is none that can be believed."""
    try:
        data = path.read_bytes()
    except OSError:
        return 0
    if len(data) != _DONE.size:
        return 0
    number, check = _DONE.unpack(data)
    return int(number) if zlib.crc32(data[:8]) == check else 0
