"""A blob from a URL (M4): the same digest and the same checks as from the broker.

A mirror is a directory, web server or bucket that is laid out as the publisher's record is, `blob/<2 hex>/<64 hex>`;
the record's own store is one. Who serves it is not trusted: nothing is read past the pinned size, the sha256 decides,
silence and dripping have an end. What arrived stays in `partial/<hex>.whole` and is resumed, from whichever mirror; if
the whole is wrong then, the resumed part may be to blame, and it is fetched once more from the start.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import ReasonCode, TransportError, UpdateRejected
from edge_agent.transport import child
from edge_agent.transport.chunks import rejected
from edge_agent.transport.landing import disk, settle
from edge_agent.transport.pace import Pace

__all__ = ["Mirror"]

log = logging.getLogger(__name__)

STALL_SECONDS = 20.0
# A download may take this long and as long again as its size takes at the lowest rate that is still one.
DEADLINE_SECONDS = 30.0
BYTES_PER_SECOND_MIN = 4096
_READ_BYTES = 1024 * 1024


class Mirror:
    """One place to fetch from; `name` is its URL. `ca` is a PEM file that https servers are checked against."""

    def __init__(
        self,
        url: str,
        directory: Path,
        *,
        ca: Path | None = None,
        pace: Pace | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self.name = url.rstrip("/")
        self._deadline_seconds = deadline_seconds
        self._directory, self._ca, self._pace = directory, ca, pace or Pace()

    def url(self, ref: BlobRef) -> str:
        """Return where the blob should lie."""
        return f"{self.name}/blob/{ref.digest.hex[:2]}/{ref.digest.hex}"

    def fetch(self, ref: BlobRef, target: Path, *, timeout_seconds: float, stop: threading.Event) -> None:
        """Make the blob the file `target`. Blocks.

        Raises `TransportError` when the mirror has it not, is silent for `timeout_seconds` (at most `STALL_SECONDS`) or
        too slow; `UpdateRejected` CONTENT or SIZE when its bytes are not what `ref` pins; `StoreError` when the disk
        refuses.
        """
        with disk(self._directory):
            directory = self._directory / "partial"
            directory.mkdir(parents=True, exist_ok=True)
            whole = directory / f"{ref.digest.hex}.whole"
            resumed = self._collect(ref, whole, min(timeout_seconds, STALL_SECONDS), stop)
            if resumed is not None:
                log.warning("download_began_anew digest=%s mirror=%s reason=%s", ref.digest.short, self.name, resumed)
                again = self._collect(ref, whole, min(timeout_seconds, STALL_SECONDS), stop)
                if again is not None:
                    raise again
            settle(whole, target)

    def _collect(self, ref: BlobRef, whole: Path, stall_seconds: float, stop: threading.Event) -> UpdateRejected | None:
        """Append what is missing. Return what is wrong with the whole, if a part of it was there before."""
        found, had = hashlib.sha256(), 0
        with whole.open("a+b") as file:
            file.seek(0)
            while piece := file.read(_READ_BYTES):
                found.update(piece)
                had += len(piece)
            size = had
            if had < ref.size or not ref.size:
                for piece in self._pieces(ref, had, stall_seconds, stop):
                    size += len(piece)
                    if size > ref.size:
                        break
                    found.update(piece)
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        wrong = self._wrong(ref, size, found.hexdigest())
        if wrong is None:
            return None
        whole.unlink()
        if had:
            return wrong
        raise wrong

    def _pieces(self, ref: BlobRef, offset: int, stall_seconds: float, stop: threading.Event) -> Iterator[bytes]:
        slowest = min(BYTES_PER_SECOND_MIN, self._pace.bytes_per_second / 2 or BYTES_PER_SECOND_MIN)
        arguments = [self.url(ref), str(offset), str(ref.size), str(self._ca or "")]
        deadline = self._deadline_seconds + (ref.size - offset) / slowest
        try:
            with child.pieces(
                "edge_agent.transport.download",
                arguments,
                deadline_seconds=deadline,
                stall_seconds=stall_seconds,
                stop=stop,
            ) as pieces:
                for piece in pieces:
                    self._pace.took(len(piece))
                    yield piece
                    stop.wait(self._pace.wait_seconds())
        except TransportError as error:
            raise TransportError(f"{self.name}: blob {ref.digest.short}: {error}") from None

    def _wrong(self, ref: BlobRef, size: int, digest: str) -> UpdateRejected | None:
        if size < ref.size:
            raise TransportError(f"{self.name}: blob {ref.digest.short} ends after {size} of {ref.size} bytes")
        if size > ref.size:
            return rejected(ref, ReasonCode.SIZE, f"{self.name} sends more than the {ref.size} bytes the manifest says")
        if digest != ref.digest.hex:
            words = f"what {self.name} sends does not have the sha256 that the manifest pins"
            return rejected(ref, ReasonCode.CONTENT, words)
        return None
