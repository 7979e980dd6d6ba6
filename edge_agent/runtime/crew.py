"""The workers of one slot: hired, watched, retired, buried, and how soon a crashed one is replaced.

It knows their plans and deadlines, not who serves: that is the lane's.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.runtime.chatter import Voice
from edge_agent.runtime.member import Member
from edge_agent.runtime.patience import EXCUSED_MAX, Patience
from edge_agent.runtime.plan import Plan
from edge_agent.runtime.spare import Spare
from edge_agent.runtime.starting import WORKER

__all__ = ["Crew", "Notice", "NoticeKind", "Plan"]

STOP_SECONDS = 2.0
# How much longer who is late may be while another release is late too.
LATE_FACTOR = 2.0
CRASHES_MAX = 3
CRASH_WINDOW_SECONDS = 60.0
RESTART_SECONDS = (0.0, 0.5, 2.0, 10.0, 30.0)


class NoticeKind(enum.Enum):
    """What a lane tells the updater."""

    LOADED = "loaded"
    PROVEN = "proven"
    HEALTHY = "healthy"
    FAILED = "failed"
    STOPPED_SERVING = "stopped serving"
    DOUBTED = "doubted"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """News about deployment `key` on `slot`, with evidence in words.

    What failed brings more, for an incident: evidence in numbers, microseconds by stage, and the last `Samples`, those
    that failed first, then from the newest on.
    """

    kind: NoticeKind
    slot: str
    key: int
    words: str = ""
    reason: Reason | None = None
    traceback: str = ""
    release: str = ""
    evidence: dict[str, float] = {}
    stages: dict[str, int] = {}
    frames: list[Any] = []

    @property
    def failed_by_environment(self) -> bool:
        """Whether a candidate was ended for what the device is to blame for: it condemns nobody (U6)."""
        return self.kind is NoticeKind.FAILED and self.reason is not None and self.reason.blame is Blame.ENVIRONMENT


class Crew:
    """Every worker process of one slot, from birth to burial."""

    def __init__(self) -> None:
        self._listens: Callable[[str], Voice] | None = None
        self._members: dict[int, Member] = {}
        self._history_rows = 0
        self.heartbeat_seconds = math.inf
        """The shortest time that one of them has for a frame."""
        self._plans: dict[int, Plan] = {}
        self._sandbox: dict[str, str] = {}
        self._dying: list[tuple[Member, float]] = []
        self._crashes: deque[float] = deque(maxlen=len(RESTART_SECONDS))
        self._again: tuple[float, Plan] | None = None
        self._unanswered = (0, 0)  # who did not answer in time last, and to which batch
        self.spare = Spare(self._bury_later)

    def hire(self, plan: Plan, now: float) -> Member:
        """Take the spare worker for `plan` if it suits, else start one. Raises `OSError` when the system refuses."""
        member = self.spare.take(plan, now) or self._new(plan, now)
        known = {one.key for one in self._members.values()}
        self._plans = {key: one for key, one in self._plans.items() if key in known} | {plan.key: plan}
        self._work({**self._members, member.fd: member})
        return member

    def _work(self, members: dict[int, Member]) -> None:
        """Let these work here from now on."""
        plans = [self.plan(one) for one in members.values()]
        self._members = members
        self._history_rows = max([plan.history for plan in plans], default=0)
        self.heartbeat_seconds = min([plan.health.heartbeat_seconds for plan in plans], default=math.inf)

    def listen(self, listens: Callable[[str], Voice]) -> None:
        """Let workers print to what `listens` makes for a release."""
        self._listens = self.spare.listens = listens

    def _new(self, plan: Plan, now: float) -> Member:
        voice = self._listens(plan.release) if self._listens is not None else None
        told = plan.key, plan.release, plan.root, plan.columns, plan.tunables
        return Member(*told, now, WORKER, plan.confinement, voice)

    def has(self, member: Member) -> bool:
        """Tell whether the member still works here."""
        return self._members.get(member.fd) is member

    def by_descriptor(self) -> dict[int, Member]:
        """Return the working members by their socket's descriptor; another dict once they are others."""
        return self._members

    @property
    def sandbox(self) -> dict[str, str]:
        """What the newest worker said of its sandbox, layer by layer; the last one that there was while none works."""
        # A copy made in one step: the agent's other thread asks.
        found = next((one.sandbox for one in reversed(list(self._members.values())) if one.sandbox), None)
        return self._sandbox if found is None else found

    def plan(self, member: Member) -> Plan:
        """Return what the member was hired for."""
        return self._plans[member.key]

    @property
    def history_rows(self) -> int:
        """How many past samples may be needed to warm a replacement up."""
        again = self._again[1].history if self._again is not None else 0
        return max(self._history_rows, again, 1)

    def overdue(self, now: float) -> list[tuple[Member, Reason]]:
        """Return who missed a deadline: to be ready, or to answer a frame."""
        found = []
        for member in self._members.values():
            policy, owed = self.plan(member).health, member.owes_since()
            if member.loaded is None and now - member.started_at > policy.start_seconds:
                words = f"not ready after {policy.start_seconds:.0f} s"
                found.append((member, Reason(code=ReasonCode.START, message=words)))
            elif owed is not None and member.patience.ended(owed, policy.heartbeat_seconds, now):
                late = self._others_late(member, now)
                if member.says_something or (late and now - owed <= LATE_FACTOR * policy.heartbeat_seconds):
                    continue
                self._unanswered = member.key, member.owed[0].number
                found.append((member, _no_answer(member.patience, owed, policy.heartbeat_seconds, now, late=late)))
        return found

    def _others_late(self, member: Member, now: float) -> bool:
        """Tell whether another worker is at its frame for long too, or ended over it: slow machine, or bad frame."""
        key, batch = self._unanswered
        if key != member.key and batch == member.owed[0].number:
            return True
        since = [one.owes_since() for one in self._members.values() if one is not member and one.loaded is not None]
        return any(one is not None and now - one > self.plan(member).health.heartbeat_seconds / 2 for one in since)

    def rename(self, key: int, release: str) -> None:
        """Call deployment `key` by another name; a replacement for its worker will have it too."""
        if key in self._plans:
            self._plans[key] = msgspec.structs.replace(self._plans[key], release=release)
        if self._again is not None and self._again[1].key == key:
            self._again = (self._again[0], msgspec.structs.replace(self._again[1], release=release))
        for member in self._members.values():
            if member.key == key:
                member.release = release
                if member.voice is not None:
                    member.voice.release = release

    def retire(self, member: Member, now: float) -> None:
        """Let a worker that did nothing wrong clean up; it is killed when that takes too long."""
        if self._without(member):
            member.stop()
            self._dying.append((member, now + STOP_SECONDS))

    def discard(self, member: Member, now: float) -> None:
        """Kill a worker."""
        if self._without(member):
            self._sandbox = member.sandbox or self._sandbox
            member.kill()
            self._dying.append((member, now))

    def _without(self, member: Member) -> bool:
        """Take a member off the list; tell whether it was on it."""
        found = member.fd in self._members
        self._work({fd: one for fd, one in self._members.items() if fd != member.fd})
        return found

    def keep_spare(self, now: float, *, calm: bool) -> None:
        """Keep a worker waiting that suits the one that works here; one is started only while the slot is calm.

        It is calm when nobody is on probation or starting.
        """
        if now < self.spare.due:
            return
        plans = [self.plan(one) for one in self._members.values() if one.loaded is not None]
        alone = len(self._members) == len(plans) == 1
        self.spare.tend(plans[0] if alone else None, now, calm=calm and alone)

    def _bury_later(self, member: Member) -> None:
        self._dying.append((member, 0.0))

    def dismiss(self, now: float) -> None:
        """Retire everybody and hire nobody again."""
        self.call_off()
        self.spare.dismiss()
        for member in list(self._members.values()):
            self.retire(member, now)

    def mourn(self, member: Member, reason: Reason, now: float) -> str:
        """Plan a replacement for a crashed worker, later each time; return words when it crashes too often."""
        if member.given_up is not None:  # the disk's doing, and the next worker needs nothing of it
            self._again = (now, self.plan(member))
            return ""
        self.postpone(self.plan(member), now)
        if len(self._crashes) < CRASHES_MAX:
            return ""
        return f"{len(self._crashes)} crashes within {now - self._crashes[0]:.0f} s, last: {reason.message}"

    def postpone(self, plan: Plan, now: float) -> None:
        """Hire for `plan` later: later each time that this happens within `CRASH_WINDOW_SECONDS`."""
        while self._crashes and now - self._crashes[0] > CRASH_WINDOW_SECONDS:
            self._crashes.popleft()
        self._crashes.append(now)
        self._again = (now + RESTART_SECONDS[len(self._crashes) - 1], plan)

    @property
    def expected(self) -> Plan | None:
        """The plan of a crashed worker whose replacement is not due yet."""
        return self._again[1] if self._again is not None else None

    def due_again(self, now: float) -> Plan | None:
        """Return the plan of a crashed worker whose replacement is due, once."""
        if self._again is None or now < self._again[0]:
            return None
        plan, self._again = self._again[1], None
        return plan

    def call_off(self, key: int | None = None) -> None:
        """Hire no replacement, or none for deployment `key`."""
        if self._again is not None and key in (None, self._again[1].key):
            self._again = None

    def bury(self, now: float) -> None:
        """Collect those that ended; kill those that were asked to and did not."""
        if self._dying:
            self._dying = [one for one in self._dying if not _ended(*one, now)]

    @property
    def dying(self) -> int:
        """How many have not ended yet."""
        return len(self._dying)

    def wake_at(self, now: float) -> float | None:
        """Return the next deadline (monotonic seconds)."""
        times = [self._again[0]] if self._again is not None else []
        if self.spare.due > now:
            times.append(self.spare.due)
        if self._dying:
            times.append(now + 0.02)
        for member in self._members.values():
            policy, owed = self.plan(member).health, member.owes_since()
            if member.loaded is None:
                times.append(member.started_at + policy.start_seconds)
            if owed is not None:
                due = member.patience.due(owed, policy.heartbeat_seconds)
                times.append(due if due > now else due + (LATE_FACTOR - 1) * policy.heartbeat_seconds)
        return min(times, default=None)


def _no_answer(patience: Patience, since: float, limit: float, now: float, *, late: bool) -> Reason:
    """Return why a worker is ended that has been at a frame `since` then; `late`: so has another release."""
    waited = patience.waited(since)
    words = f"no answer to a frame for {now - since:.1f} s"
    words += f", {waited:.1f} s of them without a processor" if waited >= 0.1 else ""
    words += ", nor from another release" if late else ""
    blame = Blame.ENVIRONMENT if late or waited > EXCUSED_MAX * limit else Blame.RELEASE
    return Reason(code=ReasonCode.HEARTBEAT, message=words, blame=blame)


def _ended(member: Member, deadline: float, now: float) -> bool:
    if member.reap() is not None:
        member.sock.close()
        return member.view is None or member.view.removed()
    if now >= deadline:
        member.kill()
    return False
