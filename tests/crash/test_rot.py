"""Databases, logs, blobs and releases that are gone, cut or rotten: it ends with a release, or says why (U1, U3)."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.device import Device, Scene
from tests.crash.test_disk import told
from tests.simulators.agents import workers_of
from tests.simulators.waiting import until

Make = Callable[..., Device]
TABLES = (
    "_sqlite_migrations", "deployment", "fact", "floor", "hold", "journal", "manifest", "membership", "note", "pin",
    "quarantine", "refusal", "request", "slot", "sqlite_master", "trust",
)  # fmt: skip


def test_every_table_is_among_those_that_rot(device: Make) -> None:
    found = {name for (name,) in device(1).rows("select name from sqlite_master where type = 'table'")}
    assert found - {"sqlite_sequence"} <= set(TABLES)


def _merge_log(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()


@pytest.mark.parametrize("table", TABLES)
def test_garbage_in_a_table_is_found_at_start_and_the_release_runs(table: str, device: Make, scene: Scene) -> None:
    one = device(1)
    floors = {key: value for key, value in one.floors().items() if key.startswith("staging")}
    _merge_log(one.state / "agent.db")
    page = 1 if table == "sqlite_master" else one.rows("select rootpage from sqlite_master where name = ?", table)[0][0]
    size = one.rows("pragma page_size")[0][0]
    with (one.state / "agent.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(random.Random(table).randbytes(size))
    one.start(announce=scene.envelope(2).hex())
    one.settle(2)
    one.stop()
    one.require_sound()
    assert (one.state / "agent.db.damaged").exists()
    assert all(one.floors()[key] >= value for key, value in floors.items())


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garble(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(max(4096, path.stat().st_size)))


LOSSES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "database gone": ("agent.db", Path.unlink),
    "database cut": ("agent.db", _cut),
    "database empty": ("agent.db", _empty),
    "database garbage": ("agent.db", _garble),
    "log gone": ("agent.db-wal", Path.unlink),
    "log cut": ("agent.db-wal", _cut),
    "log garbage": ("agent.db-wal", _garble),
    "index gone": ("agent.db-shm", Path.unlink),
    "index garbage": ("agent.db-shm", _garble),
    "mirror gone": ("trust.0", Path.unlink),
    "mirror garbage": ("trust.1", _garble),
    "lock gone": ("lock", Path.unlink),
    "manifests empty": ("releases", lambda path: [_empty(one) for one in path.glob("*/manifest.json")]),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_a_killed_agent_left_is_lost_and_a_release_runs(loss: str, device: Make, scene: Scene) -> None:
    """Killed in the midst of an update, so that a log is there to be lost."""
    one = device(1)
    floors = {key: value for key, value in one.floors().items() if key.startswith("staging")}
    announce = scene.envelope(2).hex()
    one.start(state="live", event="healthy", moment="after", announce=announce)
    one.reach()
    one.kill()
    name, lose = LOSSES[loss]
    lose(one.state / name)
    one.start(announce=announce)
    one.settle(2)
    one.stop()
    one.require_sound()
    assert all(one.floors()[key] >= value for key, value in floors.items())


def test_only_blobs_are_left(device: Make, scene: Scene) -> None:
    """Database and laid-out releases are gone: the manifest, a blob itself, and its blobs are enough."""
    one = device(1)
    for path in one.state.glob("agent.db*"):
        path.unlink()
    shutil.rmtree(one.state / "releases")
    one.start()
    one.settle(1)
    one.stop()
    one.require_sound()


UNDER_IT: dict[str, Callable[[Path], object]] = {
    "the release's directory": lambda state: [shutil.rmtree(path) for path in (state / "releases").iterdir()],
    "its blobs": lambda state: shutil.rmtree(state / "blobs"),
    "both": lambda state: [shutil.rmtree(state / name) for name in ("blobs", "releases")],
    "the log": lambda state: [(state / f"agent.db{end}").unlink() for end in ("-wal", "-shm")],
}


@pytest.mark.parametrize("what", UNDER_IT)
def test_files_that_vanish_under_a_running_agent_come_back(what: str, device: Make, scene: Scene) -> None:
    one = device(1)
    pid = one.start(real=True)
    until(lambda: len(workers_of(pid)) == 1 and told(one), 30, f"a worker\n{one.log}")
    UNDER_IT[what](one.state)
    (worker,) = workers_of(pid)
    assert told(one)["slots"][0]["active"] == "meter@1"
    assert workers_of(pid) == {worker}, "what runs is not disturbed"
    one.kill()
    one.start(announce=scene.envelope(1).hex())
    one.settle(1)
    until(lambda: one.blob(scene.releases[0].parsed.stages[0].bundle).exists() or what == "its blobs", 30, "blobs")  # type: ignore[arg-type]
    one.stop()


def test_rot_that_is_found_while_it_runs_lets_the_store_be_rebuilt(device: Make, scene: Scene) -> None:
    """The agent sets the database aside and opens a new one by itself; the release runs again."""
    one = device(1)
    pid = one.start(real=True)
    until(lambda: len(workers_of(pid)) == 1 and told(one), 30, f"a worker\n{one.log}")
    database = one.state / "agent.db"
    with contextlib.closing(sqlite3.connect(database)) as other:
        other.execute("pragma wal_checkpoint(truncate)")
        other.execute("insert into note (key, value) values ('a', 'b')")
        other.commit()  # what the agent has in memory is out of date now: it reads the file again
        with database.open("r+b") as file:
            file.write(random.Random(1).randbytes(database.stat().st_size))
        until(lambda: (one.state / "agent.db.damaged").exists(), 30, f"the damage found\n{one.log}")
    until(lambda: told(one).get("slots", [{}])[0].get("active") == "meter@1", 30, f"the release\n{one.log}")
    until(lambda: len(workers_of(pid)) == 1, 30, "a worker again")
    one.stop()
    one.require_sound()


def test_two_agents_on_one_directory(device: Make) -> None:
    one = device(1)
    one.start()
    one.settle(1)
    first, one.pid = one.pid, 0
    one.start()
    assert one.end() == 1
    assert "another edge-agent runs on" in one.log
    one.pid = first
    assert told(one)["pid"] == first
    one.stop()
    one.require_sound()


def test_a_newer_schema_is_refused_and_nothing_is_touched(device: Make) -> None:
    one = device(1)
    one.write("insert into _sqlite_migrations (migration_set, name, applied_at) values ('edge_agent', '9999_next', '')")
    _merge_log(one.state / "agent.db")
    before = (one.state / "agent.db").read_bytes()
    one.start()
    assert one.end() == 1
    assert "was written by a newer edge-agent (9999_next)" in one.log
    assert (one.state / "agent.db").read_bytes() == before
