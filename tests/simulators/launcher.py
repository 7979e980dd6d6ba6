"""What systemd is to a device whose workers it starts: accepts on a unix socket and starts a program for each caller.

Run as a program: `python -m tests.simulators.launcher SOCKET`. The connection becomes the program's descriptor 3, as
`Accept=yes` has it. It prints `ready`, then the process id of each worker. Shares no code with the agent.
"""

from __future__ import annotations

import os
import socket
import sys


def main() -> None:
    """Serve for ever; children are collected by nobody, which is all the same for a test."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        print("ready", flush=True)
        command = [sys.executable, "-I", "-P", "-m", "edge_agent.runtime.worker", "--socket-activated"]
        while True:
            caller, _ = listener.accept()
            with caller:
                actions = [(os.POSIX_SPAWN_DUP2, caller.fileno(), 3)]
                environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
                worker = os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)
            print(worker, flush=True)


if __name__ == "__main__":
    main()
