"""A fleet with an authority: a mosquitto that speaks TLS, enrolled devices with keys of their own, an operator.

    with EnrolledFleet(tmp_path) as fleet:
        fleet.operator("olga", "ping", "rollback")
        agent = fleet.enrol("d1")
        fleet.release(fleet.write("one.py", author.scale(2)))

Devices replay a file and write to SQLite, so nothing but the control plane crosses the broker. On this broker anybody
may publish anything: what is tested here is what the messages prove by themselves.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from edge_agent.contract.certificates import read
from edge_agent.contract.enrolment import decode_answer
from publisher.config import load_home
from publisher.devices.authority import Authority, new_key, private_pem
from publisher.devices.enrolment import enroll
from publisher.devices.revocation import Revocations
from publisher.trust.custody import Custodian, add_key, revoke_key
from tests.simulators.agents import AgentProcess
from tests.simulators.broker import Mosquitto, free_port
from tests.simulators.fleet import CHANNEL, FleetSimulator

__all__ = ["EnrolledFleet"]

_SLOTS = """\
[slot.meter]
channel = "staging"

[slot.meter.input]
source = "csv"
path = "in.csv"
rate_hz = 200
repeat = true
columns = { x = "x" }

[slot.meter.output]
sink = "sqlite"
path = "out.db"
"""


class EnrolledFleet(FleetSimulator):
    """One broker, one home, devices by name. Use as a context manager: what it started ends with it."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        super().__init__(directory, f"mqtts://localhost:{port}")
        self.devices: dict[str, AgentProcess] = {}
        self.broker = Mosquitto(self._tls(), port=port)

    def _tls(self) -> str:
        authority, key = Authority.open(self.home, self.passphrase, time.time()), new_key()
        (self.directory / "broker.key").write_bytes(private_pem(key))
        (self.directory / "broker.pem").write_bytes(authority.server(["localhost"], key.public_key(), time.time()))
        config = self.home.path / "publisher.toml"
        config.write_text(config.read_text() + 'ca = "ca/ca.pem"\n')
        self.home = load_home(self.home.path)
        files = {"cafile": self.home.path / "ca" / "ca.pem", "certfile": "broker.pem", "keyfile": "broker.key"}
        return "\n".join(f"{name} {self.directory / path}" for name, path in files.items())

    def __enter__(self) -> EnrolledFleet:
        self._cleanup.enter_context(self.broker)
        return self

    def enrol(self, device: str) -> AgentProcess:
        """Enrol a device and start its agent, without waiting for it."""
        place = self.directory / device
        place.mkdir()
        answer = enroll(None, device, home=self.home.path, passphrase=self.passphrase, slots=_SLOTS, state="state")
        for name, content in decode_answer(answer.data).files.items():
            (place / name).write_text(content)
            (place / name).chmod(0o600)
        (place / "in.csv").write_text("x\n" + "\n".join(str(number / 100) for number in range(100)) + "\n")
        agent = self.devices[device] = AgentProcess(device, place / "agent.toml")
        self.agents.append(agent)
        return agent.start(wait=False)

    def expel(self, device: str) -> None:
        """Revoke a device's certificate; the broker is not told."""
        serial = read((self.directory / device / "device.pem").read_bytes()).serial
        now = time.time()
        Revocations.open(self.home, self.passphrase, now).revoke([serial], now)

    def operator(self, name: str, *scope: str) -> None:
        """List an operator in the channel, with a key in this home."""
        add_key(self._custodian, CHANNEL, "operator", name, scope=scope)

    def dismiss(self, name: str) -> None:
        """List an operator no more."""
        revoke_key(self._custodian, CHANNEL, "operator", name)

    @property
    def _custodian(self) -> Custodian:
        return Custodian(home=self.home.path, passphrase=self.passphrase)

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the real `publisher` command and leave it running; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-I", "-u", "-c", "from publisher.cli import main; main()", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.author,
            env={"FIELDCAST_HOME": str(self.home.path), "FIELDCAST_PASSPHRASE": self.passphrase},
        )
