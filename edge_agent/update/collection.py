"""Which files on the disk may go (U7). Pure: what is kept and what lies there are given.

Never touched: what belongs to the active release, the one under way, the last N committed and the pinned one of any
slot. Other blobs are a cache, useful when a release comes back; the oldest go first when it outgrows its budget, and
all of them when a new release needs the space.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from edge_agent.contract.digest import Digest
from edge_agent.update.deployment import Deployment

__all__ = ["KEEP", "Lying", "Retention", "Waste", "kept", "plan"]

KEEP = 3
BUDGET_BYTES = 1024 * 1024 * 1024


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept: committed releases of each slot, the active one included, and bytes of blobs in all."""

    keep: int = KEEP
    budget_bytes: int = BUDGET_BYTES


class Lying(msgspec.Struct, frozen=True, kw_only=True):
    """One blob on the disk: hex digest, size, and when it was last written (seconds UTC)."""

    name: str
    size_bytes: int
    at: float


class Waste(msgspec.Struct, frozen=True, kw_only=True):
    """What may go: blobs and laid-out releases by hex, and the bytes of the blobs."""

    blobs: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    blob_bytes: int = 0


def kept(
    *, committed: Sequence[Deployment], under_way: Deployment | None, pinned: Digest | None, retention: Retention
) -> list[Digest]:
    """Return the manifests that one slot keeps. `committed` is newest first, the active one at its head."""
    found = [one.digest for one in committed[: max(retention.keep, 1)]]
    found += [under_way.digest] if under_way is not None else []
    found += [pinned] if pinned is not None else []
    return list(dict.fromkeys(found))


def plan(
    *,
    needed: Collection[str],
    blobs: Iterable[Lying],
    laid_out: Iterable[str],
    wanted: Collection[str],
    retention: Retention,
    everything: bool = False,
) -> Waste:
    """Return what may go.

    `needed` are the blobs of every kept manifest, `wanted` the releases that stay laid out, both as hex. With
    `everything`, no unneeded blob stays, whatever the budget.
    """
    lying = sorted(blobs, key=lambda one: (one.at, one.name))
    total = sum(one.size_bytes for one in lying)
    going: list[Lying] = []
    for one in lying:
        if one.name not in needed and (everything or total > retention.budget_bytes):
            going.append(one)
            total -= one.size_bytes
    return Waste(
        blobs=tuple(one.name for one in going),
        releases=tuple(sorted(name for name in laid_out if name not in wanted)),
        blob_bytes=sum(one.size_bytes for one in going),
    )
