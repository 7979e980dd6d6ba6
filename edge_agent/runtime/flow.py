"""The frames of one slot: source → serving worker → sink, and beside it whoever computes along (R2).

One batch is in flight; what arrives meanwhile waits at the source and forms the next one. It stays in flight until a
result or a failure is accepted (`outlet` sees to it that no result goes out twice), so no worker's end loses it. Who
serves, and what becomes of workers that fail, the lane decides.
"""

from __future__ import annotations

import logging
import select
import time
from collections import Counter, deque
from collections.abc import Callable

from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.runtime.answers import Answer, Batch
from edge_agent.runtime.backlog import LAG_MAX, Backlog
from edge_agent.runtime.crew import Crew
from edge_agent.runtime.handover import Handover
from edge_agent.runtime.hedge import Hedge
from edge_agent.runtime.history import History, joined
from edge_agent.runtime.latency import Latency
from edge_agent.runtime.linger import Linger
from edge_agent.runtime.member import WARM_BATCHES_MAX, Member, failure_of
from edge_agent.runtime.outlet import Outlet, starts_anew
from edge_agent.runtime.plan import Plan
from edge_agent.runtime.ports import Sink, Source
from edge_agent.runtime.probation import Mode, Probation
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.stamps import Stamps
from edge_agent.runtime.trail import Trail

__all__ = ["Flow"]

log = logging.getLogger(__name__)
ROWS_MAX = 1024
SWITCH_SECONDS = 0.002
RECENT_BYTES_MAX = 256 * 1024


