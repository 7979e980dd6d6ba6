"""Removes what nothing refers to any more: laid-out releases, blobs, halves of downloads, old rows (U7).

What may go is decided in `collection`. It runs in the thread that takes up releases, so nothing can become needed
between the look and the removal; only whole directories are deleted on a thread, after they were renamed away.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import StoreError, UpdateRejected
from edge_agent.contract.manifest import parse_manifest
from edge_agent.update.collection import Lying, Retention, Waste, kept, plan
from edge_agent.update.deployment import Deployment
from edge_agent.update.layout import retire
from edge_agent.update.store import Store

__all__ = ["Collector"]

log = logging.getLogger(__name__)
_HEX_CHARACTERS = 64


class Collector:
    """Keeps the state directory small. `remove(work)` runs a piece of work that only deletes."""

    def __init__(
        self,
        store: Store,
        releases: Path,
        blobs: Path | None,
        retention: Retention,
        remove: Callable[[Callable[[], Any]], None],
    ) -> None:
        self._store, self._releases, self._blobs = store, releases, blobs
        self._retention, self._remove = retention, remove

    def waste(self, *, everything: bool = False) -> Waste:
        """Return what may go now. With `everything`, no blob stays that no kept release needs."""
        digests, wanted, _ = self._kept()
        needed = self._needed(digests)
        return plan(
            needed=needed or (),
            blobs=self._lying() if needed is not None else (),
            laid_out=[path.name for path in _entries(self._releases) if not path.name.startswith(".")],
            wanted=wanted,
            retention=self._retention,
            everything=everything,
        )

    def collect(self, *, everything: bool = False) -> Waste:
        """Remove what may go and return it. Raises `StoreError` or `OSError`; doing it again is harmless."""
        waste = self.waste(everything=everything)
        for path in retire(self._releases, waste.releases):
            self._remove(functools.partial(shutil.rmtree, path, ignore_errors=True))
        for name in waste.blobs:
            assert self._blobs is not None
            (self._blobs / name[:2] / name).unlink(missing_ok=True)
        self._drop_halves()
        _, _, rows = self._kept()
        with self._store.transaction():
            self._store.trim(rows)
            self._store.trim_manifests()
        if waste.blobs or waste.releases:
            log.info("collected releases=%d blobs=%d bytes=%d", len(waste.releases), len(waste.blobs), waste.blob_bytes)
        return waste

    def _kept(self) -> tuple[list[Digest], set[str], set[int]]:
        """Return the manifests that are kept, the hex of those that stay laid out, and the deployments they need."""
        digests: list[Digest] = []
        wanted: set[str] = set()
        rows: set[int] = set()
        floors = self._store.security_floors
        for slot in self._store.slots():
            committed, under_way = self._store.committed(slot), self._store.under_way(slot)
            active, pin = self._store.active(slot), self._store.pin(slot)
            if active is not None:  # at the head, whatever the times say
                committed = [active, *(one for one in committed if one.digest != active.digest)]
            digests += kept(
                committed=committed,
                under_way=under_way,
                pinned=pin.digest if pin is not None else None,
                retention=self._retention,
            )
            previous = self._store.previous(slot, active, floors(slot)) if active is not None else None
            standing = [one for one in (active, under_way, previous) if one is not None]
            wanted |= {one.digest.hex for one in standing} | ({pin.digest.hex} if pin is not None else set())
            rows |= {one.id for one in [*standing, *committed[: self._retention.keep], *_of(committed, pin)]}
            if previous is not None:
                digests.append(previous.digest)
        return digests, wanted, rows

    def _needed(self, digests: list[Digest]) -> set[str] | None:
        """Return the hex of manifests and all blobs they name, None if one cannot be read: then every blob stays."""
        found = {digest.hex for digest in digests}
        for digest in digests:
            try:
                found |= {ref.digest.hex for ref in parse_manifest(self._store.manifest(digest)).blobs()}
            except (UpdateRejected, StoreError) as error:
                log.warning("no blob collected, a manifest cannot be read digest=%s reason=%s", digest.short, error)
                return None
        return found

    def _lying(self) -> Iterator[Lying]:
        for directory in _entries(self._blobs):
            for path in _entries(directory) if len(directory.name) == 2 else ():
                if len(path.name) == _HEX_CHARACTERS:
                    found = path.stat()
                    yield Lying(name=path.name, size_bytes=found.st_size, at=found.st_mtime)

    def _drop_halves(self) -> None:
        """Remove halves of downloads that nobody goes on with: not those of a release that is on its way or runs."""
        if self._blobs is None:
            return
        slots = self._store.slots()
        alive = [one for slot in slots for one in (self._store.under_way(slot), self._store.active(slot)) if one]
        needed = self._needed([one.digest for one in alive])
        if needed is None:
            return
        for path in _entries(self._blobs / "partial"):
            if path.name[:_HEX_CHARACTERS] not in needed:
                path.unlink(missing_ok=True)


def _of(committed: list[Deployment], pin: Any) -> list[Deployment]:
    return [one for one in committed if pin is not None and one.digest == pin.digest]


def _entries(directory: Path | None) -> list[Path]:
    return sorted(directory.iterdir()) if directory is not None and directory.is_dir() else []
