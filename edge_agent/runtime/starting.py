"""Start a worker's process: which program, with what of the agent's environment, and onto which descriptors.

A worker leads a session of its own, so that it can be ended with all that it started.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from edge_agent.contract.digest import encode_json
from edge_agent.runtime.limits import Limits

__all__ = ["WORKER", "Program", "ending", "spawn"]

# What a worker gets to see of the agent's environment; everything else may hold secrets.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JOBLIB_MULTIPROCESSING": "0"}


class Program(NamedTuple):
    """What a worker process is started as: the interpreter's arguments, and its environment beside the usual."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = MappingProxyType({})

    def within(self, limits: Limits) -> Program:
        """Return the program as it is started for a worker with these limits."""
        parent = os.getpid()
        told = encode_json(msgspec.structs.replace(limits, parent=parent)).decode()
        return self._replace(arguments=(*self.arguments, str(parent), told))


WORKER = Program(("-I", "-P", "-m", "edge_agent.runtime.worker"))


def spawn(sock: socket.socket, program: Program, printed: int) -> int:
    """Start the program with `sock` as descriptor 3 and `printed` as its output; return its process id."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _THREADS
    environment |= program.environment
    command = [sys.executable, *program.arguments]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, printed, 1),
        (os.POSIX_SPAWN_DUP2, printed, 2),
        (os.POSIX_SPAWN_DUP2, sock.fileno(), 3),
    ]
    return os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)


def ending(code: int) -> str:
    """Return an exit code of `os.waitstatus_to_exitcode` in words."""
    return f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"
