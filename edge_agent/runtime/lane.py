"""One slot's lane: takes the updater's orders, moves the pointer, and ends workers that fail (R2, §10).

    IDLE      the active worker answers, and is watched; in doubt, the release before it computes along
    SHADOW    the candidate gets copies; its answers are judged beside the active one's and dropped
    LIVE      the candidate answers; the old worker computes every batch too and steps in for what the candidate misses

The lane moves its pointer back by itself when a live candidate fails; everything else about releases the updater
decides. How frames pass is `flow`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.runtime import wire
from edge_agent.runtime.answers import Answer, Told, Upgraded
from edge_agent.runtime.crew import Notice, NoticeKind, Plan
from edge_agent.runtime.flow import SWITCH_SECONDS
from edge_agent.runtime.handover import Handover
from edge_agent.runtime.health import Verdict, VerdictKind
from edge_agent.runtime.hedge import Hedge
from edge_agent.runtime.history import History
from edge_agent.runtime.interest import Waits
from edge_agent.runtime.member import Member, failure_of
from edge_agent.runtime.probation import Mode, Probation
from edge_agent.runtime.upkeep import Upkeep, refused

__all__ = ["Lane"]

log = logging.getLogger(__name__)


class Lane(Upkeep):
    """One slot's data path. All calls come from the supervisor's thread; none blocks.

    `recent` is how many of the last batches a notice of failure brings.
    """

    # --- orders --------------------------------------------------------------------------------------------------

    def run(self, plan: Plan, now: float) -> None:
        """Run a committed release as the active one, in place of whatever runs."""
        self._drop_candidate(now)
        self._drop_second(now)
        self._retire_active(now)
        self._hire_active(plan, now)

    def start(self, plan: Plan, now: float) -> None:
        """Start a candidate and load it."""
        self._drop_candidate(now)
        self._drop_second(now)
        self._told.clear()
        self._hedge = Hedge()
        try:
            self._candidate = self.crew.hire(plan, now)
        except OSError as error:
            reason = refused(error)
            self._notify(Notice(kind=NoticeKind.FAILED, slot=self.slot, key=plan.key, words=str(reason), reason=reason))

    def shadow(self, key: int, now: float) -> None:
        """Give the loaded candidate copies of live frames, after warming it with history."""
        candidate = self._candidate
        if candidate is None or candidate.key != key or self._probation is not None or self._handover is not None:
            return
        if not self._takes_over(candidate, now):
            self._enter(Mode.SHADOW, candidate, now)
            self._catch_up(candidate, now)

    def serve(self, key: int, now: float) -> None:
        """Let the candidate answer, from the next frame boundary on."""
        candidate = self._candidate
        if candidate is None or candidate.key != key or self.mode is Mode.LIVE:
            return
        self._switching = True
        if self._probation is None and self._handover is None and not self._takes_over(candidate, now):
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
        self._active = self._candidate = self._second = self._comparison = None
        self._end_probation()
        self.crew.dismiss(now)
        if self._trail is not None:
            self._trail.close()

    # --- turns and answers ----------------------------------------------------------------------------------------

    def obey(self, order: Callable[[Any, Any, float], None], what: Any, now: float) -> None:
        """Carry out one of the orders above."""
        self._look_at = 0.0
        order(self, what, now)

    def turn(self, now: float) -> Waits:
        """Do what can be done now, and return what for and until when to wait."""
        self.pump(now)
        descriptor, events, due = self.source.interest()
        if self.linger.resting(now):
            descriptor, events = -1, 0
        until = min(self._look_at, self.linger.wake_at(now))
        return (descriptor, events, due), self.sink.interest(), self.crew.by_descriptor(), until

    def pump(self, now: float) -> None:
        """Confirm inputs, look around if it is time to, send the next batch."""
        self._outlet.flush()
        self._acknowledge()
        if now >= self._look_at or self._candidate is not None or self.crew.by_descriptor() is not self._seen:
            self._look_around(now)
        if self._inflight is None and not (self.draining or self._holding(now)):
            self._dispatch(now)

    def _look_around(self, now: float) -> None:
        """Look at deadlines, move the pointer, and find out when to look again; most turns have no need of it."""
        self._deadlines(now)
        if self._inflight is not None and self._inflight.answers:
            self._settle(self._inflight, now)
        if self._switching:
            self._switch(now)
        self._work_off(now)
        self._look_at, self._seen = self._next_look(now), self.crew.by_descriptor()

    def hear(self, member: Member, now: float) -> None:
        """Take what the member has to say, all the answers that it owes at the most: poll() tells of more."""
        while self.crew.has(member):
            try:
                heard = member.receive()
            except BlockingIOError:
                return
            except ValueError as error:
                return self._lost(member, failure_of(error), now)
            if isinstance(heard, Answer):
                if not heard.warm:
                    self._answered(member, heard, now)
            elif heard is None:
                self._lost(member, None, now)
            elif isinstance(heard, wire.Loaded):
                self._loaded(member, heard, now)
            elif isinstance(heard, wire.Failure):
                self._lost(member, heard.reason, now, heard.traceback)
            elif isinstance(heard, Told) and heard.latest:
                self._told_state(member, heard.states, now)
            elif isinstance(heard, Upgraded):
                self._taken_over(member, now)
            if not member.owed:
                return

    def _loaded(self, member: Member, loaded: wire.Loaded, now: float) -> None:
        if member is self._candidate:
            words = f"loaded in {loaded.load_seconds:.2f} s; {loaded.self_test}"
            self._tell(NoticeKind.LOADED, member, words)
        else:
            self._catch_up(member, now)

    def _answered(self, member: Member, answer: Answer, now: float) -> None:
        batch = self._inflight
        if member is self._candidate:
            self._hedge.note(answer.note)
        if batch is not None and answer.batch == batch.number:
            batch.answers[member.key] = answer
            self._settle(batch, now)
        if self._probation is not None:
            self._decide(self._probation.hear(answer, member.key, now, self._trouble), now)
        elif member is self._active or member is self._second:
            self._look_after(member, answer, now)

    def progress(self, now: float) -> str:
        """Say how far the candidate's probation is, empty without one; from any thread."""
        trial = self._probation
        return f"{trial.mode.value}, {trial.judge(now, self._trouble).words}" if trial is not None else ""

    @property
    def _trouble(self) -> str:
        return self.source.problem or self.sink.problem

    # --- hand-over -----------------------------------------------------------------------------------------------

    def _takes_over(self, candidate: Member, now: float) -> bool:
        """Begin to hand the active release's state over, if the candidate wants it and there is any.

        The candidate is warmed with all that the active worker was given; then that is asked, behind the same frames.
        """
        giver = self._active
        if candidate.loaded is None or not candidate.loaded.upgrades or giver is None or giver.loaded is None:
            return False
        self._history.trim(self.crew.history_rows)
        self._show(candidate, self._history, now)
        if self._inflight is not None:
            self._show(candidate, History([self._inflight.samples]), now)
        if candidate is self._candidate:  # it may have fallen behind already
            self._handover = Handover(giver, candidate, now)
            giver.ask(self._handover.stages)
        return True

    def _told_state(self, member: Member, states: wire.States, now: float) -> None:
        handover = self._handover
        if handover is None or member is not handover.giver or not handover.asking:
            return
        handover.asking = False
        if states.failure:
            words = f"the state of {member.release} cannot be handed over: {states.failure}"
            return self._condemn(handover.taker, Reason(code=ReasonCode.START, message=words), now)
        wanted = {name: state for name, state in states.stages.items() if name in handover.stages}
        if not wanted:
            return self._taken_over(handover.taker, now)
        handover.taker.hand_over(wire.States(stages=wanted))
        return None

    def _taken_over(self, member: Member, now: float) -> None:
        """Show the candidate what came since; from here on it is like any other."""
        handover = self._handover
        if handover is None or member is not handover.taker:
            return
        self._handover = None
        log.info("taken over slot=%s release=%s from=%s", self.slot, member.release, handover.giver.release)
        self._show(member, History(handover.since), now)
        if not self._switching and member is self._candidate:  # else it serves at once, or is gone
            self._enter(Mode.SHADOW, member, now)

    # --- probation -----------------------------------------------------------------------------------------------

    def _enter(self, mode: Mode, candidate: Member, now: float) -> None:
        reference = self._active.key if self._active is not None and self._active.loaded is not None else None
        plan, before = self.crew.plan(candidate), self._probation.evidence if self._probation is not None else None
        self._probation = Probation(
            mode, candidate.key, reference, plan.health, now, history=plan.history, before=before
        )

    def _end_probation(self) -> None:
        self._probation, self._switching, self._handover = None, False, None
        self._backlog.clear()

    def _switch(self, now: float) -> None:
        """Move the pointer at a frame boundary, or when nobody serves, once the candidate has answered all there was.

        One that is never quite done, since it takes longer than from one sample to the next, has little to do then.
        """
        candidate, between = self._candidate, self._inflight is None or self._serving() is None
        due = self._backlog.due
        if not self._switching or not between or candidate is None or candidate.owed or self._handover is not None:
            return
        if due:
            self._work_off(now)
        if self._backlog or candidate is not self._candidate:
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
            self._tell(kind, candidate, verdict.words, evidence=self._probation.numbers())

    def _condemn(self, member: Member, reason: Reason | None, now: float, traceback: str = "") -> None:
        """The candidate failed: the old worker answers from now on, the frame in flight included."""
        was_live, trial = self.mode is Mode.LIVE, self._probation
        self._candidate = None
        self._end_probation()
        if was_live:
            self._fall_back(now)
        reason = reason or member.obituary()
        self.crew.discard(member, now)
        numbers = trial.numbers() if trial is not None else {}
        stages = trial.stages if trial is not None else {}
        failed = [trial.failed.samples] if trial is not None and trial.failed is not None else []
        self._tell(NoticeKind.FAILED, member, str(reason), reason, traceback, numbers, stages, failed)

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
        handover = self._handover
        if handover is not None and (why := handover.failure(now, giving=self.crew.has(handover.giver))) is not None:
            self._condemn(handover.taker, why, now)
        if self._probation is not None:
            if self._probation.decided_by_time(now, self._trouble):
                self._decide(self._probation.judge(now, self._trouble), now)
            elif self.mode is Mode.SHADOW and self._serving() is None and self._candidate is not None:
                self._tell(NoticeKind.PROVEN, self._candidate, "there is no active release to compare with")
        plan = self.crew.due_again(now)
        if plan is not None:
            self._hire_active(plan, now)
        self.crew.keep_spare(now, calm=self._candidate is None and self._second is None)
        self.crew.bury(now)

    def _next_look(self, now: float) -> float:
        """Return when to look around again (monotonic seconds), before any frame given meanwhile can be overdue."""
        times = [now + self.crew.heartbeat_seconds / 2, self.crew.wake_at(now)]
        if self._handover is not None:
            times.append(self._handover.due)
        if self._probation is not None:
            times.append(now + 0.1)
        if self._inflight is not None:
            times.append(self._steps_in_at(self._inflight))
        if self._inflight is None and self._holding(now):
            times.append(self._boundary + SWITCH_SECONDS)
        return min(one for one in times if one is not None)

    def _lost(self, member: Member, reason: Reason | None, now: float, traceback: str = "") -> None:
        """A member is of no use any more, by its own fault; without a reason its end will tell."""
        if not self.crew.has(member):
            return
        if member is self._candidate:
            self._condemn(member, reason, now, traceback)
        else:
            self._mourn(member, reason or member.obituary(), now, traceback)
