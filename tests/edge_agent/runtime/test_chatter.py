"""What workers log and print comes out as the agent's log, with slot, pipeline and release, and bounded."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.runtime.chatter import (
    BYTES_PER_SECOND,
    LINE_BYTES_MAX,
    LINES_PER_SECOND,
    PIPE_BYTES,
    Chatter,
    Lines,
)
from edge_agent.runtime.crew import NoticeKind
from edge_agent.runtime.limits import Confinement
from tests.simulators.processes import descriptors
from tests.simulators.release import Releases
from tests.simulators.slot import Slot
from tests.simulators.waiting import until

FIELDS = "slot=act pipeline=act release=act@{}: "


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What the chatter logged: (level, message)."""
    records = [one for one in caplog.records if one.name == "edge_agent.runtime.chatter"]
    return [(one.levelname, one.getMessage()) for one in records]


# --- lines, as values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"plain\n", [(20, "plain")]),
        (b"<3>bad\n<7>fine\n<0>dead\n", [(40, "bad"), (10, "fine"), (50, "dead")]),
        (b"<9>no level\n", [(20, "<9>no level")]),
        (b"\n\r\n  \n", []),
        (b"\xffa\r\n", [(20, "\\xffa")]),
        ("a\x1b[31m\u2028b\n".encode(), [(20, "a\\x1b[31m\\u2028b")]),
        (b"no end", []),
    ],
)
def test_bytes_become_lines(data: bytes, found: list[tuple[int, str]]) -> None:
    assert Lines().feed(data, 0.0) == found


def test_the_end_is_a_line_too() -> None:
    lines = Lines()
    assert lines.feed(b"<4>so f", 0.0) == []
    assert lines.feed(b"ar", 0.0) == []
    assert lines.end() == [(30, "so far")]
    assert lines.end() == []


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_lines_do_not_depend_on_pieces(data: bytes, cuts: list[int]) -> None:
    whole, pieces = Lines(), Lines()
    found, at = [], 0
    for cut in [*sorted(cuts), len(data)]:
        found += pieces.feed(data[at:cut], 0.0)
        at = max(at, cut)
    assert found + pieces.end() == whole.feed(data, 0.0) + whole.end()


def test_a_long_line_is_cut_and_says_so() -> None:
    lines = Lines()
    found = lines.feed(b"x" * 5_000 + b"\nnext\n", 0.0)
    assert found == [(20, f"{'x' * LINE_BYTES_MAX} … {5_000 - LINE_BYTES_MAX} bytes more"), (20, "next")]


def test_a_second_has_room_for_so_many_lines() -> None:
    lines = Lines()
    assert len(lines.feed(b"a\n" * 1_000, 0.0)) == LINES_PER_SECOND
    assert lines.told() == (1_000 - LINES_PER_SECOND, 2 * (1_000 - LINES_PER_SECOND))
    assert lines.told() == (0, 0)
    assert lines.feed(b"still no ro", 0.5) == []
    assert lines.feed(b"om\nagain\n", 1.5) == [(20, "again")], "the rest of a dropped line is dropped, too"
    assert lines.told() == (1, 14)


def test_a_second_has_room_for_so_many_bytes() -> None:
    lines, found = Lines(), []
    for _ in range(100):
        found += lines.feed(b"x" * 100_000, 0.0)
    (line,) = found
    assert len(line[1]) < LINE_BYTES_MAX + 40
    assert lines.told() == (0, 10_000_000 - 100_000)
    assert lines.feed(b"\n" + b"y\n" * 3, 1.0) == [(20, "y")] * 3
    assert BYTES_PER_SECOND < PIPE_BYTES, "what Python lets through in a second fits into the pipe"


# --- real workers ---------------------------------------------------------------------------------------------------


def test_what_a_filter_logs_and_prints_has_level_and_fields(
    releases: Releases, caplog: pytest.LogCaptureFixture
) -> None:
    with Slot() as slot:
        slot.run(releases.act(7, "chat"))
        slot.feed(1)
        slot.wait_for_done()
        until(lambda: any("native" in text for _, text in said(caplog)), what="the last line")
    found = said(caplog)
    fields = FIELDS.format(7)
    assert all(text.startswith(fields) for _, text in found)
    lines = [(level, text.removeprefix(fields)) for level, text in found]
    assert lines[:5] == [
        ("INFO", "plain"),
        ("INFO", "slot=other release=forged\\r \\x1b[31m"),
        ("INFO", "acting: told 1"),
        ("WARNING", "acting: two"),
        ("WARNING", "lines"),
    ]
    assert ("ERROR", "acting: caught") in lines
    assert ("ERROR", "ZeroDivisionError: division by zero") in lines
    assert any(level == "WARNING" and "old" in text for level, text in lines)
    assert ("INFO", "\\xff\\xfe bytes") in lines
    assert lines[-2:] == [("INFO", "no end of it"), ("ERROR", "native")]
    assert "too fine" not in str(lines)


