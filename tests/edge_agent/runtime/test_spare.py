"""Spare workers with real processes: who uses them, who may not, what they may read, and what is left of them."""

from __future__ import annotations

import errno
import itertools
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.contract.errors import Blame, ReasonCode
from edge_agent.runtime import spare as module
from edge_agent.runtime import view
from edge_agent.runtime.crew import Crew, NoticeKind, Plan
from edge_agent.runtime.limits import MIB, Confinement, Limits
from edge_agent.runtime.plan import spare_modules
from tests.simulators.release import Releases
from tests.simulators.slot import Slot
from tests.simulators.waiting import until

SECONDS = 30.0


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def slot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slot]:
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.05)
    with Slot() as made:
        yield made


def spared(plan: Plan, confinement: Confinement | None = None) -> Plan:
    return msgspec.structs.replace(plan, spare=("numpy",), confinement=confinement or plan.confinement)


def views(plan: Plan) -> list[Path]:
    return list(plan.root.parent.glob(".spare-*"))


def spare_of(slot: Slot) -> int:
    until(lambda: slot.lane.crew.spare.ready, SECONDS, "a spare that is ready")
    return slot.lane.crew.spare.pid


def worker_of(slot: Slot, key: int) -> int:
    return next((one.pid for one in slot.lane.crew.by_descriptor().values() if one.key == key and one.loaded), 0)


def test_the_next_release_uses_it_and_a_new_one_starts_after_its_probation(slot: Slot, releases: Releases) -> None:
    plan = spared(releases.act(1))
    slot.run(plan)
    pid = spare_of(slot)
    slot.feed_on(0.005)
    slot.try_out(spared(releases.act(2, probation_frames=60)))
    slot.wait_for(NoticeKind.PROVEN)
    assert worker_of(slot, 2) == pid
    assert not slot.lane.crew.spare.pid, "none is started while a candidate is on probation"
    slot.wait_for(NoticeKind.HEALTHY)
    assert spare_of(slot) != pid
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert slot.numbers == list(range(fed))
    assert {one.release for one in slot.sink.messages} == {"act@1", "act@2"}
    assert slot.lane.crew.sandbox["file_system"].startswith("applied")


def test_its_sandbox_is_that_of_any_worker(slot: Slot, releases: Releases) -> None:
    slot.run(spared(releases.act(1)))
    cold = dict(slot.lane.crew.sandbox)
    spare_of(slot)
    slot.try_out(spared(releases.act(2, probation_frames=10_000)))
    slot.wait_for(NoticeKind.LOADED)
    assert slot.lane.crew.sandbox == cold
    assert slot.lane.crew.spare.used == 1


def test_the_replacement_of_a_crashed_worker_is_the_spare(slot: Slot, releases: Releases) -> None:
    slot.run(spared(releases.act(1)))
    pid = spare_of(slot)
    os.kill(slot.active_pid, signal.SIGKILL)
    until(lambda: slot.active_pid == pid, SECONDS, "the replacement")
    slot.feed(3)
    slot.wait_for_done()
    assert slot.numbers == [0, 1, 2]
    assert not slot.notices, "nobody failed"


DIFFERENT = {
    "lower limits": Confinement(limits=Limits(memory_bytes=512 * MIB)),
    "another requirement": Confinement(require=("new_privileges",)),
}


@pytest.mark.parametrize("how", DIFFERENT)
def test_a_release_that_is_kept_otherwise_starts_a_worker_of_its_own(slot: Slot, releases: Releases, how: str) -> None:
    slot.run(spared(releases.act(1)))
    pid = spare_of(slot)
    slot.try_out(spared(releases.act(2), DIFFERENT[how]))
    slot.wait_for(NoticeKind.LOADED)
    assert worker_of(slot, 2) not in (0, pid)
    slot.feed_until(NoticeKind.HEALTHY)
    until(
        lambda: slot.lane.crew.spare.ready and slot.lane.crew.spare.pid != pid,
        SECONDS,
        "one that suits the new release",
    )
    assert slot.lane.crew.spare.used == 0


def test_a_release_that_needs_less_starts_a_worker_of_its_own(slot: Slot, releases: Releases) -> None:
    slot.run(msgspec.structs.replace(releases.act(1), spare=("numpy", "json.tool")))
    spare_of(slot)
    slot.try_out(spared(releases.act(2)))
    slot.wait_for(NoticeKind.LOADED)
    assert slot.lane.crew.spare.used == 0


def test_a_view_that_is_given_up_while_it_is_filled_goes_all_the_same(tmp_path: Path, releases: Releases) -> None:
    made = view.View(tmp_path)
    with made._filling:
        assert not made.removed()
        assert not made.removed()
    until(made.removed, SECONDS, "its removal")
    with pytest.raises(OSError, match="No such file"):
        made.fill(releases.act(1).root)
    assert not made.path.exists()


def test_a_killed_spare_is_replaced_and_nobody_is_blamed(slot: Slot, releases: Releases) -> None:
    plan = spared(releases.act(1))
    slot.run(plan)
    pid = spare_of(slot)
    os.kill(pid, signal.SIGKILL)
    until(lambda: slot.lane.crew.spare.ready and slot.lane.crew.spare.pid != pid, SECONDS, "a new one")
    until(lambda: len(views(plan)) == 1, SECONDS, "the removal of the dead one's directory")
    assert (slot.notices, slot.lane.counters["crashes"], slot.lane.crew.spare.used) == ([], 0, 0)


