"""A worker that somebody else starts: systemd, under another user and in a control group of its own (R6).

The agent connects to the launcher's unix socket (`SOCK_SEQPACKET`; `Accept=yes` of a systemd socket unit), sends one
message, the worker's `Limits` as JSON with the frame socket's descriptor beside it and, as the second one, the pipe to
print to, and keeps the connection. The
launcher only accepts and starts `python -m edge_agent.runtime.worker --socket-activated` with the connection as
descriptor 3. The connection is the worker's lifeline: when the agent closes it, or ends, the kernel kills the worker.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING

import msgspec

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.runtime.limits import Limits

if TYPE_CHECKING:  # the worker, which has no use for it, imports this module too
    from edge_agent.runtime.chatter import Voice

__all__ = ["LAUNCHED", "Launched", "receive_limits"]

LAUNCHED = "--socket-activated"
MESSAGE_BYTES_MAX = 16_384
CONNECT_SECONDS = 1.0


class Launched:
    """The agent's end of a worker that a launcher started. Raises `OSError` when the launcher does not answer."""

    def __init__(self, launcher: str, frames: socket.socket, limits: Limits, voice: Voice | None = None) -> None:
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._line.settimeout(CONNECT_SECONDS)
            self._line.connect(launcher)
            passed = [frames.fileno(), *([voice.theirs] if voice is not None else [])]
            socket.send_fds(self._line, [encode_json(limits)], passed)
            self._line.setblocking(False)
        except OSError as error:
            self._line.close()
            raise OSError(error.errno, f"the launcher at {launcher} cannot be reached: {error}") from error
        self._killed = False

    def kill(self) -> None:
        """Let go of the worker: the kernel kills it."""
        self._killed = True
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)

    def ended(self) -> str | None:
        """Return how the worker ended in words, None while it has not: a dead worker's end of the line is closed."""
        if self._line.fileno() >= 0:
            poll = select.poll()
            poll.register(self._line.fileno(), 0)
            if not any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0)):
                return None
            self._line.close()
        return "was killed" if self._killed else "ended (its launcher's journal tells how)"


def receive_limits(descriptor: int) -> Limits:
    """Take the agent's message from the connection on `descriptor`, as the worker.

    The frame socket takes its place there, the pipe that of standard output and error; the connection lives on under
    the number in `lifeline`. Raises `OSError` or `ValueError` for anything but such a message.
    """
    line = socket.socket(fileno=os.dup(descriptor))
    message, passed, _, _ = socket.recv_fds(line, MESSAGE_BYTES_MAX, 2)
    if not passed:
        raise ValueError("the agent passed 0 descriptors, not its frame socket")
    limits = decode_json(message, Limits)
    os.dup2(passed[0], descriptor, inheritable=False)
    os.close(passed[0])
    for pipe in passed[1:]:  # from an older agent there is none: the launcher's journal has what is printed
        os.dup2(pipe, 1)
        os.dup2(pipe, 2)
        os.close(pipe)
    return msgspec.structs.replace(limits, parent=0, lifeline=line.detach())
