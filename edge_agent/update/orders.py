"""What operators may ask of a device, and what comes of it: pin, unpin, retry, hold (durable rows, U2, U6, U7).

Each function writes inside the caller's transaction and returns words for the operator; they begin with `refused` when
nothing was written. The agent carries orders out as it runs; while it does not, the command line does, and the agent
finds the rows when it starts. Nothing here starts or stops a release.
"""

from __future__ import annotations

import math
import time

from edge_agent.contract.digest import Digest
from edge_agent.update.deployment import Deployment
from edge_agent.update.store import EVERY_SLOT, Hold, Pin, Store

__all__ = ["ORDERS", "carry_out", "hold", "pin", "retry", "unpin"]

ORDERS = ("pin", "unpin", "retry", "hold")
HOLD_SECONDS_MAX = 366 * 86_400.0
PREFIX_CHARACTERS_MIN = 6


def carry_out(store: Store, kind: str, slot: str, argument: str, now: float) -> str:
    """Carry out one of `ORDERS`. Raises `StoreError`."""
    if kind == "pin":
        return pin(store, slot, argument, now)
    if kind == "unpin":
        return unpin(store, slot)
    if kind == "retry":
        return retry(store, slot, argument)
    return hold(store, slot, argument, now)


def pin(store: Store, slot: str, name: str, now: float) -> str:
    """Pin the slot to a release that was committed here, the active one if `name` is empty."""
    found = _one(store.committed(slot), name) if name else store.active(slot)
    if isinstance(found, str) or found is None:
        known = ", ".join(one.release for one in store.committed(slot)) or "nothing"
        return f"refused: {found or f'nothing runs on {slot}'}; committed here and not failed since: {known}"
    store.set_pin(Pin(slot=slot, release=found.release, channel=found.channel, digest=found.digest, at=now))
    active = store.active(slot)
    runs = active is not None and active.digest == found.digest
    return f"{slot} is pinned to {found.release}" + ("" if runs else "; it goes there now, through probation")


def unpin(store: Store, slot: str) -> str:
    """Let the slot follow its channel again."""
    found = store.pin(slot)
    if found is None:
        return f"refused: {slot} is not pinned"
    store.clear_pin(slot)
    return f"{slot} is no longer pinned to {found.release} and follows its channel"


def retry(store: Store, slot: str, name: str) -> str:
    """Lift the quarantine of a release here; it is tried again if the channel still wants it."""
    found = _one(store.deployments(slot, limit=1000), name)
    if isinstance(found, str):
        return f"refused: {found}"
    if not store.lift(slot, found.digest):
        return f"refused: {found.release} was not condemned on {slot}"
    return f"{found.release} may be tried again on {slot}"


def hold(store: Store, slot: str, argument: str, now: float) -> str:
    """Hold a slot (or every one, `""`): `argument` is seconds, empty for without end, `off` to lift it."""
    what = slot if slot != EVERY_SLOT else "every slot"
    if argument == "off":
        store.clear_hold(slot)
        if slot == EVERY_SLOT:
            return "no slot is held any more"
        left = any(one.slot == EVERY_SLOT for one in store.holds(slot, now))
        return f"{slot} is not held any more" + ("; but every slot is: `edge-agent hold --off`" if left else "")
    try:
        seconds = float(argument) if argument else 0.0
    except ValueError:
        return f"refused: {argument[:20]!r} is not a number of seconds"
    if not (math.isfinite(seconds) and 0 <= seconds <= HOLD_SECONDS_MAX):
        return f"refused: a hold lasts at most {HOLD_SECONDS_MAX / 86_400:.0f} days"
    until = now + seconds if seconds else 0.0
    store.set_hold(Hold(slot=slot, until=until, at=now))
    if not until:
        return f"{what} is held until it is lifted"
    return f"{what} is held until {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(until))}"


def _one(known: list[Deployment], name: str) -> Deployment | str:
    """Return the deployment that a release name or digest prefix means, or why not in words."""
    if not name:
        return "which release?"
    prefix = name.removeprefix("sha256:").lower()
    by_digest = [one for one in known if len(prefix) >= PREFIX_CHARACTERS_MIN and one.digest.hex.startswith(prefix)]
    found = [one for one in known if one.release == name] or by_digest
    digests: set[Digest] = {one.digest for one in found}
    if not found:
        return f"{name} is not known here"
    return found[0] if len(digests) == 1 else f"{name} means {len(digests)} releases here: name a longer digest"