def test_a_release_that_comes_when_the_spare_has_just_died_starts_cold(
    slot: Slot, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runtime.spare.AGAIN_SECONDS", (600.0,))  # no other one, however slow this is
    slot.run(spared(releases.act(1)))
    pid = spare_of(slot)
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([ended], [], [], SECONDS)
    os.close(ended)
    slot.try_out(spared(releases.act(2)))
    slot.wait_for(NoticeKind.LOADED)
    assert slot.lane.crew.spare.used == 0
    assert NoticeKind.FAILED not in [one.kind for one in slot.notices]


READS = {"read file": "manifest.json", "list directory": ""}


@pytest.mark.parametrize("how", READS)
def test_loaded_with_one_release_it_cannot_read_another_s_files(slot: Slot, releases: Releases, how: str) -> None:
    other = releases.act(9, "shift")
    slot.run(spared(other))
    spare_of(slot)
    slot.try_out(spared(releases.act(2, how, note=str(other.root / READS[how]))))
    slot.wait_for(NoticeKind.LOADED)
    slot.feed(20)
    failed = slot.wait_for(NoticeKind.FAILED)
    assert slot.lane.crew.spare.used == 1
    assert "PermissionError" in failed.traceback
    assert (other.root / "manifest.json").exists()


def test_what_it_reads_are_links_and_they_go_with_it(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.05)
    plan = spared(releases.act(2))
    with Slot() as slot:
        slot.run(spared(releases.act(1)))
        spare_of(slot)
        slot.try_out(plan)
        slot.wait_for(NoticeKind.LOADED)
        (used,) = [one for one in views(plan) if (one / "manifest.json").exists()]
        assert (used / "manifest.json").samefile(plan.root / "manifest.json")
        found = {path.relative_to(used) for path in used.rglob("*")}
        assert found == {path.relative_to(plan.root) for path in plan.root.rglob("*")}
    assert not views(plan)
    assert (plan.root / "manifest.json").exists()


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
def test_where_no_links_can_be_made_files_are_copied(
    tmp_path: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "no links here")

    monkeypatch.setattr(view.os, "link", refuse)
    root = releases.act(1).root
    made = view.View(tmp_path)
    made.fill(root)
    for path in root.rglob("*"):
        copy = made.path / path.relative_to(root)
        assert path.is_dir() == copy.is_dir()
        assert path.is_dir() or (copy.read_bytes() == path.read_bytes() and not copy.samefile(path))
    until(made.removed, SECONDS, "its removal")
    assert not made.path.exists()


def test_a_disk_that_refuses_the_files_is_not_the_release_s_fault(
    slot: Slot, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    slot.run(spared(releases.act(1)))
    spare_of(slot)
    monkeypatch.setattr(view, "_link_tree", refuse)
    slot.try_out(spared(releases.act(2)))
    failed = slot.wait_for(NoticeKind.FAILED)
    assert failed.reason is not None
    assert (failed.reason.code, failed.reason.blame) == (ReasonCode.ENVIRONMENT, Blame.ENVIRONMENT)
    assert "No space left" in failed.words
    spare_of(slot)
    os.kill(slot.active_pid, signal.SIGKILL)
    slot.feed(1)
    until(lambda: slot.active_pid, SECONDS, "a replacement that needs no directory")
    slot.wait_for_done()
    assert slot.numbers == [0]
    assert slot.lane.crew._crashes.maxlen is not None
    assert len(slot.lane.crew._crashes) == 1, "what the disk did is no crash"


def test_a_slot_that_wants_none_has_none(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.feed_on(0.01)
    until(lambda: slot.lane.crew.spare.due > slot.supervisor.beat + 0.01, SECONDS, "a look at it")
    slot.stop_feeding()
    assert (slot.lane.crew.spare.pid, views(releases.act(1))) == (0, [])


def test_after_each_failure_the_next_one_is_longer_in_coming(
    tmp_path: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = msgspec.structs.replace(spared(releases.act(1)), root=tmp_path / "none" / "release")
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(module, "LOOK_STARTING_SECONDS", 0.01)
    kept = Crew().spare
    starts: list[float] = []
    now = 0.0
    monkeypatch.setattr(
        module.View, "__init__", lambda *_: starts.append(now) or (_ for _ in ()).throw(OSError("full"))
    )
    while now < 1000.0:
        kept.tend(plan, now, calm=True)
        now = max(kept.due, now + 0.01)
    gaps = [round(after - before) for before, after in itertools.pairwise(starts)]
    assert gaps == sorted(gaps)
    assert gaps[:2] == [1, 5]
    assert len(starts) < 10


def test_nobody_spends_memory_on_what_the_release_does_not_need() -> None:
    assert spare_modules(["numpy>=1.26"]) == ("numpy",)
    assert spare_modules(["numpy", "onnxruntime>=1.17"]) == ("numpy", "onnxruntime")


AGENT = """
import sys, time
from pathlib import Path
import msgspec
from tests.simulators.release import Releases
from tests.simulators.slot import Slot
from tests.simulators.waiting import until
with Slot() as slot:
    slot.run(msgspec.structs.replace(Releases(Path(sys.argv[1])).act(1), spare=("numpy",)))
    until(lambda: slot.lane.crew.spare.ready, 30, "a spare")
    print(slot.active_pid, slot.lane.crew.spare.pid, flush=True)
    time.sleep(600)
"""


def test_no_spare_outlives_an_agent_that_is_killed(tmp_path: Path) -> None:
    agent = subprocess.Popen([sys.executable, "-c", AGENT, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        ends = [os.pidfd_open(int(pid)) for pid in agent.stdout.readline().split()]
        assert len(ends) == 2
        assert not select.select(ends, [], [], 0)[0]
        agent.kill()
        for end in ends:
            assert select.select([end], [], [], SECONDS)[0]
            os.close(end)
    finally:
        agent.kill()
        agent.communicate(timeout=SECONDS)
