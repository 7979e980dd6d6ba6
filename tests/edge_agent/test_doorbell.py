"""The agent's doorbell: real sockets, real directories, however deep."""

from __future__ import annotations

import contextlib
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent import doorbell as room
from edge_agent.doorbell import NAME, Doorbell, ring
from tests.simulators.waiting import until


@contextlib.contextmanager
def hung(directory: Path, status: bytes = b'{"state":"fine"}') -> Iterator[list[int]]:
    rung: list[int] = []
    bell = Doorbell(directory, lambda: status, lambda: rung.append(1))
    try:
        yield rung
    finally:
        bell.close()


def test_whoever_rings_gets_the_status_and_wakes_the_agent(tmp_path: Path) -> None:
    with hung(tmp_path) as rung:
        assert ring(tmp_path) == b'{"state":"fine"}'
        assert ring(tmp_path) == b'{"state":"fine"}'
        assert len(rung) == 2


def test_a_large_status_arrives_whole(tmp_path: Path) -> None:
    status = b"x" * 3_000_000
    with hung(tmp_path, status):
        assert ring(tmp_path) == status


def test_a_caller_reads_no_further_than_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STATUS_BYTES_MAX", 100_000)
    with hung(tmp_path, b"x" * 1_000_000):
        found = ring(tmp_path)
    assert found is not None
    assert len(found) < 200_000


def test_only_the_owner_may_ring(tmp_path: Path) -> None:
    with hung(tmp_path):
        assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_nobody_answers_where_no_agent_runs(tmp_path: Path) -> None:
    assert ring(tmp_path) is None
    assert ring(tmp_path / "no such directory") is None
    with hung(tmp_path):
        pass
    assert ring(tmp_path) is None
    assert not (tmp_path / NAME).exists()


def test_the_bell_of_a_killed_agent_is_silent_and_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / NAME))
    assert (tmp_path / NAME).exists()
    assert ring(tmp_path) is None
    with hung(tmp_path) as rung:
        assert ring(tmp_path) is not None
        assert rung


def test_an_empty_status_is_no_agent(tmp_path: Path) -> None:
    with hung(tmp_path, b""):
        assert ring(tmp_path) is None


def test_a_directory_deeper_than_a_socket_address_is_fine(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["directory-with-a-long-name"] * 6)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 108
    with hung(deep) as rung:
        assert ring(deep) is not None
        assert rung


def test_a_caller_that_hangs_up_at_once_does_no_harm(tmp_path: Path) -> None:
    with hung(tmp_path, b"x" * 1_000_000) as rung:
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as caller, room._short(tmp_path) as path:
                caller.connect(path)
        until(lambda: len(rung) == 3)
        assert ring(tmp_path) is not None


def test_its_thread_ends_with_it_and_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with hung(tmp_path):
        thread = next(one for one in threading.enumerate() if one.name == "doorbell" and one.is_alive())
        ring(tmp_path)
    thread.join(30)
    assert not thread.is_alive()
    until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
