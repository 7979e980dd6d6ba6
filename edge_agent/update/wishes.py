"""What operators want of this device: requests to the running agent, pins, holds. Durable, and nothing is decided here.

A slot has at most one pin: it runs that release and takes up no other until it is unpinned. A hold lets no new step of
an update begin, on one slot or on all (slot `""`).
"""

from __future__ import annotations

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.update.database import Database

__all__ = ["EVERY_SLOT", "Hold", "Pin", "Wish", "Wishes"]

EVERY_SLOT = ""
ANSWERED_MAX = 100


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """One request of an operator; `argument` is what it is about: a release, a time."""

    number: int
    kind: str
    slot: str
    argument: str = ""


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """The release that a slot is pinned to, by name and manifest digest. `at` is seconds UTC."""

    slot: str
    release: str
    channel: str
    digest: Digest
    at: float

    @property
    def name(self) -> str:
        """The release's name."""
        return self.release

    @property
    def retry_generation(self) -> int:
        """A pin lifts no quarantine."""
        return 0


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's "not now" for one slot or every one. `until` is seconds UTC, 0 for as long as nobody lifts it."""

    slot: str
    until: float
    at: float

    def holds(self, now: float) -> bool:
        """Tell whether it still stands."""
        return not self.until or now < self.until


class Wishes(Database):
    """Requests, pins and holds."""

    def ask(self, kind: str, slot: str, now: float, argument: str = "") -> int:
        """Leave a request for the running agent; returns its number."""
        return self._insert("request", {"at": now, "kind": kind, "slot": slot, "answer": None, "argument": argument})

    def requests(self) -> list[Wish]:
        """Return the requests that have no answer yet, oldest first."""
        rows = self._rows("select * from request where answer is null order by id")
        return [
            Wish(number=row["id"], kind=row["kind"], slot=row["slot"], argument=row["argument"] or "") for row in rows
        ]

    def answer(self, number: int, words: str) -> None:
        """Answer a request."""
        self._db.table("request").update(number, {"answer": words})
        self._db.execute("update request set argument = '' where id = ? and kind = 'import'", [number])  # an envelope
        self._db.execute("delete from request where answer is not null and id <= ?", [number - ANSWERED_MAX])

    def answer_of(self, number: int) -> str | None:
        """Return the answer of a request, None while there is none."""
        for row in self._rows("select answer from request where id = ?", [number]):
            return None if row["answer"] is None else str(row["answer"])
        return None

    def pin(self, slot: str) -> Pin | None:
        """Return what the slot is pinned to."""
        for row in self._rows("select * from pin where slot = ?", [slot]):
            return Pin(**{**row, "digest": Digest(row["digest"])})
        return None

    def set_pin(self, pin: Pin) -> None:
        """Pin a slot, in place of an earlier pin."""
        self._db.table("pin").upsert({**msgspec.structs.asdict(pin), "digest": str(pin.digest)}, pk="slot")

    def clear_pin(self, slot: str) -> None:
        """Unpin a slot."""
        self._db.table("pin").delete_where("slot = ?", [slot])

    def holds(self, slot: str, now: float) -> list[Hold]:
        """Return the holds that stand now and concern the slot."""
        found = [Hold(**row) for row in self._rows("select * from hold where slot in (?, ?)", [slot, EVERY_SLOT])]
        return [one for one in found if one.holds(now)]

    def set_hold(self, hold: Hold) -> None:
        """Hold a slot, or every one."""
        self._db.table("hold").upsert(msgspec.structs.asdict(hold), pk="slot")

    def clear_hold(self, slot: str) -> None:
        """Lift the hold of a slot; the hold of every slot lifts all of them."""
        where, values = ("1", []) if slot == EVERY_SLOT else ("slot = ?", [slot])
        self._db.table("hold").delete_where(where, values)
