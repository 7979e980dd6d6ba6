"""A slot's last samples in a file, so that a window under way outlives the agent (R3, R4).

A sample is written here before any result of its batch leaves, and acknowledged upstream after that. What is kept: the
samples that a fresh worker is warmed with, and those whose results the sink has not confirmed; at the next start the
former are shown again and the latter are computed again, under their old numbers. It decides what of a file is to be
believed, nothing about streams or workers.

The file is mapped: writing is a copy into the page cache, which survives a kill of the agent and costs no wait for the
disk. It is synced when the agent ends by itself. After a power cut its newest samples may be missing: every record has
a checksum and the number of its first row, and reading stops at the first one that does not fit.

Two areas take turns: when one is full, what is still needed is copied into the other, which becomes valid by its
generation being written last. The file is allocated whole, since a map cannot say that the disk is full.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import struct
from collections import deque
from pathlib import Path
from typing import NamedTuple

from edge_agent.runtime.records import (
    MARKS,
    encode,
    end_of,
    flags_of,
    part,
    records,
    row_of,
    samples_of,
    shape_in,
    shape_of,
)
from edge_agent.runtime.samples import Samples

__all__ = ["AREA_BYTES_MAX", "Trail"]

log = logging.getLogger(__name__)
AREA_BYTES_MIN = 64 << 10
AREA_BYTES_MAX = 8 << 20
_HEADER = struct.Struct("<8s32s16sQ")  # magic, layout, boot, bytes of an area
_MAGIC = b"FCTRAIL1"
_NUMBER = struct.Struct("<Q")
_SAFE_AT, _CLEAN_AT, _GENERATIONS_AT, _AREAS_AT = 64, 72, (80, 88), 4096
_ABANDONED = b"\0" * 8


class _Place(NamedTuple):
    """Where a record begins, counted over all areas, and the number of the row after its last."""

    offset: int
    end: int


class Trail:
    """The file of one slot at `path`, its last samples as of an earlier run included.

    `layout` (32 bytes) says what its samples mean: a file of another layout is not believed. `boot` (16 bytes) is the
    kernel's name for the time since it started. Rows are numbered over all runs: `total` were written, the oldest
    `safe` of them have confirmed results. Raises `OSError` when the file cannot be made.
    """

    def __init__(self, path: Path, layout: bytes, boot: bytes = bytes(16)) -> None:
        self._path, self._layout, self._boot = path, layout, boot
        self.total = self.safe = 0
        self.lost = False
        self._places: deque[_Place] = deque()
        self._unsafe: deque[_Place] = deque()
        self._stamped = False
        found = _read(path, layout)
        self.continues = found is not None and (found.clean or found.boot == boot)
        """Whether it has every sample that was ever written: the numbers after its newest were not used yet."""
        self._records = found.records if found is not None else []
        known = found.boot if found is not None and self.continues else bytes(16)
        kept = b"".join(bytes(record) for record in self._records)
        if self._records:
            first = row_of(self._records[0])
            self.total = end_of(self._records[-1])
            self.safe = min(max(found.safe if found is not None else 0, first), self.total)
        self._generation = 1
        self._begin(kept, known, clean=found is not None and found.clean, sync=True)
        for record in self._records:
            self._note(len(record), end_of(record))

    # --- what an earlier run left ---------------------------------------------------------------------------------

    @property
    def newest(self) -> int | None:
        """The number of the newest sample an earlier run left; None without any."""
        return part(self._records[-1], 0)[-1] if self._records else None

    @property
    def newest_at(self) -> tuple[int, int] | None:
        """Number and timestamp of that sample."""
        return (part(self._records[-1], 0)[-1], part(self._records[-1], 1)[-1]) if self._records else None

    @property
    def marks(self) -> list[int]:
        """What the source marked the samples with that an earlier run left, oldest first."""
        return [mark for record in self._records if flags_of(record) & MARKS for mark in part(record, 2)]

    def resume(self, columns: tuple[str, ...]) -> tuple[list[Samples], list[Samples]]:
        """Return what an earlier run left: samples that are done with, and those to be computed again; once.

        Samples of other columns are left out.
        """
        records, self._records = self._records, []
        shape, done, again = shape_of(columns), [], []
        for record in records:
            samples = samples_of(record, columns) if shape_in(record) == shape else None
            if samples is None:
                continue
            cut = min(max(self.safe - row_of(record), 0), samples.rows)
            done += [samples.part(0, cut)] if cut else []
            again += [samples.part(cut, samples.rows)] if cut < samples.rows else []
        return done, again

    # --- what this run adds ---------------------------------------------------------------------------------------

    def append(self, samples: Samples, wanted: int) -> int:
        """Write samples; of those that are safe the last `wanted` rows are kept. Return `total`."""
        start, self.total = self.total, self.total + samples.rows
        if self.lost:
            return self.total
        record = encode(samples, start)
        if self._position + len(record) > self._area:
            try:
                self._turn(len(record), wanted)
            except OSError as error:
                self._abandon(f"cannot grow: {error}")
                return self.total
        if len(record) > AREA_BYTES_MAX:
            log.warning("trail has no room for a batch path=%s bytes=%d", self._path, len(record))
            return self.total
        if not self._stamped:
            self._stamp()
        at = self._origin + self._position
        self._map[at : at + len(record)] = record
        self._note(len(record), self.total)
        return self.total

    def confirm(self, rows: int) -> None:
        """Note that the results of the oldest `rows` are confirmed by the sink."""
        self.safe = rows
        unsafe = self._unsafe
        while unsafe and unsafe[0].end <= rows:
            unsafe.popleft()
        if not self.lost:
            _NUMBER.pack_into(self._map, _SAFE_AT, rows)

    @property
    def crowded(self) -> bool:
        """Whether so much waits to be confirmed that no more must be begun."""
        return bool(self._unsafe) and self._offset - self._unsafe[0].offset > AREA_BYTES_MAX // 2

    def close(self) -> None:
        """Sync the file and say that it is whole."""
        if self.lost:
            return
        self.lost = True
        with contextlib.suppress(OSError):  # then it is not clean, and the next start will know
            self._map.flush()
            if self._stamped:
                _NUMBER.pack_into(self._map, _CLEAN_AT, 1)
                self._map.flush(0, mmap.PAGESIZE)
        self._map.close()

    # --- areas ----------------------------------------------------------------------------------------------------

    def _begin(self, kept: bytes, boot: bytes, *, clean: bool, room: int = 0, sync: bool = False) -> None:
        """Make the file anew around `kept`, with twice the `room`, and map it in place of the one there is."""
        size = AREA_BYTES_MIN
        while size < min(2 * max(len(kept), room), AREA_BYTES_MAX):
            size *= 2
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _fill(descriptor, _AREAS_AT + 2 * size)
            made = mmap.mmap(descriptor, _AREAS_AT + 2 * size)
            made[_AREAS_AT : _AREAS_AT + len(kept)] = kept
            _HEADER.pack_into(made, 0, _MAGIC, self._layout, boot, size)
            _NUMBER.pack_into(made, _SAFE_AT, self.safe)
            _NUMBER.pack_into(made, _CLEAN_AT, clean)
            _NUMBER.pack_into(made, _GENERATIONS_AT[0], self._generation)
            if sync:
                made.flush()
            fresh.replace(self._path)
        finally:
            os.close(descriptor)
        self._map, self._area, self._origin, self._position, self._offset = made, size, _AREAS_AT, 0, 0

    def _turn(self, size: int, wanted: int) -> None:
        """Go on in the other area, or in a larger file, with what is still needed."""
        places, needed = self._places, self.safe - wanted
        while places and places[0].end <= needed:
            places.popleft()
        while places and self._offset - places[0].offset + size > AREA_BYTES_MAX:
            places.popleft()
        size = size if size <= AREA_BYTES_MAX else 0  # too large for any: what comes after it begins anew
        length = self._offset - places[0].offset if places else 0
        begin = self._origin + self._position - length
        kept = self._map[begin : begin + length]
        self._generation += 1
        if 2 * (length + size) > self._area < AREA_BYTES_MAX:
            offset, before = self._offset, self._map
            self._begin(kept, self._boot, clean=False, room=length + size)
            self._offset, self._stamped = offset, True
            before.close()
        else:  # what an earlier turn left behind the copy has lower row numbers, and so does not follow
            other = self._origin == _AREAS_AT
            self._origin = _AREAS_AT + (self._area if other else 0)
            self._map[self._origin : self._origin + length] = kept
            _NUMBER.pack_into(self._map, _GENERATIONS_AT[other], self._generation)
        self._position = length

    def _stamp(self) -> None:
        """Say that from here on the file is this run's: not whole until it is closed, newest numbers and all."""
        _HEADER.pack_into(self._map, 0, _MAGIC, self._layout, self._boot, self._area)
        _NUMBER.pack_into(self._map, _CLEAN_AT, 0)
        self._stamped = True

    def _note(self, size: int, end: int) -> None:
        place = _Place(self._offset, end)
        self._places.append(place)
        if end > self.safe:
            self._unsafe.append(place)
        self._offset += size
        self._position += size

    def _abandon(self, words: str) -> None:
        """Leave a file that nobody will believe: going on without one must not give numbers twice."""
        log.warning(
            "trail abandoned: unfinished windows will not outlive the agent path=%s reason=%s", self._path, words
        )
        self.lost = True
        self._map[: len(_ABANDONED)] = _ABANDONED
        self._places.clear()
        self._unsafe.clear()


