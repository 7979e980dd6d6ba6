"""The spare worker of one slot: locked down, its libraries imported, waiting for a release that is kept alike (R1).

It decides when one is started, whether it suits a release, and when a dead one is replaced. It never stands for a
release before it has one, so its end is nobody's failure. It knows of no other workers; its crew does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.runtime import wire
from edge_agent.runtime.chatter import Voice
from edge_agent.runtime.limits import Confinement
from edge_agent.runtime.member import Member
from edge_agent.runtime.plan import Plan
from edge_agent.runtime.starting import WORKER
from edge_agent.runtime.view import View

__all__ = ["AGAIN_SECONDS", "SETTLE_SECONDS", "Spare"]

log = logging.getLogger(__name__)
# How long after a spare was used, or its slot found busy, the next one is thought of: it takes processor time to start.
SETTLE_SECONDS = 1.0
START_SECONDS = 30.0
# How often a waiting spare is looked at, and one that locks itself down.
LOOK_SECONDS, LOOK_STARTING_SECONDS = 0.5, 0.05
AGAIN_SECONDS = (1.0, 5.0, 30.0, 120.0, 600.0)
LASTED_SECONDS = 60.0


class _Wanted(msgspec.Struct, frozen=True):
    confinement: Confinement
    modules: tuple[str, ...]
    releases: Path


class Spare:
    """At most one waiting worker. All calls come from one thread, which must outlive the workers.

    `bury` is given those that were killed, to be reaped. `due` is when `tend` is to be called next (monotonic seconds),
    `used` how many spares were put to work.
    """

    def __init__(self, bury: Callable[[Member], None]) -> None:
        self._bury = bury
        self.listens: Callable[[str], Voice] | None = None  # makes what a worker prints to
        self._member: Member | None = None
        self._wanted: _Wanted | None = None
        self._failures, self._again = 0, 0.0
        self.due, self.used = 0.0, 0

    @property
    def pid(self) -> int:
        """The waiting worker's process, 0 without one, or for one that a launcher started."""
        return self._member.pid if self._member is not None else 0

    @property
    def ready(self) -> bool:
        """Whether one waits that has locked itself down."""
        return self._member is not None and bool(self._member.sandbox)

    def take(self, plan: Plan, now: float) -> Member | None:
        """Return the waiting worker as one of `plan`, whose files it gets and loads; None when none suits.

        When the disk refuses the files, that ends the worker, by the environment's fault.
        """
        self._listen(now)
        member, kept = self._member, self._wanted
        if member is None or kept is None or not self.ready or plan.spare is None:
            return None
        if (kept.confinement, kept.releases) != (plan.confinement, plan.root.parent):
            return None
        if not set(kept.modules) <= set(plan.spare):  # it would use more memory than the release has to
            return None
        self._member, self._failures, self.due = None, 0, now + SETTLE_SECONDS
        self.used += 1
        log.info("spare worker used release=%s", plan.release)
        member.employ(plan.key, plan.release, plan.columns, plan.tunables, now)
        threading.Thread(target=_hand_over, args=(member, plan.root), daemon=True).start()
        return member

    def tend(self, plan: Plan | None, now: float, *, calm: bool) -> None:
        """See that a spare waits that suits `plan`; a slot that is not calm keeps what it has, and starts none."""
        if now < self.due:
            return
        self.due = now + SETTLE_SECONDS
        self._listen(now)
        if not calm or plan is None:
            return
        wanted = _Wanted(plan.confinement, plan.spare, plan.root.parent) if plan.spare is not None else None
        if self._member is not None and wanted != self._wanted:
            self.dismiss()
        if wanted is not None and self._member is None and now >= self._again:
            self._start(wanted, now)

    def dismiss(self) -> None:
        """Kill the spare, if there is one."""
        member, self._member = self._member, None
        if member is not None:
            member.kill()
            self._bury(member)

    def _start(self, wanted: _Wanted, now: float) -> None:
        limits = msgspec.structs.replace(wanted.confinement.limits, imports=wanted.modules)
        confinement = msgspec.structs.replace(wanted.confinement, limits=limits)
        self._wanted, self.due = wanted, now + LOOK_STARTING_SECONDS
        view: View | None = None
        try:
            view = View(wanted.releases)
            voice = self.listens("") if self.listens is not None else None
            self._member = Member(0, "", view.path, [], {}, now, WORKER, confinement, voice)
        except OSError as error:
            if view is not None:
                view.removed()
            self._failed(f"not started: {error}", now, 0.0)
        else:
            self._member.view = view

    def _listen(self, now: float) -> None:
        """Hear what the spare says: that it is ready, once. Anything else, its end included, is the end of it."""
        member = self._member
        if member is None:
            return
        try:
            heard = member.receive()
        except BlockingIOError:
            if member.sandbox or now - member.started_at < START_SECONDS:
                self.due = now + (LOOK_SECONDS if member.sandbox else LOOK_STARTING_SECONDS)
                return
            words = f"not ready after {START_SECONDS:.0f} s"
        except ValueError as error:
            words = str(error)
        else:
            if isinstance(heard, wire.Ready):
                return
            words = str(heard.reason) if isinstance(heard, wire.Failure) else member.obituary().message
        self._failed(words, now, now - member.started_at)
        self.dismiss()

    def _failed(self, words: str, now: float, lasted: float) -> None:
        if lasted > LASTED_SECONDS:
            self._failures = 0
        seconds = AGAIN_SECONDS[min(self._failures, len(AGAIN_SECONDS) - 1)]
        self._failures, self._again = self._failures + 1, now + seconds
        log.warning("spare worker lost reason=%s again_seconds=%.0f", words, seconds)


def _hand_over(member: Member, root: Path) -> None:
    """Give the worker the release's files and tell it to load them, on a thread that may wait for the disk."""
    assert member.view is not None
    try:
        member.view.fill(root)
    except OSError as error:
        words = f"the release's files cannot be laid before its worker: {error}"
        member.give_up(Reason(code=ReasonCode.ENVIRONMENT, message=words, blame=Blame.ENVIRONMENT))
    else:
        member.load()
