"""Runs what is committed, whatever became of its files (U3): laid out anew from its blobs, and those fetched again.

It decides nothing and gives up nothing: what cannot run is told with its reason and tried again, on a thread of its own
for each slot, so that a committed release whose blobs nobody has does not keep its successor from coming.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.errors import Blame, Reason, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.manifest import parse_manifest
from edge_agent.update.deployment import Deployment
from edge_agent.update.helper import Helper
from edge_agent.update.layout import lay_out
from edge_agent.update.ports import Ports
from edge_agent.update.store import Store

__all__ = ["Mender"]

log = logging.getLogger(__name__)
MEND_SECONDS = 30.0


class Mender:
    """Committed releases of every slot. `again(key, due)` asks to be called once more for a deployment.

    `stopping` ends its downloads.
    """

    def __init__(
        self, slots: Iterable[str], store: Store, releases: Path, ports: Ports, again: Callable[[int, float], None]
    ) -> None:
        self._store, self._releases, self._ports, self._again = store, releases, ports, again
        self.helpers = {slot: Helper(f"mend {slot}", ports.wake) for slot in slots}
        self.stopping = threading.Event()
        self._mended_at: dict[int, float] = {}

    def restore(self, active: Deployment, now: float) -> None:
        """Run a committed release, or begin to mend it."""
        try:
            root = lay_out(
                self._releases, self._store.manifest(active.digest), self._ports.blob_path, self._ports.proven
            )
            self._ports.runtime.run(active.slot, active.id, root, active.release)
        except (UpdateRejected, StoreError, OSError) as error:
            self._mend(active, error, now)
        else:
            self._note(active, (), "mended", now)

    def _mend(self, active: Deployment, error: Exception, now: float) -> None:
        """The files of a committed release are gone, damaged or cannot be written: say so, fetch them, try again."""
        log.error("committed release cannot run slot=%s release=%s error=%s", active.slot, active.release, error)
        self._again(active.id, now + MEND_SECONDS)  # whatever becomes of the download
        self._note(
            active,
            (Reason(code=ReasonCode.ENVIRONMENT, message=f"cannot run: {error}", blame=Blame.ENVIRONMENT),),
            "damaged",
            now,
        )
        blobs = list(parse_manifest(self._store.manifest(active.digest)).blobs())

        def fetch() -> None:
            for ref in blobs:
                self._ports.fetch(ref, self.stopping)

        self.helpers[active.slot].submit(self._mended, (active.id,), fetch)

    def _mended(self, key: int, result: Any, now: float) -> None:
        # What fetching did not mend the last time is not tried again at once: that would be a loop without a pause.
        hopeless = now - self._mended_at.get(key, -MEND_SECONDS) < MEND_SECONDS
        self._mended_at[key] = now
        self._again(key, now + (MEND_SECONDS if hopeless or isinstance(result, Exception) else 0.0))

    def _note(self, active: Deployment, reasons: tuple[Reason, ...], event: str, now: float) -> None:
        """Write down why a committed release does not run, or that it does again."""
        if active.reasons != reasons:
            noted = msgspec.structs.replace(active, reasons=reasons)
            with self._store.transaction():
                self._store.save_deployment(noted, event=event, before=active.state, now=now)
            self._ports.changed()
