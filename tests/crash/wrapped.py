"""Real agents that stop at a point of their tables and wait there to be killed: run as a script, by `device.py`.

One process imports the agent once and forks a life for each line on its standard input, so that hundreds of lives cost
seconds. Each life is the real `Agent` with its own main loop, threads, store and disk. Around it, and nowhere in
`edge_agent`, stand: the point, where the process stops itself (SIGSTOP) and is killed by the test; news from outside
at a chosen state; shorter waits; and, unless `real`, a runtime that says at once that all is well, a verifier that
believes what it is given and blobs read from a directory.

    {"start": {…}} -> {"pid": 17}      a life, see `Plan`
    {"reap": 17}   -> {"status": -9}   how it ended
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from edge_agent import agent as agent_room
from edge_agent import telemetry, wiring
from edge_agent.agent import Agent
from edge_agent.config import load
from edge_agent.contract.digest import BlobRef, decode_msgpack
from edge_agent.contract.errors import Blame, Reason, ReasonCode, UpdateRejected
from edge_agent.contract.verification import Request, Verified
from edge_agent.profile import collect
from edge_agent.runtime.crew import Notice, NoticeKind
from edge_agent.transport.landing import settle
from edge_agent.update import deployment as tables
from edge_agent.update import effects, layout, mender
from edge_agent.update.deployer import Deployer
from edge_agent.update.deployment import Deployment, Event, EventKind, State
from edge_agent.update.effects import Effects
from edge_agent.update.mirror import Mirror
from edge_agent.update.mirrored import MirroredStore
from edge_agent.update.trust import Verifier

WAIT_SECONDS = 0.02

BLAMED = {
    EventKind.FAILED: (ReasonCode.ERRORS, Blame.RELEASE),
    EventKind.REFUSED: (ReasonCode.COLUMNS, Blame.RELEASE),
    EventKind.POSTPONED: (ReasonCode.UNAVAILABLE, Blame.ENVIRONMENT),
    EventKind.HELD: (ReasonCode.HOLD, Blame.ENVIRONMENT),
}


class Plan(msgspec.Struct, kw_only=True):
    """One life. `state`, `event` and `moment` name the point; `say` maps states to news that comes when they are
    entered; `announce` is an envelope in hex; `clock_seconds` shifts this process's idea of the time."""

    config: str
    state: str = ""
    event: str = ""
    moment: str = ""
    say: dict[str, str] = {}
    announce: str = ""
    shelf: str = ""
    real: bool = False
    clock_seconds: float = 0.0


class Point:
    """Where this life ends. A moment is `before` (all is written, SQLite has not committed), `after` (committed, no
    effect begun), `done 0`, `done 1` (the effect of that place is over), or a name of `PLACES`."""

    def __init__(self, plan: Plan) -> None:
        self.row, self.moment = (plan.state, plan.event), plan.moment
        self.armed, self.depth, self.effects, self.spent = not plan.state, 0, 0, False

    def reached(self, moment: str) -> None:
        if self.armed and moment == self.moment and not self.spent:
            self.spent = True  # who lets it go on lets it go on
            os.kill(os.getpid(), signal.SIGSTOP)


def around(owner: Any, name: str, moment: str, point: Point, *, ahead: bool = False) -> None:
    """Let the point be reached right after (or ahead of) a function of the agent's."""
    inner = getattr(owner, name)

    def outer(*arguments: Any, **named: Any) -> Any:
        if ahead:
            point.reached(moment)
        result = inner(*arguments, **named)
        if not ahead:
            point.reached(moment)
        return result

    setattr(owner, name, outer)


def watch_transitions(point: Point) -> None:
    """Arm the point by the row that is written, and stop before the commit, after it, and after each effect."""
    save, transaction, perform = MirroredStore.save_deployment, MirroredStore.transaction, Effects.perform

    def saving(store: MirroredStore, deployment: Deployment, *, event: str, before: State, now: float) -> None:
        save(store, deployment, event=event, before=before, now=now)
        point.armed = point.armed or (before.value, event) == point.row

    @contextlib.contextmanager
    def transacting(store: MirroredStore) -> Iterator[None]:
        with transaction(store):
            yield
        point.reached("after")

    def performing(doing: Effects, effect: Any, deployment: Deployment, now: float) -> None:
        outermost = point.armed and point.depth == 0
        point.depth += outermost
        perform(doing, effect, deployment, now)
        if outermost:
            point.depth -= 1
            point.reached(f"done {point.effects}")
            point.effects += 1

    MirroredStore.save_deployment, MirroredStore.transaction = saving, transacting  # type: ignore[method-assign]
    Effects.perform = performing  # type: ignore[method-assign]
    around(Mirror, "write", "before", point)


# Places inside effects and at start, by moment: what is wrapped, and whether the point lies ahead of it.
PLACES: dict[str, tuple[Any, str, bool]] = {
    "half fetched": (wiring, "settle", True),
    "half laid out": (layout, "_make_durable", True),
    "laid out": (effects, "lay_out", False),
    "half collected": (shutil, "rmtree", True),
    "boot counted": (Agent, "_count_boot", False),
    "leftovers removed": (Deployer, "_write_life", True),
    "life written": (Deployer, "_write_life", False),
    "resumed": (Deployer, "_resume", False),
}


