"""A real mosquitto on a free loopback port, with faults on demand: stop, kill, restart on the same port, frozen."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

__all__ = ["Mosquitto", "free_port"]

EXECUTABLE = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
START_SECONDS = 30.0
PROCESSES_MAX = 16
_drawn: set[int] = set()


def free_port() -> int:
    """Return a loopback port that nobody listens on now and that nobody else will soon.

    Ports below the ephemeral range are drawn, so that no outgoing connection of another test takes the port of a
    server that is down; each test process draws from ports of its own, and none twice.
    """
    for _ in range(1000):
        port = 12_000 + int.from_bytes(os.urandom(2), "big") % 1_125 * PROCESSES_MAX + os.getpid() % PROCESSES_MAX
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _drawn:
            _drawn.add(port)
            return port
    raise RuntimeError("no free loopback port in 1000 tries")


class Mosquitto:
    """A mosquitto process as a context manager.

    `config` is appended to the generated file (`listener PORT 127.0.0.1`, anonymous allowed unless
    `allow_anonymous` occurs in `config`). With `persistent=True` sessions and retained messages survive `stop()` and
    `start()` (mosquitto writes its database on a clean stop only). `start=False` leaves it down until `start()`.
    """

    def __init__(self, config: str = "", *, persistent: bool = False, start: bool = True, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.directory = Path(tempfile.mkdtemp(prefix="mosquitto-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._config = config
        self._persistent = persistent
        self._start_at_once = start

    def __enter__(self) -> Mosquitto:
        if self._start_at_once:
            try:
                self.start()
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The running broker's process id; `RuntimeError` when it is down."""
        if self.process is None:
            raise RuntimeError("the broker is down")
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything the broker has written so far, over all starts."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start the broker and wait until it accepts connections; does nothing when it runs."""
        if self.process is not None:
            return
        (self.directory / "mosquitto.conf").write_text(self._configuration())
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [EXECUTABLE, "-v", "-c", str(self.directory / "mosquitto.conf")], stdout=log, stderr=log
            )
        self._wait_listening()

    def stop(self) -> None:
        """End the broker cleanly (SIGTERM): with `persistent`, it writes its database."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker with SIGKILL; clients see a reset or closed connection."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop cleanly and start again on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Suspend the broker: connections stay open and nothing answers, until `thaw()`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _configuration(self) -> str:
        lines = [f"listener {self.port} 127.0.0.1", "max_queued_messages 0", "user root"]
        if "allow_anonymous" not in self._config:
            lines.append("allow_anonymous true")
        if self._persistent:
            lines += ["persistence true", f"persistence_location {self.directory}/", "autosave_interval 0"]
        return "\n".join([*lines, self._config]) + "\n"

    def _wait_listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                self.process = None
                raise RuntimeError(f"mosquitto ended at start:\n{self.log}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise RuntimeError(f"mosquitto does not listen after {START_SECONDS} s:\n{self.log}")

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        if how is signal.SIGTERM:
            self.process.send_signal(signal.SIGCONT)
        self.process.wait(timeout=START_SECONDS)
        self.process = None
