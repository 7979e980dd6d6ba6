"""A slot that answers requests, in this process: a real lane with real workers behind the real listener on a socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edge_agent.config import Config, load
from edge_agent.interfaces.opening import Interfaces
from edge_agent.runtime.inference import AnsweringSink, InferenceSource, Running
from edge_agent.runtime.latency import Latency
from tests.simulators.slot import Slot

__all__ = ["Caller", "Serving", "configuration", "tensor"]

_CONFIG = """
[device]
id = "d1"
fleet = "f"
[channel.staging]
root = "1.root.json"
[interfaces]
listen = "{listen}"
inference = true
metrics = true
[slot.act]
channel = "staging"
[slot.act.input]
source = "inference"
columns = {{ {columns} }}
{more}
"""


def configuration(
    directory: Path, columns: str = 'x = "x"', more: str = "", listen: str = "127.0.0.1:0", after: str = ""
) -> Config:
    """Return the configuration of a device with one slot that answers requests."""
    path = directory / "agent.toml"
    path.write_text(_CONFIG.format(columns=columns, more=more, listen=listen) + after)
    return load(path, check_files=False)


def tensor(name: str, data: Any, datatype: str = "FP64", shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": data}


class Caller:
    """One keep-alive connection to a listener."""

    def __init__(self, place: str, seconds: float = 20.0) -> None:
        self._http = http.client.HTTPConnection("localhost", timeout=seconds)
        if place.startswith("unix:"):
            self._http.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._http.sock.connect(place.removeprefix("unix:"))
        else:
            parts = urlsplit(place)
            self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
        self.headers: dict[str, str] = {}

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Return status and body of the answer, decoded where it is JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        self._http.request(method, path, data, headers or {})
        answer = self._http.getresponse()
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        raw = answer.read()
        return answer.status, json.loads(raw) if self.headers.get("content-type") == "application/json" else raw

    def infer(self, *tensors: dict[str, Any], path: str = "/v2/models/act/infer", **more: Any) -> tuple[int, Any]:
        return self.ask("POST", path, {"inputs": list(tensors), **more})

    def close(self) -> None:
        self._http.close()


class Serving:
    """Use as a context manager; `slot` is the updater's part, `caller()` asks."""

    def __init__(self, config: Config, record: Any = None) -> None:
        source = config.slot["act"].input
        self.source = InferenceSource(source, start_sequence=1 << 32)  # type: ignore[arg-type]
        self.slot = Slot(self.source, AnsweringSink(self.source, record))  # type: ignore[arg-type]
        lane = self.slot.lane
        lane.latency, lane.skipped = Latency(), self.source.skipped
        self.source.look = lambda: Running(*found) if (found := lane.running) is not None else None
        self.rings: list[Any] = []
        self.status: dict[str, Any] = {"slots": [], "channels": {}}
        self.interfaces = Interfaces(config, {"act": lane}, self._told)
        self._callers: list[Caller] = []

    def _told(self, ring: Any) -> None:
        ring.put(msgspec.json.encode(self.status))

    @property
    def place(self) -> str:
        return str(self.interfaces.status["listen"])

    def caller(self) -> Caller:
        self._callers.append(Caller(self.place))
        return self._callers[-1]

    def __enter__(self) -> Serving:
        self.slot.__enter__()
        self.interfaces.start()
        return self

    def __exit__(self, *reason: object) -> None:
        try:
            self.slot.__exit__()
        finally:
            self.interfaces.close()
            for caller in self._callers:
                caller.close()