class Flow:
    """What passes through one slot, and by whom. A lane is one, with orders and probation.

    `recent` are the last batches' samples, for incidents: as many as its `maxlen`, none of them very large. What
    `stamps` counts is among the `counters`.
    """

    def __init__(
        self,
        slot: str,
        stream: str,
        source: Source,
        sink: Sink,
        recent: int = 8,
        trail: Trail | None = None,
        stamps: Stamps | None = None,
    ) -> None:
        self.slot, self.source, self.sink = slot, source, sink
        self._stamps = stamps
        self.counters: Counter[str] = Counter() if stamps is None else stamps.counts
        self.crew = Crew()
        self.recent: deque[Samples] = deque(maxlen=recent)
        self._outlet = Outlet(stream, source, sink, self.counters)
        self.linger = Linger()
        self.latency: Latency | None = None  # nobody asks, unless somebody says so
        self.skipped: Callable[[Samples, str], None] = _untold
        """Told of samples that are given up, and why, before they are acknowledged."""
        self.draining = False  # no new frame is begun; set before the end
        self._active: Member | None = None
        self._candidate: Member | None = None
        self._second: Member | None = None
        self._probation: Probation | None = None
        self._handover: Handover | None = None
        self._history = History()
        self._hedge = Hedge()
        self._backlog = Backlog()
        self._inflight: Batch | None = None
        self._retried = False
        self._number = 0
        self._switching = False
        self._boundary = 0.0
        self._look_at, self._seen = 0.0, self.crew.by_descriptor()
        self._trail, self._passed = trail, 0
        if trail is not None:
            self._resume(trail)

    def _resume(self, trail: Trail) -> None:
        """Go on where an earlier run of the agent was: with its samples as history, and those without safe results."""
        done, again = trail.resume(tuple(self.source.columns))
        newest = (-1, -1)
        for piece in done:
            if starts_anew(newest, piece, 0):
                self._history.clear()
            newest = (piece.sequences[-1], piece.timestamps[-1])
            self._history.add(piece, trail.total)
        self._outlet.resume(newest, joined(again))
        self._passed = trail.safe

    def _lost(self, member: Member, reason: Reason | None, now: float, traceback: str = "") -> None:
        """A member is of no use any more, by its own fault; without a reason its end will tell."""
        raise NotImplementedError

    @property
    def mode(self) -> Mode:
        """Who answers now."""
        return self._probation.mode if self._probation is not None else Mode.IDLE

    # --- frames --------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no frame is in flight and every result is confirmed."""
        return self._inflight is None and self._outlet.idle

    @property
    def running(self) -> tuple[Plan, bool] | None:
        """Who answers, or will once its worker is up, and whether it is; None where no release runs."""
        member = self._serving()
        if member is not None:
            return self.crew.plan(member), True
        coming = self.crew.plan(self._active) if self._active is not None else self.crew.expected
        return (coming, False) if coming is not None else None

    def _holding(self, now: float) -> bool:
        """Tell whether to wait a moment at a frame boundary for a candidate that is about to have caught up."""
        return self._switching and now < self._boundary + SWITCH_SECONDS

    def _serving(self) -> Member | None:
        member = self._candidate if self.mode is Mode.LIVE else self._active
        return member if member is not None and member.loaded is not None else None

    def _beside(self) -> Member | None:
        """Return who computes along: the shadowing candidate, the old worker behind a live one, or a second opinion."""
        mode = self.mode
        other = self._second if mode is Mode.IDLE else self._candidate if mode is Mode.SHADOW else self._active
        return other if other is not None and other.loaded is not None else None

    def arrived(self, events: int, now: float) -> None:
        """The source has something to read, as poll() saw."""
        if self._inflight is not None:
            self.linger.rest(now)
        elif self.linger.puts_off(now):
            return
        self.source.handle(events, now)

    def _look(self, now: float) -> None:
        """Look at the source, which was let alone: at once, since another turn costs more."""
        descriptor, events, _ = self.source.interest()
        if descriptor >= 0:
            poll = select.poll()
            poll.register(descriptor, events)
            for _, seen in poll.poll(0):
                self.source.handle(seen, now)

    def _dispatch(self, now: float) -> None:
        serving = self._serving()
        if serving is None or self.linger.resting(now):
            return
        if self._trail is not None and self._trail.crowded:
            return  # until the sink has confirmed more
        if self.linger.rested():
            self._look(now)
        if self.linger.seconds and not self.linger.begins(self._outlet.gather(ROWS_MAX), ROWS_MAX, now):
            return
        again = self._outlet.again > 0
        taken = self._outlet.take(ROWS_MAX)
        if taken is None:
            return
        samples, anew = taken
        if anew:
            self._history.clear()
        self._number += 1
        self.counters["samples"] += samples.rows
        if self._stamps is not None and not again:
            self._stamps.see(samples, time.time_ns())
        batch = Batch(self._number, samples, now, again=again)
        if samples.bytes <= RECENT_BYTES_MAX:
            self.recent.append(samples)
        self._inflight, self._retried = batch, False
        self.linger.sent(now)
        beside = self._beside()
        later = beside is not None and self._shown_later(beside, samples)
        if self._probation is not None and not later:
            self._probation.expect(batch)
        self._give(serving, batch, now)
        if beside is not None and not later:
            self._give(beside, batch, now)
        if self._handover is not None:
            self._handover.collect(samples)

    def _shown_later(self, beside: Member, samples: Samples) -> bool:
        """Tell whether a shadowing candidate is shown these samples together with others, once it has answered."""
        lag = 1 if self._switching else LAG_MAX
        if self.mode is not Mode.SHADOW or not self._backlog.takes(samples, len(beside.owed), lag):
            return False
        self.counters["shown_late"] += samples.rows
        return True

    def _work_off(self, now: float) -> None:
        """Show a candidate that is done with all it was given what has come meanwhile."""
        candidate = self._beside() if self.mode is Mode.SHADOW else None
        if candidate is None:
            return
        if self._backlog.full:
            words = f"the worker falls behind: {self._backlog.rows} samples wait for it"
            return self._lost(candidate, self._excused(Reason(code=ReasonCode.BEHIND, message=words), candidate), now)
        if not candidate.owed and (samples := self._backlog.take()) is not None:
            self._number += 1
            self._give(candidate, Batch(self._number, samples, now), now, warm=True)

    def _give(self, member: Member, batch: Batch, now: float, *, warm: bool = False) -> None:
        if not self.crew.has(member) or (member.owed and member.owes(batch)):
            return
        try:
            member.give(batch, now, warm=warm)
        except (BrokenPipeError, ConnectionResetError):
            self._lost(member, None, now)
        except OSError as error:
            self._lost(member, self._excused(failure_of(error), member), now)
        except KeyError as error:
            words = f"the source has no column {error}, which {member.release} takes"
            self._lost(member, Reason(code=ReasonCode.COLUMNS, message=words, blame=Blame.ENVIRONMENT), now)

    def _excused(self, reason: Reason, member: Member) -> Reason:
        """Blame the machine for a candidate that falls behind because it waits for a processor most of the time."""
        trial = self._probation
        if trial is None or trial.key != member.key or reason.code is not ReasonCode.BEHIND:
            return reason
        words = f"{reason.message}; it waited {trial.evidence.waited_micros / 1e6:.1f} s for a processor"
        blame = Blame.ENVIRONMENT if trial.evidence.overloaded else reason.blame
        return Reason(code=reason.code, message=words, blame=blame)

    def _catch_up(self, member: Member, now: float) -> None:
        """Show a fresh worker what came before, then let it compute the batch in flight."""
        self._history.trim(self.crew.history_rows)
        self._show(member, self._history, now)
        if self._inflight is not None:
            self._give(member, self._inflight, now)

    def _show(self, member: Member, past: History, now: float) -> None:
        for samples in past.batches(ROWS_MAX, WARM_BATCHES_MAX):
            self._number += 1
            self._give(member, Batch(self._number, samples, now), now, warm=True)

    # --- results -------------------------------------------------------------------------------------------------

    def _settle(self, batch: Batch, now: float) -> None:
        """Send the in-flight batch's results out as soon as somebody's good answer may be used."""
        serving, old = self._serving(), self._active if self.mode is Mode.LIVE else None
        answer = batch.answers.get(serving.key) if serving is not None else None
        standby = batch.answers.get(old.key) if old is not None else None
        if serving is not None and answer is not None and answer.failure is None:
            self._finish(batch, answer, serving, now)
        elif old is not None and standby is not None and standby.failure is None:
            if answer is not None or serving is None or now >= self._hedge.until(batch, serving):
                self.counters["stepped_in"] += 1
                self._finish(batch, standby, old, now)
        elif answer is not None and answer.failure is not None and (old is None or standby is not None):
            self.counters["errors"] += 1
            errors = self.counters["errors"]
            if errors & (errors - 1) == 0:  # the 1st, 2nd, 4th, 8th …: it must not flood the log
                log.warning("frame failed slot=%s errors=%d reason=%s", self.slot, errors, answer.failure.reason)
            self._skip(batch, now, str(answer.failure.reason))

    def _steps_in_at(self, batch: Batch) -> float | None:
        """Return when the old worker's answer, if it is there, goes out in place of the live candidate's."""
        live, old = self._candidate if self.mode is Mode.LIVE else None, self._active
        if live is None or old is None or old.key not in batch.answers:
            return None
        return self._hedge.until(batch, live)

    def _finish(self, batch: Batch, answer: Answer, member: Member, now: float) -> None:
        self._keep(batch)  # before anything of it leaves: the numbers that results have are not given twice
        probation = self.mode is Mode.LIVE and member is self._candidate
        if self.latency is not None:
            self.latency.note(batch, answer, now)
        self._outlet.emit(answer, self.crew.plan(member).output.columns, member.release, probation=probation)
        self._end_batch(batch, now)

    def _skip(self, batch: Batch, now: float, words: str, *, kept: bool = True) -> None:
        self.counters["skipped"] += batch.rows
        self.skipped(batch.samples, words)
        if kept or batch.again:
            self._keep(batch)
        self._end_batch(batch, now, kept=kept)

    def _end_batch(self, batch: Batch, now: float, *, kept: bool = True) -> None:
        self._inflight, self._boundary = None, now
        self.linger.ended(now)
        if kept:
            self._history.add(batch.samples, self.crew.history_rows)
        self._outlet.owe(batch.rows, self._passed)

    def _keep(self, batch: Batch) -> None:
        """Put the batch on the trail, where it is not yet."""
        if batch.again:
            self._passed += batch.rows
        elif self._trail is not None:
            self._passed = self._trail.append(batch.samples, self.crew.history_rows)

    def _acknowledge(self) -> None:
        mark = self._outlet.acknowledge()
        if mark is not None and self._trail is not None:
            self._trail.confirm(mark)

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

    def _retry_or_skip(self, batch: Batch, now: float) -> None:
        """A batch whose worker died is tried once more on a fresh one, then counted, skipped and never shown again."""
        if self._retried:
            first, last = batch.samples.sequences[0], batch.samples.sequences[-1]
            log.warning("frame given up slot=%s samples=%d-%d reason=two workers ended over it", self.slot, first, last)
            self._skip(batch, now, "two workers ended over it, one after the other", kept=False)
        self._retried = True


def _untold(samples: Samples, words: str) -> None:
    """Nobody wants to know which samples were given up."""