def test_a_shout_past_python_holds_up_nobody_for_long(releases: Releases, caplog: pytest.LogCaptureFixture) -> None:
    with Slot() as slot:
        slot.run(releases.act(1, "shout", heartbeat_seconds=20.0))
        slot.feed(1)
        started = time.monotonic()
        slot.wait_for_done()
        assert time.monotonic() - started < 15.0  # the heartbeat's end is later
        until(lambda: any(text.startswith("dropped") for _, text in said(caplog)), what="the note")
    found = said(caplog)
    assert len(found) < 2 * LINES_PER_SECOND + 10
    assert max(len(text) for _, text in found) < LINE_BYTES_MAX + 100
    notes = [text for _, text in found if text.startswith("dropped")]
    assert all("slot=act pipeline=act release=act@1: " in text for text in notes)
    lost = sum(int(text.split()[-5]) for text in notes)
    assert 10_000_000 < lost < 11_000_001, notes


def test_a_crash_of_native_code_leaves_where_it_was(releases: Releases, caplog: pytest.LogCaptureFixture) -> None:
    with Slot() as slot:
        slot.run(releases.act(1))
        slot.feed_on()
        slot.try_out(releases.act(2, "segfault"))
        notice = slot.wait_for(NoticeKind.FAILED, 2)
    texts = [text for _, text in said(caplog) if text.startswith(FIELDS.format(2))]
    assert any("Fatal Python error: Segmentation fault" in text for text in texts)
    assert any("in segfault" in text for text in texts)
    assert "in segfault" in notice.traceback, "an incident has it, too"


def test_no_pipe_is_left_behind(releases: Releases) -> None:
    before, threads = descriptors(), threading.active_count()
    with Slot() as slot:
        slot.run(releases.act(1))
        slot.feed_on()
        counts: list[int] = []
        for key in range(2, 8):
            slot.try_out(releases.act(key, "exit" if key % 2 else "good", factor=float(key)))
            slot.wait_for(NoticeKind.FAILED if key % 2 else NoticeKind.HEALTHY, key)
            until(lambda: not slot.lane.crew.dying, what="burials")
            counts.append(len(descriptors()))
        until(lambda: len(descriptors()) <= counts[0], what=f"as many as at first, after {counts}")
    assert descriptors() <= before
    assert threading.active_count() <= threads


def test_a_worker_that_a_launcher_started_is_heard(
    releases: Releases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.edge_agent.runtime.test_launched import Launcher

    launcher = Launcher(tmp_path / "sock")
    try:
        confinement = Confinement(launcher=str(launcher.path))
        with Slot() as slot:
            slot.run(msgspec.structs.replace(releases.act(3, "chat"), confinement=confinement))
            slot.feed(1)
            slot.wait_for_done()
            until(lambda: any("native" in text for _, text in said(caplog)), what="the last line")
        assert ("WARNING", FIELDS.format(3) + "acting: two") in said(caplog)
    finally:
        launcher.process.kill()
        launcher.process.communicate(timeout=20)


# --- the thread -----------------------------------------------------------------------------------------------------


@pytest.fixture
def chatter() -> Iterator[Chatter]:
    made = Chatter()
    made.start()
    yield made
    made.stop()
    made.stop()


def test_one_that_floods_does_not_silence_another(chatter: Chatter, caplog: pytest.LogCaptureFixture) -> None:
    loud, soft = chatter.voice("a", "a@1"), chatter.voice("b", "b@1")
    done = threading.Event()

    def flood() -> None:
        while not done.is_set():
            os.write(loud.theirs, b"noise\n" * 1_000)

    thread = threading.Thread(target=flood)
    thread.start()
    used = time.thread_time()
    try:
        for number in range(5):
            os.write(soft.theirs, b"word %d\n" % number)
            text = f"slot=b pipeline=b release=b@1: word {number}"
            until(lambda text=text: ("INFO", text) in said(caplog), 30, what=text)
    finally:
        done.set()
        thread.join()
    assert time.thread_time() - used < 5.0
    loud.release = "a@2"
    loud.end()
    assert any("release=a@2: " in text and text.startswith("dropped") for _, text in said(caplog))
    soft.end()
    soft.end()


def test_a_voice_whose_writers_are_gone_is_forgotten(chatter: Chatter) -> None:
    voice = chatter.voice("a", "a@1")
    voice.passed()
    until(lambda: voice.descriptor < 0, what="the end of the pipe")
    again = chatter.voice("a", "a@2")
    os.write(again.theirs, b"x\n")
    until(lambda: again.last() == "x\n", what="the new one's word")
