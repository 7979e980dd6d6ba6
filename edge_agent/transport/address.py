"""Where the broker is and how to trust it: `mqtt://host[:port]` or `mqtts://host[:port]`, and the TLS files.

Refuses at once what could only fail later in a network thread: other schemes, a missing host, a port out of range,
secrets in the URL (they end in logs), TLS files that cannot be read.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from edge_agent.contract.errors import ConfigError

__all__ = ["Address", "tls_context"]

_PORTS = {"mqtt": 1883, "mqtts": 8883}


class Address(msgspec.Struct, frozen=True):
    """A broker's host, port and whether TLS is spoken; `str()` gives `host:port`."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse a broker URL. Raises `ConfigError` that says what is wrong with it; secrets are never repeated."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"broker URL cannot be read: {error} (want mqtt://host:port)") from None
        if parts.username is not None or parts.password is not None:
            raise ConfigError("broker URL holds a user name or password: give them apart (username, password_file)")
        if parts.scheme not in _PORTS:
            raise ConfigError(f"broker URL {url!r}: scheme {parts.scheme!r} is not known, use mqtt:// or mqtts://")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigError(f"broker URL {url!r} goes on after the port: want {parts.scheme}://host:port")
        if not host or port == 0 or not _resolvable(host):
            raise ConfigError(f"broker URL {url!r} names no usable host and port: want {parts.scheme}://host:port")
        return cls(host, _PORTS[parts.scheme] if port is None else port, parts.scheme == "mqtts")


def _resolvable(host: str) -> bool:
    # What the idna codec refuses raises UnicodeError inside getaddrinfo, which is no OSError: paho's thread would die.
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def tls_context(ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Return a client context: `ca` (PEM; the system's when None) and our certificate with its key.

    Host names are always checked. Raises `ConfigError` naming the file that cannot be used.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=None if ca is None else str(ca))
    except (OSError, ValueError) as error:
        raise ConfigError(f"broker CA file {ca} cannot be used: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        try:
            # An encrypted key would ask on the terminal and hang a service; an empty password makes it fail.
            context.load_cert_chain(str(cert), None if key is None else str(key), password="")
        except (OSError, ValueError) as error:
            raise ConfigError(f"client certificate {cert} with key {key or cert} cannot be used: {error}") from None
    elif key is not None:
        raise ConfigError(f"broker key {key} is given without its certificate (cert)")
    return context
