"""The store together with its mirror: what must not fall is never made durable in one place only (U1, T4).

Opening takes the higher of both. Every transaction writes the mirror before SQLite makes it durable: if the mirror
refuses, nothing was accepted; if the power fails between the two, the mirror is ahead, which only refuses more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.update.mirror import Committed, Memory, Mirror, merged
from edge_agent.update.states import State
from edge_agent.update.store import Store

__all__ = ["MirroredStore"]


class MirroredStore(Store):
    """A store whose floors, facts and committed releases outlive the database."""

    def __init__(self, path: Path, mirror: Mirror) -> None:
        """Open `path` and raise what `mirror` knows better. Raises `StoreError`."""
        super().__init__(path)
        self._mirror = mirror
        with self.transaction():
            for channel, role, keyset, version in mirror.memory.rows():
                self.raise_floors(channel, [(role, keyset, version)])
            for key, value in mirror.memory.facts.items():
                self.raise_fact(key, value)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside durable together, in the mirror first, or nothing."""
        with super().transaction():
            yield
            self._mirror.write(self._memory())

    def restore(self, slot: str, committed: Committed, manifest: bytes, now: float) -> None:
        """Let a slot that the database does not know run what the mirror says it ran."""
        digest = Digest(committed.digest)
        with self.transaction():
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
