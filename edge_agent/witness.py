"""A worker that also writes down what every stage makes of the self-test.

Only a rehearsal starts it, as `python -m edge_agent.witness FILE PARENT_PID`. All else is the device's own
worker, so that what passes here passes there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.runtime.worker import Worker
from edge_agent.runtime.worker import main as serve

if TYPE_CHECKING:
    import socket
    from io import FileIO

    from edge_agent.sdk.pipeline import Pipeline

__all__ = ["Witness", "main"]


class Witness(Worker):
    """Serves one release over one socket, and leaves the outputs of the self-test in `file`, open for writing."""

    def __init__(self, sock: socket.socket, file: FileIO) -> None:
        super().__init__(sock)
        self._file = file

    def judge(self, twin: Pipeline, data: bytes) -> str:
        """Run the self-test as every worker does, and write down what each stage made of it, however it ends."""
        from edge_agent.sdk import trace

        with trace.watching(twin) as seen:
            try:
                return super().judge(twin, data)
            finally:
                self._file.write(trace.encode(seen))


def main() -> None:
    """Lock down, then serve the socket on descriptor 3."""
    file = Path(sys.argv.pop(1)).open("wb", buffering=0)  # noqa: SIM115 - while it can be: the sandbox is next
    serve(lambda sock: Witness(sock, file))


if __name__ == "__main__":
    main()
