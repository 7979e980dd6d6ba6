"""Sources that ask: Modbus, OPC UA, sysfs and metrics against real peers, which go away and come back in the middle."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import Column
from edge_agent.config.plugs import MetricsInput, ModbusInput, OpcuaInput, SysfsInput
from edge_agent.runtime.metrics_source import metrics_source
from edge_agent.runtime.modbus_source import REFUSED, modbus_source, requests
from edge_agent.runtime.opcua_source import opcua_source
from edge_agent.runtime.outside import DROPPED, FAILED, SKIPPED, OutsideSource, Talk, Unreachable
from edge_agent.runtime.stream_source import DISCONNECTED
from edge_agent.runtime.sysfs_source import sysfs_source
from tests.edge_agent.runtime.test_stream_sources import Taken
from tests.simulators.broker import free_port
from tests.simulators.peers_process import PeerProcess
from tests.simulators.peers_serial import Cable, SerialLine
from tests.simulators.pump import pump

QUICK = {"again_seconds": (0.02, 0.1)}
REGISTERS = {
    "n": Column(path="holding:0"),
    "f": Column(path="holding:10:float32", scale=2),
    "signed": Column(path="holding:1:int16"),
    "i": Column(path="input:2"),
    "on": Column(path="coil:0", dtype="bool"),
}
WANTED = [7.0, 3.0, -1.0, 42.0, True]


def modbus(port: int, **changes: Any) -> ModbusInput:
    return ModbusInput(**({"host": "127.0.0.1", "port": port, "columns": REGISTERS, "rate_hz": 100} | changes))


def test_modbus_tcp_survives_its_server(tmp_path: Path) -> None:
    port = free_port()
    with PeerProcess("modbus", str(port), tmp_path) as peer:
        source = modbus_source(modbus(port), start_sequence=5, **QUICK)
        taken = Taken(source)
        pump(source, until=lambda: len(taken) >= 3)
        assert taken.rows[:3] == [WANTED] * 3
        peer.kill()
        pump(source, until=lambda: "127.0.0.1" in source.problem)
        count = len(taken)
        peer.start()
        pump(source, until=lambda: len(taken) >= count + 3)
        assert source.faults[DISCONNECTED] >= 1
        assert (source.rejected, source.problem) == (0, "")
        assert taken.sequences == list(range(5, 5 + len(taken)))
        assert abs(taken.timestamps[-1] - time.time_ns()) < 5e9
        source.close()


def test_a_register_that_is_not_there_is_refused_and_asked_again(tmp_path: Path) -> None:
    port = free_port()
    with PeerProcess("modbus", str(port), tmp_path):
        source = modbus_source(modbus(port, columns={"x": Column(path="holding:4000")}), **QUICK)
        pump(source, until=lambda: source.faults[REFUSED] >= 2)
        assert "holding 4000, 1 long: exception 2" in source.problem
        assert source.faults[DISCONNECTED] == 0
        source.close()


def test_modbus_rtu_over_a_serial_line(tmp_path: Path) -> None:
    """Two pty pairs, joined by a thread: what a cable does."""
    with (
        SerialLine(tmp_path / "master") as near,
        SerialLine(tmp_path / "slave") as far,
        Cable(near, far),
        PeerProcess("modbus", str(tmp_path / "slave"), tmp_path),
    ):
        config = modbus(1, host="", device=near.path, parity="N", rate_hz=20)
        source = modbus_source(config, **QUICK)
        taken = Taken(source)
        pump(source, until=lambda: len(taken) >= 2)
        assert taken.rows[:2] == [WANTED] * 2
        near.unplug()
        pump(source, until=lambda: source.faults[DISCONNECTED] > 0)
        near.plug()
        count = len(taken)
        pump(source, until=lambda: len(taken) >= count + 2)
        assert (source.rejected, source.problem) == (0, "")
        source.close()


def test_registers_side_by_side_are_one_request() -> None:
    found = requests(["holding:3:float32", "holding:1:uint16", "holding:2", "holding:9", "coil:1", "holding:2:int32"])
    assert [(one.table, one.address, one.length) for one in found] == [
        ("coil", 1, 1),
        ("holding", 1, 4),
        ("holding", 9, 1),
    ]
    many = requests([f"input:{address}" for address in range(300)])
    assert [one.length for one in many] == [120, 120, 60]


def test_opcua_changes_survive_their_server(tmp_path: Path) -> None:
    port = free_port()
    columns = {"a": Column(path="ns=2;s=a"), "b": Column(path="ns=2;s=b", offset=1)}
    config = OpcuaInput(url=f"opc.tcp://127.0.0.1:{port}/", interval_ms=20, columns=columns)
    with PeerProcess("opcua", str(port), tmp_path) as peer:
        source = opcua_source(config, **QUICK)
        taken = Taken(source)
        pump(source, until=lambda: len(taken) >= 5)
        values = [row[0] for row in taken.rows]
        assert values == sorted(values)
        assert {row[1] for row in taken.rows} == {6.5}
        assert taken.timestamps == sorted(taken.timestamps)
        peer.kill()
        pump(source, until=lambda: bool(source.problem), seconds=20)
        count = len(taken)
        peer.start()
        pump(source, until=lambda: len(taken) >= count + 3, seconds=20)
        assert source.faults[DISCONNECTED] >= 1
        assert source.problem == ""
        source.close()


def test_a_sysfs_chip_is_found_by_its_name_wherever_it_returns(tmp_path: Path) -> None:
    chip = tmp_path / "hwmon3"
    make_chip(chip, "21500")
    config = SysfsInput(
        root=tmp_path, rate_hz=200, columns={"t": Column(path="coretemp/temp1_input", scale=0.001, unit="degC")}
    )
    source = sysfs_source(config, **QUICK)
    taken = Taken(source)
    pump(source, until=lambda: len(taken) >= 1)
    assert taken.rows[0] == [21.5]
    (chip / "temp1_input").unlink()
    chip.rename(tmp_path / "hidden")
    (tmp_path / "hidden" / "name").unlink()
    pump(source, until=lambda: "has no chip 'coretemp'" in source.problem)
    make_chip(tmp_path / "hwmon5", "22000")
    pump(source, until=lambda: len(taken) and taken.rows[-1] == [22.0])
    (tmp_path / "hwmon5" / "temp1_input").write_text("n/a\n")
    pump(source, until=lambda: source.faults["not a number"] > 0)
    assert "'n/a' is not a number" in source.problem
    (tmp_path / "hwmon5" / "temp1_input").unlink()
    pump(source, until=lambda: "temp1_input: No such file" in source.problem)
    source.close()


def make_chip(place: Path, value: str) -> None:
    place.mkdir()
    (place / "temp1_input").write_text(f"{value}\n")
    (place / "name").write_text("coretemp\n")


def test_an_iio_directory_may_be_named_itself_and_a_tree_may_be_missing(tmp_path: Path) -> None:
    config = SysfsInput(root=tmp_path / "no", rate_hz=100, columns={"v": Column(path="iio:device0/in_voltage0_raw")})
    source = sysfs_source(config, **QUICK)
    pump(source, until=lambda: "No such file" in source.problem)
    (tmp_path / "no" / "iio:device0").mkdir(parents=True)
    (tmp_path / "no" / "iio:device0" / "in_voltage0_raw").write_text("512")
    taken = Taken(source)
    pump(source, until=lambda: len(taken) >= 1)
    assert taken.rows[0] == [512.0]
    source.close()


def test_metrics_of_this_machine() -> None:
    paths = ["cpu_percent", "load_1", "memory_percent", "memory_available_mb", "disk_percent:/", "disk_free_mb"]
    paths += ["processes", "uptime_seconds", "swap_percent", "load_5", "load_15"]
    source = metrics_source(
        MetricsInput(rate_hz=50, columns={path.replace(":/", ""): Column(path=path) for path in paths})
    )
    taken = Taken(source)
    pump(source, until=lambda: len(taken) >= 2)
    found = dict(zip(paths, taken.rows[-1], strict=True))
    assert 0 < found["memory_percent"] < 100
    assert found["processes"] >= 2
    assert found["uptime_seconds"] > 0
    assert all(value >= 0 for value in found.values())
    source.close()


@pytest.mark.parametrize("path", ["disk_percent:/no/such/place", "temperature:nochip"])
def test_a_metric_that_this_machine_lacks_is_a_missing_column(path: str) -> None:
    source = metrics_source(MetricsInput(rate_hz=100, columns={"x": Column(path=path)}))
    pump(source, until=lambda: source.faults["missing column"] >= 2)
    assert path in source.problem
    source.close()


def outside(work: Any, **options: Any) -> OutsideSource:
    return OutsideSource(MetricsInput(columns={"x": Column(path="x")}), "peer", work, **QUICK, **options)


def test_samples_that_nobody_takes_are_dropped_oldest_first_and_counted() -> None:
    told = threading.Event()

    def work(talk: Talk) -> None:
        for number in range(25):
            talk.tell({"x": number}, timestamp=number)
        told.set()
        talk.stopping.wait()

    source = outside(work, rows_max=10)
    assert told.wait(5)
    taken = Taken(source)
    pump(source, until=lambda: len(taken) == 10)
    assert [row[0] for row in taken.rows] == [float(number) for number in range(15, 25)]
    assert source.faults[DROPPED] == 15
    source.close()


def test_an_input_that_blocks_keeps_the_oldest_and_counts_what_is_not_asked() -> None:
    told = threading.Event()

    def work(talk: Talk) -> None:
        for number in range(25):
            talk.tell({"x": number}, timestamp=number)
        told.set()
        talk.stopping.wait()

    config = MetricsInput(columns={"x": Column(path="x")}, overflow="block")
    source = OutsideSource(config, "peer", work, **QUICK, rows_max=10)
    assert told.wait(5)
    taken = Taken(source)
    pump(source, until=lambda: len(taken) == 10)
    assert [row[0] for row in taken.rows] == [float(number) for number in range(10)]
    assert (source.faults[SKIPPED], source.faults[DROPPED], source.rejected) == (15, 0, 0)
    source.close()


def test_work_that_breaks_is_told_and_tried_again() -> None:
    turns = iter([RuntimeError("broken"), Unreachable("away"), OSError(111, "refused")])

    def work(talk: Talk) -> None:
        error = next(turns, None)
        if error is not None:
            raise error
        talk.tell({"y": 1})
        talk.tell({"x": 1})
        talk.stopping.wait()

    source = outside(work)
    taken = Taken(source)
    pump(source, until=lambda: len(taken) == 1)
    assert source.faults == {FAILED: 1, DISCONNECTED: 2, "missing column": 1}
    assert source.faults.messages[FAILED] == "RuntimeError: broken"
    assert source.problem == ""
    source.close()


def test_a_thread_that_hangs_does_not_hold_up_the_end() -> None:
    release = threading.Event()
    source = outside(lambda talk: release.wait(60))
    started = time.monotonic()
    source.close()
    assert time.monotonic() - started < 30
    release.set()
