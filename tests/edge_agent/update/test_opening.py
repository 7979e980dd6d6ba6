"""Looking writes nothing, and a store that cannot be written tells what was committed until it can be again (U3)."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.contract.errors import StoreError
from edge_agent.update import mirrored
from edge_agent.update.mirror import Mirror
from edge_agent.update.mirrored import MirroredStore
from edge_agent.update.opening import StoreLost, StoreUnwritable
from edge_agent.update.recovery import open_store
from edge_agent.update.store import Store

FLOORS = [("timestamp", "k", 7)]


def made(state: Path) -> Path:
    """Make a store with a floor and a boot counter, closed cleanly."""
    path = state / "agent.db"
    store = open_store(path, state / "releases", 1.0)
    with store.transaction():
        store.raise_floors("staging", FLOORS)
    store.remember("boot", 4)
    store.close()
    return path


@contextmanager
def refusing() -> Iterator[None]:
    """Let every write of this process fail (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrored, "REOPEN_SECONDS", 0.0)


def test_looking_sees_what_is_only_in_the_log_and_refuses_to_write(tmp_path: Path) -> None:
    path = made(tmp_path)
    writer = Store(path)
    with writer.transaction():
        writer.write_note("a", "b")
    looker = Store(path, look=True)
    assert looker.note("a") == "b"
    with pytest.raises(StoreUnwritable, match="to be looked at"), looker.transaction():
        looker.write_note("a", "c")
    with writer.transaction():
        writer.write_note("a", "d")
    assert looker.note("a") == "b", "it is a copy"
    writer.close()


def test_looking_at_nothing_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has the agent run"):
        Store(tmp_path / "agent.db", look=True)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_at_start_is_read_and_heals(tmp_path: Path) -> None:
    path = made(tmp_path)
    with refusing():
        store = open_store(path, tmp_path / "releases", 5.0)
        assert store.unwritable
        assert store.floors("staging") == FLOORS
        store.remember("boot", 5)
        with pytest.raises(StoreUnwritable), store.transaction():
            store.write_note("a", "b")
        assert (store.fact("boot"), store.note("a")) == (5, "")
    with store.transaction():
        store.write_note("a", "b")
    assert not store.unwritable
    store.close()
    again = Store(path)
    assert (again.fact("boot"), again.note("a"), again.floors("staging")) == (5, "b", FLOORS)
    again.close()


def test_it_is_not_tried_again_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path)
    monkeypatch.setattr(mirrored, "REOPEN_SECONDS", 100.0)
    with refusing():
        store = open_store(path, tmp_path / "releases", 5.0)
        store._again = time.monotonic() + 100.0
    with pytest.raises(StoreUnwritable), store.transaction():
        pass
    store._again = 0.0
    with store.transaction():
        store.write_note("a", "b")
    store.close()


def test_a_disk_that_fills_between_opening_and_counting_is_no_end(tmp_path: Path) -> None:
    path = made(tmp_path)
    store = open_store(path, tmp_path / "releases", 5.0)
    with refusing():
        store.remember("boot", 9)
        assert store.fact("boot") == 9
        assert store.unwritable
    store.close()


def test_without_any_database_that_can_be_read_the_mirror_is_all_there_is(tmp_path: Path) -> None:
    path = made(tmp_path)
    store = MirroredStore(path, Mirror(tmp_path), lost="damaged, and the disk is read-only")
    assert (store.floors("staging"), store.fact("boot")) == (FLOORS, 4)
    with pytest.raises(StoreLost, match="opened anew"), store.transaction():
        store.write_note("a", "b")


def test_a_lost_database_on_a_disk_that_refuses_leaves_the_mirror(tmp_path: Path) -> None:
    path = made(tmp_path)
    path.unlink()
    with refusing():
        store = open_store(path, tmp_path / "releases", 5.0)
        assert (store.floors("staging"), store.fact("boot")) == (FLOORS, 4)
        assert store.unwritable
    store.close()
    shutil.rmtree(tmp_path)
