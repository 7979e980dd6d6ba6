"""The last step of a fetch: a collected stream becomes a verified file at its address, or nothing (F7, U1).

A file appears under its final name only after its size and sha256 were right and its bytes were durable: temporary
file, fsync, rename, fsync of the directory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import ReasonCode, StoreError
from edge_agent.contract.messages import RAW
from edge_agent.transport.chunks import decode, rejected
from edge_agent.transport.partial import Partial

__all__ = ["disk", "land", "landed", "settle"]

log = logging.getLogger(__name__)

_READ_BYTES = 1024 * 1024


def land(ref: BlobRef, partial: Partial, target: Path) -> None:
    """Check the complete stream in `partial` against `ref` and make it the file `target`.

    Raises `UpdateRejected` CONTENT or SIZE, and leaves no file then; `OSError` where the disk refuses.
    """
    assert partial.header is not None
    _make_directory(target.parent)
    if partial.header.encoding == RAW:
        # A raw stream is the blob already, as large (`fits`) and hashed as it came: its file is renamed.
        _require(ref, partial.sha256)
        partial.sync()
        partial.data_path.rename(target)
    else:
        temporary = target.with_suffix(".tmp")
        try:
            _unpack(ref, partial, temporary)
            temporary.rename(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _sync_directory(target.parent)


def settle(file: Path, target: Path) -> None:
    """Make a file that was checked and is durable the blob `target`."""
    _make_directory(target.parent)
    file.rename(target)
    _sync_directory(target.parent)


def _unpack(ref: BlobRef, partial: Partial, target: Path) -> None:
    """Check the collected stream against `ref` while it is unpacked into `target`, which is durable then."""
    assert partial.header is not None
    found, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        for piece in decode(ref, partial.header.encoding, partial.pieces()):
            found.update(piece)
            size += len(piece)
            file.write(piece)
        if size != ref.size:
            raise rejected(ref, ReasonCode.SIZE, f"has {size} bytes, the manifest says {ref.size}")
        _require(ref, found.hexdigest())
        file.flush()
        os.fsync(file.fileno())


def _require(ref: BlobRef, sha256: str) -> None:
    if sha256 != ref.digest.hex:
        raise rejected(ref, ReasonCode.CONTENT, "its bytes do not have the sha256 that the manifest pins")


def landed(path: Path, ref: BlobRef) -> bool:
    """Tell whether the file at `path` is the blob, by size and sha256; one that is not is removed."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == ref.size:
                found = hashlib.sha256()
                while piece := file.read(_READ_BYTES):
                    found.update(piece)
                if found.hexdigest() == ref.digest.hex:
                    return True
    except FileNotFoundError:
        return False
    log.warning("blob_damaged_on_disk digest=%s fetching_again=true", ref.digest.short)
    path.unlink(missing_ok=True)
    return False


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[None]:
    """Turn what the disk refuses into `StoreError`."""
    try:
        yield
    except OSError as error:
        advice = ": free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise StoreError(f"blob directory {directory} cannot be written: {error}{advice}") from error
