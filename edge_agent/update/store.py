"""The device's memory: one SQLite database (U1). Whatever is decided here survives a power cut or did not happen.

It keeps deployments and their journal, what each slot runs, accepted trust envelopes with their floors, quarantine and
operators' requests. Blobs are files elsewhere. It decides nothing: every method is one query or one transaction.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.digest import Digest, decode_json, encode_json
from edge_agent.contract.errors import Reason, StoreError
from edge_agent.update.deployment import ENDED, UNDER_WAY, Deployment, State


@contextlib.contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Hide modules from an import: sqlite_utils takes numpy and pandas along when it finds them (15 MiB, 200 ms)."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None makes an import fail, by definition
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _hidden("numpy", "pandas"):
    import sqlite_utils

    from edge_agent.update.migrations import MIGRATIONS

__all__ = ["JournalRow", "Quarantined", "Refusal", "Store", "Trust"]


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted envelope, what its verification gave (`Verified` as JSON) and when it expires, seconds UTC."""

    channel: str
    envelope: bytes
    verified: bytes
    accepted: float
    expires: float


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The last envelope of a channel that was refused, and why."""

    channel: str
    at: float
    digest: Digest
    reasons: tuple[Reason, ...]


class JournalRow(msgspec.Struct, frozen=True, kw_only=True):
    """One transition as it was written."""

    at: float
    slot: str
    deployment: int
    event: str
    before: str
    after: str
    words: str


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest condemned on this device, under this configuration and image profile (U6)."""

    slot: str
    digest: Digest
    at: float
    reasons: tuple[Reason, ...]


