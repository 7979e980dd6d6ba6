"""A whole fleet in a temporary directory: publisher's home, author's files, real agents, real data, one broker.

    with FleetSimulator(tmp_path, broker.url) as fleet:
        agent = fleet.agent()
        result = fleet.push(fleet.write("one.py", author.scale(2)), wait=True)

`push` and `publisher` go the author's whole road. `sign`, `send` and `announce` go it in steps, so that a test can put
something else on the broker in between. Agents run where the author's files cannot be imported.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.messages import Topics
from edge_agent.transport import blobs, envelope
from edge_agent.transport.client import Client
from publisher.config import Home
from publisher.founding import init
from publisher.packaging import pack
from publisher.packing.project import find_pipeline
from publisher.pushing import PushResult, push, rollback
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.repository import Channel, Published
from publisher.uplink import connect
from tests.simulators import author
from tests.simulators.agents import AgentProcess, Counting
from tests.simulators.thrift import cheap_keys
from tests.simulators.waiting import until

__all__ = ["CHANNEL", "FleetSimulator", "Signed"]

CHANNEL = "staging"
_PUBLISHER = "from publisher.cli import main; main()"

_CONFIG = """\
[device]
id = "{device}"
fleet = "{fleet}"
state = "state"

[broker]
url = "{url}"

[channel.staging]
root = "staging.root.json"

[slot.meter]
policy = {{ settle_seconds = 0.5 }}
channel = "staging"

[slot.meter.input]
source = "mqtt"
topic = "sensors/{device}"
columns = {{ {columns} }}
timestamp = {{ path = "t", unit = "us" }}
sequence = "id"