def speak(plan: Plan, running: Callable[[], Agent]) -> None:
    """Bring the planned news when a deployment enters the state, in place of what would have been done in it."""
    perform = Effects.perform
    said: set[str] = set()

    def performing(doing: Effects, effect: Any, deployment: Deployment, now: float) -> None:
        word = plan.say.get(deployment.state.value)
        if word is None or deployment.state.value in said:
            perform(doing, effect, deployment, now)
            return
        said.add(deployment.state.value)
        if deployment.state is State.COMMITTED:
            perform(doing, effect, deployment, now)
        tell(running(), deployment, word, now)

    Effects.perform = performing  # type: ignore[method-assign]


def tell(agent: Agent, deployment: Deployment, word: str, now: float) -> None:
    """Say one thing as it is said: to the process, in the store, or to the main loop."""
    kind = EventKind(word)
    code, blame = BLAMED.get(kind, (ReasonCode.WITHDRAWN, Blame.ENVIRONMENT))
    reason = Reason(code=code, message="so it was planned", blame=blame)
    if kind is EventKind.STOPPED:
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind is EventKind.OPERATOR:
        with agent._store.transaction():
            agent._store.ask("rollback", deployment.slot, now)
        agent._wake()
    elif deployment.state is State.COMMITTED:
        agent._work.put(lambda then: agent._updater.stopped_serving(deployment.id, (reason,), then))
    else:
        agent._updater.happen(deployment.id, Event(kind=kind, reasons=(reason,)), now)


class Shelf:
    """Blobs in a directory; what is taken from it lies half there before it is whole, as every download does."""

    name = "shelf"

    def __init__(self, place: Path, directory: Path) -> None:
        self._place, self._directory = place, directory

    def fetch(self, ref: BlobRef, target: Path, *, timeout_seconds: float, stop: threading.Event) -> None:
        whole = self._directory / "partial" / f"{ref.digest.hex}.whole"
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes((self._place / ref.digest.hex).read_bytes())
        wiring.settle(whole, target)


class Optimist:
    """A runtime without workers: whatever is started does well."""

    agent: Agent

    def __init__(self, supervisor: Any, tunables: Any) -> None:
        self.run = self.keep = self.abandon = self.rename = lambda *_: None

    def _say(self, kind: NoticeKind, slot: str, key: int) -> None:
        Optimist.agent._noticed(Notice(kind=kind, slot=slot, key=key))

    def start(self, slot: str, key: int, root: Path, release: str) -> None:
        self._say(NoticeKind.LOADED, slot, key)

    def shadow(self, slot: str, key: int) -> None:
        self._say(NoticeKind.PROVEN, slot, key)

    def serve(self, slot: str, key: int) -> None:
        self._say(NoticeKind.HEALTHY, slot, key)


def believed(_: Verifier, request: Request) -> Verified:
    """The verdict that stands in the envelope; only what the floors say is looked at."""
    verified = decode_msgpack(request.envelope, Verified)
    if any(verified.floors[0].version < floor.version for floor in request.floors):
        raise UpdateRejected.one(ReasonCode.OLDER, "an older envelope", blame=Blame.ENVIRONMENT)
    return verified


def hurry() -> None:
    """Shorten the waits that the machine prescribes; their length is another test's."""
    tables.RETRY_SECONDS = tables.HELD_SECONDS_MIN = WAIT_SECONDS
    mender.MEND_SECONDS = 0.1
    agent_room.STORE_RETRY_SECONDS = 0.1


def live(plan: Plan) -> None:
    """Be one agent, until the point, SIGTERM or SIGKILL."""
    os.setsid()
    log = os.open(f"{plan.config}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    telemetry.set_up_logging("INFO")
    if plan.clock_seconds:
        real = time.time
        time.time = lambda: real() + plan.clock_seconds  # type: ignore[method-assign]
    hurry()
    wiring.settle = settle  # type: ignore[attr-defined]
    Verifier.verify = believed
    wiring.Mirror = lambda url, directory, **_: Shelf(Path(plan.shelf), directory)  # type: ignore[assignment,misc]
    if not plan.real:
        wiring.RuntimePort = Optimist  # type: ignore[assignment,misc]
    point = Point(plan)
    if plan.moment:
        watch_transitions(point)
        if plan.moment in PLACES:
            owner, name, ahead = PLACES[plan.moment]
            around(owner, name, plan.moment, point, ahead=ahead)
    made: list[Agent] = []
    if plan.say:
        speak(plan, lambda: made[0])
    make = agent_room.Agent

    def announced(config: Any) -> Agent:
        """Make an agent as `run_rebuilding` does; the broker tells each what it keeps."""
        agent = make(config)
        made[:] = [agent]
        Optimist.agent = agent
        if plan.announce:
            envelope = bytes.fromhex(plan.announce)
            agent._work.put(lambda now: agent._updater.announced("staging", envelope, now))
        return agent

    agent_room.Agent = announced  # type: ignore[assignment,misc]
    agent_room.run_rebuilding(load(Path(plan.config)))


def serve() -> None:
    """Fork a life for each line."""
    profile = collect()
    agent_room.collect = lambda: profile  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        if "start" in asked:
            plan = msgspec.convert(asked["start"], Plan)
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    live(plan)
                    status = 0
                except BaseException:  # noqa: BLE001 - told in the log; the fork must not go on as the parent
                    traceback.print_exc()
                finally:
                    os._exit(status)
            answer = {"pid": pid}
        else:
            answer = {"status": os.waitstatus_to_exitcode(os.waitpid(asked["reap"], 0)[1])}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
