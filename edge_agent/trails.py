"""Where each slot's trail lies, whether an earlier run's is believed, and with which number its stream goes on.

A trail belongs to one input as configured: after a change of topic, columns or units it begins anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.config import Config, CsvInput, Slot
from edge_agent.config.plugs import JsonlInput
from edge_agent.config.sections import Input
from edge_agent.contract.digest import encode_json
from edge_agent.runtime.input_spool import InputSpool
from edge_agent.runtime.trail import Trail

__all__ = ["BOOT_BITS", "DIRECTORY", "first_sequence", "open_trail"]

log = logging.getLogger(__name__)
DIRECTORY = "streams"
# Samples counted here start at boot counter x 2^32: above every earlier run, and exact in a JavaScript number.
BOOT_BITS = 32
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def open_trail(config: Config, name: str, *, anew: bool = False) -> Trail | None:
    """Return the trail of slot `name`, None where the disk refuses one: a full disk must not keep a slot from running.

    `anew` leaves an earlier run's behind: its results are gone.
    """
    path, slot = config.device.state / DIRECTORY / f"{name}.trail", config.slot[name]
    told = encode_json({"input": _meaning(slot.input), "stream": slot.output.stream})
    try:
        if anew:
            path.unlink(missing_ok=True)
        return Trail(path, hashlib.sha256(told).digest(), _boot())
    except OSError as error:
        words = f"{error.strerror or error}: unfinished windows will not outlive the agent"
        log.warning("no trail slot=%s path=%s reason=%s", name, path, words)
        return None


def first_sequence(
    slot: Slot, boot: int, known: int | None, trail: Trail | None, spool: InputSpool | None = None
) -> int:
    """Return the first sample number of this run, after `known`, the newest that the output has.

    A stream goes on after its trail. What is counted here and may have been counted further than the trail shows
    (after a power cut, or without one) begins above every earlier run of the agent instead. What waits in the `spool`
    came after the trail's samples, and nothing that came after it was given out.
    """
    counted = not isinstance(slot.input, CsvInput | JsonlInput) and not slot.input.sequence
    newest = trail.newest if trail is not None else None
    spooled = spool.newest if spool is not None else None
    whole = spool is None or spool.intact
    if spooled is not None and not counted:
        return spooled + 1
    if newest is not None and trail is not None and whole and (trail.continues or not counted):
        return max(newest, -1 if spooled is None else spooled) + 1
    known = max((one for one in (known, spooled) if one is not None), default=-1)
    return max(known + 1, boot << BOOT_BITS if counted else 0)


def _meaning(section: Input) -> dict[str, Any]:
    """Return what of an input decides what its samples mean; how long they wait does not."""
    told: dict[str, Any] = msgspec.to_builtins(section, enc_hook=str)
    for key in ("linger_ms", "overflow", "queue_rows", "spool_mb"):
        del told[key]
    for part in told.get("part", {}).values():
        for key in ("overflow", "queue_rows", "spool_mb"):
            del part[key]
    return told


def _boot() -> bytes:
    """Return the kernel's name for the time since it started, one that no other run has if it says none."""
    try:
        return uuid.UUID(_BOOT_ID.read_text(encoding="ascii").strip()).bytes
    except (OSError, ValueError):
        return os.urandom(16)
