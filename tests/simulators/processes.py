"""What this process holds of the system: child processes (zombies too) and open descriptors."""

from __future__ import annotations

from pathlib import Path

__all__ = ["children", "dead", "descriptors"]


def children() -> set[str]:
    """Return the process ids of all children, zombies included."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def dead(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def descriptors() -> set[str]:
    """Return the numbers of the open descriptors."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}
