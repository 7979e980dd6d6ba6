"""Serial ports and commands: lines and records become samples, also after a port was unplugged or a command died."""

from __future__ import annotations

import os
import signal
import struct
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config import Column, Timestamp
from edge_agent.config.plugs import CommandInput, SerialInput
from edge_agent.runtime.command_source import command_source
from edge_agent.runtime.framing import BAD_CHECKSUM, GARBAGE, LINE_BYTES_MAX, TOO_LONG, Lines, Records
from edge_agent.runtime.samples import BadPayload
from edge_agent.runtime.serial_source import serial_source
from edge_agent.runtime.stream_source import DISCONNECTED, StreamSource
from tests.simulators.peers_serial import SerialLine
from tests.simulators.processes import children, dead, descriptors
from tests.simulators.pump import pump
from tests.simulators.waiting import until

QUICK = {"reopen_seconds": (0.01, 0.05)}
XY = {"x": Column(path="0"), "y": Column(path="1", scale=10)}
RECORD = {"format": "struct", "struct": "<hB", "sync": "aa55", "checksum": "crc16"}


@pytest.fixture
def line(tmp_path: Path) -> Iterator[SerialLine]:
    with SerialLine(tmp_path / "tty") as line:
        yield line


class Taken:
    """Everything a source gives out, in order."""

    def __init__(self, source: Any) -> None:
        self.source, self.rows = source, []
        self.sequences: list[int] = []
        self.timestamps: list[int] = []

    def __len__(self) -> int:
        while (samples := self.source.take(1000)) is not None:
            width = len(samples.columns)
            values = list(samples.values)
            self.rows += [values[at : at + width] for at in range(0, len(values), width)]
            self.sequences += samples.sequences
            self.timestamps += samples.timestamps
            self.source.acknowledge(samples.rows)
        return len(self.rows)


def opened(config: SerialInput, **options: Any) -> tuple[StreamSource, Taken]:
    source = serial_source(config, **QUICK, **options)
    pump(source, until=lambda: not source.problem)
    return source, Taken(source)


def test_serial_lines_become_samples(line: SerialLine) -> None:
    source, taken = opened(SerialInput(port=line.path, columns=XY), start_sequence=100)
    line.send(b"7;rest of a line\r\n1,2\r\n\r\n3")
    line.send(b",4.5\nnonsense,1\n5\n6,7\n")
    pump(source, until=lambda: len(taken) == 3)
    assert taken.rows == [[1.0, 20.0], [3.0, 45.0], [6.0, 70.0]]
    assert taken.sequences == [100, 101, 102]
    assert dict(source.faults) == {"not a number": 1, "missing column": 1}
    assert source.rejected == 2
    source.close()


def test_an_unplugged_port_is_the_environments_fault_and_comes_back(line: SerialLine) -> None:
    before = descriptors()
    source, taken = opened(SerialInput(port=line.path, columns=XY))
    line.send(b"\n1,1\n2,")
    pump(source, until=lambda: len(taken) == 1)
    line.unplug()
    pump(source, until=lambda: "cannot be opened: No such file" in source.problem)
    assert source.faults[DISCONNECTED] == 1
    assert source.rejected == 0
    line.plug()
    pump(source, until=lambda: not source.problem)
    line.send(b"9\n3,3\n")  # the rest of 2 belongs to no line
    pump(source, until=lambda: len(taken) == 2)
    assert taken.rows == [[1.0, 10.0], [3.0, 30.0]]
    assert taken.sequences == [0, 1]
    source.close()
    line.unplug()
    assert descriptors() <= before


def test_serial_records_are_found_among_garbage(line: SerialLine) -> None:
    config = SerialInput(port=line.path, columns=XY, **RECORD)
    source, taken = opened(config)
    good, torn = record(-3, 4), record(5, 6)
    line.send(b"\x55garbage" + good + b"noise" + good[:4])
    line.send(good[4:] + torn[:3] + record(7, 8) + record(9, 10)[:-1] + b"\0" + record(11, 12))
    pump(source, until=lambda: len(taken) == 4)
    assert taken.rows == [[-3.0, 40.0], [-3.0, 40.0], [7.0, 80.0], [11.0, 120.0]]
    assert source.faults[BAD_CHECKSUM] >= 1
    assert source.faults[GARBAGE] >= 1
    source.close()


def record(x: int, y: int) -> bytes:
    """CRC-16/MODBUS written down anew."""
    body = b"\xaa\x55" + struct.pack("<hB", x, y)
    crc = 0xFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc % 2 else 0)
    return body + struct.pack("<H", crc)


@pytest.mark.parametrize(("checksum", "end"), [("sum8", 0x102 & 0xFF), ("xor8", 0xAA ^ 0x55 ^ 1 ^ 2), ("", None)])
def test_other_checksums(checksum: Any, end: int | None) -> None:
    config = SerialInput(port=Path("x"), columns=XY, format="struct", struct="BB", sync="aa55", checksum=checksum)
    records = Records(config)
    data = b"\xaa\x55\x01\x02" + (bytes((end,)) if end is not None else b"")
    assert [records.decode(one)[2] for one in records.feed(data) if isinstance(one, bytes)] == [[1.0, 20.0]]


