"""Trust outlives the database: two files, one of which may be torn, and a store that never falls below them."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import StoreError
from edge_agent.update.clock import BUILT_SECONDS
from edge_agent.update.mirror import Committed, Memory, Mirror, merged
from edge_agent.update.recovery import open_store
from edge_agent.update.states import State
from tests.simulators.channel import sample_manifest

FLOORS = [("timestamp", "k1", 7), ("root", "k0", 2)]


def memory(version: int) -> Memory:
    return Memory(floors={"staging": {"timestamp": {"k1": version}}}, facts={"clock": float(version)})


def files(directory: Path) -> list[Path]:
    return [directory / "trust.0", directory / "trust.1"]


# --- two files -------------------------------------------------------------------------------------------------------


def test_the_newest_of_two_is_believed(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    assert mirror.memory == Memory()
    for version in range(1, 6):
        mirror.write(memory(version))
        assert Mirror(tmp_path).memory == memory(version)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files(tmp_path))


@pytest.mark.parametrize("kind", ["emptied", "truncated", "garbage", "flipped", "gone", "directory"])
def test_a_torn_newest_file_leaves_the_one_before(tmp_path: Path, kind: str) -> None:
    mirror = Mirror(tmp_path)
    for version in (1, 2, 3):
        mirror.write(memory(version))
    newest = files(tmp_path)[3 % 2]
    data = newest.read_bytes()
    newest.unlink()
    if kind == "directory":
        newest.mkdir()
    elif kind != "gone":
        flipped = bytearray(data)
        flipped[-5] ^= 1
        torn = {"emptied": b"", "truncated": data[:-7], "garbage": os.urandom(300), "flipped": bytes(flipped)}[kind]
        newest.write_bytes(torn)
    found = Mirror(tmp_path)
    assert found.memory == memory(2)
    if kind == "directory":
        with pytest.raises(StoreError, match="cannot be written"):
            found.write(memory(4))
        assert found.memory == memory(2)
        return
    found.write(memory(4))  # over the torn one: the good one stays until this is durable
    assert Mirror(tmp_path).memory == memory(4)


def test_a_write_that_is_cut_anywhere_leaves_old_or_new(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    mirror.write(memory(1))
    mirror.write(memory(2))
    target = files(tmp_path)[3 % 2]
    before = target.read_bytes()
    mirror.write(memory(3))
    after = target.read_bytes()
    for cut in {0, 1, 64, 65, len(after) // 2, len(after) - 1, len(after)}:
        target.write_bytes(after[:cut] + before[cut:])
        assert Mirror(tmp_path).memory in (memory(2), memory(3))


def test_another_format_and_an_oversized_memory_are_not_taken(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    with pytest.raises(StoreError, match="bytes"):
        mirror.write(Memory(facts={"x" * 2_000_000: 1.0}))
    mirror.write(memory(1))
    data = files(tmp_path)[1].read_bytes()
    body = data.partition(b"\n")[2].replace(b'"format":1', b'"format":9')
    files(tmp_path)[1].write_bytes(Digest.of(body).hex.encode() + b"\n" + body)
    assert Mirror(tmp_path).memory == Memory()


def test_of_two_memories_the_higher_counts() -> None:
    one = Memory(floors={"a": {"r": {"k": 3, "l": 1}}}, facts={"boot": 2.0, "clock": 9.0})
    other = Memory(floors={"a": {"r": {"k": 1}}, "b": {"r": {"k": 1}}}, facts={"boot": 5.0})
    both = merged(one, other)
    assert both == merged(other, one)
    assert sorted(both.rows()) == [("a", "r", "k", 3), ("a", "r", "l", 1), ("b", "r", "k", 1)]
    assert both.facts == {"boot": 5.0, "clock": 9.0}


# --- a lost database -------------------------------------------------------------------------------------------------


class Device:
    """A state directory in which one release was committed."""

    def __init__(self, state: Path) -> None:
        self.path, self.releases = state / "agent.db", state / "releases"
        self.manifest = sample_manifest()
        self.digest = Digest.of(self.manifest)
        store = self.open()
        with store.transaction():
            store.raise_floors("staging", FLOORS)
            store.raise_fact("clock", 1_900_000_000.0)
            store.raise_fact("boot", 4)
        store.restore("activity", Committed(channel="staging", release="activity@3", digest=str(self.digest)),
                      self.manifest, 1.0)  # fmt: skip
        store.close()
        root = self.releases / self.digest.hex
        root.mkdir(parents=True)
        (root / "manifest.json").write_bytes(self.manifest)

    def open(self) -> object:
        return open_store(self.path, self.releases, 5.0)

    def lose(self) -> None:
        for path in self.path.parent.glob("agent.db*"):
            path.unlink()


def _emptied(device: Device) -> None:
    device.lose()
    device.path.write_bytes(b"")


def _truncated(device: Device) -> None:
    connection = sqlite3.connect(device.path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    os.truncate(device.path, device.path.stat().st_size // 2)


def _garbage(device: Device) -> None:
    device.lose()
    device.path.write_bytes(random.Random(1).randbytes(50_000))


def _older(device: Device) -> None:
    """Somebody put a backup of the database back."""
    device.lose()
    store = open_store(device.path, device.releases, 5.0)
    connection = sqlite3.connect(device.path)
    connection.execute("delete from floor")
    connection.execute("update fact set value = 1")
    connection.commit()
    connection.close()
    store.close()


LOSSES: dict[str, Callable[[Device], None]] = {
    "lost": Device.lose, "emptied": _emptied, "truncated": _truncated, "garbage": _garbage, "older": _older
}  # fmt: skip


@pytest.mark.parametrize("kind", LOSSES)
def test_rollback_is_refused_by_the_mirror_when_the_database_is(tmp_path: Path, kind: str) -> None:
    """The floors, the clock and the counters of a database that is gone hold on, and what ran is known."""
    device = Device(tmp_path)
    LOSSES[kind](device)
    store = device.open()
    assert sorted(store.floors("staging")) == sorted(FLOORS)
    assert store.fact("clock") == 1_900_000_000.0
    assert store.fact("boot") == 4
    active = store.active("activity")
    assert active is not None
    assert (active.release, active.digest, active.state) == ("activity@3", device.digest, State.COMMITTED)
    assert store.manifest(device.digest) == device.manifest
    store.close()
    assert (tmp_path / "agent.db.damaged").exists() == (kind in ("truncated", "garbage"))


def test_without_mirror_and_database_nothing_is_known(tmp_path: Path) -> None:
    """The other half of the claim: it is the mirror, and nothing else, that remembers above."""
    device = Device(tmp_path)
    device.lose()
    for path in files(tmp_path):
        path.unlink(missing_ok=True)
    store = device.open()
    assert (store.floors("staging"), store.fact("clock"), store.active("activity")) == ([], BUILT_SECONDS, None)


@pytest.mark.parametrize("kind", ["gone", "other bytes"])
def test_a_release_whose_files_are_not_there_is_not_restored(tmp_path: Path, kind: str) -> None:
    device = Device(tmp_path)
    device.lose()
    path = device.releases / device.digest.hex / "manifest.json"
    path.unlink() if kind == "gone" else path.write_bytes(b"{}")
    store = device.open()
    assert store.active("activity") is None
    assert store.floors("staging")


def test_a_slot_that_runs_nothing_any_more_is_forgotten(tmp_path: Path) -> None:
    device = Device(tmp_path)
    store = device.open()
    with store.transaction():
        store.set_active("activity", None)
    store.close()
    device.lose()
    assert device.open().active("activity") is None


def test_nothing_is_accepted_when_the_mirror_cannot_be_written(tmp_path: Path) -> None:
    store = open_store(tmp_path / "agent.db", tmp_path / "releases", 5.0)
    for path in files(tmp_path):
        path.unlink(missing_ok=True)
        path.mkdir()
    with pytest.raises(StoreError, match="nothing was accepted"), store.transaction():
        store.raise_floors("staging", FLOORS)
    assert store.floors("staging") == []


def test_the_mirror_is_written_before_the_database_is(tmp_path: Path) -> None:
    """Killed between the two, the mirror is ahead: more is refused, never less."""
    store = open_store(tmp_path / "agent.db", tmp_path / "releases", 5.0)

    def cut() -> None:
        """What a transaction meets when it is cut right before its commit."""
        with store.transaction():
            with store.transaction():
                store.raise_floors("staging", FLOORS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut()
    store.close()
    store = open_store(tmp_path / "agent.db", tmp_path / "releases", 5.0)
    assert sorted(store.floors("staging")) == sorted(FLOORS)