class Store:
    """One open database. Not shared between threads; other processes may open it too, SQLite's locks sort them out."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open `path`; with `create=False` a missing file is a `StoreError`. Migrates an older schema."""
        if not create and not path.exists():
            raise StoreError(f"{path} does not exist: has the agent run on this device yet?")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = sqlite3.connect(path, timeout=10.0)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            self._db = sqlite_utils.Database(connection)
            self._refuse_newer(path)
            MIGRATIONS.apply(self._db)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"cannot open the store {path}: {error}") from error

    def _refuse_newer(self, path: Path) -> None:
        known = {migration.name for migration in MIGRATIONS.pending(self._db)}
        applied = {migration.name for migration in MIGRATIONS.applied(self._db)}
        registered = known | applied & _REGISTERED
        if applied - registered:
            self._db.close()
            raise StoreError(
                f"{path} was written by a newer edge-agent ({', '.join(sorted(applied - registered))}): "
                "update this program; nothing was touched"
            )

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside durable together, or nothing."""
        try:
            with self._db.atomic():
                yield
        except sqlite3.Error as error:
            raise StoreError(f"the store refuses to write: {error}") from error

    # --- deployments ---------------------------------------------------------------------------------------------

    def add_deployment(self, *, slot: str, channel: str, release: str, digest: Digest, now: float) -> Deployment:
        """Write a new deployment in state ANNOUNCED."""
        row = {
            "slot": slot,
            "channel": channel,
            "release": release,
            "digest": str(digest),
            "state": State.ANNOUNCED.value,
            "attempts": 0,
            "postponements": 0,
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
        """Return one deployment."""
        return _deployment(self._db.table("deployment").get(key))

    def deployments(self, slot: str | None = None, *, limit: int = 100) -> list[Deployment]:
        """Return the newest `limit` deployments of one slot or of all, newest first."""
        where, values = ("slot = ?", [slot]) if slot is not None else ("1", [])
        return [
            _deployment(row)
            for row in self._db.table("deployment").rows_where(where, values, order_by="id desc", limit=limit)
        ]

    def under_way(self, slot: str) -> Deployment | None:
        """Return the deployment that has not ended yet, if there is one."""
        return next((one for one in self.deployments(slot) if one.state in UNDER_WAY), None)

    def last_ended(self, slot: str) -> Deployment | None:
        """Return the deployment that ended last without staying committed."""
        return max((one for one in self.deployments(slot) if one.state in ENDED), key=_age, default=None)

    def _insert(self, table: str, row: dict[str, Any]) -> int:
        key = self._db.table(table).insert(row).last_pk
        assert isinstance(key, int)
        return key

    # --- slots ---------------------------------------------------------------------------------------------------

    def active(self, slot: str) -> Deployment | None:
        """Return the committed deployment that the slot runs."""
        for row in self._db.table("slot").rows_where("name = ?", [slot]):
            return self.deployment(row["active"]) if row["active"] is not None else None
        return None

    def set_active(self, slot: str, key: int | None) -> None:
        """Point the slot at a deployment. Only ever called inside a transition's transaction."""
        self._db.table("slot").upsert({"name": slot, "active": key}, pk="name")

    def previous(self, slot: str, deployment: Deployment) -> Deployment | None:
        """Return the newest deployment before `deployment` that was committed here and holds other bytes."""
        sql = """select d.* from deployment d where d.slot = :slot and d.digest != :digest and d.id in (
                     select deployment from journal where after = 'committed')
                 and d.state = 'superseded' order by d.updated desc, d.id desc limit 1"""
        for row in self._db.query(sql, {"slot": slot, "digest": str(deployment.digest)}):
            return _deployment(row)
        return None

    # --- trust ---------------------------------------------------------------------------------------------------

    def trust(self, channel: str) -> Trust | None:
        """Return the accepted envelope of a channel."""
        for row in self._db.table("trust").rows_where("channel = ?", [channel]):
            return msgspec.convert(row, Trust)
        return None

    def save_trust(self, trust: Trust, manifests: dict[Digest, bytes]) -> None:
        """Accept an envelope and keep the manifests it brought; clears the channel's last refusal."""
        self._db.table("trust").upsert(msgspec.to_builtins(trust, builtin_types=(bytes,)), pk="channel")
        self._db.table("manifest").insert_all(
            ({"digest": str(digest), "data": data} for digest, data in manifests.items()), ignore=True
        )
        self._db.table("refusal").delete_where("channel = ?", [trust.channel])

    def manifest(self, digest: Digest) -> bytes:
        """Return a manifest's bytes. Raises `StoreError` when it was never accepted here."""
        for row in self._db.table("manifest").rows_where("digest = ?", [str(digest)]):
            return bytes(row["data"])
        raise StoreError(f"no manifest {digest} in the store")

    def refusal(self, channel: str) -> Refusal | None:
        """Return the last refused envelope of a channel, if none was accepted since."""
        for row in self._db.table("refusal").rows_where("channel = ?", [channel]):
            reasons = decode_json(row["reasons"], tuple[Reason, ...])
            return Refusal(channel=channel, at=row["at"], digest=Digest(row["digest"]), reasons=reasons)
        return None

    def save_refusal(self, refusal: Refusal) -> None:
        """Remember why an envelope was refused."""
        row = {
            "channel": refusal.channel,
            "at": refusal.at,
            "digest": str(refusal.digest),
            "reasons": encode_json(refusal.reasons).decode(),
        }
        self._db.table("refusal").upsert(row, pk="channel")

    def floors(self, channel: str) -> list[tuple[str, str, int]]:
        """Return (role, key set, lowest acceptable version) of a channel."""
        rows = self._db.table("floor").rows_where("channel = ?", [channel], order_by="role, keyset")
        return [(row["role"], row["keyset"], row["version"]) for row in rows]

    def raise_floors(self, channel: str, floors: Sequence[tuple[str, str, int]]) -> None:
        """Raise floors; one never falls within a key set (T5)."""
        for role, keyset, version in floors:
            self._db.execute(
                "insert into floor (channel, role, keyset, version) values (?, ?, ?, ?) "
                "on conflict (channel, role, keyset) do update set version = max(version, excluded.version)",
                [channel, role, keyset, version],
            )

    # --- the rest ------------------------------------------------------------------------------------------------

    def memberships(self, slot: str) -> set[str]:
        """Return the rollouts this slot has joined."""
        return {row["rollout"] for row in self._db.table("membership").rows_where("slot = ?", [slot])}

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
        }
        self._db.table("quarantine").upsert(row, pk=("slot", "digest", "config", "profile"))

    def quarantined(self, slot: str, *, config: str, profile: str) -> list[Quarantined]:
        """Return what is condemned on this slot under this configuration and profile."""
        rows = self._db.table("quarantine").rows_where(
            "slot = ? and config = ? and profile = ?", [slot, config, profile], order_by="at"
        )
        return [
            Quarantined(
                slot=slot,
                digest=Digest(row["digest"]),
                at=row["at"],
                reasons=decode_json(row["reasons"], tuple[Reason, ...]),
            )
            for row in rows
        ]

    def journal(self, slot: str | None = None, *, limit: int = 100) -> list[JournalRow]:
        """Return the newest journal lines, newest first."""
        where, values = ("slot = ?", [slot]) if slot is not None else ("1", [])
        rows = self._db.table("journal").rows_where(where, values, order_by="id desc", limit=limit)
        return [msgspec.convert({key: row[key] for key in JournalRow.__struct_fields__}, JournalRow) for row in rows]

    def ask(self, kind: str, slot: str, now: float) -> int:
        """Leave a request for the running agent; returns its number."""
        row = {"at": now, "kind": kind, "slot": slot, "answer": None}
        return self._insert("request", row)

    def requests(self) -> list[tuple[int, str, str]]:
        """Return (number, kind, slot) of requests that have no answer yet."""
        rows = self._db.table("request").rows_where("answer is null", order_by="id")
        return [(row["id"], row["kind"], row["slot"]) for row in rows]

    def answer(self, number: int, words: str) -> None:
        """Answer a request."""
        self._db.table("request").update(number, {"answer": words})

    def answer_of(self, number: int) -> str | None:
        """Return the answer of a request, None while there is none."""
        answer: str | None = self._db.table("request").get(number)["answer"]
        return answer

    def fact(self, key: str, default: float = 0.0) -> float:
        """Return a remembered number: `clock` (floor clock, seconds UTC), `boot`, `report`."""
        for row in self._db.table("fact").rows_where("key = ?", [key]):
            return float(row["value"])
        return default

    def raise_fact(self, key: str, value: float) -> None:
        """Remember a number that only ever grows."""
        self._db.execute(
            "insert into fact (key, value) values (?, ?) "
            "on conflict (key) do update set value = max(value, excluded.value)",
            [key, value],
        )


_REGISTERED = {migration.name for migration in MIGRATIONS.pending(sqlite_utils.Database(memory=True))}


def _age(deployment: Deployment) -> tuple[float, int]:
    return deployment.updated, deployment.id


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
        reasons=decode_json(row["reasons"], tuple[Reason, ...]),
        due=row["due"],
        updated=row["updated"],
    )
