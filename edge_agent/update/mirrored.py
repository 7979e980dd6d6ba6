"""The store together with its mirror: what must not fall is never made durable in one place only (U1, T4).

Opening takes the higher of both. Every transaction writes the mirror before SQLite makes it durable: if the mirror
refuses, nothing was accepted; if the power fails between the two, the mirror is ahead, which only refuses more.

A disk that refuses to be written (full, read-only) does not keep a device from starting (U3): what was committed is
read into memory, every transaction is refused, and each tries first whether the disk takes it again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import StoreError
from edge_agent.update.mirror import Committed, Memory, Mirror, merged
from edge_agent.update.opening import StoreLost, StoreUnwritable, blank, copied, opened
from edge_agent.update.states import State
from edge_agent.update.store import Store

__all__ = ["MirroredStore"]

log = logging.getLogger(__name__)
REOPEN_SECONDS = 1.0


class MirroredStore(Store):
    """A store whose floors, facts and committed releases outlive the database.

    `unwritable` says why nothing can be written, and is empty when it can.
    """

    def __init__(self, path: Path, mirror: Mirror, *, lost: str = "") -> None:
        """Open `path` and raise what `mirror` knows better. Raises `StoreError`.

        `lost` says why the file can be neither read nor set aside: then only the mirror is left.
        """
        self._mirror, self._whole, self._again = mirror, True, 0.0
        if lost:
            self.path = path
            self._only_mirror(lost)
            return
        try:
            super().__init__(path)
            with self.transaction():
                self._raise_all(mirror.memory)
        except StoreUnwritable as error:
            self._fall_back(error)

    def _fall_back(self, error: StoreError) -> None:
        """Go on with a copy in memory, and with the mirror alone where there is none."""
        if "_db" in vars(self):
            self._db.close()
        try:
            self._db = copied(self.path)
        except StoreError as unreadable:
            self._only_mirror(f"{error}; {unreadable}")
            return
        self.unwritable = str(error)
        log.error("store cannot be written, what is committed runs reason=%s", error)
        with self._db.atomic():
            self._raise_all(self._mirror.memory)

    def _only_mirror(self, why: str) -> None:
        self._db, self._whole, self.unwritable = blank(), False, why
        log.error("store can be neither read nor written, what the mirror knows runs reason=%s", why)
        with self._db.atomic():
            self._raise_all(self._mirror.memory)

    def _raise_all(self, memory: Memory) -> None:
        for channel, role, keyset, version in memory.rows():
            self.raise_floors(channel, [(role, keyset, version)])
        for key, value in memory.facts.items():
            self.raise_fact(key, value)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside durable together, in the mirror first, or nothing."""
        if self.unwritable:
            self._reopen()
        with super().transaction():
            yield
            self._mirror.write(self._memory())

    def remember(self, key: str, value: float) -> None:
        """Raise a fact; while the disk refuses, in memory, and it is written with the first thing that can be."""
        if not self.unwritable:
            try:
                with self.transaction():
                    self.raise_fact(key, value)
                return
            except StoreUnwritable as error:
                self._fall_back(error)
        with self._db.atomic():
            self.raise_fact(key, value)

    def _reopen(self) -> None:
        """Go on with the file if the disk takes it again. Raises `StoreUnwritable`, `StoreLost` if it is another."""
        if time.monotonic() < self._again:
            raise StoreUnwritable(self.unwritable)
        self._again = time.monotonic() + REOPEN_SECONDS
        kept, before = self._db, self.unwritable
        facts = Memory(facts={row["key"]: float(row["value"]) for row in self._rows("select key, value from fact")})
        self._db = opened(self.path)
        self.unwritable = ""
        try:
            with self.transaction():
                self._raise_all(merged(self._mirror.memory, facts))
        except StoreError:
            self._db.close()
            self._db, self.unwritable = kept, before
            raise
        kept.close()
        if not self._whole:
            raise StoreLost(f"{self.path} can be written again: it is opened anew")
        log.warning("store can be written again path=%s", self.path)

    def restore(self, slot: str, committed: Committed, manifest: bytes, now: float) -> None:
        """Let a slot that the database does not know run what the mirror says it ran."""
        digest = Digest(committed.digest)
        with self._db.atomic() if self.unwritable else self.transaction():
            self.keep_manifest(digest, manifest)
            fresh = self.add_deployment(
                slot=slot, channel=committed.channel, release=committed.release, digest=digest, now=now
            )
            back = msgspec.structs.replace(fresh, state=State.COMMITTED, committed=now)
            self.save_deployment(back, event="restored", before=fresh.state, now=now)
            self.set_active(slot, back.id)

    def _memory(self) -> Memory:
        floors: dict[str, dict[str, dict[str, int]]] = {}
        for row in self._rows("select channel, role, keyset, version from floor"):
            floors.setdefault(row["channel"], {}).setdefault(row["role"], {})[row["keyset"]] = row["version"]
        facts = {row["key"]: float(row["value"]) for row in self._rows("select key, value from fact")}
        running = self._rows("select s.name, d.* from slot s left join deployment d on d.id = s.active")
        known = {row["name"] for row in running}
        kept = {slot: one for slot, one in self._mirror.memory.committed.items() if slot not in known}
        here = {
            row["name"]: Committed(channel=row["channel"], release=row["release"], digest=row["digest"])
            for row in running
            if row["digest"] is not None
        }
        before = msgspec.structs.replace(self._mirror.memory, committed=kept)
        return merged(before, Memory(floors=floors, facts=facts, committed=here))
