"""Real processes of a fleet under test: an agent on its own state directory, and the counter that feeds it.

Both run isolated (`-I`) in a directory of their own, so nothing of the author's can be imported there. Each object ends
only what it started itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_agent.doorbell import ring
from tests.simulators.waiting import until

__all__ = ["AgentProcess", "Counting", "alive", "children_of", "maps_of", "workers_of"]

COMMAND = "from edge_agent.cli import main; main()"
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
ASKING_SECONDS = 0.02  # an agent that is asked all the time has less of the processor for what is waited for
_PRIVATE = ("PYTHONPATH", "FIELDCAST_", "NOTIFY_SOCKET", "WATCHDOG_")


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}, **more}


class AgentProcess:
    """An `edge-agent run` on `config`, started, killed and started again at will. Its log outlives every start."""

    def __init__(self, device: str, config: Path, *, python: str = sys.executable) -> None:
        self.device, self.config, self.python = device, config, python
        self.directory, self.state = config.parent, config.parent / "state"
        self.log_path = self.directory / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """Return the command line of `edge-agent` with these arguments, as the agent itself is started."""
        return [self.python, "-I", *options, "-c", COMMAND, *arguments, "--config", str(self.config)]

    def start(
        self, *, wait: bool = True, environment: Mapping[str, str] | None = None, options: Sequence[str] = ()
    ) -> AgentProcess:
        """Start the agent; with `wait`, return when it reads its input and has the broker."""
        assert self.process is None, "it runs already"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run", options=options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=_environment(environment or {}),
                start_new_session=True,
            )
        if wait:
            self.until(_ready, READY_SECONDS, "ready")
        return self

    def cli(self, *arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run another `edge-agent` command on this device's configuration."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            cwd=self.directory,
            env=_environment({}),
        )

    def stop(self) -> int:
        """Ask the agent to end and return its exit code; kill it after `STOP_SECONDS`."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def kill(self) -> None:
        """End the agent with SIGKILL."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """The running agent's process id."""
        assert self.process is not None, "it does not run"
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything the agent has written, over all starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def status(self) -> dict[str, Any]:
        """Return what the doorbell says; empty when nobody answers."""
        found = ring(self.state) if self.state.is_dir() else None
        return json.loads(found) if found else {}

    def slot(self) -> dict[str, Any]:
        """Return the state of the one slot; fields that have nothing to say are empty."""
        slots = self.status().get("slots") or [{}]
        return {"active": "", "candidate": "", "last": "", "state": "", "reasons": [], **slots[0]}

    def deployments(self) -> list[dict[str, Any]]:
        """Return `edge-agent release list --json`, newest first."""
        done = self.cli("release", "list", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def until(self, condition: Callable[[dict[str, Any]], object], seconds: float = 30.0, what: str = "") -> None:
        """Wait until `condition(status)` holds; fail with status and log when it does not, or the agent has ended."""

        def holds() -> object:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"{self.device} ended with {self.process.returncode}\n{self.tail()}")
            return condition(self.status())

        try:
            until(holds, seconds, f"{self.device}: {what or 'the condition'}", pause_seconds=ASKING_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\nstatus: {json.dumps(self.status())[:3000]}\n{self.tail()}") from None

    def until_active(self, release: str, seconds: float = 30.0) -> None:
        """Wait until `release` is committed and nothing is on its way."""
        self.until(lambda status: _slot_is(status, active=release, candidate=""), seconds, f"runs {release}")

    def until_ended(self, release: str, state: str, seconds: float = 30.0) -> dict[str, Any]:
        """Wait until `release` ended in `state`; return the slot's report."""
        self.until(lambda status: _slot_is(status, last=release, state=state), seconds, f"{release} {state}")
        return self.slot()

    def until_refused(self, code: str, seconds: float = 30.0, where: str = "staging") -> dict[str, Any]:
        """Wait until an envelope is refused with this reason code; return the reason."""

        def refused(status: dict[str, Any]) -> list[dict[str, Any]]:
            reasons = status.get("channels", {}).get(where, {}).get("refused", [])
            return [one for one in reasons if one["code"] == code]

        self.until(refused, seconds, f"an envelope refused as {code}")
        return refused(self.status())[0]

    def worker(self) -> int:
        """Return the one worker's process id, once those of an update have gone."""
        self.until(lambda _: len(workers_of(self.pid)) == 1, what="one worker")
        return workers_of(self.pid).pop()

    def tail(self, lines: int = 40) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.splitlines()[-lines:])


def _ready(status: dict[str, Any]) -> bool:
    return (
        bool(status)
        and status["connection"] == "connected"
        and not any(slot["input_problem"] or slot["output_problem"] for slot in status["slots"])
    )


def _slot_is(status: dict[str, Any], **wanted: str) -> bool:
    slots = status.get("slots")
    return bool(slots) and all(slots[0].get(key, "") == value for key, value in wanted.items())


def workers_of(pid: int) -> set[int]:
    """Return the process ids of an agent's workers, those that are on their way out too; no verifier, no probe."""
    return {child for child, command in children_of(pid).items() if b"edge_agent.runtime.worker" in command}


def children_of(pid: int) -> dict[int, bytes]:
    """Return the command lines of a process's children, by process id."""
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found |= {int(number) for number in (thread / "children").read_text().split()}
    return {child: _command_of(child) for child in found}


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be collected does not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return re.search(r"^State:\s+[ZX]", status, re.MULTILINE) is None


def maps_of(pid: int) -> set[str]:
    """Return the files mapped into a process."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {parts[5] for line in lines if len(parts := line.split(maxsplit=5)) == 6}


class Counting:
    """The counter of one device, in a process of its own. See `counter.py` for what it counts."""

    def __init__(self, url: str, device: str, directory: Path, *, block: int = 1) -> None:
        address = urlsplit(url)
        script = Path(__file__).with_name("counter.py")
        command = [sys.executable, "-I", str(script), "--host", str(address.hostname), "--port", str(address.port)]
        self.log_path = directory / f"{device}-counter.log"
        self.told: dict[str, Any] = {}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--device", device, "--block", str(block)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=directory,
                env=_environment({}),
            )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        until(lambda: self.told or self.process.poll() is not None, 30, "the counter's first word")
        assert self.told, self.log_path.read_text()

    def rate(self, hertz: float) -> None:
        """Feed so many samples a second from now on."""
        self._say(f"rate {hertz}")

    def final(self) -> dict[str, Any]:
        """Stop feeding, give the device time to answer, and return the last count."""
        self._say("stop")
        until(lambda: self.told.get("final"), 60, "the final count")
        self.end()
        return self.told

    def outputs(self, release: str) -> int:
        """Return how many results of a release have come."""
        return int(self.told["outputs"].get(release, 0))

    def until_flows(self, release: str, more: int = 20, seconds: float = 30.0) -> None:
        """Wait for `more` new results of `release`."""
        goal = self.outputs(release) + more
        until(lambda: self.outputs(release) >= goal, seconds, f"{more} more results of {release}")

    def end(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):
            for line in self.process.stdout:
                self.told = json.loads(line)
