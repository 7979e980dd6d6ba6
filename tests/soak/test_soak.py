"""A short soak: the count is kept by a process that imports nothing of ours, what is held is read from /proc."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulators.broker import EXECUTABLE
from tests.soak import count, soak
from tests.soak.held import descendants, held
from tests.soak.soak import BAD, Soak

# Those that are found out at once; the others take a second or more each, and have tests of their own.
FAST = ["raises", "exits", "segfaults", "gives_nan", "closes_its_socket", "floods"]
pytestmark = pytest.mark.skipif(
    not Path(EXECUTABLE).exists(), reason="mosquitto is not installed: apt-get install mosquitto"
)


def test_releases_in_a_row_lose_repeat_and_leave_nothing(tmp_path: Path) -> None:
    words = io.StringIO()
    with Soak(tmp_path, 200, words=words) as trial:
        trial.run(20, 6, every=26, warm=3, kinds=FAST)
        faults = trial.verdict()
    assert faults == [], words.getvalue()
    assert trial.outcomes == Counter(committed=23, **dict.fromkeys(FAST, 1)) + Counter(raises=1)
    assert trial.looks[-1][1].children == trial.looks[0][1].children


def test_what_is_lost_repeated_or_left_behind_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict finds each of them, on a count and looks that were made up."""
    trial = Soak(tmp_path, 1, words=io.StringIO())
    told = {"lost": 2, "repeated": 0, "invented": 0, "unreadable": 1}
    monkeypatch.setattr(trial, "_counter", type("Told", (), {"final": lambda self: told})(), raising=False)
    before = held(os.getpid(), tmp_path)
    after = before._replace(descriptors=before.descriptors + 1, own=before.own + 100_000)
    trial.looks = [(10, before), (110, before), (210, after)]
    found = trial.verdict()
    assert found[:2] == ["2 lost", "1 unreadable"]
    assert found[2].startswith("descriptors: ")
    assert found[3].startswith("memory grew 100000 KiB, ")
    assert found[4] == "memory grows 100000 KiB in 100 rounds"


@pytest.mark.parametrize(
    ("every", "grown", "fault"),
    [
        (25, [0, 900, 1500, 1500, 1550, 1500, 1600], ""),  # filled once, and still since
        (25, [0, 1900, 2500, 4000, 4100, 4200, 4250], "memory grew 4250 KiB"),  # more than is known to fill
        (10, [0, 300, 600, 900, 1200], ""),  # too short to tell
        (25, [0, 300, 600, 900, 1400, 1900, 2400], "memory grows 2000 KiB in 100 rounds"),
        (200, [0, 400, 800, 1200, 1600, 2000, 2400], "memory grows 200 KiB in 100 rounds"),
    ],
)
def test_steady_growth_is_told_from_what_is_filled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, grown: list[int], fault: str
) -> None:
    trial = Soak(tmp_path, 1, words=io.StringIO())
    told = dict.fromkeys(("lost", "repeated", "invented", "unreadable"), 0)
    monkeypatch.setattr(trial, "_counter", type("Told", (), {"final": lambda self: told})(), raising=False)
    before = held(os.getpid(), tmp_path)
    trial.looks = [(7 + every * place, before._replace(own=30_000 + more)) for place, more in enumerate(grown)]
    found = trial.verdict()
    assert len(found) == bool(fault)
    assert all(one.startswith(fault) for one in found)


def test_the_counter_sees_what_is_lost_repeated_and_invented() -> None:
    counted = count.Count()
    for number in range(10):
        counted.reading(number)
    for first, newest in ((0, 3), (2, 4), (9, 12)):
        counted.heard(json.dumps({"first": first, "sequence": newest}).encode(), 20)
    counted.heard(b"{", 20)
    told = counted.told(final=True)
    assert (told["lost"], told["repeated"], told["invented"], told["unreadable"]) == (4, 2, 3, 1)


def test_packets_come_in_pieces() -> None:
    whole = count.packet(0x30, b"x" * 300) + count.packet(0x40, b"") + count.packet(0x32, b"y" * 20_000)
    buffer, found = bytearray(), []
    for at in range(0, len(whole), 7):
        buffer += whole[at : at + 7]
        found += count.packets(buffer)
    assert found == [(0x30, b"x" * 300), (0x40, b""), (0x32, b"y" * 20_000)]
    assert not buffer


def test_the_counter_imports_nothing_of_ours() -> None:
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); print([n for n in sys.modules if 'agent' in n or 'paho' in n])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, count.__file__], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_what_a_process_holds_is_seen(tmp_path: Path) -> None:
    before = held(os.getpid(), tmp_path)
    (tmp_path / "file").write_bytes(bytes(8192))
    reading, writing = os.pipe()
    child = subprocess.Popen(["sleep", "60"])
    try:
        after = held(os.getpid(), tmp_path)
        assert (after.children, after.descriptors, after.disk) == (before.children + 1, before.descriptors + 2, 8)
        assert child.pid in descendants(os.getpid())
    finally:
        child.kill()
        child.wait()
        os.close(reading)
        os.close(writing)
    assert held(os.getpid(), tmp_path).children == before.children


def test_the_whole_one_tries_every_kind_of_bad_release() -> None:
    assert len(BAD) == len(set(BAD)) == 10
    assert all(f"def {what}(" in soak._SOURCE for what in BAD)
