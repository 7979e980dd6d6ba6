"""What `release` signs about going back: the security floor and the retry generation of a pipeline (U6).

Both only ever rise and are carried from release to release, so that they hold when the one that set them is no longer
listed. Pure; what devices do about them is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edge_agent.contract.errors import AuthorError
from edge_agent.contract.messages import ReleaseInfo

__all__ = ["NO_MARKS", "Marks", "floor_of", "require_above_floor"]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """`security_floor`: no device goes back below this release. `retry`: try it also where the same bytes failed."""

    security_floor: bool = False
    retry: bool = False

    def of(self, listed: Iterable[ReleaseInfo], sequence: int) -> dict[str, Any]:
        """Return the fields of release `sequence` of a pipeline that has `listed` releases."""
        before = list(listed)
        generation = max((one.retry_generation for one in before), default=0) + (1 if self.retry else 0)
        return {
            "security_floor": sequence if self.security_floor else floor_of(before),
            "retry_generation": generation,
        }


NO_MARKS = Marks()


def floor_of(listed: Iterable[ReleaseInfo]) -> int:
    """Return the sequence below which devices of a pipeline do not go back, 0 without one."""
    return max((one.security_floor for one in listed), default=0)


def require_above_floor(listed: Iterable[ReleaseInfo], wanted: ReleaseInfo) -> None:
    """Raise `AuthorError` if the bytes of `wanted` first came below the floor: a new number makes them no safer."""
    known = list(listed)
    floor = floor_of(known)
    first = min([one.sequence for one in known if one.digest == wanted.digest], default=wanted.sequence)
    if first < floor:
        raise AuthorError(
            f"{wanted.name} has the bytes of {wanted.pipeline}@{first}, below the security floor {floor}: "
            "no device goes back there; push a fixed release instead"
        )
