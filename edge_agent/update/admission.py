"""Does a release fit this device? All reasons at once, before a byte of it is fetched (U5).

Judged from values only; the facts are gathered by the caller. Postponements (disk) are `space`'s answer, refusals are
`admit`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edge_agent.contract.compatibility import Profile, judge
from edge_agent.contract.dtypes import DEFAULT, described, stands_for
from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.contract.manifest import Manifest

__all__ = ["SPACE_RESERVE_BYTES", "admit", "space"]

SPACE_RESERVE_BYTES = 16 * 1024 * 1024


def admit(
    manifest: Manifest,
    profile: Profile,
    *,
    slot: str,
    columns: Collection[str],
    units: dict[str, str],
    dtypes: Mapping[str, str],
    tunables: Collection[str],
    condemned: Collection[Reason] = (),
    first: int | None = None,
) -> list[Reason]:
    """Return every reason why `manifest` cannot run on `slot`.

    `columns`, `units`, `dtypes` and `tunables` are what the slot's configuration delivers and sets (a column without a
    dtype is float64); `condemned` is why the same bytes were quarantined here, if they were; `first` is the sequence
    below the security floor under which the same bytes are listed, if they are.
    """
    return [
        *_quarantine(condemned),
        *_floor(slot, first),
        *_pipeline(manifest, slot),
        *judge(manifest, profile),
        *_columns(manifest, columns),
        *_dtypes(manifest, columns, dtypes),
        *_units(manifest, units),
        *_tunables(manifest, tunables),
    ]


def _quarantine(condemned: Collection[Reason]) -> list[Reason]:
    if not condemned:
        return []
    words = "; ".join(map(str, condemned))
    return [
        Reason(code=ReasonCode.QUARANTINE, message=f"the same bytes failed here before ({words}): push a fixed one")
    ]


def _floor(slot: str, first: int | None) -> list[Reason]:
    if first is None:
        return []
    words = f"these are the bytes of {slot}@{first}, below the security floor: push a fixed release"
    return [Reason(code=ReasonCode.OLDER, message=words)]


def _pipeline(manifest: Manifest, slot: str) -> list[Reason]:
    if manifest.pipeline == slot:
        return []
    words = f"signed for pipeline {slot}, the manifest is of {manifest.pipeline}"
    return [Reason(code=ReasonCode.MALFORMED, message=words)]


def _columns(manifest: Manifest, columns: Collection[str]) -> list[Reason]:
    missing = [name for name in manifest.input.columns if name not in columns]
    if not missing:
        return []
    return [
        Reason(
            code=ReasonCode.COLUMNS,
            message=f"needs the columns {', '.join(missing)}, this device maps {', '.join(columns) or 'none'}: "
            f"add them under [slot.{manifest.pipeline}.input.columns]",
        )
    ]


def _dtypes(manifest: Manifest, columns: Collection[str], dtypes: Mapping[str, str]) -> list[Reason]:
    found = [(name, manifest.input.dtype_of(name), dtypes.get(name, DEFAULT)) for name in manifest.input.columns]
    return [
        Reason(
            code=ReasonCode.COLUMNS,
            message=f"column {name} is wanted as {wanted} ({described(wanted)}), this device delivers {delivered}: "
            f'if its sensor gives that, write dtype = "{wanted}" for it under [slot.{manifest.pipeline}.input.columns]',
        )
        for name, wanted, delivered in found
        if name in columns and not stands_for(delivered, wanted)
    ]


def _units(manifest: Manifest, units: dict[str, str]) -> list[Reason]:
    return [
        Reason(
            code=ReasonCode.UNITS, message=f"column {name} is wanted in {wanted}, this device delivers {units[name]}"
        )
        for name, wanted in sorted(manifest.input.units.items())
        if wanted and units.get(name, wanted) != wanted
    ]


def _tunables(manifest: Manifest, tunables: Collection[str]) -> list[Reason]:
    return [
        Reason(
            code=ReasonCode.PARAMETERS,
            message=f"this device sets {name!r}, which the release does not declare tunable "
            f"({', '.join(manifest.tunable) or 'nothing is'})",
        )
        for name in sorted(set(tunables) - set(manifest.tunable))
    ]


def space(manifest: Manifest, *, present: Collection[str], free_bytes: int) -> Reason | None:
    """Return why there is no room now, or None. A blob needs its size twice: as fetched and as laid out."""
    needed = sum(2 * ref.size for ref in manifest.blobs() if ref.digest not in present)
    if needed + SPACE_RESERVE_BYTES <= free_bytes:
        return None
    return Reason(
        code=ReasonCode.SPACE,
        message=f"needs {needed} bytes and a reserve of {SPACE_RESERVE_BYTES}, the disk has {free_bytes} free",
        blame=Blame.ENVIRONMENT,
    )
