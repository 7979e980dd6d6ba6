"""The device's memory on real SQLite files: what is written together, what never falls, what a SIGKILL leaves."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Blame, Reason, ReasonCode, StoreError
from edge_agent.update.deployment import Deployment, State
from edge_agent.update.store import Quarantined, Refusal, Store, Trust, Wish
from tests.simulators.waiting import until

REASON = Reason(code=ReasonCode.ERRORS, message="words", where="stage", blame=Blame.RELEASE)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "agent.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def add(store: Store, release: str = "a@1", content: str = "1", slot: str = "a", now: float = 1.0) -> Deployment:
    with store.transaction():
        return store.add_deployment(
            slot=slot, channel="c", release=release, digest=Digest.of(content.encode()), now=now
        )


def move(store: Store, deployment: Deployment, state: State, now: float, **fields: object) -> Deployment:
    committed = now if state is State.COMMITTED else deployment.committed
    changed = msgspec.structs.replace(deployment, state=state, **{"committed": committed, **fields})
    with store.transaction():
        store.save_deployment(changed, event=state.value, before=deployment.state, now=now)
    return store.deployment(deployment.id)


def trust(content: bytes = b"envelope", expires: float = 100.0) -> Trust:
    return Trust(channel="c", envelope=content, verified=b"{}", accepted=1.0, expires=expires)


# --- opening ---------------------------------------------------------------------------------------------------------


def test_it_is_durable_by_its_pragmas(path: Path, store: Store) -> None:
    assert store._db.execute("pragma journal_mode").fetchone() == ("wal",)
    assert store._db.execute("pragma synchronous").fetchone() == (2,)
    assert store._db.execute("pragma foreign_keys").fetchone() == (1,)
    assert path.parent.stat().st_mode & 0o077 == 0


def test_an_older_schema_is_migrated_and_an_equal_one_kept(path: Path) -> None:
    Store(path).close()
    again = Store(path)
    add(again)
    again.close()
    once_more = Store(path)
    assert [one.release for one in once_more.deployments()] == ["a@1"]
    once_more.close()


def test_a_newer_schema_is_refused_and_untouched(path: Path) -> None:
    store = Store(path)
    add(store)
    store._db.execute(
        "insert into _sqlite_migrations (migration_set, name, applied_at) values ('edge_agent', '0999_later', '')"
    )
    store._db.conn.commit()
    store.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer edge-agent \(0999_later\): update this program"):
        Store(path)
    assert path.read_bytes() == before
    assert not path.with_name("agent.db-wal").exists()


def test_a_missing_file_is_not_made_when_it_must_be_there(path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        Store(path, create=False)
    assert not path.parent.exists()


def test_what_is_no_database_is_a_store_error(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(StoreError, match="cannot open the store"):
        Store(path)


def test_a_directory_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot open the store"):
        Store(tmp_path / "file" / "agent.db")


def test_importing_it_brings_neither_numpy_nor_pandas_and_leaves_them_importable() -> None:
    code = "import sys, edge_agent.update.store; assert not {'numpy', 'pandas'} & set(sys.modules); import numpy"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


# --- transactions ----------------------------------------------------------------------------------------------------


def test_a_transaction_is_durable_together_or_not_at_all(path: Path, store: Store) -> None:
    first = add(store)
    changed = msgspec.structs.replace(first, state=State.COMMITTED)

    def break_off() -> None:
        with store.transaction():
            store.save_deployment(changed, event="x", before=first.state, now=2.0)
            store.set_active("a", first.id)
            store.raise_floors("c", [("root", "k", 9)])
            store.raise_fact("clock", 9.0)
            store.save_trust(trust(), {Digest.of(b"m"): b"m"})
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    other = Store(path)
    for one in (store, other):
        assert one.deployment(first.id).state is State.ANNOUNCED
        assert one.active("a") is None
        assert one.journal() == []
        assert one.floors("c") == []
        assert one.fact("clock") == 0.0
        assert one.trust("c") is None
    other.close()


def test_a_database_that_refuses_is_a_store_error(path: Path, store: Store) -> None:
    with pytest.raises(StoreError, match="refuses to write"), store.transaction():
        store.set_active("a", 12345)  # no such deployment: the foreign key says no
    assert store.active("a") is None


def test_another_process_may_read_and_write_beside_it(path: Path, store: Store) -> None:
    add(store)
    other = Store(path, create=False)
    with other.transaction():
        number = other.ask("rollback", "a", 5.0)
    assert store.requests() == [Wish(number=number, kind="rollback", slot="a")]
    with store.transaction():
        store.answer(number, "done")
    assert other.answer_of(number) == "done"
    assert store.requests() == []
    other.close()


# --- deployments -----------------------------------------------------------------------------------------------------


def test_a_deployment_comes_back_as_it_was_written(store: Store) -> None:
    first = add(store, now=3.0)
    assert (first.state, first.attempts, first.postponements, first.reasons, first.due) == (
        State.ANNOUNCED, 0, 0, (), 0.0,
    )  # fmt: skip
    moved = move(
        store, first, State.DEFERRED, 4.5, attempts=2, postponements=3, reasons=(REASON,), due=9.25, release="a@2"
    )
    assert moved == msgspec.structs.replace(
        first,
        state=State.DEFERRED,
        attempts=2,
        postponements=3,
        reasons=(REASON,),
        due=9.25,
        release="a@2",
        updated=4.5,
    )
    (line,) = store.journal("a")
    assert (line.at, line.before, line.event, line.after) == (4.5, "announced", "deferred", "deferred")
    assert line.words == "errors: words (stage)"
    assert store.journal("other") == []


def test_under_way_is_the_one_that_has_not_ended(store: Store) -> None:
    assert store.under_way("a") is None
    first = move(store, add(store), State.COMMITTED, 2.0)
    add(store, slot="b")
    assert store.under_way("a") is None
    second = add(store, "a@2", "2")
    assert store.under_way("a") == second
    move(store, second, State.REJECTED, 3.0)
    assert store.under_way("a") is None
    assert [one.id for one in store.deployments("a")] == [second.id, first.id]
    assert len(store.deployments()) == 3
    assert len(store.deployments(limit=1)) == 1


def test_last_ended_goes_by_time_not_by_number(store: Store) -> None:
    assert store.last_ended("a") is None
    first = move(store, add(store), State.COMMITTED, 2.0)
    second = move(store, add(store, "a@2", "2"), State.ROLLED_BACK, 3.0)
    assert store.last_ended("a") == second
    reverted = move(store, first, State.REVERTED, 4.0)
    assert store.last_ended("a") == reverted
    add(store, "a@3", "3", now=9.0)
    assert store.last_ended("a") == reverted


def test_the_active_deployment_is_pointed_at(store: Store) -> None:
    first, second = add(store), add(store, "a@2", "2")
    assert store.active("a") is None
    for expected in (first, second, None):
        with store.transaction():
            store.set_active("a", expected.id if expected is not None else None)
        assert store.active("a") == expected


def test_previous_is_the_newest_that_was_committed_here_with_other_bytes(store: Store) -> None:
    first = move(store, move(store, add(store), State.COMMITTED, 2.0), State.SUPERSEDED, 3.0)
    move(store, add(store, "a@2", "2"), State.SUPERSEDED, 4.0)  # withdrawn, never committed
    move(store, move(store, add(store, "b@1", "b", "b"), State.COMMITTED, 5.0), State.SUPERSEDED, 6.0)
    failed = move(store, move(store, add(store, "a@3", "3"), State.COMMITTED, 5.0), State.REVERTED, 6.0)
    same = move(store, move(store, add(store, "a@4", "5"), State.COMMITTED, 7.0), State.SUPERSEDED, 8.0)
    active = move(store, add(store, "a@5", "5"), State.COMMITTED, 8.0)
    assert failed.state is State.REVERTED
    assert same.digest == active.digest
    assert store.previous("a", active) == first
    newer = move(store, move(store, add(store, "a@6", "6"), State.COMMITTED, 9.0), State.SUPERSEDED, 10.0)
    assert store.previous("a", active) == newer
    assert store.previous("a", first) == newer
    assert store.previous("empty", first) is None


# --- trust -----------------------------------------------------------------------------------------------------------


def test_an_accepted_envelope_replaces_the_last_and_clears_the_refusal(store: Store) -> None:
    refusal = Refusal(channel="c", at=5.0, digest=Digest.of(b"bad"), reasons=(REASON,))
    with store.transaction():
        store.save_trust(trust(b"one"), {Digest.of(b"m"): b"m"})
        store.save_refusal(refusal)
        store.save_refusal(msgspec.structs.replace(refusal, channel="d"))
    assert store.refusal("c") == refusal
    assert store.trust("d") is None
    with store.transaction():
        store.save_refusal(msgspec.structs.replace(refusal, at=6.0))
    assert store.refusal("c") == msgspec.structs.replace(refusal, at=6.0)
    with store.transaction():
        store.save_trust(trust(b"two"), {Digest.of(b"m"): b"m", Digest.of(b"n"): b"n"})
    assert store.trust("c") == trust(b"two")
    assert store.refusal("c") is None
    assert store.refusal("d") is not None
    assert (store.manifest(Digest.of(b"m")), store.manifest(Digest.of(b"n"))) == (b"m", b"n")
    with pytest.raises(StoreError, match="no manifest"):
        store.manifest(Digest.of(b"never"))


ROLES, KEYSETS = st.sampled_from(["root", "timestamp", "release"]), st.sampled_from(["k1", "k2"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(ROLES, KEYSETS, st.integers(1, 1000)), max_size=12))
def test_floors_never_fall(tmp_path_factory: pytest.TempPathFactory, floors: list[tuple[str, str, int]]) -> None:
    store = Store(tmp_path_factory.mktemp("floors") / "agent.db")
    for floor in floors:
        with store.transaction():
            store.raise_floors("c", [floor])
    expected: dict[tuple[str, str], int] = {}
    for role, keyset, version in floors:
        expected[role, keyset] = max(version, expected.get((role, keyset), 0))
    assert store.floors("c") == [(role, keyset, version) for (role, keyset), version in sorted(expected.items())]
    assert store.floors("other") == []
    store.close()


def test_facts_only_grow(store: Store) -> None:
    assert store.fact("boot") == 0.0
    assert store.fact("boot", 7.0) == 7.0
    for value, expected in [(3.0, 3.0), (2.0, 3.0), (4.5, 4.5)]:
        with store.transaction():
            store.raise_fact("boot", value)
        assert store.fact("boot") == expected


def test_memberships_and_quarantine_are_sets(store: Store) -> None:
    entry = Quarantined(slot="a", digest=Digest.of(b"1"), at=1.0, reasons=(REASON,))
    later = msgspec.structs.replace(entry, at=2.0, reasons=())
    with store.transaction():
        for rollout in ("r1", "r2", "r1"):
            store.join("a", rollout)
        for one in (entry, later):
            store.quarantine(one, config="c", profile="p")
    assert store.joined("a", ["r1", "r2", "r3"]) == {"r1", "r2"}
    assert store.joined("a", ["r2"]) == {"r2"}
    assert store.joined("a", []) == set()
    assert store.joined("b", ["r1", "r2"]) == set()
    assert store.quarantined("a", config="c", profile="p") == [later]
    assert store.quarantined("a", config="other", profile="p") == []
    assert store.quarantined("a", config="c", profile="other") == []
    assert store.quarantined("b", config="c", profile="p") == []
    assert store.quarantined("a", among=[later.digest]) == [later]
    assert store.quarantined("a", among=[Digest.of(b"another")]) == store.quarantined("a", among=[]) == []


# --- power cuts ------------------------------------------------------------------------------------------------------

WRITER = """
import itertools, sys
from pathlib import Path
import msgspec
from edge_agent.contract.digest import Digest
from edge_agent.update.deployment import State
from edge_agent.update.store import Store
store = Store(Path(sys.argv[1]))
for number in itertools.count(1):
    with store.transaction():
        digest = Digest.of(b"%d" % number)
        one = store.add_deployment(slot="a", channel="c", release=f"a@{number}", digest=digest, now=1.0)
        store.save_deployment(msgspec.structs.replace(one, state=State.COMMITTED), event="x", before=one.state, now=1.0)
        store.set_active("a", one.id)
        store.raise_floors("c", [("timestamp", "k", number)])
        store.raise_fact("boot", number)
    print(number, flush=True)