class _Found(NamedTuple):
    boot: bytes
    clean: bool
    safe: int
    records: list[memoryview]


def _read(path: Path, layout: bytes) -> _Found | None:
    """Return what can be believed of a file, None for nothing at all."""
    try:
        data = path.read_bytes() if path.stat().st_size <= _AREAS_AT + 2 * AREA_BYTES_MAX else b""
    except FileNotFoundError:
        return None
    if len(data) < _AREAS_AT:
        return None
    magic, theirs, boot, size = _HEADER.unpack_from(data)
    if magic != _MAGIC or theirs != layout or len(data) != _AREAS_AT + 2 * size:
        log.info("trail not used path=%s reason=%s", path, "other input" if magic == _MAGIC else "not whole")
        return None
    numbers = [_NUMBER.unpack_from(data, at)[0] for at in (_SAFE_AT, _CLEAN_AT, *_GENERATIONS_AT)]
    origin = _AREAS_AT + (size if numbers[3] > numbers[2] else 0)
    return _Found(boot, bool(numbers[1]), numbers[0], list(records(memoryview(data)[origin : origin + size])))


def _fill(descriptor: int, size: int) -> None:
    """Write zeros over the whole file: all its blocks are there, or `OSError` says that they are not."""
    zeros = bytes(1 << 20)
    for at in itertools.count(0, len(zeros)):
        if at >= size:
            return
        os.pwrite(descriptor, zeros[: size - at], at)
