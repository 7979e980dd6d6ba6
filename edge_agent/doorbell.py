"""A unix socket in the agent's directory: whoever connects gets the agent's status as JSON, and wakes the agent.

It is how `edge-agent status` sees live numbers without the agent writing to flash, and how an operator's request in
the store is noticed at once. Nothing is read from the caller.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["Doorbell", "ring"]

log = logging.getLogger(__name__)
NAME = "agent.sock"
STATUS_BYTES_MAX = 4 * 1024 * 1024


class Doorbell:
    """Serves `status()` to whoever rings; `ringed` is called for each."""

    def __init__(self, directory: Path, status: Callable[[], bytes], ringed: Callable[[], None]) -> None:
        self._status, self._ringed = status, ringed
        self._path = directory / NAME
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            with _short(directory) as path:
                self._sock.bind(path)
            self._path.chmod(0o600)
        except OSError as error:
            log.warning("no socket in the directory, answers by a name without file reason=%s", error)
            self._sock.bind(_name(directory))
        self._sock.listen(8)
        self._thread = threading.Thread(target=self._serve, name="doorbell", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._sock.accept()
            except OSError:
                return
            if not _ours(caller):
                caller.close()
                continue
            self._ringed()
            with caller, contextlib.suppress(OSError):
                caller.settimeout(2.0)
                caller.sendall(self._status())

    def close(self) -> None:
        """Stop answering."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        with contextlib.suppress(OSError):  # a disk that refuses: it is in nobody's way
            self._path.unlink(missing_ok=True)


def ring(directory: Path) -> bytes | None:
    """Return the running agent's status, None when no agent answers there."""
    try:
        with _short(directory) as path:
            return _rung(path) or _rung(_name(directory))
    except OSError:
        return None


def _rung(address: str) -> bytes | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(5.0)
        try:
            sock.connect(address)
            if not _ours(sock):
                return None
            data = b""
            while (part := sock.recv(65_536)) and len(data) < STATUS_BYTES_MAX:
                data += part
        except OSError:
            return None
    return data or None


def _name(directory: Path) -> str:
    """Return the abstract socket address of a directory in which no socket can be made: read-only, full."""
    found = directory.stat()
    return f"\0fieldcast-agent-{found.st_dev}-{found.st_ino}"


def _ours(sock: socket.socket) -> bool:
    """Tell whether the other end is this user or root: an abstract name has no file whose mode would say so."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (0, os.getuid()) or os.getuid() == 0


class _short:  # noqa: N801 - a context manager used like a function
    """A path to the socket that fits the 108 bytes of a socket address, however deep the directory lies."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._descriptor}/{NAME}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
