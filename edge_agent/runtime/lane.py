"""The data path of one slot: source → serving worker → sink, with a candidate beside it or an old one behind it (R2).

    IDLE      the active worker answers
    SHADOW    the candidate gets copies; its answers are judged beside the active one's and dropped
    LIVE      the candidate answers; the old worker computes every batch too and steps in for what the candidate misses

One batch is in flight; what arrives meanwhile waits at the source and forms the next one. It stays in flight until a
result or a failure is accepted (`outlet` sees to it that no result goes out twice), so no worker's end loses it. The
lane moves its pointer back by itself when a live candidate fails; everything else about releases the updater decides.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import msgspec

from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.runtime import wire
from edge_agent.runtime.crew import Crew, Notice, NoticeKind, Plan
from edge_agent.runtime.health import Verdict, VerdictKind
from edge_agent.runtime.history import History
from edge_agent.runtime.member import WARM_BATCHES_MAX, Answer, Batch, Member, failure_of
from edge_agent.runtime.outlet import Outlet
from edge_agent.runtime.probation import Mode, Probation
from edge_agent.runtime.sinks import Sink
from edge_agent.runtime.sources import Source

__all__ = ["Lane"]

log = logging.getLogger(__name__)
ROWS_MAX = 1024
SOFT_SECONDS = 0.05
SWITCH_SECONDS = 0.002


class Lane:
    """One slot's data path. All calls come from the supervisor's thread; none blocks."""

    def __init__(self, slot: str, stream: str, source: Source, sink: Sink, notify: Callable[[Notice], None]) -> None:
        self.slot, self.source, self.sink = slot, source, sink
        self.counters: Counter[str] = Counter()
        self.crew = Crew()
        self._outlet = Outlet(stream, source, sink, self.counters)
        self.draining = False  # no new frame is begun; set before the end
        self._notify = notify
        self._active: Member | None = None
        self._candidate: Member | None = None
        self._probation: Probation | None = None
        self._history = History()
        self._inflight: Batch | None = None
        self._retried = False
        self._number = 0
        self._told: set[NoticeKind] = set()
        self._switching = False
        self._boundary = 0.0

    @property
    def mode(self) -> Mode:
        """Who answers now."""
        return self._probation.mode if self._probation is not None else Mode.IDLE

    # --- orders --------------------------------------------------------------------------------------------------

    def run(self, plan: Plan, now: float) -> None:
        """Run a committed release as the active one, in place of whatever runs."""
        self._drop_candidate(now)
        self._retire_active(now)
        self._hire_active(plan, now)

    def start(self, plan: Plan, now: float) -> None:
        """Start a candidate and load it."""
        self._drop_candidate(now)
        self._told.clear()
        try:
            self._candidate = self.crew.hire(plan, now)
        except OSError as error:
            reason = _refused(error)
            self._notify(Notice(kind=NoticeKind.FAILED, slot=self.slot, key=plan.key, words=str(reason), reason=reason))

    def shadow(self, key: int, now: float) -> None:
        """Give the loaded candidate copies of live frames, after warming it with history."""
        if self._candidate is not None and self._candidate.key == key and self._probation is None:
            self._enter(Mode.SHADOW, self._candidate, now)
            self._catch_up(self._candidate, now)

    def serve(self, key: int, now: float) -> None:
        """Let the candidate answer, from the next frame boundary on."""
        candidate = self._candidate
        if candidate is None or candidate.key != key or self.mode is Mode.LIVE:
            return
        self._switching = True
        if self._probation is None:
            self._catch_up(candidate, now)
        self._switch(now)

    def keep(self, key: int, now: float) -> None:
        """The serving candidate is committed: it becomes the active one, the old worker goes."""
        if self.mode is not Mode.LIVE or self._candidate is None or self._candidate.key != key:
            return
        candidate, self._candidate = self._candidate, None
        self._end_probation()
        self._retire_active(now)
        self._active = candidate

    def abandon(self, key: int, now: float) -> None:
        """Drop the candidate `key`, or the active release when nothing else may run."""
        if self._candidate is not None and self._candidate.key == key:
            self._drop_candidate(now)
        elif self._active is not None and self._active.key == key:
            self._retire_active(now)
        else:
            self.crew.call_off(key)

    def rename(self, name: tuple[int, str], now: float) -> None:
        """Take (key, release): the same bytes go by another name from now on."""
        self.crew.rename(*name)

    def close(self, now: float) -> None:
        """End every worker."""
        self._active = self._candidate = None
        self._end_probation()
        self.crew.dismiss(now)

    def _hire_active(self, plan: Plan, now: float) -> None:
        try:
            self._active = self.crew.hire(plan, now)
        except OSError as error:  # out of processes or memory, which may pass
            self.counters["spawn_refused"] += 1
            log.warning("worker not started slot=%s release=%s reason=%s", self.slot, plan.release, _refused(error))
            self.crew.postpone(plan, now)

    def _retire_active(self, now: float) -> None:
        self.crew.call_off()
        if self._active is not None:
            self.crew.retire(self._active, now)
            self._forget_active()

    def _forget_active(self) -> None:
        self._active = None
        if self._probation is not None:
            self._probation.forget_reference()

    # --- frames --------------------------------------------------------------------------------------------------

    def pump(self, now: float) -> None:
        """Do what can be done now: confirm inputs, look at deadlines, move the pointer, send the next batch."""
        self._outlet.flush()
        self._outlet.acknowledge()
        self._deadlines(now)
        if self._inflight is not None:
            self._settle(self._inflight, now)
        self._switch(now)
        if self._inflight is None and not (self.draining or self._holding(now)):
            self._dispatch(now)

    @property
    def idle(self) -> bool:
        """Whether no frame is in flight and every result is confirmed."""
        return self._inflight is None and self._outlet.idle

    def _holding(self, now: float) -> bool:
        """Tell whether to wait a moment at a frame boundary for a candidate that is about to have caught up."""
        return self._switching and now < self._boundary + SWITCH_SECONDS

    def _serving(self) -> Member | None:
        member = self._candidate if self.mode is Mode.LIVE else self._active
        return member if member is not None and member.loaded is not None else None

    def _beside(self) -> Member | None:
        """Return who computes along: the shadowing candidate, or the old worker behind a live one."""
        other = {Mode.IDLE: None, Mode.SHADOW: self._candidate, Mode.LIVE: self._active}[self.mode]
        return other if other is not None and other.loaded is not None else None

    def _dispatch(self, now: float) -> None:
        serving = self._serving()
        taken = self._outlet.take(ROWS_MAX) if serving is not None else None
        if serving is None or taken is None:
            return
        samples, anew = taken
        if anew:
            self._history.clear()
        self._number += 1
        self.counters["samples"] += samples.rows
        batch = Batch(self._number, samples, now)
        self._inflight, self._retried = batch, False
        beside = self._beside()
        if self._probation is not None:
            self._probation.expect(batch)
        self._give(serving, batch, now)
        if beside is not None:
            self._give(beside, batch, now)

    def _give(self, member: Member, batch: Batch, now: float, *, warm: bool = False) -> None:
        if not self.crew.has(member) or member.owes(batch):
            return
        try:
            member.give(batch, now, warm=warm)
        except OSError as error:
            self._lost(member, failure_of(error), now)
        except KeyError as error:
            words = f"the source has no column {error}, which {member.release} takes"
            self._lost(member, Reason(code=ReasonCode.COLUMNS, message=words, blame=Blame.ENVIRONMENT), now)

    def _catch_up(self, member: Member, now: float) -> None:
        """Show a fresh worker what came before, then let it compute the batch in flight."""
        for samples in self._history.batches(ROWS_MAX, WARM_BATCHES_MAX):
            self._number += 1
            self._give(member, Batch(self._number, samples, now), now, warm=True)
        if self._inflight is not None:
            self._give(member, self._inflight, now)

    # --- answers -------------------------------------------------------------------------------------------------

    def hear(self, member: Member, now: float) -> None:
        """Take everything the member has to say."""
        while self.crew.has(member):
            try:
                heard = member.receive()
            except BlockingIOError:
                return
            except ValueError as error:
                return self._lost(member, failure_of(error), now)
            if heard is None:
                self._lost(member, None, now)
            elif isinstance(heard, wire.Loaded):
                self._loaded(member, heard, now)
            elif isinstance(heard, wire.Failure):
                self._lost(member, heard.reason, now, heard.traceback)
            elif isinstance(heard, Answer) and not heard.warm:
                self._answered(member, heard, now)

    def _loaded(self, member: Member, loaded: wire.Loaded, now: float) -> None:
        if member is self._candidate:
            words = f"loaded in {loaded.load_seconds:.2f} s; {loaded.self_test}"
            self._tell(NoticeKind.LOADED, member, words)
        else:
            self._catch_up(member, now)

    def _answered(self, member: Member, answer: Answer, now: float) -> None:
        batch = self._inflight
        if batch is not None and answer.batch == batch.number:
            batch.answers[member.key] = answer
            self._settle(batch, now)
        if self._probation is not None:
            self._decide(self._probation.hear(answer, member.key, now), now)

    def _settle(self, batch: Batch, now: float) -> None:
        """Send the in-flight batch's results out as soon as somebody's good answer may be used."""
        serving, old = self._serving(), self._active if self.mode is Mode.LIVE else None
        answer = batch.answers.get(serving.key) if serving is not None else None
        standby = batch.answers.get(old.key) if old is not None else None
        if serving is not None and answer is not None and answer.failure is None:
            self._finish(batch, answer, serving, now)
        elif old is not None and standby is not None and standby.failure is None:
            if answer is not None or now - batch.sent_at > SOFT_SECONDS:
                self.counters["stepped_in"] += 1
                self._finish(batch, standby, old, now)
        elif answer is not None and answer.failure is not None and (old is None or standby is not None):
            self.counters["errors"] += 1
            errors = self.counters["errors"]
            if errors & (errors - 1) == 0:  # the 1st, 2nd, 4th, 8th …: it must not flood the log
                log.warning("frame failed slot=%s errors=%d reason=%s", self.slot, errors, answer.failure.reason)
            self._skip(batch, now)

    def _finish(self, batch: Batch, answer: Answer, member: Member, now: float) -> None:
        probation = self.mode is Mode.LIVE and member is self._candidate
        self._outlet.emit(answer, self.crew.plan(member).output.columns, member.release, probation=probation)
        self._end_batch(batch, now)

    def _skip(self, batch: Batch, now: float, *, kept: bool = True) -> None:
        self.counters["skipped"] += batch.rows
        self._end_batch(batch, now, kept=kept)

    def _end_batch(self, batch: Batch, now: float, *, kept: bool = True) -> None:
        self._inflight, self._boundary = None, now
        if kept:
            self._history.add(batch.samples, self.crew.history_rows)
        self._outlet.owe(batch.rows)

    # --- probation -----------------------------------------------------------------------------------------------

    def _enter(self, mode: Mode, candidate: Member, now: float) -> None:
        reference = self._active.key if self._active is not None and self._active.loaded is not None else None
        self._probation = Probation(mode, candidate.key, reference, self.crew.plan(candidate).health, now)

    def _end_probation(self) -> None:
        self._probation, self._switching = None, False

    def _switch(self, now: float) -> None:
        """Move the pointer at a frame boundary, or when nobody serves, once the candidate answered all it was given."""
        candidate, between = self._candidate, self._inflight is None or self._serving() is None
        if not self._switching or not between or candidate is None or candidate.owed:
            return
        self._switching = False
        self._enter(Mode.LIVE, candidate, now)
        log.info("serving slot=%s release=%s", self.slot, candidate.release)
        if self._inflight is not None:
            self._settle(self._inflight, now)

    def _decide(self, verdict: Verdict | None, now: float) -> None:
        candidate = self._candidate
        if verdict is None or candidate is None or self._probation is None:
            return
        if verdict.kind is VerdictKind.FAILING:
            self._condemn(candidate, verdict.reason, now, self._probation.traceback)
        elif verdict.kind is VerdictKind.HEALTHY:
            kind = NoticeKind.HEALTHY if self.mode is Mode.LIVE else NoticeKind.PROVEN
            self._tell(kind, candidate, verdict.words)

    def _condemn(self, member: Member, reason: Reason | None, now: float, traceback: str = "") -> None:
        """The candidate failed: the old worker answers from now on, the frame in flight included."""
        was_live = self.mode is Mode.LIVE
        self._candidate = None
        self._end_probation()
        if was_live:
            self._fall_back(now)
        reason = reason or member.obituary()
        self.crew.discard(member, now)
        self._tell(NoticeKind.FAILED, member, str(reason), reason, traceback)

    def _fall_back(self, now: float) -> None:
        batch, old = self._inflight, self._active
        if batch is None:
            return
        if old is None:
            self._retry_or_skip(batch, now)
        elif old.key in batch.answers:
            self._settle(batch, now)
        elif old.loaded is not None:
            self._give(old, batch, now)

    def _drop_candidate(self, now: float) -> None:
        candidate = self._candidate
        if candidate is None:
            return
        was_live = self.mode is Mode.LIVE
        self._candidate = None
        self._end_probation()
        if was_live:
            self._fall_back(now)
        self.crew.retire(candidate, now)

    # --- deadlines and losses ------------------------------------------------------------------------------------

    def _deadlines(self, now: float) -> None:
        for member, reason in self.crew.overdue(now):
            self._lost(member, reason, now)
        if self._probation is not None:
            if self._probation.decided_by_time(now):
                self._decide(self._probation.judge(now), now)
            elif self.mode is Mode.SHADOW and self._serving() is None and self._candidate is not None:
                self._tell(NoticeKind.PROVEN, self._candidate, "there is no active release to compare with")
        plan = self.crew.due_again(now)
        if plan is not None:
            self._hire_active(plan, now)
        self.crew.bury(now)

    def wake_at(self, now: float) -> float | None:
        """Return when `pump` must be called again even if nothing happens (monotonic seconds)."""
        times = [self.crew.wake_at(now)]
        if self._probation is not None:
            times.append(now + 0.1)
        if self._inflight is not None and self.mode is Mode.LIVE:
            times.append(self._inflight.sent_at + SOFT_SECONDS)
        if self._inflight is None and self._holding(now):
            times.append(self._boundary + SWITCH_SECONDS)
        return min((one for one in times if one is not None), default=None)

    def _lost(self, member: Member, reason: Reason | None, now: float, traceback: str = "") -> None:
        """A member is of no use any more, by its own fault; without a reason its end will tell."""
        if not self.crew.has(member):
            return
        if member is self._candidate:
            self._condemn(member, reason, now, traceback)
            return
        reason = reason or member.obituary()
        self.crew.discard(member, now)
        if member is not self._active:
            return
        self._forget_active()
        if member.owed and member.owed[0].warm:
            self._history.clear()  # it died of what it was shown, and so would the next one
        self.counters["crashes"] += 1
        log.warning("active worker lost slot=%s release=%s reason=%s", self.slot, member.release, reason)
        words = self.crew.mourn(member, reason, now)
        if self._inflight is not None and self.mode is not Mode.LIVE:
            self._retry_or_skip(self._inflight, now)
        if words:
            why = msgspec.structs.replace(reason, message=words)
            self._tell(NoticeKind.STOPPED_SERVING, member, words, why, traceback)

    def _retry_or_skip(self, batch: Batch, now: float) -> None:
        """A batch whose worker died is tried once more on a fresh one, then counted, skipped and never shown again."""
        if self._retried:
            self._skip(batch, now, kept=False)
        self._retried = True

    def _tell(
        self, kind: NoticeKind, member: Member, words: str, reason: Reason | None = None, traceback: str = ""
    ) -> None:
        if kind in self._told and kind is not NoticeKind.STOPPED_SERVING:
            return
        self._told.add(kind)
        self._notify(Notice(kind=kind, slot=self.slot, key=member.key, words=words, reason=reason, traceback=traceback))


def _refused(error: OSError) -> Reason:
    words = f"the system started no worker: {error}"
    return Reason(code=ReasonCode.ENVIRONMENT, message=words, blame=Blame.ENVIRONMENT)