"""


@pytest.mark.parametrize("promised", [1, 20])
def test_whatever_was_promised_is_there_whole_after_a_kill(path: Path, promised: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    last = 0
    while last < promised:
        last = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    last = int((writer.stdout.read().split() or [last])[-1])
    writer.stdout.close()
    assert writer.wait(10.0) == -signal.SIGKILL
    store = Store(path)
    active = store.active("a")
    assert active is not None
    count = active.id
    assert last <= count <= last + 1
    assert active.release == f"a@{count}"
    assert store.floors("c") == [("timestamp", "k", count)]
    assert store.fact("boot") == count
    assert len(store.deployments(limit=10**6)) == len(store.journal(limit=10**6)) == count
    assert store._db.execute("pragma integrity_check").fetchone() == ("ok",)
    add(store, "a@next", "next")
    store.close()


def test_a_writer_killed_inside_its_transaction_leaves_nothing_and_no_lock(path: Path) -> None:
    Store(path).close()
    code = (
        "import sys, time; from pathlib import Path; from edge_agent.update.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "with store.transaction():\n"
        "    store.raise_fact('boot', 5); store.ask('rollback', 'a', 1.0)\n"
        "    print('in', flush=True); time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "in\n"
    reader = sqlite3.connect(path)
    assert reader.execute("select count(*) from request").fetchone() == (0,)
    reader.close()
    writer.kill()
    writer.stdout.close()
    until(lambda: writer.poll() is not None, what="the writer's end")
    store = Store(path)
    assert store.fact("boot") == 0.0
    assert store.requests() == []
    with store.transaction():
        store.ask("rollback", "a", 2.0)
    store.close()
