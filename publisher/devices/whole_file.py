"""Files of a workstation that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["CLOSED", "OPEN", "differs", "write_whole"]

OPEN, CLOSED = 0o644, 0o600


def write_whole(path: Path, content: bytes, mode: int = OPEN) -> None:
    """Write a file, durably; it has its name only when it is whole. Replaces one that is there. Raises `OSError`."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        if os.geteuid() == 0:
            _hand_over(Path(temporary), path)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _hand_over(made: Path, path: Path) -> None:
    """Give a file that root made to the owner of what it replaces, else of its directory.

    A broker that gave up root's rights must be able to read its access list after a revocation: mosquitto 2.0.11, told
    to read again what it may not read, goes on without the revocation and crashes later.
    """
    owner = path.stat() if path.exists() else path.parent.stat()
    os.chown(made, owner.st_uid, owner.st_gid)


def differs(path: Path, content: bytes) -> bool:
    """Tell whether a file is missing or holds something else. Raises `OSError`."""
    try:
        return path.read_bytes() != content
    except FileNotFoundError:
        return True
