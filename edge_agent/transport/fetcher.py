"""Fetches blobs: by a delta where there is one, else from the configured sources in their order (M2, M4, M6).

It decides the order and when to go on to the next source, and remembers by name what was wrong with which, until it
works again. Whatever a source does, a blob lands only with the pinned size and sha256.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import Reason, TransportError, UpdateRejected
from edge_agent.contract.messages import Way
from edge_agent.transport.landing import disk, landed
from edge_agent.transport.patching import BYTES_MIN, Hints, choose, patch
from edge_agent.transport.proven import Proven
from edge_agent.transport.puller import Puller

__all__ = ["Fetcher", "Source"]

log = logging.getLogger(__name__)

# Without news for so long a source is left for the next; the last one (and so a single one) is given more.
PATIENCE_SECONDS = 20.0
PATIENCE_SECONDS_LAST = 600.0
_BASES_TRIED_MAX = 2


class Source(Protocol):
    """Where blobs come from. `name` is what the configuration calls it."""

    name: str

    def fetch(self, ref: BlobRef, target: Path, *, timeout_seconds: float, stop: threading.Event) -> None:
        """Make the blob the file `target`, or raise `TransportError`, `UpdateRejected` or `StoreError`."""


class Fetcher:
    """Blobs below `directory`, at `<first two hex digits>/<hex>`. One fetch at a time; others wait.

    `told` is called, by the thread that fetches, when `faults` changed.
    """

    def __init__(self, directory: Path, sources: Sequence[Source], hints: Hints | None = None) -> None:
        self._directory, self._sources, self._hints = directory, list(sources), hints
        self._turn = threading.Lock()
        self._failed: set[Digest] = set()
        self._proven = Proven()
        self._faults: dict[str, str] = {}
        self.told: Callable[[], None] = lambda: None
        for source in self._sources:
            if isinstance(source, Puller):
                source.told = lambda: self.told()

    @property
    def faults(self) -> dict[str, str]:
        """The names of sources (and `delta`) with what was wrong with them last, or is; what works again is removed."""
        waiting = {one.name: one.waiting for one in self._sources if isinstance(one, Puller) and one.waiting}
        return {**self._faults, **waiting}

    def path(self, digest: Digest) -> Path:
        """Return where the blob lies, or will lie."""
        return self._directory / digest.hex[:2] / digest.hex

    def fetch(self, ref: BlobRef, stop: threading.Event | None = None) -> Path:
        """Return the path of the blob, fetching what is not there yet. Blocks.

        Raises `TransportError` when no source has it in time, or when `stop` is set (what arrived is kept);
        `UpdateRejected` with a reason for each source that sends other bytes, when none sends the right ones;
        `StoreError` when the disk refuses.
        """
        stop = stop or threading.Event()
        target = self.path(ref.digest)
        with self._turn:
            with disk(self._directory):
                there = landed(target, ref)
            if not there and not self._patched(ref, target, stop):
                self._whole(ref, target, stop, PATIENCE_SECONDS_LAST)
            with disk(self._directory):
                self._proven.note(ref, target)
        return target

    def proven(self, ref: BlobRef, path: Path) -> bool:
        """Tell whether `path` is a blob that this process has fetched or checked, untouched since then."""
        return self._proven.holds(ref, path)

    # --- whole ---------------------------------------------------------------------------------------------------

    def _whole(self, ref: BlobRef, target: Path, stop: threading.Event, patience_seconds: float) -> None:
        reasons: list[Reason] = []
        excuses: list[str] = []
        for source in self._sources:
            seconds = patience_seconds if source is self._sources[-1] else min(patience_seconds, PATIENCE_SECONDS)
            try:
                source.fetch(ref, target, timeout_seconds=seconds, stop=stop)
            except (UpdateRejected, TransportError) as error:
                if stop.is_set():
                    raise
                self._note(source.name, str(error))
                if isinstance(error, UpdateRejected):
                    reasons += error.reasons
                excuses.append(str(error))
            else:
                self._forget(source.name)
                return
        if reasons:
            raise UpdateRejected(reasons)
        raise TransportError("; ".join(excuses))

    def _note(self, name: str, words: str) -> None:
        if self._faults.get(name) != words:
            log.warning("blob_source_failed source=%s reason=%s", name, words)
            self._faults[name] = words
            self.told()

    def _forget(self, name: str) -> None:
        if self._faults.pop(name, None) is not None:
            self.told()

    # --- deltas --------------------------------------------------------------------------------------------------

    def _patched(self, ref: BlobRef, target: Path, stop: threading.Event) -> bool:
        """Make the blob of one that is here, if there is a way; tell whether that worked."""
        if self._hints is None or ref.size < BYTES_MIN or self._begun(ref):
            return False
        ways = [way for way in self._hints.hear(ref) if way.delta.digest not in self._failed]
        for _ in range(_BASES_TRIED_MAX):
            way = choose(ref, ways, self.path)
            if way is None:
                return False
            if self._go(way, ref, target, stop):
                return True
            ways.remove(way)
        return False

    def _begun(self, ref: BlobRef) -> bool:
        """Tell whether a part of the whole is here already, which is then resumed."""
        parts = (self._directory / "partial" / f"{ref.digest.hex}{suffix}" for suffix in (".map", ".whole"))
        return any(path.exists() for path in parts)

    def _go(self, way: Way, ref: BlobRef, target: Path, stop: threading.Event) -> bool:
        delta = self.path(way.delta.digest)
        try:
            if not delta.exists():
                self._whole(way.delta, delta, stop, PATIENCE_SECONDS)
            patch(ref, self.path(way.base), delta, target, stop)
        except (UpdateRejected, TransportError) as error:
            if stop.is_set():
                raise TransportError(f"fetching blob {ref.digest.short} was stopped; what arrived is kept") from None
            self._failed.add(way.delta.digest)
            self._note("delta", f"blob {ref.digest.short} is fetched whole: {error}")
            return False
        finally:
            if not stop.is_set():
                delta.unlink(missing_ok=True)
        self._forget("delta")
        log.info("blob_patched digest=%s bytes=%d delta_bytes=%d", ref.digest.short, ref.size, way.delta.size)
        return True
