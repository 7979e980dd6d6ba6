"""What a source or sink waits for, so that one poll() serves them all: descriptor or -1, poll events, deadline.

The deadline is monotonic seconds by which it must be called, or None. All three may change with every call. A lane
waits for what both its ends do, for its workers by descriptor, and until some time (monotonic seconds).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from edge_agent.runtime.member import Member

__all__ = ["Interest", "Waits"]

Interest = tuple[int, int, float | None]
Waits: TypeAlias = "tuple[Interest, Interest, dict[int, Member], float]"
