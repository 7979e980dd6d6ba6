"""Outputs as lines of JSON to a command's standard input. A command that ends is started again, after growing waits.

An output is confirmed when the command has read it: what its pipe still held when it ended goes to the next one.
Whether a command that read a line did something with it, only the command knows.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import select
import termios
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from edge_agent.config.plugs import CommandOutput
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.programs import Program
from edge_agent.runtime.samples import Faults
from edge_agent.transport.backoff import Backoff

__all__ = ["CommandSink"]

log = logging.getLogger(__name__)
OUTPUTS_MAX = 10_000
OUTPUT_BYTES_MAX = 16 << 20
WRITE_BYTES = 65_536
LOOK_SECONDS = 0.02
AGAIN_SECONDS = (0.2, 10.0)
HELD_SECONDS = 5.0
_encode = msgspec.json.Encoder().encode


class CommandSink:
    """The sink of one slot. `confirmed` counts outputs that the command has read."""

    def __init__(
        self,
        config: CommandOutput,
        *,
        outputs_max: int = OUTPUTS_MAX,
        again_seconds: tuple[float, float] = AGAIN_SECONDS,
    ) -> None:
        self.confirmed = 0
        self.faults = Faults()
        self._program = Program(config.command)
        self.problem = f"{self._program.name}: not started yet"
        self._outputs_max = outputs_max
        self._written = 0
        self._bytes = 0
        self._lines: deque[bytes] = deque()  # unconfirmed, in order
        self._buffer = bytearray()  # of them, what the pipe has not
        self._piped = 0  # bytes of `_lines` that the pipe has or had
        self._backoff = Backoff(*again_seconds)
        self._fd = -1
        self._again_at = self._started_at = 0.0
        self._tend_at: float | None = None

    @property
    def room(self) -> int:
        """How many outputs may be written now."""
        return 0 if self._bytes > OUTPUT_BYTES_MAX else self._outputs_max - len(self._lines)

    def interest(self) -> Interest:
        """Return descriptor, poll events and deadline; see `edge_agent.runtime.sinks.Sink`."""
        if self._fd < 0:
            return -1, 0, self._again_at if self._tend_at is None else min(self._again_at, self._tend_at)
        # Without anything to write, poll() still tells that the reader has gone.
        due = [] if self._tend_at is None else [self._tend_at]
        if self._lines:
            due.append(time.monotonic() + LOOK_SECONDS)
        return self._fd, select.POLLOUT if self._buffer else 0, min(due, default=None)

    def handle(self, events: int, now: float) -> None:
        """Start the command, write, and look at what it has read."""
        self._tend_at = self._program.tend(now)
        if self._fd < 0:
            if now >= self._again_at:
                self._start(now)
            return
        self._confirm()
        if events & (select.POLLERR | select.POLLHUP) or self._program.over:
            self._lost(now)
        else:
            self._write(now)

    def write(self, messages: Sequence[OutputMessage]) -> None:
        """Take outputs, in order. `ValueError` for more than `room`."""
        if len(messages) > self._outputs_max - len(self._lines):
            raise ValueError(f"{len(messages)} outputs do not fit: there is room for {self.room}")
        for message in messages:
            line = _encode(message) + b"\n"
            self._lines.append(line)
            self._buffer += line
            self._bytes += len(line)
        if self._fd >= 0:
            self._write(time.monotonic())

    def close(self) -> None:
        """Close the command's input and end it."""
        if self._fd >= 0:
            self._confirm()
            self._fd = -1
        self._program.end()

    def _start(self, now: float) -> None:
        try:
            self._fd = self._program.start(reads=True)
        except OSError as error:
            self.problem = f"{self._program.name}: cannot be started: {error.strerror or error}"
            self._again_at = now + self._backoff.next()
            return
        self._started_at, self.problem = now, ""
        self._buffer = bytearray(b"".join(self._lines))
        self._piped = 0
        self._write(now)

    def _write(self, now: float) -> None:
        try:
            while self._buffer:
                done = os.write(self._fd, memoryview(self._buffer)[:WRITE_BYTES])
                del self._buffer[:done]
                self._piped += done
        except BlockingIOError:
            pass
        except OSError:
            self._confirm()
            self._lost(now)

    def _confirm(self) -> None:
        """Count the lines of which nothing is left in the pipe."""
        unread = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, unread)
        read = self._piped - unread[0]
        while self._lines and len(self._lines[0]) <= read:
            length = len(self._lines.popleft())
            read -= length
            self._piped -= length
            self._bytes -= length
            self.confirmed += 1

    def _lost(self, now: float) -> None:
        self._fd = -1
        self.problem = f"{self._program.name}: {self._program.stop()}"
        log.warning("sink is gone name=%s reason=%s", self._program.name, self.problem)
        self._tend_at = self._program.tend(now)
        if now - self._started_at >= HELD_SECONDS:
            self._backoff.reset()
        self._again_at = now + self._backoff.next()
