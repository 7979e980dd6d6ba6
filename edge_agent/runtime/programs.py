"""A configured command as a child process: started without waiting, ended with everything it started.

The command runs in a session of its own and is asked first (SIGTERM), then killed. Nobody waits for it: who started it
looks again. What it writes to its standard error goes where the agent's goes, into the journal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import IO, Any

__all__ = ["GRACE_SECONDS", "Program"]

GRACE_SECONDS = 2.0
LOOK_SECONDS = 0.05


class Program:
    """The processes of one command, one after another. `start` returns the pipe's descriptor, non-blocking."""

    def __init__(self, command: Sequence[str]) -> None:
        self.name = os.path.basename(command[0])  # arguments may be anybody's business  # noqa: PTH119
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: list[tuple[subprocess.Popen[bytes], float]] = []

    def start(self, *, reads: bool) -> int:
        """Start the command; it `reads` its standard input from us, or else writes its output to us. Raises `OSError`."""
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        if not reads:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(self._command, bufsize=0, start_new_session=True, **pipes)  # noqa: S603
        descriptor = _pipe(self._process).fileno()
        os.set_blocking(descriptor, False)
        return descriptor

    def stop(self) -> str:
        """Close the pipe and let the process end; return how it ended if it has, in words."""
        process, self._process = self._process, None
        if process is None:
            return ""
        with contextlib.suppress(OSError):
            _pipe(process).close()
        # One that closed its pipe is mostly about to end: it gets a moment, so that its exit code is told.
        code = _ended(process, LOOK_SECONDS)
        _signal(process, signal.SIGTERM)  # its own children, too
        if code is None:
            self._ending.append((process, time.monotonic() + GRACE_SECONDS))
            return "closed its end"
        return f"exited with code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"

    def tend(self, now: float) -> float | None:
        """Kill what does not end; return when to look again, or None when nothing is left."""
        for process, deadline in list(self._ending):
            if process.poll() is not None:
                self._ending.remove((process, deadline))
            elif now >= deadline:
                _signal(process, signal.SIGKILL)
        return now + LOOK_SECONDS if self._ending else None

    def end(self) -> None:
        """End everything now; what does not go at once is killed."""
        self.stop()
        deadline = time.monotonic() + LOOK_SECONDS * 4
        for process, _ in self._ending:
            if _ended(process, max(0.0, deadline - time.monotonic())) is None:
                _signal(process, signal.SIGKILL)
                _ended(process, 1.0)
        self._ending.clear()


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    pipe = process.stdin or process.stdout
    assert pipe is not None
    return pipe


def _ended(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(seconds)
    return None


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