def test_a_text_in_a_record_ends_at_its_zeros() -> None:
    columns = {"name": Column(path="0", dtype="string")}
    records = Records(SerialInput(port=Path("x"), columns=columns, format="struct", struct="4s", sync="01"))
    assert [records.decode(one)[2] for one in records.feed(b"\x01ab\0\0") if isinstance(one, bytes)] == [["ab"]]


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.tuples(st.integers(-32768, 32767), st.integers(0, 255)), max_size=8),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_framing_does_not_depend_on_pieces(values: list[tuple[int, int]], cuts: list[int]) -> None:
    for framing, data in (
        (Records(SerialInput(port=Path("x"), columns=XY, **RECORD)), b"".join(record(*one) for one in values)),  # type: ignore[arg-type]
        (Lines(), b"".join(b"%d,%d\n" % one for one in values)),
    ):
        found, ends = 0, sorted({*(min(cut, len(data)) for cut in cuts), 0, len(data)})
        for start, end in pairwise(ends):
            pieces = list(framing.feed(data[start:end]))
            assert not any(isinstance(piece, BadPayload) for piece in pieces)
            found += len(pieces)
        assert found == len(values)


def test_a_line_without_end_is_bounded() -> None:
    lines = Lines()
    found = [one for _ in range(20) for one in lines.feed(b"x" * (LINE_BYTES_MAX // 8))]
    assert [one.kind for one in found if isinstance(one, BadPayload)] == [TOO_LONG]
    assert list(lines.feed(b"rest\nnext\n")) == [b"next"]


def test_nothing_is_read_while_samples_wait(line: SerialLine) -> None:
    source, taken = opened(SerialInput(port=line.path, columns=XY), rows_max=2)
    line.send(b"\n1,1\n2,2\n")
    pump(source, until=lambda: source.interest()[0] == -1)
    assert len(taken) == 2
    assert source.interest()[0] >= 0
    source.close()


def command(code: str, **changes: Any) -> CommandInput:
    return CommandInput(**({"command": [sys.executable, "-Iuc", code], "columns": XY} | changes))


def test_a_command_that_ends_is_started_again() -> None:
    before = children()
    source = command_source(command("print('1,2'); raise SystemExit(3)"), **QUICK)
    taken = Taken(source)
    pump(source, until=lambda: len(taken) >= 3)
    assert taken.rows[:3] == [[1.0, 20.0]] * 3
    assert source.faults[DISCONNECTED] >= 2
    source.close()
    assert not children() - before


def test_a_killed_command_leaves_nothing_and_goes_on() -> None:
    before = children()
    code = "import os,time\nprint(f'{os.getpid()},0')\ntime.sleep(60)"
    source = command_source(command(code), **QUICK)
    taken = Taken(source)
    pump(source, until=lambda: len(taken) == 1)
    os.kill(int(taken.rows[0][0]), signal.SIGKILL)
    pump(source, until=lambda: len(taken) == 2)
    assert source.faults[DISCONNECTED] == 1
    source.close()
    assert not children() - before


def test_a_command_that_ignores_sigterm_is_killed_with_what_it_started() -> None:
    before = children()
    code = (
        "import signal,subprocess,sys,time\nsignal.signal(15, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\nprint(f'{child.pid},0')\ntime.sleep(60)"
    )
    source = command_source(command(code), **QUICK)
    taken = Taken(source)
    pump(source, until=lambda: len(taken) == 1)
    source.close()
    assert not children() - before
    until(lambda: dead(int(taken.rows[0][0])))


def test_a_command_that_is_not_there() -> None:
    source = command_source(command("", command=["/no/such/program"]), **QUICK)
    pump(source, until=lambda: "program: cannot be opened: No such file or directory" in source.problem)
    source.close()


def test_json_and_patterns_with_time_and_number() -> None:
    marks = {"timestamp": Timestamp(path="t", unit="ms"), "sequence": "n"}
    columns = {"x": Column(path="x"), "name": Column(path="name", dtype="string")}
    line = r"t=5 n=42 x=1.5 name=pump"
    json_line = '{"t": 5, "n": 42, "x": 1.5, "name": "pump"}'
    pattern = r"t=(?P<t>\S+) n=(?P<n>\S+) x=(?P<x>\S+) name=(?P<name>\S+)"
    for text, changes in ((line, {"format": "regex", "pattern": pattern}), (json_line, {"format": "json"})):
        code = f"print({text!r}); print('unlike')\nimport time; time.sleep(60)"
        source = command_source(command(code, columns=columns, **marks, **changes), **QUICK)
        taken = Taken(source)
        pump(source, until=lambda source=source, taken=taken: len(taken) == 1 and source.rejected == 1)
        assert (taken.rows, taken.sequences, taken.timestamps) == ([[1.5, "pump"]], [42], [5_000_000])
        assert source.faults == {"malformed payload": 1}
        source.close()


@pytest.mark.parametrize(
    ("text", "kind"), [("1,2,x,0", "bad timestamp"), ("1,2,3,-1", "bad sequence"), ("1,2,1e400,1", "bad timestamp")]
)
def test_marks_that_do_not_fit(text: str, kind: str) -> None:
    source = command_source(
        command(f"print({text!r})\nimport time; time.sleep(60)", timestamp=Timestamp(path="2"), sequence="3"), **QUICK
    )
    pump(source, until=lambda: source.rejected == 1)
    assert source.faults == {kind: 1}
    source.close()
