"""Several blobs at a time: one fetcher for each slot, so that a download that hangs delays no other slot's.

A blob that two slots want is fetched once; the second waits for the first and then finds it on the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import TransportError
from edge_agent.transport.fetcher import Fetcher

__all__ = ["Fetchers"]

POLL_SECONDS = 0.2


class Fetchers:
    """Fetchers over one directory, as many as may work at the same time."""

    def __init__(self, fetchers: Sequence[Fetcher]) -> None:
        if not fetchers:
            raise ValueError("Fetchers needs at least one fetcher")
        self._every = list(fetchers)
        self._free = list(fetchers)
        self._under_way: set[Digest] = set()
        self._changed = threading.Condition()

    @property
    def faults(self) -> dict[str, str]:
        """What was wrong with which source last, over all fetchers."""
        return {name: words for one in self._every for name, words in one.faults.items()}

    def tell(self, told: Callable[[], None]) -> None:
        """Have `told` called, by a thread that fetches, whenever `faults` changed."""
        for one in self._every:
            one.told = told

    def path(self, digest: Digest) -> Path:
        """Return where the blob lies, or will lie."""
        return self._every[0].path(digest)

    def proven(self, ref: BlobRef, path: Path) -> bool:
        """Tell whether one of the fetchers has fetched or checked the blob at `path`, untouched since then."""
        return any(one.proven(ref, path) for one in self._every)

    def fetch(self, ref: BlobRef, stop: threading.Event | None = None) -> Path:
        """Return the path of the blob, fetching what is not there yet. Blocks. Raises as `Fetcher.fetch` does."""
        stop = stop or threading.Event()
        with self._changed:
            while ref.digest in self._under_way or not self._free:
                if stop.is_set():
                    raise TransportError(f"fetching blob {ref.digest.short} was stopped before it began")
                self._changed.wait(POLL_SECONDS)
            self._under_way.add(ref.digest)
            fetcher = self._free.pop()
        try:
            return fetcher.fetch(ref, stop)
        finally:
            with self._changed:
                self._under_way.remove(ref.digest)
                self._free.append(fetcher)
                self._changed.notify_all()
