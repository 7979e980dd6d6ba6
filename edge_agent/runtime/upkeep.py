"""The committed release of one slot: hired, watched, started anew, and compared with the one before it (§10).

It says when a committed release has to go; the updater decides what runs instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.runtime.answers import Answer
from edge_agent.runtime.crew import Notice, NoticeKind, Plan
from edge_agent.runtime.flow import Flow
from edge_agent.runtime.member import Member
from edge_agent.runtime.ports import Sink, Source
from edge_agent.runtime.probation import Mode, outcome_of
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.stamps import Stamps
from edge_agent.runtime.trail import Trail
from edge_agent.runtime.watch import Comparison, Watch

__all__ = ["Upkeep", "refused"]

log = logging.getLogger(__name__)


class Upkeep(Flow):
    """A flow whose active worker is looked after.

    `notify` is given news; `recent` is how many of the last batches a notice of failure brings.
    """

    def __init__(
        self,
        slot: str,
        stream: str,
        source: Source,
        sink: Sink,
        notify: Callable[[Notice], None],
        recent: int = 8,
        trail: Trail | None = None,
        stamps: Stamps | None = None,
    ) -> None:
        super().__init__(slot, stream, source, sink, recent, trail, stamps)
        self._notify = notify
        self._told: set[NoticeKind] = set()
        self._watch: tuple[int, Watch] | None = None
        self._comparison: Comparison | None = None
        self._doubt = Reason(code=ReasonCode.ERRORS, message=""), ""

    def compare(self, plan: Plan, now: float) -> None:
        """Let the release before the active one compute along: does it do better on the frames that this one fails?"""
        if self._active is None or self._candidate is not None or self._second is not None:
            return
        try:
            self._second = self.crew.hire(plan, now)
        except OSError as error:
            log.warning("worker not started slot=%s release=%s reason=%s", self.slot, plan.release, refused(error))
            return
        self._comparison = Comparison(self.crew.plan(self._active).health)

    def _look_after(self, member: Member, answer: Answer, now: float) -> None:
        """Watch the active release; where the one before it computes along, see which does better."""
        comparison = self._comparison
        if comparison is not None and self._second is not None and self._second.loaded is not None:
            better = comparison.hear(answer.batch, outcome_of(answer), older=member is self._second)
            if better is not None:
                return self._compared(comparison, better, now)
        if member is not self._active:
            return None
        if self._watch is None or self._watch[0] != member.key:
            self._watch = member.key, Watch(self.crew.plan(member).health)
        watch = self._watch[1]
        if answer.failure is None and not answer.invalid and watch.quiet:
            return None
        watch.add(outcome_of(answer))
        reason = watch.alarm() if comparison is None else None
        return self._alarmed(member, reason, watch.restart(now), answer, now) if reason is not None else None

    def _alarmed(self, member: Member, reason: Reason, count: int, answer: Answer, now: float) -> None:
        """Start it anew the first time; after that ask for a second opinion, ever more rarely."""
        self.counters["alarms"] += 1
        log.warning("committed release fails slot=%s alarms=%d reason=%s", self.slot, count, reason)
        self._doubt = reason, answer.failure.traceback if answer.failure is not None else ""
        if count == 1:
            plan = self.crew.plan(member)
            self.crew.retire(member, now)
            self._forget_active()
            self.crew.postpone(plan, now)
        elif count & (count - 1) == 0:
            self._tell(NoticeKind.DOUBTED, member, str(reason), reason)

    def _compared(self, comparison: Comparison, better: bool, now: float) -> None:
        active, (reason, traceback) = self._active, self._doubt
        self._drop_second(now)
        words = f"{reason.message}; {comparison.words}"
        log.warning("compared slot=%s better=%s words=%s", self.slot, better, words)
        if better and active is not None:
            why = msgspec.structs.replace(reason, message=words)
            self._tell(NoticeKind.STOPPED_SERVING, active, words, why, traceback, evidence=comparison.numbers())

    def _drop_second(self, now: float) -> None:
        if self._second is not None:
            self.crew.retire(self._second, now)
        self._second = self._comparison = None

    def _hire_active(self, plan: Plan, now: float) -> None:
        try:
            self._active = self.crew.hire(plan, now)
        except OSError as error:  # out of processes or memory, which may pass
            self.counters["spawn_refused"] += 1
            log.warning("worker not started slot=%s release=%s reason=%s", self.slot, plan.release, refused(error))
            self.crew.postpone(plan, now)

    def _retire_active(self, now: float) -> None:
        self.crew.call_off()
        if self._active is not None:
            self.crew.retire(self._active, now)
            self._forget_active()

    def _mourn(self, member: Member, reason: Reason, now: float, traceback: str) -> None:
        """Bury the committed release's worker, or the one beside it, and see what becomes of the frame in flight."""
        self.crew.discard(member, now)
        if member is self._second:  # it does no better
            self._second = self._comparison = None
        if member is not self._active:
            return
        self._forget_active()
        if member.owed and member.owed[0].warm:
            self._history.clear()  # it died of what it was shown, and so would the next one
        self.counters["crashes"] += 1
        log.warning("active worker lost slot=%s release=%s reason=%s", self.slot, member.release, reason)
        words = self.crew.mourn(member, reason, now)
        if self._inflight is not None and self.mode is not Mode.LIVE and member.loaded is not None:
            self._retry_or_skip(self._inflight, now)  # who never loaded has not seen it
        if words and reason.code is not ReasonCode.SANDBOX:  # no earlier release is kept any better
            why = msgspec.structs.replace(reason, message=words)
            self._tell(NoticeKind.STOPPED_SERVING, member, words, why, traceback)

    def _forget_active(self) -> None:
        self._active = None
        if self._probation is not None:
            self._probation.forget_reference()

    def _tell(
        self,
        kind: NoticeKind,
        member: Member,
        words: str,
        reason: Reason | None = None,
        traceback: str = "",
        evidence: dict[str, float] | None = None,
        stages: dict[str, int] | None = None,
        failed: list[Samples] | None = None,
    ) -> None:
        if kind in self._told and kind not in (NoticeKind.STOPPED_SERVING, NoticeKind.DOUBTED):
            return
        self._told.add(kind)
        kept = self.recent if kind in (NoticeKind.FAILED, NoticeKind.STOPPED_SERVING) else ()
        if kind in (NoticeKind.FAILED, NoticeKind.STOPPED_SERVING) and not traceback and member.voice is not None:
            printed = member.voice.last()
            traceback = f"no traceback; what it printed last:\n{printed}" if printed else ""
        self._notify(
            Notice(
                kind=kind,
                slot=self.slot,
                key=member.key,
                words=words,
                reason=reason,
                traceback=traceback,
                release=member.release,
                evidence=evidence or {},
                stages=stages or {},
                # The one that failed first: an incident keeps as many as it has room for.
                frames=[*(failed or [] if kept else []), *reversed(kept)],
            )
        )


def refused(error: OSError) -> Reason:
    """Return the reason for a worker that the system did not start."""
    words = f"the system started no worker: {error}"
    return Reason(code=ReasonCode.ENVIRONMENT, message=words, blame=Blame.ENVIRONMENT)
