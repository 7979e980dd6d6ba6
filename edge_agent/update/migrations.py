"""The store's schema, as numbered migrations. A migration that has shipped is never edited; the next one changes it."""

from __future__ import annotations

from typing import Any

from sqlite_utils.migrations import Migrations

__all__ = ["MIGRATIONS"]

MIGRATIONS = Migrations("edge_agent")


@MIGRATIONS(name="0001_first_flight")
def _first_flight(db: Any) -> None:
    db["deployment"].create(
        {
            "id": int,
            "slot": str,
            "channel": str,
            "release": str,
            "digest": str,
            "state": str,
            "attempts": int,
            "postponements": int,
            "reasons": str,
            "due": float,
            "created": float,
            "updated": float,
        },
        pk="id",
        not_null={"slot", "channel", "release", "digest", "state", "attempts", "postponements", "due"},
    )
    db["deployment"].create_index(["slot", "state"])
    db["slot"].create({"name": str, "active": int}, pk="name", foreign_keys=[("active", "deployment", "id")])
    db["journal"].create(
        {
            "id": int,
            "at": float,
            "slot": str,
            "deployment": int,
            "event": str,
            "before": str,
            "after": str,
            "words": str,
        },
        pk="id",
        foreign_keys=[("deployment", "deployment", "id")],
    )
    db["manifest"].create({"digest": str, "data": bytes}, pk="digest", not_null={"data"})
    db["trust"].create(
        {"channel": str, "envelope": bytes, "verified": bytes, "accepted": float, "expires": float},
        pk="channel",
        not_null={"envelope", "verified", "accepted", "expires"},
    )
    db["refusal"].create({"channel": str, "at": float, "digest": str, "reasons": str}, pk="channel")
    db["floor"].create({"channel": str, "role": str, "keyset": str, "version": int}, pk=("channel", "role", "keyset"))
    db["membership"].create({"slot": str, "rollout": str}, pk=("slot", "rollout"))
    db["quarantine"].create(
        {"slot": str, "digest": str, "config": str, "profile": str, "at": float, "reasons": str},
        pk=("slot", "digest", "config", "profile"),
    )
    db["request"].create({"id": int, "at": float, "kind": str, "slot": str, "answer": str}, pk="id")
    db["fact"].create({"key": str, "value": float}, pk="key")


@MIGRATIONS(name="0002_pins_and_holds")
def _pins_and_holds(db: Any) -> None:
    for column, kind, default in [("reboots", int, 0), ("generation", int, 0), ("committed", float, 0.0)]:
        db["deployment"].add_column(column, kind, not_null_default=default)
    db["deployment"].add_column("lifted", int, not_null_default=0)
    db.execute(
        """update deployment set committed = coalesce(
               (select max(at) from journal where deployment = deployment.id and after = 'committed'), 0)"""
    )
    db["quarantine"].add_column("generation", int, not_null_default=0)
    db["request"].add_column("argument", str, not_null_default="")
    db["pin"].create(
        {"slot": str, "release": str, "channel": str, "digest": str, "at": float},
        pk="slot",
        not_null={"release", "channel", "digest", "at"},
    )
    db["hold"].create({"slot": str, "until": float, "at": float}, pk="slot", not_null={"until", "at"})
    db["note"].create({"key": str, "value": str}, pk="key", not_null={"value"})
