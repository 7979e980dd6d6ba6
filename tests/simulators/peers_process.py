"""Peers that speak real protocols in processes of their own: Modbus, OPC UA and HTTP servers that can be killed.

Run as a program with a kind and an address; as a module it starts, kills and restarts that program.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["PeerProcess"]

READY_SECONDS = 60.0


class PeerProcess:
    """One server, started on construction. `lines` is what it has printed since (the HTTP server: bodies it took)."""

    def __init__(self, kind: str, address: str, directory: Path, *options: str) -> None:
        self._command = [sys.executable, __file__, kind, address, *options]
        self._log = directory / f"{kind}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self, *options: str) -> None:
        ready = self.text.count("ready\n")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_SECONDS
        while self.text.count("ready\n") == ready:
            assert self._process.poll() is None, self.text
            assert time.monotonic() < deadline, f"not ready: {self.text}"
            time.sleep(0.01)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    @property
    def text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("{")]

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


async def _modbus(address: str) -> None:
    """Unit 1: holding registers 0.. are a counter that rises with every read, a float32 1.5 at 10, coil 0 set."""
    from pymodbus.server import ModbusSerialServer, ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    blocks = (
        [SimData(0, values=[True, False] * 8, datatype=DataType.BITS)],
        [SimData(0, values=[False] * 16, datatype=DataType.BITS)],
        [
            SimData(0, values=[7, 65_535], datatype=DataType.REGISTERS),
            SimData(10, values=1.5, datatype=DataType.FLOAT32),
        ],
        [SimData(0, values=[40, 41, 42], datatype=DataType.REGISTERS)],
    )
    context = SimDevice(1, simdata=blocks)
    server: Any
    if address.startswith("/"):
        server = ModbusSerialServer(context, port=address, baudrate=19_200, parity="N")
    else:
        server = ModbusTcpServer(context, address=("127.0.0.1", int(address)))
    asyncio.get_running_loop().call_later(0.3, lambda: print("ready", flush=True))
    await server.serve_forever()


async def _opcua(address: str) -> None:
    """Variables `ns=2;s=a`, which counts up every 20 ms, and `ns=2;s=b`, which stays 5.5."""
    from asyncua import Server, ua

    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{address}/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace("urn:test")
    counter = await server.nodes.objects.add_variable(ua.NodeId("a", index), "a", 0.0)
    await server.nodes.objects.add_variable(ua.NodeId("b", index), "b", 5.5)
    async with server:
        print("ready", flush=True)
        number = 0
        while True:
            number += 1
            await counter.write_value(float(number))
            await asyncio.sleep(0.02)


def _http(address: str, *answers: str) -> None:
    """Takes posted lines; the first answers have the given status codes, later ones 200."""
    waiting = list(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = int(waiting.pop(0)) if waiting else 200
            if status == 200:
                for line in body.splitlines():
                    print(line.decode(), flush=True)
                if self.headers["Authorization"]:
                    print(json.dumps({"authorization": self.headers["Authorization"]}), flush=True)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(address)), Handler)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    sys.path = [path for path in sys.path if Path(path).resolve() != Path(__file__).parent]
    kind, where, *more = sys.argv[1:]
    if kind == "http":
        _http(where, *more)
    else:
        asyncio.run({"modbus": _modbus, "opcua": _opcua}[kind](where))
    os._exit(0)
