"""Where the local listener may listen: an address of this machine's own, or a unix socket; nowhere else.

What comes in is not authenticated, so nothing that the network reaches is accepted, whatever the configuration says.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import NamedTuple

from edge_agent.contract.errors import ConfigError

__all__ = ["Address", "is_local", "parse_address"]

UNIX = "unix:"
SOCKET_PATH_BYTES_MAX = 107
SOCKET_MODE = 0o660
BACKLOG = 64
_EXAMPLES = '"127.0.0.1:8080", "[::1]:8080" or "unix:/run/edge-agent/http.sock"'


class Address(NamedTuple):
    """A loopback `host` and `port` (0: the system chooses one), or the `path` of a unix socket."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    def bind(self) -> socket.socket:
        """Return a socket that listens here, not blocking. Raises `ConfigError` for one that is taken or refused."""
        try:
            return self._unix(self.path) if self.path is not None else self._tcp()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "another program listens there" if taken else error.strerror or str(error)
            advice = "stop it, or name another address in [interfaces] listen"
            raise ConfigError(f"interfaces.listen {self}: {why}: {advice}") from None

    def _tcp(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return _listening(socket.socket(family, socket.SOCK_STREAM), (self.host, self.port))

    def _unix(self, path: Path) -> socket.socket:
        if path.is_socket():
            _require_left(path)
            path.unlink()
        sock = _listening(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), str(path))
        path.chmod(SOCKET_MODE)
        return sock

    def release(self, sock: socket.socket) -> None:
        """Stop listening."""
        sock.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def place(self, sock: socket.socket) -> str:
        """Return where `sock` listens, for people: a URL, or `unix:PATH`."""
        if self.path is not None:
            return str(self)
        return f"http://{self._replace(port=sock.getsockname()[1])}"

    def __str__(self) -> str:
        if self.path is not None:
            return f"{UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, directory: Path) -> Address:
    """Return the address that a configuration in `directory` names. Raises `ValueError` for any that is not local."""
    if text.startswith((UNIX, "/")):
        path = directory / text.removeprefix(UNIX)
        if not text.removeprefix(UNIX) or len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(f"{text[:120]!r} must be the path of a socket, at most {SOCKET_PATH_BYTES_MAX} bytes long")
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ValueError(f"{text[:80]!r} is no address: write {_EXAMPLES}")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    if not is_local(host):
        words = "can be reached from the network, and whoever asks is not authenticated: listen at"
        raise ValueError(f"{text[:80]!r} {words} {_EXAMPLES}, and put a proxy that authenticates in front")
    return Address(host, int(port))


def is_local(host: str) -> bool:
    """Tell whether a host is this machine, by name or by address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _listening(sock: socket.socket, address: tuple[str, int] | str) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _require_left(path: Path) -> None:
    """Raise `OSError` while somebody listens at a socket; one that a killed agent left is nobody's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(ConnectionRefusedError):
        probe.connect(str(path))
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
