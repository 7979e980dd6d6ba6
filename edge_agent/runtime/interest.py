"""What a source or sink waits for, so that one poll() serves them all: descriptor or -1, poll events, deadline.

The deadline is monotonic seconds by which it must be called, or None. All three may change with every call.
"""

from __future__ import annotations

__all__ = ["Interest"]

Interest = tuple[int, int, float | None]
