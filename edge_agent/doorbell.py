"""A unix socket in the agent's directory: whoever connects gets the agent's status as JSON, and wakes the agent.

It is how `edge-agent status` sees live numbers without the agent writing to flash, and how an operator's request in
the store is noticed at once. Nothing is read from the caller.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["Doorbell", "ring"]

NAME = "agent.sock"
STATUS_BYTES_MAX = 4 * 1024 * 1024


class Doorbell:
    """Serves `status()` to whoever rings; `ringed` is called for each."""

    def __init__(self, directory: Path, status: Callable[[], bytes], ringed: Callable[[], None]) -> None:
        self._status, self._ringed = status, ringed
        with contextlib.suppress(FileNotFoundError):
            (directory / NAME).unlink()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short(directory) as path:
            self._sock.bind(path)
        (directory / NAME).chmod(0o600)
        self._sock.listen(8)
        self._path = directory / NAME
        self._thread = threading.Thread(target=self._serve, name="doorbell", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._sock.accept()
            except OSError:
                return
            self._ringed()
            with caller, contextlib.suppress(OSError):
                caller.settimeout(2.0)
                caller.sendall(self._status())

    def close(self) -> None:
        """Stop answering."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._path.unlink(missing_ok=True)


def ring(directory: Path) -> bytes | None:
    """Return the running agent's status, None when no agent answers there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(5.0)
        try:
            with _short(directory) as path:
                sock.connect(path)
            data = b""
            while (part := sock.recv(65_536)) and len(data) < STATUS_BYTES_MAX:
                data += part
        except OSError:
            return None
    return data or None


class _short:  # noqa: N801 - a context manager used like a function
    """A path to the socket that fits the 108 bytes of a socket address, however deep the directory lies."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._descriptor}/{NAME}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
