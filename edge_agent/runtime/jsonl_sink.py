"""Outputs as lines of JSON in a file, each (stream, sequence) once, with a bounded number of files put aside.

What the file ends with tells what it has: outputs that come again after a restart are left out, and a line that a
power cut tore is cut off. A full disk stops confirmations, not the agent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.config.plugs import JsonlOutput
from edge_agent.contract.errors import StoreError
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.samples import Faults
from edge_agent.runtime.writer_sink import WriterSink

__all__ = ["jsonl_sink", "last_sequence"]

TAIL_BYTES = 1 << 20
MEGABYTE = 1_000_000
_encode = msgspec.json.Encoder().encode


class _Known(msgspec.Struct):
    """What identifies a line."""

    stream: str
    sequence: int
    timestamp: int


_decode = msgspec.json.Decoder(_Known).decode


class _File:
    """The file and those put aside. A `Delivery`."""

    batch_max = 5_000

    def __init__(self, config: JsonlOutput) -> None:
        self.repeats = 0
        self._path, self._keep = config.path, config.keep
        self._bytes_max = int(config.file_mb * MEGABYTE)
        self._descriptor = -1
        self._size = 0
        self._known: dict[tuple[str, int], int] = {}  # after a restart, until something new comes
        self._oldest: tuple[int, int] | None = None

    def deliver(self, batch: Sequence[OutputMessage], faults: Faults) -> None:
        try:
            if self._descriptor < 0:
                self._open()
            fresh = self._without_repeats(batch)
            start = 0
            while start < len(fresh):
                if self._size >= self._bytes_max:
                    self._rotate()
                start = self._write(fresh, start)
            os.fdatasync(self._descriptor)
        except OSError:
            self.close()  # what is half written is found and cut off when it is opened again
            raise
        self._known.clear()
        self._oldest = None

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, messages: Sequence[OutputMessage], start: int) -> int:
        """Write up to the size of a file; return where to go on."""
        lines = bytearray()
        while start < len(messages) and (not lines or self._size + len(lines) < self._bytes_max):
            lines += _encode(messages[start]) + b"\n"
            start += 1
        left = memoryview(lines)
        while left:
            done = os.write(self._descriptor, left)
            left = left[done:]
            self._size += done
        return start

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = _mend(self._descriptor)
        found = _tail(self._path) or _tail(_aside(self._path, 1))
        self._known = {(one.stream, one.sequence): one.timestamp for one in found}
        self._oldest = min(((one.sequence, one.timestamp) for one in found), default=None)

    def _without_repeats(self, batch: Sequence[OutputMessage]) -> Sequence[OutputMessage]:
        if not self._known:
            return batch
        fresh = [message for message in batch if not self._is_known(message)]
        self.repeats += len(batch) - len(fresh)
        return fresh

    def _is_known(self, message: OutputMessage) -> bool:
        """A number that falls while time goes on is a stream that began anew, not a repetition."""
        if self._known.get((message.stream, message.sequence)) == message.timestamp:
            return True
        oldest = self._oldest
        return oldest is not None and message.sequence < oldest[0] and message.timestamp < oldest[1]

    def _rotate(self) -> None:
        os.fsync(self._descriptor)
        for number in range(self._keep - 1, 0, -1):
            aside = _aside(self._path, number)
            if aside.exists():
                aside.replace(_aside(self._path, number + 1))
        self._path.replace(_aside(self._path, 1))
        self.close()
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = 0
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _mend(descriptor: int) -> int:
    """Cut off a torn last line; return the size."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        start = max(0, end - 65_536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)
    return end


def _tail(path: Path) -> list[_Known]:
    """The last whole lines of a file, some thousands; nothing without one."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines[size > TAIL_BYTES : -1]:
        try:
            found.append(_decode(line))
        except msgspec.MsgspecError:
            continue  # somebody else's line: it identifies no output
    return found


def last_sequence(path: Path, stream: str) -> int | None:
    """Return the newest sequence of `stream` in the file, None without any: where a replay may resume.

    Raises `StoreError` when the file is there and cannot be read.
    """
    try:
        known = _tail(path) or _tail(_aside(path, 1))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
    return max((one.sequence for one in known if one.stream == stream), default=None)


def jsonl_sink(config: JsonlOutput, **options: Any) -> WriterSink:
    """Return the sink of a slot; `options` are those of `WriterSink`."""
    return WriterSink(str(config.path), _File(config), **options)
