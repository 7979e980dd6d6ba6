"""Secrets of the configuration: read where and when they are needed, from a file or a systemd credential.

A configuration holds no secret, so neither do reports, incidents or logs. No message here shows what was read.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["secret"]

SECRET_BYTES_MAX = 65_536


def secret(file: Path | None, credential: str) -> bytes | None:
    """Return the content of `file`, or of the systemd credential, without trailing newline; None for neither.

    Raises `OSError` when it cannot be read, or the unit was given no credentials.
    """
    if credential:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise FileNotFoundError(2, f"no systemd credentials: write LoadCredential={credential}:… into the unit")
        file = Path(directory) / credential
    if file is None:
        return None
    with file.open("rb") as opened:
        return opened.read(SECRET_BYTES_MAX).rstrip(b"\r\n")
