"""Messages between supervisor and worker: round trips, and everything that is none."""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections.abc import Iterator

import pytest

from edge_agent.runtime import wire
from edge_agent.runtime.wire import Flag, Header, Kind
from tests.simulators.processes import descriptors

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.setblocking(False)
    with one, other:
        yield one, other


def receive(sock: socket.socket) -> tuple[Header, bytes] | None:
    message = wire.receive(sock, bytearray(wire.INLINE_BYTES + 64))
    return None if message is None else (message[0], bytes(message[1]))


@pytest.mark.parametrize("size", [0, 1, wire.INLINE_BYTES, wire.INLINE_BYTES + 1, 5_000_000])
def test_a_message_arrives_as_it_was_sent_and_leaves_no_descriptor(pair: Pair, size: int) -> None:
    before = descriptors()
    data = os.urandom(size)
    header = Header(Kind.RESULT, Flag.RAW, batch=2**40, rows=3, columns=4, invalid=5)
    wire.send(pair[0], header, data[: size // 2], memoryview(data)[size // 2 :])
    found = receive(pair[1])
    assert found is not None
    assert found[0] == Header(Kind.RESULT, Flag.RAW | (Flag.MEMFD if size > wire.INLINE_BYTES else 0), 2**40, 3, 4, 5)
    assert found[1] == data
    assert descriptors() <= before


def test_arrays_travel_as_their_bytes_and_empty_ones_are_no_obstacle(pair: Pair) -> None:
    numbers = array("q", range(20_000))
    wire.send(pair[0], Header(Kind.FRAME), numbers, array("d"), b"")
    found = receive(pair[1])
    assert found is not None
    assert found[1] == numbers.tobytes()


def test_nothing_waiting_and_the_end_are_told_apart(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        receive(pair[1])
    pair[0].close()
    assert receive(pair[1]) is None


def head(kind: int = Kind.RESULT, flags: int = 0, magic: int = wire.MAGIC) -> bytes:
    return wire.HEADER.pack(magic, kind, flags, 0, 1, 0, 0)


NONSENSE = {
    "short": b"x",
    "other magic": head(magic=1),
    "unknown kind": head(kind=99),
    "too long": head() + bytes(wire.INLINE_BYTES + 100),
    "memory without a descriptor": head(flags=Flag.MEMFD) + struct.pack("<Q", 10),
    "memory without a size": head(flags=Flag.MEMFD),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_is_no_message_is_a_value_error(pair: Pair, name: str) -> None:
    pair[0].send(NONSENSE[name])
    with pytest.raises(ValueError):
        receive(pair[1])


@pytest.mark.parametrize("announced", [0, 99, 101, wire.PAYLOAD_BYTES_MAX + 1, 2**63])
def test_memory_of_another_size_than_announced_is_refused(pair: Pair, announced: int) -> None:
    before = descriptors()
    memory = os.memfd_create("test")
    os.truncate(memory, 100)
    socket.send_fds(pair[0], [head(flags=Flag.MEMFD) + struct.pack("<Q", announced)], [memory])
    os.close(memory)
    with pytest.raises(ValueError):
        receive(pair[1])
    assert descriptors() <= before


def test_a_passed_pipe_is_no_memory(pair: Pair) -> None:
    reading, writing = os.pipe()
    socket.send_fds(pair[0], [head(flags=Flag.MEMFD) + struct.pack("<Q", 10)], [reading])
    with pytest.raises(ValueError):
        receive(pair[1])
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_descriptors_that_nobody_asked_for_are_all_closed(pair: Pair, count: int) -> None:
    before = descriptors()
    socket.send_fds(pair[0], [head()], [pair[0].fileno()] * count)
    if count <= 2:
        assert receive(pair[1]) is not None
    else:
        with pytest.raises(ValueError, match="truncated"):
            receive(pair[1])
    assert descriptors() <= before


def test_a_payload_survives_its_memory_being_shrunk_afterwards(pair: Pair) -> None:
    """A mapping of it would end the reader by SIGBUS."""
    memory = os.memfd_create("test")
    os.write(memory, b"x" * 100_000)
    socket.send_fds(pair[0], [head(flags=Flag.MEMFD) + struct.pack("<Q", 100_000)], [memory])
    found = wire.receive(pair[1], bytearray(wire.INLINE_BYTES + 64))
    os.truncate(memory, 0)
    os.close(memory)
    assert found is not None
    assert bytes(found[1]) == b"x" * 100_000


def test_memory_that_shrinks_while_it_is_read_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = os.memfd_create("test")
    os.write(memory, b"x" * 100_000)
    socket.send_fds(pair[0], [head(flags=Flag.MEMFD) + struct.pack("<Q", 100_000)], [memory])
    real = os.fstat

    def look_and_shrink(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        os.truncate(memory, 10)
        return found

    monkeypatch.setattr(os, "fstat", look_and_shrink)
    with pytest.raises(ValueError, match="shrank"):
        receive(pair[1])
    monkeypatch.undo()
    os.close(memory)
