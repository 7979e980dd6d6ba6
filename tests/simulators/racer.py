"""Two workstations that push at the same moment, each in a process of its own, and devices that listen.

    with Racer(office_a) as one, Racer(office_b) as two:
        for racer in (one, two):
            racer.go("marker")
        outcomes = [one.outcome(), two.outcome()]

A racer connects, waits for the word and then goes the whole road from `require_one_history` to the announcement.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from edge_agent.contract.errors import UpdateRejected
from edge_agent.contract.messages import ReleaseInfo, Topics
from edge_agent.contract.verification import Floor, Request, Verified
from edge_agent.transport import envelope
from edge_agent.transport.client import Client
from edge_agent.update.verifier import answer
from tests.simulators.office import Office

__all__ = ["Device", "Racer"]

_PROGRAM = """
import json, sys
from pathlib import Path
from edge_agent.contract.errors import FieldcastError
from publisher.config import load_home
from tests.simulators.office import Office

office = Office(load_home(Path(sys.argv[1])))
print("ready", flush=True)
for line in sys.stdin:
    told = []
    try:
        found = office.push(line.strip(), signer=sys.argv[1], progress=told.append)
        said = {"release": found.release, "warnings": found.warnings, "rebased": sum("first" in one for one in told)}
    except FieldcastError as error:
        said = {"error": type(error).__name__, "words": str(error)}
    print(json.dumps(said), flush=True)
"""


class Racer:
    """A workstation's process."""

    def __init__(self, office: Office, environment: dict[str, str] | None = None) -> None:
        self._office = office
        self._environment = environment

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(self._office.home.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=self._environment,
        )
        assert self._read() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def go(self, marker: str) -> None:
        """Give the word: push the release with this marker."""
        assert self._process.stdin is not None
        self._process.stdin.write(marker + "\n")
        self._process.stdin.flush()

    def outcome(self) -> dict[str, Any]:
        """Return what the push came to."""
        found: dict[str, Any] = json.loads(self._read())
        return found

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Device:
    """A device as far as trust goes: hears a channel's topic and keeps what the agent's verifier accepts.

    With what it accepted before and its floors it judges as an old device does, without them as a fresh one.
    """

    def __init__(self, office: Office, channel: str, client: Client) -> None:
        self._fleet, self._channel, self._client = office.home.fleet, channel, client
        self._topic = Topics(office.home.fleet).trust(channel)
        self._root = (office.home.device / f"{channel}.root.json").read_bytes()
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._accepted: bytes | None = None
        self._floors: list[Floor] = []
        self.refused = 0
        self.verified: Verified | None = None

    def hear(self, topic: str, payload: bytes, retain: bool) -> None:
        """Take a message from the client."""
        if topic == self._topic and payload:
            self._heard.put(payload)

    def listen(self) -> Self:
        """Hear the topic from now on."""
        self._stack = self._client.listening(self.hear)
        self._stack.__enter__()
        self._client.subscribe([self._topic])
        return self

    def leave(self) -> None:
        """Hear it no more."""
        self._client.unsubscribe([self._topic])
        self._stack.__exit__(None, None, None)

    def settle(self, wanted: list[ReleaseInfo], seconds: float = 30.0) -> None:
        """Judge what comes until these are the releases it knows."""
        deadline = time.monotonic() + seconds
        while self.releases != wanted:
            try:
                message = self._heard.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"device knows {[one.name for one in self.releases]}") from None
            self._judge(envelope.unpack(message))

    @property
    def releases(self) -> list[ReleaseInfo]:
        """All releases that it takes for signed."""
        return self.verified.releases if self.verified else []

    def _judge(self, data: bytes) -> None:
        request = Request(
            fleet=self._fleet,
            channel=self._channel,
            now=time.time(),
            root=self._root,
            envelope=data,
            accepted=self._accepted,
            floors=self._floors,
        )
        try:
            self.verified = answer(request)
        except UpdateRejected:
            self.refused += 1  # an older one on its way past a newer one
        else:
            self._accepted, self._floors = data, self.verified.floors
