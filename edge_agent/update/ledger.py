"""What became of every release on every slot: deployments, the journal, what runs, what is condemned.

Every method is one query or one part of a transaction; which transition is due is decided elsewhere. What is kept is
bounded: `trim` drops the oldest lines that nothing depends on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from edge_agent.contract.digest import Digest, decode_json, encode_json
from edge_agent.contract.errors import Reason
from edge_agent.update.database import Database
from edge_agent.update.deployment import ENDED, UNDER_WAY, Deployment, State

__all__ = ["STUCK", "JournalLine", "JournalRow", "Ledger", "Quarantined"]

STUCK = "stuck/"
"""A slot's note below this name says that every permitted release is condemned here."""
JOURNAL_MAX = 10_000
DEPLOYMENTS_MAX = 200
"""Of each slot, beside those that something still depends on."""
MEMBERSHIPS_MAX = QUARANTINE_MAX = 1_000


class JournalRow(msgspec.Struct, frozen=True, kw_only=True):
    """One transition as it was written."""

    at: float
    slot: str
    deployment: int
    event: str
    before: str
    after: str
    words: str


class JournalLine(msgspec.Struct, frozen=True, kw_only=True):
    """One transition by its number in the journal, with what it was about, as others are told of it."""

    number: int
    at: float
    slot: str
    channel: str
    release: str
    digest: str
    event: str
    before: str
    after: str
    words: str


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest condemned on this device, under this configuration and image profile (U6).

    A release signed with a retry generation above `generation` lifts it.
    """

    slot: str
    digest: Digest
    at: float
    reasons: tuple[Reason, ...]
    generation: int = 0


class Ledger(Database):
    """Deployments, slots, journal, memberships and quarantine."""

    # --- deployments ---------------------------------------------------------------------------------------------

    def add_deployment(
        self, *, slot: str, channel: str, release: str, digest: Digest, now: float, generation: int = 0
    ) -> Deployment:
        """Write a new deployment in state ANNOUNCED."""
        row = {
            "slot": slot,
            "channel": channel,
            "release": release,
            "digest": str(digest),
            "state": State.ANNOUNCED.value,
            "attempts": 0,
            "postponements": 0,
            "generation": generation,
            "reasons": "[]",
            "due": 0.0,
            "created": now,
            "updated": now,
        }
        return self.deployment(self._insert("deployment", row))

    def save_deployment(self, deployment: Deployment, *, event: str, before: State, now: float) -> None:
        """Write a deployment's new state and its journal line."""
        self._db.table("deployment").update(
            deployment.id,
            {
                "release": deployment.release,
                "channel": deployment.channel,
                "state": deployment.state.value,
                "attempts": deployment.attempts,
                "postponements": deployment.postponements,
                "reboots": deployment.reboots,
                "committed": deployment.committed,
                "lifted": int(deployment.lifted),
                "reasons": encode_json(deployment.reasons).decode(),
                "due": deployment.due,
                "updated": now,
            },
        )
        self._db.table("journal").insert(
            {
                "at": now,
                "slot": deployment.slot,
                "deployment": deployment.id,
                "event": event,
                "before": before.value,
                "after": deployment.state.value,
                "words": "; ".join(map(str, deployment.reasons)),
            }
        )

    def deployment(self, key: int) -> Deployment:
        """Return one deployment. Raises `KeyError` for one that is not there, or no more."""
        for row in self._rows("select * from deployment where id = ?", [key]):
            return _deployment(row)
        raise KeyError(f"no deployment {key}")

    def deployments(self, slot: str | None = None, *, limit: int = 100) -> list[Deployment]:
        """Return the newest `limit` deployments of one slot or of all, newest first."""
        where, values = ("slot = ?", [slot]) if slot is not None else ("1", [])
        return [_deployment(row) for row in self._rows(f"{_SELECT} {where} order by id desc limit {limit:d}", values)]

    def under_way(self, slot: str) -> Deployment | None:
        """Return the deployment that has not ended yet, if there is one."""
        return self._newest(slot, UNDER_WAY, "id")

    def last_ended(self, slot: str) -> Deployment | None:
        """Return the deployment that ended last without staying committed."""
        return self._newest(slot, ENDED, "updated desc, id")

    def ended(self, slot: str, release: str, digest: Digest) -> list[Deployment]:
        """Return how a release ended here under this very name."""
        states = ", ".join(f"'{state.value}'" for state in ENDED)
        rows = self._rows(
            f"{_SELECT} slot = ? and release = ? and digest = ? and state in ({states})", [slot, release, str(digest)]
        )
        return [_deployment(row) for row in rows]

    def _newest(self, slot: str, states: Collection[State], order: str) -> Deployment | None:
        named = ", ".join(f"'{state.value}'" for state in states)
        sql = f"{_SELECT} slot = ? and state in ({named}) order by {order} desc limit 1"
        for row in self._rows(sql, [slot]):
            return _deployment(row)
        return None

    # --- slots ---------------------------------------------------------------------------------------------------

    def slots(self) -> list[str]:
        """Return every slot that was ever offered a release, also those that the configuration names no more."""
        return [row["slot"] for row in self._rows("select distinct slot from deployment order by slot")]

    def active(self, slot: str) -> Deployment | None:
        """Return the committed deployment that the slot runs."""
        for row in self._rows("select d.* from deployment d join slot s on s.active = d.id where s.name = ?", [slot]):
            return _deployment(row)
        return None

    def set_active(self, slot: str, key: int | None) -> None:
        """Point the slot at a deployment. Only ever called inside a transition's transaction."""
        self._db.table("slot").upsert({"name": slot, "active": key}, pk="name")

    def previous(self, slot: str, deployment: Deployment, floors: dict[str, int] | None = None) -> Deployment | None:
        """Return the newest deployment before `deployment` that was committed here and holds other bytes.

        `floors` maps channels to the sequence below which a device does not go back.
        """
        for one in self.committed(slot):
            if one.digest != deployment.digest and one.state is State.SUPERSEDED and not _below(one, floors or {}):
                return one
        return None

    def committed(self, slot: str) -> list[Deployment]:
        """Return what was committed here and has not failed since, the newest first, each manifest once."""
        sql = f"{_SELECT} slot = ? and committed > 0 and state in ('committed', 'superseded')"
        found: dict[Digest, Deployment] = {}
        for row in self._rows(f"{sql} order by state = 'committed' desc, updated desc, id desc", [slot]):
            one = _deployment(row)
            found.setdefault(one.digest, one)
        return list(found.values())

    # --- what happened here --------------------------------------------------------------------------------------

    def joined(self, slot: str, rollouts: Collection[str]) -> set[str]:
        """Return which of these rollouts this slot has joined."""
        sql = f"select rollout from membership where slot = ? and rollout in ({_marks(rollouts)})"
        return {row["rollout"] for row in self._rows(sql, [slot, *rollouts])}

    def join(self, slot: str, rollout: str) -> None:
        """Remember that the slot takes part in a rollout."""
        self._db.table("membership").insert({"slot": slot, "rollout": rollout}, ignore=True)

    def quarantine(self, entry: Quarantined, *, config: str, profile: str) -> None:
        """Condemn a manifest on this device under this configuration and profile."""
        row = {
            "slot": entry.slot,
            "digest": str(entry.digest),
            "config": config,
            "profile": profile,
            "at": entry.at,
            "reasons": encode_json(entry.reasons).decode(),
            "generation": entry.generation,
        }
        self._db.table("quarantine").upsert(row, pk=("slot", "digest", "config", "profile"))

    def quarantined(
        self,
        slot: str,
        *,
        config: str | None = None,
        profile: str | None = None,
        among: Collection[Digest] | None = None,
    ) -> list[Quarantined]:
        """Return what is condemned on this slot; under this configuration and profile, or of these, if they are named.

        There may be a thousand: who asks again and again names those that matter.
        """
        wanted = None if among is None else list(map(str, among))
        rows = self._rows(
            "select * from quarantine where slot = ? and config = coalesce(?, config) "
            "and profile = coalesce(?, profile) "
            + ("" if wanted is None else f"and digest in ({_marks(wanted)}) ")
            + "order by at",
            [slot, config, profile, *(wanted or ())],
        )
        return [
            Quarantined(
                slot=slot,
                digest=Digest(row["digest"]),
                at=row["at"],
                reasons=decode_json(row["reasons"], tuple[Reason, ...]),
                generation=row["generation"],
            )
            for row in rows
        ]

    def lift(self, slot: str, digest: Digest) -> int:
        """Forget why a manifest was condemned and that it ended; return how many records that concerned."""
        values = [slot, str(digest)]
        before = len(self._rows("select 1 from quarantine where slot = ? and digest = ?", values))
        self._db.execute("delete from quarantine where slot = ? and digest = ?", values)
        ended = ("rolled_back", "reverted", "rejected")
        where = f"slot = ? and digest = ? and lifted = 0 and state in {ended}"
        before += len(self._rows(f"select 1 from deployment where {where}", values))
        self._db.execute(f"update deployment set lifted = 1 where {where}", values)
        return before

    def journal(self, slot: str | None = None, *, limit: int = 100) -> list[JournalRow]:
        """Return the newest journal lines, newest first."""
        where, values = ("slot = ?", [slot]) if slot is not None else ("1", [])
        rows = self._rows(f"select * from journal where {where} order by id desc limit {limit:d}", values)
        return [msgspec.convert({key: row[key] for key in JournalRow.__struct_fields__}, JournalRow) for row in rows]

    def journal_after(self, number: int, *, newest: int, limit: int) -> list[JournalLine]:
        """Return at most `limit` lines after line `number`, oldest first, out of the `newest` that there are."""
        sql = """select j.id as number, j.at, j.slot, d.channel, d.release, d.digest, j.event,
                        j.before, j.after, j.words
                 from journal j join deployment d on d.id = j.deployment
                 where j.id > :number and j.id > (select coalesce(max(id), 0) - :newest from journal)
                 order by j.id limit :limit"""
        rows = self._rows(sql, {"number": number, "newest": newest, "limit": limit})
        return [msgspec.convert(row, JournalLine) for row in rows]

    def trim(self, kept: Collection[int]) -> None:
        """Drop the oldest journal lines and deployments; those in `kept`, under way or active stay."""
        self._db.execute("delete from journal where id <= (select max(id) from journal) - ?", [JOURNAL_MAX])
        for row in self._rows("select distinct slot from deployment"):
            self._trim_slot(row["slot"], kept)
        for table, bound in (("membership", MEMBERSHIPS_MAX), ("quarantine", QUARANTINE_MAX)):
            self._db.execute(f"delete from {table} where rowid <= (select max(rowid) from {table}) - ?", [bound])

    def _trim_slot(self, slot: str, kept: Collection[int]) -> None:
        states = ", ".join(f"'{state.value}'" for state in UNDER_WAY)
        old = self._rows(
            f"select id from deployment where slot = ? and state not in ({states}) and state != 'committed' "
            f"order by id desc limit -1 offset {DEPLOYMENTS_MAX}",
            [slot],
        )
        for key in {row["id"] for row in old} - set(kept):
            self._db.execute("delete from journal where deployment = ?", [key])
            self._db.execute("delete from deployment where id = ? and id not in (select active from slot "
                             "where active is not null)", [key])  # fmt: skip


_SELECT = "select * from deployment where"


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" * len(values))


def _below(deployment: Deployment, floors: dict[str, int]) -> bool:
    _, _, sequence = deployment.release.rpartition("@")
    return sequence.isdigit() and int(sequence) < floors.get(deployment.channel, 0)


def _deployment(row: dict[str, Any]) -> Deployment:
    return Deployment(
        id=row["id"],
        slot=row["slot"],
        channel=row["channel"],
        release=row["release"],
        digest=Digest(row["digest"]),
        state=State(row["state"]),
        attempts=row["attempts"],
        postponements=row["postponements"],
        reboots=row["reboots"],
        generation=row["generation"],
        committed=row["committed"],
        lifted=bool(row["lifted"]),
        reasons=decode_json(row["reasons"], tuple[Reason, ...]),
        due=row["due"],
        updated=row["updated"],
    )
