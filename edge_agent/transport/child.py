"""Short-lived processes of the transport: what is large, slow or exposed to hostile bytes stays out of the agent.

A download takes libraries that the agent shall not keep in memory, and waits where only a kill helps; a patch takes as
much memory as the blobs are large. This module bounds such a child in time, reads what it writes piece by piece, and
leaves no process behind. What the bytes mean it does not know.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import edge_agent
from edge_agent.contract.errors import StoreError, TransportError

__all__ = ["pieces"]

PIECE_BYTES = 64 * 1024
POLL_SECONDS = 0.25
_START = """\
import importlib, sys
root, name = sys.argv[1:3]
if root not in sys.path:
    sys.path.insert(0, root)
sys.exit(importlib.import_module(name).main(sys.argv[3:]))
"""


@contextlib.contextmanager
def pieces(
    module: str,
    arguments: Sequence[str],
    *,
    deadline_seconds: float,
    stall_seconds: float,
    stop: threading.Event,
) -> Iterator[Iterator[bytes]]:
    """Run `module.main(arguments)` in a child and give its standard output, piece by piece.

    The iterator raises `TransportError` when the child fails (with the last line it complained with), writes nothing
    for `stall_seconds`, takes more than `deadline_seconds` in all, or `stop` is set; time that the reader spends does
    not count as silence. The child is gone when the block ends. `StoreError` if it cannot be started.
    """
    root = str(Path(edge_agent.__file__).parent.parent)
    with tempfile.TemporaryFile() as complaints:
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-P", "-c", _START, root, module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,
            )
        except OSError as error:
            raise StoreError(f"{module} cannot be started: {error}") from error
        try:
            yield _read(child, complaints, time.monotonic() + deadline_seconds, stall_seconds, stop)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


def _read(
    child: subprocess.Popen[bytes], complaints: IO[bytes], deadline: float, stall_seconds: float, stop: threading.Event
) -> Iterator[bytes]:
    assert child.stdout is not None
    heard = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if stop.is_set():
                raise TransportError("was stopped; what arrived is kept")
            if now > deadline:
                raise TransportError("is too slow: its time is up")
            if now - heard > stall_seconds:
                raise TransportError(f"sent nothing for {stall_seconds:g} s")
            if not selector.select(POLL_SECONDS):
                continue
            piece = os.read(child.stdout.fileno(), PIECE_BYTES)
            if not piece:
                break
            yield piece
            heard = time.monotonic()
    status = child.wait()
    if status:
        raise TransportError(_complaint(status, complaints))


def _complaint(status: int, complaints: IO[bytes]) -> str:
    complaints.seek(0, os.SEEK_END)
    complaints.seek(max(0, complaints.tell() - 2000))
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return lines[-1][:500] if lines else f"its process ended with status {status}"
