"""What a worker prints is counted, bounded and never waited for."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator

import pytest

from edge_agent.runtime import printed
from edge_agent.runtime.printed import PRINTED_BYTES_PER_SECOND, Printed, Spoken


class Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe2(os.O_NONBLOCK)
        os.set_blocking(self.writing, True)
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 256 * 1024)

    def read(self) -> bytes:
        found = b""
        while True:
            try:
                piece = os.read(self.reading, 1 << 20)
            except BlockingIOError:
                return found
            if not piece:
                return found
            found += piece


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    monkeypatch.setattr(Printed, "total", 0)
    made = Pipe()
    yield made
    os.close(made.writing)
    os.close(made.reading)


def test_lines_leave_when_they_end_and_the_rest_when_flushed(pipe: Pipe) -> None:
    stream = Printed(pipe.writing)
    print("a", "b", end="", file=stream)
    assert pipe.read() == b""
    print(" c\nnext", end="", file=stream)
    assert pipe.read() == b"a b c\nnext"
    print("ö\udc80", end="", file=stream, flush=True)
    assert pipe.read() == "ö\\udc80".encode()
    stream.buffer.write(b"\xff\n")
    stream.buffer.flush()
    assert pipe.read() == b"\xff\n"
    assert Printed.total == len("a b c\nnext") + len("ö\\udc80".encode()) + 2
    assert (stream.encoding, stream.writable(), stream.buffer.writable()) == ("utf-8", True, True)
    assert stream.fileno() == stream.buffer.fileno() == pipe.writing


def test_a_flood_is_dropped_and_told(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = Printed(pipe.writing)
    print("x" * (PRINTED_BYTES_PER_SECOND // 2), file=stream)
    print("y" * PRINTED_BYTES_PER_SECOND, file=stream)
    assert Printed.total == PRINTED_BYTES_PER_SECOND * 3 // 2 + 2
    now[0] += 1.5
    assert len(pipe.read()) <= PRINTED_BYTES_PER_SECOND
    print("again", file=stream)
    assert pipe.read().endswith(b"\n<4>32770 bytes more were printed and dropped\nagain\n")


def test_a_reader_that_does_not_read_is_not_waited_for(pipe: Pipe) -> None:
    stream = Printed(pipe.writing)
    stream._until, stream._room = time.monotonic() + 3600, 1 << 20
    for _ in range(100):
        print("z" * 5_000, file=stream)
    held = len(pipe.read())
    assert 0 < held <= 256 * 1024
    assert stream._dropped == 500_100 - held


def test_nobody_reading_is_no_error() -> None:
    pipe = Pipe()
    os.close(pipe.reading)
    stream = Printed(pipe.writing)
    print("lost", file=stream)
    assert stream._dropped == 5
    os.close(pipe.writing)


@pytest.mark.parametrize(
    ("level", "mark"), [(logging.CRITICAL, 3), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (5, 7)]
)
def test_a_record_has_its_level_on_every_line(pipe: Pipe, level: int, mark: int) -> None:
    handler = Spoken(Printed(pipe.writing))
    handler.handle(logging.LogRecord("own", level, "", 0, "a\nb %s", ("c",), None))
    assert pipe.read() == f"<{mark}>own: a\n<{mark}>b c\n".encode()


def test_a_record_begins_a_line_where_one_was_left_unended(pipe: Pipe) -> None:
    stream = Printed(pipe.writing)
    handler = Spoken(stream)
    print("no newline at end", end="", file=stream)
    for words in ("first", "second"):
        handler.emit(logging.LogRecord("name", logging.WARNING, "", 0, words, (), None))
    assert pipe.read() == b"no newline at end\n<4>name: first\n<4>name: second\n"


def test_a_record_that_cannot_be_formatted_costs_the_filter_nothing(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, told = Spoken(Printed(pipe.writing)), []
    monkeypatch.setattr(handler, "handleError", told.append)
    handler.handle(logging.LogRecord("own", 20, "", 0, "%d", ("c",), None))
    assert len(told) == 1
    assert pipe.read() == b""
    assert printed.LINE_BYTES_MAX <= 4096, "more may block though the pipe says there is room"
