"""The data path of one slot: source → serving worker → sink, with a candidate beside it or an old one behind it (R2).

    IDLE      the active worker answers
    SHADOW    the candidate gets copies; its answers are compared and dropped
    LIVE      the candidate answers; the old worker computes every batch too and steps in for what the candidate misses

One batch is in flight; what arrives meanwhile waits at the source and forms the next one. A result goes out once: what
the sink was given is remembered by sequence, so a batch replayed through another worker repeats nothing. The lane moves
its pointer back by itself when a live candidate fails; everything else about releases is decided by the updater.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable

import msgspec

from edge_agent.contract.errors import Reason
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime import wire
from edge_agent.runtime.crew import Crew, Notice, NoticeKind, Plan
from edge_agent.runtime.health import Verdict, VerdictKind
from edge_agent.runtime.history import History
from edge_agent.runtime.member import Answer, Batch, Member, failure_of
from edge_agent.runtime.probation import Mode, Probation
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.sinks import Sink
from edge_agent.runtime.sources import Source

__all__ = ["Lane"]

log = logging.getLogger(__name__)
ROWS_MAX = 1024
SOFT_SECONDS = 0.05
SHADOW_ALONE_SECONDS = 5.0


class Lane:
    """One slot's data path. All calls come from the supervisor's thread; none blocks."""

    def __init__(self, slot: str, stream: str, source: Source, sink: Sink, notify: Callable[[Notice], None]) -> None:
        self.slot, self.stream, self.source, self.sink = slot, stream, source, sink
        self.counters: Counter[str] = Counter()
        self.crew = Crew()
        self._notify = notify
        self._active: Member | None = None
        self._candidate: Member | None = None
        self._probation: Probation | None = None
        self._history = History()
        self._inflight: Batch | None = None
        self._retried = False
        self._number = self._written = 0
        self._newest = self._emitted = (-1, -1)
        self._outbox: deque[OutputMessage] = deque()
        self._unconfirmed: deque[tuple[int, int]] = deque()
        self._told: set[NoticeKind] = set()
        self._switching = False

    @property
    def mode(self) -> Mode:
        """Who answers now."""
        return self._probation.mode if self._probation is not None else Mode.IDLE

    # --- orders --------------------------------------------------------------------------------------------------

    def run(self, plan: Plan, now: float) -> None:
        """Run a committed release as the active one, in place of whatever runs."""
        self._drop_candidate(now)
        if self._active is not None:
            self.crew.retire(self._active, now)
        self._active = self.crew.hire(plan, now)

    def start(self, plan: Plan, now: float) -> None:
        """Start a candidate and load it."""
        self._drop_candidate(now)
        self._told.clear()
        self._candidate = self.crew.hire(plan, now)

    def shadow(self, key: int, now: float) -> None:
        """Give the loaded candidate copies of live frames, after warming it with history."""
        if self._candidate is not None and self._candidate.key == key and self._probation is None:
            self._enter(Mode.SHADOW, self._candidate, now)
            self._warm(self._candidate, now, inflight=True)

    def serve(self, key: int, now: float) -> None:
        """Let the candidate answer, from the next frame boundary on."""
        candidate = self._candidate
        if candidate is None or candidate.key != key or self.mode is Mode.LIVE:
            return
        if self._probation is None:
            self._warm(candidate, now, inflight=True)
        self._switching = True
        self._switch(now)

    def keep(self, key: int, now: float) -> None:
        """The serving candidate is committed: it becomes the active one, the old worker goes."""
        if self.mode is not Mode.LIVE or self._candidate is None or self._candidate.key != key:
            return
        old, self._active, self._candidate = self._active, self._candidate, None
        self._end_probation()
        if old is not None:
            self.crew.retire(old, now)

    def abandon(self, key: int, now: float) -> None:
        """Drop the candidate `key`, or the active release when nothing else may run."""
        if self._candidate is not None and self._candidate.key == key:
            self._drop_candidate(now)
        elif self._active is not None and self._active.key == key:
            self.crew.retire(self._active, now)
            self._active = None

    def close(self, now: float) -> None:
        """End every worker."""
        self._active = self._candidate = None
        self._end_probation()
        self.crew.dismiss(now)

    # --- frames --------------------------------------------------------------------------------------------------

    def pump(self, now: float) -> None:
        """Do what can be done now: confirm inputs, look at deadlines, move the pointer, send the next batch."""
        self._flush()
        self._acknowledge()
        self._deadlines(now)
        self._switch(now)
        if self._inflight is None and not (self._switching or self._outbox) and self._serving() is not None:
            self._dispatch(now)

    def _serving(self) -> Member | None:
        member = self._candidate if self.mode is Mode.LIVE else self._active
        return member if member is not None and member.loaded is not None else None

    def _beside(self) -> Member | None:
        """Return who computes along: the shadowing candidate, or the old worker behind a live one."""
        other = {Mode.IDLE: None, Mode.SHADOW: self._candidate, Mode.LIVE: self._active}[self.mode]
        return other if other is not None and other.loaded is not None else None

    def _dispatch(self, now: float) -> None:
        room = min(ROWS_MAX, self.sink.room)
        samples = self.source.take(room) if room > 0 else None
        serving = self._serving()
        if samples is None or samples.rows == 0 or serving is None:
            return
        self._number += 1
        self.counters["samples"] += samples.rows
        self._notice_restart(samples)
        batch = Batch(self._number, samples, now)
        self._inflight, self._retried = batch, False
        beside = self._beside()
        if self._probation is not None:
            self._probation.expect(batch)
        self._give(serving, batch, now)
        if beside is not None and self.crew.has(beside):
            self._give(beside, batch, now)

    def _notice_restart(self, samples: Samples) -> None:
        """Numbers that fall while time goes on mean a stream that started anew, not a repetition."""
        first, newest = (samples.sequences[0], samples.timestamps[0]), self._newest
        if first[0] <= newest[0] and first[1] > newest[1]:
            self._emitted = (-1, -1)
            self._history.clear()
            self.counters["restarts"] += 1
        self._newest = (samples.sequences[-1], samples.timestamps[-1])

    def _give(self, member: Member, batch: Batch, now: float, *, warm: bool = False) -> None:
        if not self.crew.has(member):
            return
        try:
            member.give(batch, now, warm=warm)
        except OSError as error:
            self._lost(member, failure_of(error), now)

    def _warm(self, member: Member, now: float, *, inflight: bool) -> None:
        more = (self._inflight.samples,) if inflight and self._inflight is not None else ()
        for samples in self._history.batches(ROWS_MAX, *more):
            self._number += 1
            self._give(member, Batch(self._number, samples, now), now, warm=True)

    # --- answers -------------------------------------------------------------------------------------------------

    def hear(self, member: Member, now: float) -> None:
        """Take everything the member has to say."""
        try:
            while self.crew.has(member):
                heard = member.receive()
                if heard is None:
                    self._lost(member, None, now)
                elif isinstance(heard, wire.Loaded):
                    self._loaded(member, heard, now)
                elif isinstance(heard, wire.Failure):
                    self._lost(member, heard.reason, now, heard.traceback)
                elif isinstance(heard, Answer) and not heard.warm:
                    self._answered(member, heard, now)
        except BlockingIOError:
            return
        except ValueError as error:
            self._lost(member, failure_of(error), now)

    def _loaded(self, member: Member, loaded: wire.Loaded, now: float) -> None:
        if member is self._candidate:
            words = f"loaded in {loaded.load_seconds:.2f} s; {loaded.self_test}"
            self._tell(NoticeKind.LOADED, member, words)
            return
        self._warm(member, now, inflight=False)
        if self._inflight is not None:
            self._give(member, self._inflight, now)

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
            self._finish(batch, answer, serving)
        elif old is not None and standby is not None and standby.failure is None:
            if answer is not None or now - batch.sent_at > SOFT_SECONDS:
                self.counters["stepped_in"] += 1
                self._finish(batch, standby, old)
        elif answer is not None and answer.failure is not None and (old is None or standby is not None):
            self.counters["errors"] += 1
            log.warning("frame failed slot=%s reason=%s", self.slot, answer.failure.reason)
            self._skip(batch)

    def _finish(self, batch: Batch, answer: Answer, member: Member) -> None:
        self._emit(answer, member)
        self._end_batch(batch)

    def _skip(self, batch: Batch) -> None:
        self.counters["skipped"] += batch.rows
        self._end_batch(batch)

    def _end_batch(self, batch: Batch) -> None:
        self._inflight = None
        self._history.add(batch.samples, self.crew.history_rows)
        self._unconfirmed.append((self._written, batch.rows))

    def _emit(self, answer: Answer, member: Member) -> None:
        names = self.crew.plan(member).output.columns
        probation = self.mode is Mode.LIVE and member is self._candidate
        for sequence, first, timestamp, row in zip(
            answer.sequences, answer.firsts, answer.timestamps, answer.rows, strict=True
        ):
            if sequence <= self._emitted[0]:
                self.counters["repeats_dropped"] += 1
                continue
            self._emitted = (sequence, timestamp)
            self._outbox.append(
                OutputMessage(
                    timestamp=timestamp,
                    stream=self.stream,
                    sequence=sequence,
                    first=first,
                    release=member.release,
                    probation=probation,
                    values=dict(zip(names, row, strict=False)),
                )
            )
            self.counters["outputs"] += 1
            self._written += 1
        self._flush()

    def _flush(self) -> None:
        """Hand results to the sink as far as it has room: a filter may give more rows than it got."""
        room = min(self.sink.room, len(self._outbox))
        if room > 0:
            self.sink.write([self._outbox.popleft() for _ in range(room)])

    def _acknowledge(self) -> None:
        """Tell the source what is safe: every result up to there is confirmed by the sink (R4)."""
        confirmed = self.sink.confirmed
        while self._unconfirmed and self._unconfirmed[0][0] <= confirmed:
            self.source.acknowledge(self._unconfirmed.popleft()[1])

    # --- probation -----------------------------------------------------------------------------------------------

    def _enter(self, mode: Mode, candidate: Member, now: float) -> None:
        reference = self._active.key if self._active is not None else None
        self._probation = Probation(mode, candidate.key, reference, self.crew.plan(candidate).health, now)

    def _end_probation(self) -> None:
        self._probation, self._switching = None, False

    def _switch(self, now: float) -> None:
        """Move the pointer at a frame boundary, once the candidate has answered all it was given."""
        candidate = self._candidate
        if not self._switching or self._inflight is not None or candidate is None or candidate.owed:
            return
        self._switching = False
        self._enter(Mode.LIVE, candidate, now)
        log.info("serving slot=%s release=%s", self.slot, candidate.release)

    def _decide(self, verdict: Verdict | None, now: float) -> None:
        candidate = self._candidate
        if verdict is None or candidate is None:
            return
        if verdict.kind is VerdictKind.FAILING:
            self._condemn(candidate, verdict.reason, now)
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
            self._skip(batch)
        elif old.key in batch.answers:
            self._settle(batch, now)
        elif old.loaded is not None and not any(number == batch.number for number, _ in old.owed):
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
        if self._inflight is not None and self.mode is Mode.LIVE:
            self._settle(self._inflight, now)
        if self._probation is not None:
            if self._probation.decided_by_time(now):
                self._decide(self._probation.judge(now), now)
            elif self.mode is Mode.SHADOW and self._serving() is None and self._candidate is not None:
                self._tell(NoticeKind.PROVEN, self._candidate, "there is no active release to compare with")
        plan = self.crew.due_again(now)
        if plan is not None and self._active is None:
            self._active = self.crew.hire(plan, now)
        self.crew.bury(now)

    def wake_at(self, now: float) -> float | None:
        """Return when `pump` must be called again even if nothing happens (monotonic seconds)."""
        times = [self.crew.wake_at(now)]
        if self._probation is not None:
            times.append(now + 0.1)
        if self._inflight is not None and self.mode is Mode.LIVE:
            times.append(self._inflight.sent_at + SOFT_SECONDS)
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
        self._active = None
        if self._probation is not None:
            self._probation.forget_reference()
        self.counters["crashes"] += 1
        log.warning("active worker lost slot=%s release=%s reason=%s", self.slot, member.release, reason)
        if self._inflight is not None and self.mode is not Mode.LIVE:
            self._retry_or_skip(self._inflight)
        words = self.crew.mourn(member, reason, now)
        if words:
            why = msgspec.structs.replace(reason, message=words)
            self._tell(NoticeKind.STOPPED_SERVING, member, words, why, traceback)

    def _retry_or_skip(self, batch: Batch) -> None:
        """A batch whose worker died is tried once more on a fresh one, then recorded and skipped."""
        if self._retried:
            self._skip(batch)
        self._retried = True

    def _tell(
        self, kind: NoticeKind, member: Member, words: str, reason: Reason | None = None, traceback: str = ""
    ) -> None:
        if kind in self._told and kind is not NoticeKind.STOPPED_SERVING:
            return
        self._told.add(kind)
        self._notify(Notice(kind=kind, slot=self.slot, key=member.key, words=words, reason=reason, traceback=traceback))
