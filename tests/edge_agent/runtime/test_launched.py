"""A worker that somebody else starts serves like a child, and ends with the agent all the same."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.contract.digest import encode_json
from edge_agent.runtime.crew import NoticeKind
from edge_agent.runtime.launched import Launched, receive_limits
from edge_agent.runtime.limits import Confinement, Limits
from edge_agent.runtime.member import Member
from edge_agent.runtime.starting import WORKER
from tests.simulators.release import Releases
from tests.simulators.slot import Slot
from tests.simulators.waiting import until

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 60


class Launcher:
    """The stand-in launcher as a process, and the socket it listens on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        command = [sys.executable, "-m", "tests.simulators.launcher", str(path)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def next_worker(self) -> int:
        """Return a descriptor (pidfd) of the worker that was started last."""
        return os.pidfd_open(int(self.line()))


def ended(pidfd: int, seconds: float = SECONDS) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    made = Launcher(tmp_path_factory.mktemp("launcher") / "worker.sock")
    yield made
    made.process.kill()
    made.process.communicate(timeout=SECONDS)


def test_it_serves_like_a_child_and_its_tie_to_the_agent_is_told(launcher: Launcher, releases: Releases) -> None:
    plan = msgspec.structs.replace(releases.act(1), confinement=Confinement(launcher=str(launcher.path)))
    with Slot() as slot:
        slot.supervisor.run("act", plan)
        until(lambda: slot.lane._serving() is not None, what="the worker", seconds=SECONDS)
        slot.feed(3)
        slot.wait_for_done()
        assert [message.values["y"] for message in slot.sink.messages] == [0.0, 2.0, 4.0]
        assert slot.lane.crew.sandbox["parent_death"] == "applied: killed when the agent lets go of it"
        worker = launcher.next_worker()
        assert not ended(worker, 0)
    assert ended(worker)


def test_a_spare_is_started_by_the_launcher_too(launcher: Launcher, releases: Releases) -> None:
    confinement = Confinement(launcher=str(launcher.path))
    one, two = (msgspec.structs.replace(releases.act(key), confinement=confinement, spare=("numpy",)) for key in (1, 2))
    with Slot() as slot:
        slot.supervisor.run("act", one)
        until(lambda: slot.lane.crew.spare.ready, what="the spare", seconds=SECONDS)
        workers = [launcher.next_worker(), launcher.next_worker()]
        slot.try_out(two)
        slot.wait_for(NoticeKind.LOADED)
        assert slot.lane.crew.spare.used == 1
        assert slot.lane.crew.sandbox["parent_death"] == "applied: killed when the agent lets go of it"
    assert all(ended(worker) for worker in workers)


def hang(launcher: Launcher, releases: Releases, how: str) -> tuple[Member, int]:
    plan = releases.act(1, how)
    confinement = Confinement(launcher=str(launcher.path))
    member = Member(1, "act@1", plan.root, ["x"], {}, time.monotonic(), WORKER, confinement)
    worker = launcher.next_worker()

    def ready() -> bool:
        try:
            heard: Any = member.receive()
        except BlockingIOError:
            return False
        return heard is not None

    until(ready, what="READY", seconds=SECONDS)
    return member, worker


def test_a_stuck_one_is_killed_though_the_agent_may_send_it_no_signal(launcher: Launcher, releases: Releases) -> None:
    member, worker = hang(launcher, releases, "hang in load")
    assert member.reap() is None
    assert not ended(worker, 0.2)
    member.kill()
    assert ended(worker)
    until(member.reap, what="the news of its end")
    assert member.reap() == "was killed"


def test_one_that_ends_by_itself_is_noticed(launcher: Launcher, releases: Releases) -> None:
    member, worker = hang(launcher, releases, "exit in load")
    assert ended(worker)
    until(member.reap, what="the news of its end")
    assert "launcher's journal" in str(member.reap())
    member.kill()


def test_a_launcher_that_is_not_there_is_an_error_with_its_path(tmp_path: Path, releases: Releases) -> None:
    plan = releases.act(1)
    with pytest.raises(OSError, match=f"launcher at {tmp_path}/none cannot be reached"):
        Member(1, "act@1", plan.root, ["x"], {}, 0.0, WORKER, Confinement(launcher=str(tmp_path / "none")))


def test_the_agent_s_end_ends_it_at_once(launcher: Launcher) -> None:
    """An agent that is killed closes nothing itself; a worker that never reads its frames ends all the same."""
    body = f"""
import socket, time
from edge_agent.runtime.launched import Launched
from edge_agent.runtime.limits import Limits
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
held = Launched({str(launcher.path)!r}, theirs, Limits())
ours.recv(65536)
print("ready", flush=True)
time.sleep(600)
"""
    agent = subprocess.Popen([sys.executable, "-c", body], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "ready\n"
        worker = launcher.next_worker()
        agent.kill()
        assert ended(worker)
    finally:
        agent.kill()
        agent.communicate(timeout=SECONDS)


def test_what_is_no_message_of_the_agent_is_refused() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(encode_json(Limits()))
        with pytest.raises(ValueError, match="0 descriptors"):
            receive_limits(theirs.fileno())


def test_limits_and_socket_arrive() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    frames, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, frames, other:
        socket.send_fds(ours, [encode_json(Limits(release="/somewhere", parent=7))], [other.fileno()])
        limits = receive_limits(theirs.fileno())
        try:
            assert (limits.release, limits.parent) == ("/somewhere", 0)
            frames.send(b"frame")
            assert theirs.recv(10) == b"frame", "the frame socket took the connection's place"
            ours.send(b"line")
            assert os.read(limits.lifeline, 10) == b"line"
        finally:
            theirs.close()
            os.close(limits.lifeline)


def test_a_launcher_that_does_not_answer_is_let_go(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, socket.socket() as frames:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        held = Launched(str(tmp_path / "sock"), frames, Limits())
        caller, _ = listener.accept()
        assert held.ended() is None
        caller.close()
        assert held.ended()
