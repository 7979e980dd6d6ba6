"""Samples on disk that a slot's input brought and its queue could not hold: in order, within a budget, checksummed.

It decides which rows of the files are still to be given; not when to spool, and not what is dropped. What is to be
believed of files says `spool_files`. It is used by one thread at a time and writes when it is told.

Rows are numbered over all runs. Files (`NUMBER.rows`, by the number of their first row) hold records one behind the
other; `done` holds the number below which everything is done with. A file comes into being whole, by renaming, with all
that was written at once; what is written later is behind its end. `write` returns when everything is synced, files and
directory. What a kill or a power cut leaves half written fails its checksum and is no row; rows behind it in the same
file are lost and counted, the next file is read again from its beginning.

`done` is written without sync: after a kill it is exact, after a power cut it may be older, and rows are given again
under the numbers they had.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edge_agent.runtime import spool_files
from edge_agent.runtime.records import MARKS, encode, end_of, flags_of, part, row_of, samples_of
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.spool_files import HEADER_BYTES, Scan, SpoolFile

__all__ = ["Chunk", "InputSpool"]

log = logging.getLogger(__name__)
FILES = 64  # the budget in files: so much of it is dropped at once
FILE_BYTES = (16 << 10, 1 << 20)
READ_BYTES = 256 << 10
SEARCH_BYTES_MAX = 16 << 20  # a lane has less than that under way
MARKS_MAX = 16_384
FREE_BYTES_MIN = 8 << 20  # left to the rest of the device


class Chunk(NamedTuple):
    """Samples, and the number of the first row."""

    start: int
    samples: Samples

    @property
    def end(self) -> int:
        """The number of the row after the last."""
        return self.start + self.samples.rows


class InputSpool:
    """The files in `directory`, an earlier run's included, of an input with `columns`.

    `layout` (32 bytes) says what the samples mean: files of another layout are dropped. `after` is number and timestamp
    of the newest sample that is on the slot's trail: rows up to the first such one were given already. Rows from `done`
    to `end` are to be given; `bytes` are all files'. `lost` counts rows that could not be read when it was opened.
    """

    def __init__(
        self,
        directory: Path,
        layout: bytes,
        columns: tuple[str, ...],
        *,
        bytes_max: int,
        after: tuple[int, int] | None = None,
    ) -> None:
        self.directory, self.bytes_max = directory, bytes_max
        self._layout, self._columns = layout, columns
        self._file_bytes = min(max(bytes_max // FILES, FILE_BYTES[0]), FILE_BYTES[1])
        self._descriptor = self._mark = -1
        self._scanned: tuple[SpoolFile, Scan] | None = None
        self.done = spool_files.done_at(directory / "done")
        self._files, self.lost = spool_files.found(directory, layout, self.done)
        self.bytes = sum(file.size for file in self._files)
        self.end = self.done
        self._find_end()
        self.intact = not self.lost
        if after is not None:
            self.done = self._behind(after)

    @property
    def rows(self) -> int:
        """How many rows are to be given, those that cannot be read or were dropped among them."""
        return self.end - self.done

    @property
    def newest(self) -> int | None:
        """The number of the newest sample that is to be given, None without any."""
        found = self._scan(self._files[-1]).records if self._files and self.rows else []
        return part(found[-1], 0)[-1] if found else None

    @property
    def marks(self) -> list[int]:
        """What the source marked the newest samples with, oldest first: whether they are given yet or not."""
        found: list[int] = []
        size = 0
        for file in reversed(self._files):
            marked = [one for one in self._scan(file).records if flags_of(one) & MARKS]
            found[:0] = [mark for record in marked for mark in part(record, 2)]
            size += file.size
            if len(found) >= MARKS_MAX or size >= SEARCH_BYTES_MAX:
                break
        return found[-MARKS_MAX:]

    def read(self, number: int) -> list[Chunk]:
        """Return rows from `number` on, of one file; none if nothing up to `end` can be read.

        The first may begin after `number`: what lies between was dropped or cannot be read.
        """
        for place, file in enumerate(self._files):
            stop = self._stop(place)
            if stop <= number:
                continue
            found: list[Chunk] = []
            size = 0
            for record in self._scan(file).records:
                if end_of(record) <= number or row_of(record) >= stop:
                    continue
                samples = samples_of(record, self._columns)
                if samples is None:
                    continue
                if flags_of(record) & MARKS:
                    samples.marks = part(record, 2)
                cut = max(0, number - row_of(record))
                found.append(Chunk(row_of(record) + cut, samples.part(cut, samples.rows) if cut else samples))
                size += len(record)
                if size >= READ_BYTES:
                    break
            if found:
                return found
        return []

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Write rows from `end` on and sync them: all of them are there then, or `OSError` is raised and none."""
        if self._files and chunks[0].start != self.end:
            self.clear()  # that was refused before
        data = b"".join(encode(samples, start) for start, samples in chunks)
        self._require_space(len(data))
        if self._descriptor < 0 or self._files[-1].size >= self._file_bytes:
            self._begin(chunks[0].start, data)
        else:
            self._extend(data)
        self.bytes += len(data)
        self.end = chunks[-1].end

    def finish(self, number: int) -> None:
        """Note that everything below `number` is done with. Raises `OSError`."""
        self.done = max(self.done, number)
        self._write_done()
        while len(self._files) > 1 and self._stop(0) <= self.done:
            self._remove(0)

    def clear(self) -> None:
        """Note that everything is done with, and remove it. Raises `OSError`."""
        self.done = self.end
        if not self._files:
            return
        self._write_done()
        self._close_file()
        while self._files:
            self._remove(0)

    def trim(self, given: int) -> tuple[int, int]:
        """Drop the oldest file of which no row below `given` is; return its first row and the one after its last.

        The file that is being written stays; both numbers are the same if there is no other. Raises `OSError`.
        """
        for place, file in enumerate(self._files[:-1]):
            if file.start >= given:
                gone = file.start, self._stop(place)
                self._remove(place)
                return gone
        return given, given

    def close(self) -> None:
        """Close the files."""
        self._close_file()
        if self._mark >= 0:
            os.close(self._mark)
            self._mark = -1

    # --- files ----------------------------------------------------------------------------------------------------

    def _find_end(self) -> None:
        """Look how far the newest file can be read; rows are written behind that, in another file."""
        while self._files:
            last = self._files[-1]
            scan = self._scan(last)
            self.lost += scan.torn
            if scan.records:
                self.end = max(self.done, scan.end(last.start))
                self.done = max(self.done, self._files[0].start)
                return
            self._remove(len(self._files) - 1)

    def _scan(self, file: SpoolFile) -> Scan:
        if self._scanned is None or self._scanned[0] != file:
            scan = spool_files.scan(file)
            if not scan.records:
                return scan  # perhaps it can be read later
            self._scanned = file, scan
        return self._scanned[1]

    def _stop(self, place: int) -> int:
        """Return the number of the row after a file's last."""
        return self._files[place + 1].start if place + 1 < len(self._files) else self.end

    def _behind(self, after: tuple[int, int]) -> int:
        """Return the number of the row after the first one that is `after`, `done` if there is none."""
        searched = 0
        for place, file in enumerate(self._files):
            if self._stop(place) <= self.done:
                continue
            for record in self._scan(file).records:
                numbers = part(record, 0)
                if after[0] in numbers and end_of(record) > self.done:
                    for row, found in enumerate(zip(numbers, part(record, 1), strict=True), row_of(record)):
                        if found == after and row >= self.done:
                            return row + 1
                searched += len(record)
                if searched > SEARCH_BYTES_MAX:
                    return self.done
        return self.done

    def _require_space(self, size: int) -> None:
        place = self.directory
        while not place.exists():
            place = place.parent
        disk = os.statvfs(place)
        if disk.f_bavail * disk.f_frsize < size + FREE_BYTES_MIN:
            raise OSError(errno.ENOSPC, f"less than {FREE_BYTES_MIN >> 20} MB would stay free")

    def _begin(self, start: int, data: bytes) -> None:
        """Make a file with `data` that is there whole or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._files:
            self._write_done()
        self._close_file()
        path = self.directory / f"{start:020}.rows"
        fresh = path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, spool_files.header(self._layout, start) + data, 0)
            os.fsync(descriptor)
            fresh.replace(path)
            self._sync_directory()
        except BaseException:
            os.close(descriptor)
            for left in (fresh, path):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)
            raise
        self._descriptor = descriptor
        self._files.append(SpoolFile(start, path, HEADER_BYTES + len(data)))
        self.bytes += HEADER_BYTES

    def _extend(self, data: bytes) -> None:
        file = self._files[-1]
        try:
            _write_all(self._descriptor, data, file.size)
            os.fdatasync(self._descriptor)
        except BaseException:
            # What a failed sync leaves in memory may never reach the disk: the rows are written anew, elsewhere.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, file.size)
            self._close_file()
            raise
        self._files[-1] = file._replace(size=file.size + len(data))

    def _remove(self, place: int) -> None:
        file = self._files[place]
        file.path.unlink(missing_ok=True)
        del self._files[place]
        self.bytes -= file.size
        self._scanned = None

    def _write_done(self) -> None:
        if self._mark < 0:
            self._mark = os.open(self.directory / "done", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _write_all(self._mark, spool_files.done_bytes(self.done), 0)

    def _sync_directory(self) -> None:
        for path in (self.directory, self.directory.parent):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
