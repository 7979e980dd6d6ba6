"""Real peers at both ends of real lanes and workers: all are unplugged at once in the middle, and plugged in again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.config import Config, load
from edge_agent.runtime.crew import Notice
from edge_agent.runtime.lane import Lane
from edge_agent.runtime.sinks import open_sink
from edge_agent.runtime.sources import open_source
from edge_agent.runtime.supervisor import Supervisor
from tests.edge_agent.runtime.test_stream_sources import record
from tests.simulators.broker import EXECUTABLE, Mosquitto, free_port
from tests.simulators.peer import Peer
from tests.simulators.peers_process import PeerProcess
from tests.simulators.peers_serial import SerialLine
from tests.simulators.release import Releases
from tests.simulators.waiting import until

MORE = 5
# Those that know without being asked; a command is back before anybody looks.
SINKS = {"bus.input", "chip.output", "plc.output", "line.output"}
SOURCES = {"line.input", "plc.input", "server.input", "chip.input"}
_CONFIG = """
[device]
id = "d"
fleet = "f"
state = "{place}/state"
[broker]
url = "{url}"
[channel.c]
root = "{place}/root.json"
"""
_SLOT = """
[slot.{name}]
channel = "c"
[slot.{name}.input]
{source}
[slot.{name}.output]
{sink}
"""
_COUNTING = "import itertools, time\nfor n in itertools.count(): print(n, flush=True); time.sleep(0.01)"
_READING = "import sys\nfile = open(sys.argv[1], 'a', buffering=1)\nfor line in sys.stdin: file.write(line)"


class Bench:
    """Seven lanes, their peers, and how each of these is unplugged; `feed` keeps those going that need it."""

    def __init__(self, place: Path, broker: Mosquitto, releases: Releases, stack: contextlib.ExitStack) -> None:
        self.place, self.broker = place, broker
        ports = {name: free_port() for name in ("modbus", "opcua", "http")}
        self.servers = {name: stack.enter_context(PeerProcess(name, str(port), place)) for name, port in ports.items()}
        self.line = stack.enter_context(SerialLine(place / "tty"))
        self.chip = place / "iio" / "iio:device0"
        self.plug_chip()
        self.lock: sqlite3.Connection | None = None
        config = self._config(ports)
        self.notices: list[Notice] = []
        self.lanes = [
            Lane(name, f"d/{name}", open_source(config, name), open_sink(config, name), self.notices.append)
            for name in config.slot
        ]
        self.supervisor = Supervisor(self.lanes)
        stack.callback(self.supervisor.stop)
        self.supervisor.start()
        plan = releases.act(1)
        for number, lane in enumerate(self.lanes, 1):
            self.supervisor.run(lane.slot, msgspec.structs.replace(plan, key=number))
        self.peer = stack.enter_context(Peer(broker.port, "out"))
        self._sent = 0
        self._fed, self._feeder = threading.Event(), threading.Thread(target=self._feed)
        self._feeder.start()
        stack.callback(self._feeder.join)
        stack.callback(self._fed.set)

    def _config(self, ports: dict[str, int]) -> Config:
        place = self.place
        python = json.dumps(sys.executable)
        slots = {
            "bus": (
                'source = "mqtt"\ntopic = "in"\ncolumns = {x = "x"}',
                f'sink = "command"\ncommand = [{python}, "-Ic", {json.dumps(_READING)}, "{place}/read"]',
            ),
            "line": (
                f'source = "serial"\nport = "{self.line.path}"\nformat = "struct"\nstruct = "<hB"\nsync = "aa55"\n'
                'checksum = "crc16"\ncolumns = {x = "0"}',
                f'sink = "sqlite"\npath = "{place}/line.db"',
            ),
            "plc": (
                f'source = "modbus"\nhost = "127.0.0.1"\nport = {ports["modbus"]}\nrate_hz = 50\n'
                'columns = {x = "input:2"}',
                f'sink = "http"\nurl = "http://127.0.0.1:{ports["http"]}/"',
            ),
            "server": (
                f'source = "opcua"\nurl = "opc.tcp://127.0.0.1:{ports["opcua"]}/"\ninterval_ms = 20\n'
                'columns = {x = "ns=2;s=a"}',
                f'sink = "jsonl"\npath = "{place}/server/out.jsonl"',
            ),
            "chip": (
                f'source = "sysfs"\nroot = "{place}/iio"\nrate_hz = 50\ncolumns = {{x = "probe/in_voltage0_raw"}}',
                'sink = "mqtt"\ntopic = "out"',
            ),
            "program": (
                f'source = "command"\ncommand = [{python}, "-Ic", {json.dumps(_COUNTING)}]\ncolumns = {{x = "0"}}',
                f'sink = "sqlite"\npath = "{place}/program.db"',
            ),
            "machine": (
                'source = "metrics"\nrate_hz = 20\ncolumns = {x = "memory_percent"}',
                f'sink = "jsonl"\npath = "{place}/machine.jsonl"',
            ),
        }
        text = _CONFIG.format(place=place, url=self.broker.url)
        text += "".join(_SLOT.format(name=name, source=one, sink=other) for name, (one, other) in slots.items())
        (place / "root.json").write_text("{}")
        (place / "server").mkdir()
        (place / "agent.toml").write_text(text)
        return load(place / "agent.toml")

    # --- what arrived ---------------------------------------------------------------------------------------------

    def arrived(self, slot: str) -> list[int]:
        """Return the numbers of the results that reached the far end, in order."""
        return [int(one["sequence"]) for one in self._found(slot)]

    def _found(self, slot: str) -> list[dict[str, Any]]:
        if slot in ("line", "program"):
            uri = f"file:{self.place}/{slot}.db?mode=ro"
            query = "SELECT sequence FROM output ORDER BY rowid"
            with (
                contextlib.suppress(sqlite3.OperationalError),  # not there yet, or locked by ourselves
                contextlib.closing(sqlite3.connect(uri, uri=True)) as database,
            ):
                return [{"sequence": one} for (one,) in database.execute(query)]
            return []
        if slot == "plc":
            return [found for one in self.servers["http"].lines if "sequence" in (found := json.loads(one))]
        if slot == "chip":
            return [json.loads(payload) for _, payload, _ in list(self.peer.messages)]
        path = {"bus": "read", "server": "server/out.jsonl", "machine": "machine.jsonl"}[slot]
        text = (self.place / path).read_text() if (self.place / path).exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def plug_chip(self) -> None:
        self.chip.mkdir(parents=True)
        (self.chip / "name").write_text("probe\n")
        (self.chip / "in_voltage0_raw").write_text("512\n")

    def _feed(self) -> None:
        """Send to those that only listen; what nobody takes is gone, as with a real sensor."""
        while not self._fed.wait(0.02):
            with contextlib.suppress(OSError):
                self.line.send(record(self._sent % 1000, 0))
            if self.peer._client.is_connected():
                self.peer._client.publish("in", json.dumps({"x": self._sent}).encode(), qos=1)
                self._sent += 1

    # --- the plugs ------------------------------------------------------------------------------------------------

    def unplug_sinks(self) -> None:
        self.broker.stop()
        self.servers["http"].kill()
        shutil.move(self.place / "server", self.place / "elsewhere")
        self.lock = sqlite3.connect(self.place / "line.db", isolation_level=None)
        self.lock.execute("BEGIN EXCLUSIVE")
        _kill_child("sys.stdin")

    def unplug_sources(self) -> None:
        self.line.unplug()
        self.servers["modbus"].kill()
        self.servers["opcua"].kill()
        shutil.rmtree(self.place / "iio")
        _kill_child("time.sleep")

    def plug(self) -> None:
        assert self.lock is not None
        self.lock.close()
        shutil.move(self.place / "elsewhere", self.place / "server")
        self.plug_chip()
        for server in self.servers.values():
            server.start()
        self.line.plug()
        self.broker.start()

    def troubled(self) -> set[str]:
        """Return the ends that say what is wrong, as `slot.input` and `slot.output`."""
        ends = {f"{lane.slot}.input": lane.source for lane in self.lanes}
        ends |= {f"{lane.slot}.output": lane.sink for lane in self.lanes}
        return {name for name, end in ends.items() if end.problem}


def _kill_child(word: str) -> None:
    """Kill our child process with this word in its command line."""
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in path.read_text().split():
            with contextlib.suppress(OSError):
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    if not Path(EXECUTABLE).exists():
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Mosquitto("set_tcp_nodelay true", persistent=True))
        yield Bench(tmp_path, broker, Releases(tmp_path / "releases"), stack)


def test_every_peer_is_unplugged_and_plugged_in_again_and_results_go_on(bench: Bench) -> None:
    slots = [lane.slot for lane in bench.lanes]

    def flows(counts: dict[str, int]) -> Callable[[], bool]:
        return lambda: all(len(bench.arrived(slot)) >= counts[slot] + MORE for slot in slots)

    until(flows(dict.fromkeys(slots, 0)), 40, "results of all")
    bench.unplug_sinks()
    until(lambda: bench.troubled() >= SINKS, 30, f"trouble at {SINKS}")
    bench.unplug_sources()
    until(lambda: bench.troubled() >= SINKS | SOURCES, 30, f"trouble at {SOURCES}")
    bench.plug()
    until(lambda: not bench.troubled(), 60, "an end of all trouble")
    until(flows({slot: len(bench.arrived(slot)) for slot in slots}), 40, "more results of all")
    for slot in slots:
        numbers = bench.arrived(slot)
        # A broker may bring an output again after a lost connection, under its old number.
        once = list(dict.fromkeys(numbers)) if slot == "chip" else numbers
        assert once == list(range(once[0], once[0] + len(once))), f"{slot}: lost, repeated or out of order"
    assert not bench.notices, "no worker was at fault"