[slot.meter.output]
sink = "mqtt"
topic = "results/{device}"
"""


@dataclass(frozen=True)
class Signed:
    """A release that is signed into the record; nobody has been told yet."""

    published: Published
    blobs: tuple[bytes, ...]

    @property
    def name(self) -> str:
        """`pipeline@sequence`."""
        return self.published.info.name

    @property
    def message(self) -> bytes:
        """What announces it."""
        return envelope.pack(self.published.envelope)


class FleetSimulator:
    """A fleet with one channel. Use as a context manager: what it started ends with it."""

    def __init__(self, directory: Path, url: str, *, name: str = "") -> None:
        self.directory, self.url = directory, url
        self.author = directory / "author"
        self.author.mkdir(parents=True)
        self.passphrase = secrets.token_urlsafe(8)
        with cheap_keys():
            self.home: Home = init(
                name or f"f{secrets.token_hex(5)}",
                url,
                passphrase=self.passphrase,
                channels=[CHANNEL],
                home=directory / "home",
            )
        self.topics = Topics(self.home.fleet)
        self.agents: list[AgentProcess] = []
        self._counters: list[Counting] = []
        self._cleanup = contextlib.ExitStack()
        self._client: Client | None = None

    def __enter__(self) -> FleetSimulator:
        return self

    def __exit__(self, *_: object) -> None:
        with self._cleanup:
            for agent in self.agents:
                self._cleanup.callback(agent.kill)
            for counter in self._counters:
                self._cleanup.callback(counter.end)

    # --- devices -------------------------------------------------------------------------------------------------

    def agent(
        self,
        device: str = "",
        *,
        python: str = sys.executable,
        columns: str = 'x = "x"',
        url: str = "",
        start: bool = True,
    ) -> AgentProcess:
        """Enrol a device and start its agent. `columns` are the mapping of the configuration."""
        device = device or f"d{len(self.agents) + 1}-{self.home.fleet}"
        place = self.directory / device
        place.mkdir()
        shutil.copy(self.home.device / "staging.root.json", place)
        config = place / "agent.toml"
        config.write_text(_CONFIG.format(device=device, fleet=self.home.fleet, url=url or self.url, columns=columns))
        agent = AgentProcess(device, config, python=python)
        self.agents.append(agent)
        return agent.start() if start else agent

    def settled(self, rate_hz: float = 120.0) -> tuple[AgentProcess, Counting]:
        """Return a device that runs a committed `meter@1` on live data, and its counter."""
        agent = self.agent()
        counter = self.feed(agent, rate_hz)
        self.release(self.write("first.py", author.scale(2)))
        agent.until_active("meter@1")
        counter.until_flows("meter@1")
        return agent, counter

    def feed(self, agent: AgentProcess, rate_hz: float = 120.0, *, block: int = 1) -> Counting:
        """Start to feed a device and count its results."""
        counter = Counting(self.url, agent.device, self.directory, block=block)
        self._counters.append(counter)
        counter.rate(rate_hz)
        return counter

    def report(self, agent: AgentProcess) -> dict[str, Any]:
        """Return the device's retained report as it lies on the broker."""
        message = self.retained(self.topics.report(agent.device))
        assert message, f"{agent.device} has not reported"
        body: dict[str, Any] = json.loads(base64.b64decode(json.loads(message)["payload"]))
        return body

    # --- the author ----------------------------------------------------------------------------------------------

    def write(self, name: str, content: str | bytes) -> str:
        """Write a file of the author's; return its path, which is a TARGET."""
        path = self.author / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def push(self, target: str, **options: Any) -> PushResult:
        """Push through the Python API."""
        options = {"channel": CHANNEL, "devices": 1, "timeout_seconds": 120.0, **options}
        with self._imports():
            return push(target, home=self.home.path, passphrase=self.passphrase, **options)

    def rollback(self, **options: Any) -> PushResult:
        """Roll the fleet back through the Python API."""
        options = {"channel": CHANNEL, "devices": 1, "timeout_seconds": 120.0, **options}
        return rollback(home=self.home.path, passphrase=self.passphrase, **options)

    def publisher(
        self, *arguments: str, passphrase: str | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the real `publisher` command in the author's directory."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FIELDCAST_", "PYTHONPATH"))}
        return subprocess.run(
            [sys.executable, "-I", "-c", _PUBLISHER, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
            cwd=cwd or self.author,
            env={
                **kept,
                "FIELDCAST_HOME": str(self.home.path),
                "FIELDCAST_PASSPHRASE": self.passphrase if passphrase is None else passphrase,
            },
        )

    @contextlib.contextmanager
    def _imports(self) -> Iterator[None]:
        """Forget the author's modules afterwards: another test has files of the same names."""
        path = list(sys.path)
        try:
            yield
        finally:
            sys.path[:] = path
            for name, module in list(sys.modules.items()):
                file = getattr(module, "__file__", None)
                if file and Path(file).is_relative_to(self.author):
                    del sys.modules[name]

    # --- step by step --------------------------------------------------------------------------------------------

    @property
    def channel(self) -> Channel:
        """The channel in the repository of record."""
        return Channel(Record(self.home.record_location), self.home.fleet, CHANNEL)

    def sign(self, target: str, *, now: float | None = None) -> Signed:
        """Pack and sign a release, at another time if asked; tell nobody."""
        with self._imports():
            package = pack(find_pipeline(target))
        contents = tuple(package.blobs.values())
        store = self.channel
        for data in contents:
            store.record.put_blob(data)
        published = store.publish(
            package.data,
            pipeline=package.manifest.pipeline,
            keys=KeyStore(self.home.keys),
            passphrase=self.passphrase,
            now=now,
        )
        return Signed(published, contents)

    def refresh(self, *, now: float | None = None) -> bytes:
        """Sign timestamp and snapshot anew; return the message that says so."""
        return envelope.pack(self.channel.refresh(keys=KeyStore(self.home.keys), passphrase=self.passphrase, now=now))

    def send(
        self, signed: Signed, change: Callable[[BlobRef, int, bytes], bytes] = lambda ref, index, data: data
    ) -> None:
        """Put the blobs of a release on the broker; `change` may falsify a chunk on its way."""
        for data in signed.blobs:
            ref = BlobRef.of(data)
            for index, message in enumerate(blobs.split(data)):
                self.put(self.topics.chunk(ref.digest, index), change(ref, index, message))

    def announce(self, message: bytes) -> None:
        """Put an envelope's message on the channel's topic."""
        self.put(self.topics.trust(CHANNEL), message)

    def release(self, target: str, *, now: float | None = None) -> Signed:
        """Sign, send and announce: a push without preflight and without looking what the broker has."""
        signed = self.sign(target, now=now)
        self.send(signed)
        self.announce(signed.message)
        return signed

    # --- the broker ----------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """A connected client of the publisher's."""
        if self._client is None:
            self._client = self._cleanup.enter_context(connect(self.home))
        return self._client

    def put(self, topic: str, payload: bytes) -> None:
        """Publish a retained message and wait until the broker has it."""
        self.client.publish(topic, payload, retain=True).wait(30.0)

    def retained(self, topic: str, seconds: float = 30.0) -> bytes:
        """Return the retained message of a topic, empty when there is none."""
        found: list[bytes] = []
        client = self.client
        with client.listening(lambda heard, payload, _: found.append(payload) if heard == topic else None):
            client.subscribe([topic])
            with contextlib.suppress(AssertionError):
                until(lambda: found, seconds)
            client.unsubscribe([topic])
        return found[0] if found else b""
