"""Reads an exported channel from a medium that anybody may have written: a USB stick, a share, a directory.

Everything is bounded: nothing is read past the size it may have, no link is followed out of the directory, and only
regular files are opened. It judges no content; whoever asks for a blob compares it with what is signed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import Blame, ConfigError, ReasonCode, TransportError, UpdateRejected
from edge_agent.contract.export import INDEX, INDEX_BYTES_MAX, TRUST, Index, blob_place, decode_index
from edge_agent.contract.messages import ENVELOPE_BYTES_MAX
from edge_agent.transport import envelope

__all__ = ["Stick"]

_READ_BYTES = 1024 * 1024
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_AGAIN = "put it in again and repeat the command: what was copied is kept"


class Stick:
    """An export in `directory`. Use as a context manager. Raises `ConfigError` when there is no such directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"{directory} cannot be opened: {error.strerror}: name the exported directory") from None

    def __enter__(self) -> Stick:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def envelope(self) -> bytes:
        """Return the envelope. Raises `UpdateRejected` naming the file, `TransportError` when it cannot be read."""
        data = b"".join(self._pieces((TRUST,), ENVELOPE_BYTES_MAX))
        if len(data) > ENVELOPE_BYTES_MAX:
            raise self._refusal((TRUST,), ReasonCode.SIZE, f"has over {ENVELOPE_BYTES_MAX} bytes")
        try:
            return envelope.unpack(data)
        except UpdateRejected as error:
            raise self._refusal((TRUST,), error.reasons[0].code, error.reasons[0].message) from None

    def index(self) -> Index | None:
        """Return what the export says of itself, None where that is missing or unreadable: it is only a hint."""
        try:
            data = b"".join(self._pieces((INDEX,), INDEX_BYTES_MAX))
        except UpdateRejected:
            return None
        return decode_index(data)

    def blob(self, ref: BlobRef) -> Iterator[bytes]:
        """Yield the bytes of a blob, at most one piece more than its size. Raises as `envelope` does."""
        return self._pieces(blob_place(ref), ref.size)

    def refusal(self, ref: BlobRef, code: ReasonCode, words: str) -> UpdateRejected:
        """Return what to raise about a blob's file."""
        return self._refusal(blob_place(ref), code, words)

    def _pieces(self, place: tuple[str, ...], bytes_max: int) -> Iterator[bytes]:
        descriptor = self._open(place)
        try:
            size = 0
            while size <= bytes_max:
                try:
                    piece = os.read(descriptor, min(_READ_BYTES, bytes_max + 1 - size))
                except OSError as error:
                    raise self._unreadable(place, error) from None
                if not piece:
                    return
                size += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    def _open(self, place: tuple[str, ...]) -> int:
        """Open a regular file below the directory, one name after the other, through no link."""
        descriptor = os.dup(self._root)
        try:
            for part in place[:-1]:
                descriptor = self._step(descriptor, part, os.O_DIRECTORY)
            # Without O_NONBLOCK a pipe would keep us waiting for somebody to write to it.
            descriptor = self._step(descriptor, place[-1], os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise self._refusal(place, ReasonCode.MALFORMED, "is no regular file")
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_FILE:
                raise self._unreadable(place, error) from None
            link = error.errno != errno.ENOENT
            words = "is no regular file" if link else "is missing: export again, the medium may not be complete"
            raise self._refusal(place, ReasonCode.MALFORMED if link else ReasonCode.UNAVAILABLE, words) from None
        except UpdateRejected:
            os.close(descriptor)
            raise
        return descriptor

    def _step(self, descriptor: int, name: str, flags: int) -> int:
        found = os.open(name, _OPEN | flags, dir_fd=descriptor)
        os.close(descriptor)
        return found

    def _name(self, place: tuple[str, ...]) -> str:
        return str(self.directory.joinpath(*place))

    def _unreadable(self, place: tuple[str, ...], error: OSError) -> TransportError:
        return TransportError(f"{self._name(place)} cannot be read ({error.strerror}): {_AGAIN}")

    def _refusal(self, place: tuple[str, ...], code: ReasonCode, words: str) -> UpdateRejected:
        return UpdateRejected.one(code, f"{self._name(place)} {words}", blame=Blame.ENVIRONMENT)
