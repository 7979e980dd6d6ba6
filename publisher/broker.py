"""The embedded broker for a try-out: MQTT 5 in a child process, on loopback only (M7).

It has no passwords, no TLS and no disk, so it refuses to listen where another machine could reach it. It ends with the
process that started it, however that ends. Beyond a try-out use mosquitto or any MQTT 5 cluster; nothing else changes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from edge_agent.contract.errors import ConfigError, TransportError

__all__ = ["EmbeddedBroker"]

START_SECONDS = 15.0
STOP_SECONDS = 5.0
ATTEMPTS = 5
# Below the ephemeral range, where no outgoing connection can take the port between our look and the broker's bind.
PORTS = range(20_000, 32_000)

# rumqttd, the broker inside iotcore. A segment bounds what one topic's log may hold; the payload limit leaves room for
# the largest envelope (1 MB).
_TOML = """\
id = 0
[router]
id = 0
max_connections = 1010
max_outgoing_packet_count = 200
max_segment_size = 10485760
max_segment_count = 10
[v5.1]
name = "v5-1"
listen = "{listen}"
next_connection_delay_ms = 1
    [v5.1.connections]
    connection_timeout_ms = 60000
    max_payload_size = {payload_bytes_max}
    max_inflight_count = 100
    dynamic_filters = true
"""
PAYLOAD_BYTES_MAX = 4 * 1024 * 1024

# The child needs nothing of ours, so it runs wherever iotcore is importable. It reads its stdin to notice our end, and
# leaves Ctrl-C to us. rumqttd logs every packet as an error: silenced.
_CHILD = """\
import logging, os, signal, sys, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
logging.disable(logging.CRITICAL)
threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
from iotcore import IotCoreBroker
broker = IotCoreBroker(config_path=sys.argv[1])
broker.check_ports()
print("port is free", flush=True)
broker.run_forever()
"""


class EmbeddedBroker:
    """An MQTT 5 broker on `host` (loopback) and `port` (0: a free one), as a context manager.

    Raises `ConfigError` for a host that is not loopback, a port that is taken, or without the package `iotcore`;
    `TransportError` when the broker does not come up.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        if not 0 <= port <= 65_535:
            raise ConfigError(f"port {port} is none: use 1 to 65535, or 0 for a free one")
        self.host = _loopback(host)
        self.port = port
        self._fixed = port != 0
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        """`mqtt://host:port`; the port is known once started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt://{host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the broker's process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The broker's process id; `RuntimeError` when it is not running."""
        if self._process is None:
            raise RuntimeError("the embedded broker is not running")
        return self._process.pid

    def start(self) -> EmbeddedBroker:
        """Start the broker and return when it accepts connections."""
        if self.running:
            return self
        if importlib.util.find_spec("iotcore") is None:
            raise ConfigError("the embedded broker needs the package iotcore: pip install 'fieldcast[publisher]'")
        why = ""
        for _ in range(1 if self._fixed else ATTEMPTS):
            if not self._fixed:
                self.port = PORTS.start + secrets.randbelow(len(PORTS))
            if why := self._taken():
                continue
            self._launch()
            try:
                why = self._wait_listening()
            except BaseException:
                self.stop()
                raise
            if not why:
                return self
            self.stop()
        if self._taken():
            raise ConfigError(f"the embedded broker cannot listen on {self.host}:{self.port}: {why}; use another port")
        raise TransportError(f"the embedded broker did not start on {self.host}:{self.port}: {why}")

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """Block until the broker's process ends; return its exit code, None after `timeout_seconds`."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End the broker; connections are closed, retained messages are gone. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.cleanup()

    def __enter__(self) -> EmbeddedBroker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="fieldcast-broker-")
        config = Path(self._directory.name) / "broker.toml"
        listen = self.url.removeprefix("mqtt://")
        config.write_text(_TOML.format(listen=listen, payload_bytes_max=PAYLOAD_BYTES_MAX))
        with (config.parent / "log").open("wb") as log:
            self._process = subprocess.Popen(
                # -P: a folder called iotcore in the current directory must not stand in for the package.
                [sys.executable, "-P", "-c", _CHILD, str(config)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_listening(self) -> str:
        """Return an empty string when the broker accepts connections, otherwise why it does not."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return f"its process ended with code {self._process.returncode}: {self._last_words()}"
            # Not before the child has seen the port free: whoever answered would be somebody else.
            if self._log() and self._answers():
                return ""
            time.sleep(0.02)
        return f"no answer within {START_SECONDS:g} s: {self._last_words()}"

    def _taken(self) -> str:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                return str(error)
        return ""

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _log(self) -> str:
        assert self._directory is not None
        return (Path(self._directory.name) / "log").read_text(errors="replace").strip()

    def _last_words(self) -> str:
        text = self._log()
        return text.splitlines()[-1][:300] if text else "it said nothing"


def _loopback(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    try:
        safe = ipaddress.ip_address(address).is_loopback
    except ValueError:
        safe = False
    if not safe:
        raise ConfigError(
            f"the embedded broker listens on loopback (127.0.0.1) only, not on {host!r}: it has no passwords and no "
            "TLS; for other machines run mosquitto"
        )
    return address
