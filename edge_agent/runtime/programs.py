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
from pathlib import Path
from typing import IO, Any

__all__ = ["GRACE_SECONDS", "Program"]

GRACE_SECONDS = 2.0
LOOK_SECONDS = 0.05
CLOSE_SECONDS = 0.3


class Program:
    """The processes of one command, one after another. `start` returns the pipe's descriptor, non-blocking."""

    def __init__(self, command: Sequence[str]) -> None:
        self.name = Path(command[0]).name  # arguments may hold what belongs in no log
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._reads = False
        self._ending: list[_Ending] = []

    def start(self, *, reads: bool) -> int:
        """Start the command; it `reads` its input from us, or else writes its output to us. Raises `OSError`."""
        self._reads = reads
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        if not reads:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(self._command, bufsize=0, start_new_session=True, **pipes)
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
        words = _how(process)
        now = time.monotonic()
        self._ending.append(_Ending(process, now + LOOK_SECONDS, now + LOOK_SECONDS + GRACE_SECONDS))
        return words

    @property
    def over(self) -> bool:
        """Whether the process has ended, though what it started may still hold the pipe."""
        return self._process is not None and _over(self._process) is not None

    def tend(self, now: float) -> float | None:
        """Ask and then kill what does not end; return when to look again, or None when nothing is left.

        Nobody is reaped before it was asked: until then its number cannot be another's.
        """
        for one in list(self._ending):
            if not one.asked and now >= one.ask_at:
                _signal(one.process, signal.SIGTERM)  # what it started, too
                one.asked = True
            if one.asked and one.process.poll() is not None:
                self._ending.remove(one)
            elif now >= one.kill_at:
                _signal(one.process, signal.SIGKILL)
        return now + LOOK_SECONDS if self._ending else None

    def end(self) -> None:
        """End everything now. One that reads has a moment to finish; what does not go when asked is killed."""
        self.stop()
        for seconds, number in ((CLOSE_SECONDS * self._reads, signal.SIGTERM), (CLOSE_SECONDS, signal.SIGKILL)):
            deadline = time.monotonic() + seconds
            for one in self._ending:
                # Not reaped before the last signal: its number cannot be another's.
                while one.process.returncode is None and not _over(one.process) and time.monotonic() < deadline:
                    time.sleep(0.005)
                if one.process.returncode is None:
                    _signal(one.process, number)
        for one in self._ending:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(1.0)
        self._ending.clear()


class _Ending:
    """A process that should end: when it is asked, and when it is killed (monotonic seconds)."""

    def __init__(self, process: subprocess.Popen[bytes], ask_at: float, kill_at: float) -> None:
        self.process, self.ask_at, self.kill_at, self.asked = process, ask_at, kill_at, False


def _over(process: subprocess.Popen[bytes]) -> Any:
    """What waitid() says of a process that has ended, None otherwise; its number stays taken."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def _how(process: subprocess.Popen[bytes]) -> str:
    """How a process ended, without reaping it."""
    found = _over(process)
    if found is None:
        return "closed its end"
    if found.si_code == os.CLD_EXITED:
        return f"exited with code {found.si_status}"
    return f"ended by {signal.Signals(found.si_status).name}"


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    pipe = process.stdin or process.stdout
    assert pipe is not None
    return pipe


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
