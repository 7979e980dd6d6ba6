"""What updates need from outside: the configuration of a slot, and ways to the network, the disk and the runtime.

Types only. The agent fills them in; `update` never learns by whom.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.verification import Request, Verified
from edge_agent.update.policy import Policy

__all__ = ["Ports", "Runtime", "SlotSetup"]


def boot_id() -> str:
    """Return the kernel's id of this boot, a fixed word where it gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


class SlotSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What the device's configuration says about one slot, as far as updates care."""

    name: str
    channel: str
    columns: list[str]
    units: dict[str, str] = {}
    dtypes: dict[str, str] = {}
    tunables: dict[str, Any] = {}
    config_digest: str = ""
    policy: Policy = Policy()


class Runtime(Protocol):
    """What the updater asks of the runtime. Each call returns at once; answers arrive as events."""

    def run(self, slot: str, key: int, root: Path, release: str) -> None:
        """Run a committed release as the active one (again)."""

    def start(self, slot: str, key: int, root: Path, release: str) -> None:
        """Start a candidate beside the active release and load it."""

    def shadow(self, slot: str, key: int) -> None:
        """Give the candidate copies of live frames."""

    def serve(self, slot: str, key: int) -> None:
        """Let the candidate answer; keep the old worker warm."""

    def keep(self, slot: str, key: int) -> None:
        """The candidate is committed: let the old worker go."""

    def rename(self, slot: str, key: int, release: str) -> None:
        """The same bytes go by another name from now on."""

    def abandon(self, slot: str, key: int) -> None:
        """Drop the candidate; the old worker answers alone."""


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """The updater's ways into the world. `verify` and `fetch` may block; several slots fetch at the same time.

    `blobs` is the directory in which `blob_path` lies, if blobs are to be collected. `proven` tells of a file whether
    this process has hashed it as that blob and nobody has touched it since. `boot_id` names the present life
    of the machine: it changes with every reboot.
    """

    verify: Callable[[Request], Verified]
    fetch: Callable[[BlobRef, threading.Event], Path]
    blob_path: Callable[[BlobRef], Path]
    runtime: Runtime
    wake: Callable[[], None]
    changed: Callable[[], None]
    blobs: Path | None = None
    proven: Callable[[BlobRef, Path], bool] = lambda _ref, _path: False
    boot_id: Callable[[], str] = boot_id
