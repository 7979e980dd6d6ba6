"""The processes of the demonstration: agents and meter, started, watched, and ended whatever happens.

Each runs in a session of its own: Ctrl-C at the terminal reaches the demonstration alone, which ends them in order.
Should it be killed, they end by themselves: the agents with their parent, the meter with its pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_agent.contract.errors import AuthorError, TransportError
from edge_agent.transport.address import Address
from publisher.config import Home
from publisher.trust.passphrase import VARIABLE as PASSPHRASE

__all__ = ["Stage"]

READY_SECONDS = 30.0
END_SECONDS = 10.0
_AGENT = "from edge_agent.cli import main; main()"
_WITH_PARENT = "import ctypes; ctypes.CDLL(None).prctl(1, 15); "  # PR_SET_PDEATHSIG, SIGTERM; see linux/prctl.h

_CONFIG = """\
[device]
id = "{device}"
fleet = "{fleet}"
state = "state"

[broker]
url = "{url}"

[channel.staging]
root = "staging.root.json"

[slot.activity]
channel = "staging"

[slot.activity.input]
source = "mqtt"
topic = "{fleet}/sensors/{device}"
columns = {{ ax = "ax", ay = "ay", az = "az", gx = "gx", gy = "gy", gz = "gz" }}
timestamp = {{ path = "t", unit = "ms" }}
sequence = "id"

[slot.activity.output]
sink = "mqtt"
topic = "{fleet}/results/{device}"
"""


class Stage:
    """Every process of one demonstration, in `directory`. Use as a context manager."""

    def __init__(self, directory: Path, home: Home, devices: Sequence[str]) -> None:
        self.directory, self.devices = directory, list(devices)
        self._home, self._broker = home, Address.parse(home.broker.url)
        self._processes: list[subprocess.Popen[Any]] = []
        self._meter: subprocess.Popen[str] | None = None
        self.counted: dict[str, Any] = {}

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start_agents(self) -> None:
        """Start one agent a device and wait until each reads its sensor topic."""
        configs = {device: self._configure(device) for device in self.devices}
        for device, config in configs.items():
            self._start_agent(device, config)
        deadline = time.monotonic() + READY_SECONDS
        for device, config in configs.items():
            while (why := self._not_ready(config)) and time.monotonic() < deadline:
                time.sleep(0.1)
            if why:
                raise TransportError(f"{device} is not ready after {READY_SECONDS:.0f} s: {why}{self._tail(device)}")

    def start_meter(self, data: Path, rate_hz: float) -> None:
        """Start the process that feeds and counts; it waits for `tell_meter("start")`."""
        script = Path(__file__).with_name("meter.py")
        command = [sys.executable, "-I", str(script), "--host", self._broker.host, "--port", str(self._broker.port)]
        command += ["--csv", str(data), "--devices", ",".join(self.devices), "--rate-hz", str(rate_hz)]
        command += ["--prefix", self._home.fleet]
        log = (self.directory / "meter.log").open("wb")
        with log:
            self._meter = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        self._processes.append(self._meter)
        threading.Thread(target=self._read_meter, daemon=True).start()
        deadline = time.monotonic() + READY_SECONDS
        while not self.counted and self._meter.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if not self.counted:
            raise TransportError(f"the meter did not start{self._tail('meter')}")

    def tell_meter(self, word: str) -> None:
        """Say `start` or `stop`."""
        assert self._meter is not None
        assert self._meter.stdin is not None
        try:
            self._meter.stdin.write(word + "\n")
            self._meter.stdin.flush()
        except BrokenPipeError:
            raise AuthorError(f"the meter ended early{self._tail('meter')}") from None

    def final_count(self, seconds: float) -> dict[str, Any]:
        """Stop the meter and return its last word."""
        self.tell_meter("stop")
        deadline = time.monotonic() + seconds
        while not self.counted.get("final") and time.monotonic() < deadline:
            time.sleep(0.02)
        if not self.counted.get("final"):
            raise TransportError(f"the meter gave no final count within {seconds:.0f} s{self._tail('meter')}")
        return self.counted

    def _read_meter(self) -> None:
        assert self._meter is not None
        assert self._meter.stdout is not None
        for line in self._meter.stdout:
            self.counted = json.loads(line)

    def _configure(self, device: str) -> Path:
        """Give a device what a device gets: the channel's first root and a configuration. Return the latter."""
        place = self.directory / device
        place.mkdir()
        shutil.copy(self._home.device / "staging.root.json", place)
        config = place / "agent.toml"
        config.write_text(_CONFIG.format(device=device, fleet=self._home.fleet, url=self._home.broker.url))
        return config

    def _start_agent(self, device: str, config: Path) -> None:
        with (self.directory / f"{device}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _WITH_PARENT + _AGENT, "run", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=config.parent,
                env={key: value for key, value in os.environ.items() if key != PASSPHRASE},
                start_new_session=True,
            )
        self._processes.append(process)

    def _not_ready(self, config: Path) -> str:
        command = [sys.executable, "-I", "-c", _AGENT, "status", "--json", "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=READY_SECONDS)
        if done.returncode:
            return done.stderr.strip()
        found = json.loads(done.stdout)
        if not found["running"]:
            return "it does not run"
        return "; ".join(slot["input_problem"] or slot["output_problem"] for slot in found["slots"]).strip("; ")

    def _tail(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return "\n" + "\n".join((self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-5:])
        return ""
