"""Takes envelopes in: when each is verified, what is remembered of it, and when it is worth another look (T4, T5).

One envelope of a channel is verified at a time and at most one waits, the newest. Whoever may write to the broker can
send any number: after a few refusals in a row the next look waits, longer each time, with jitter, so that a flood costs
neither CPU nor flash. It decides nothing about trust; the verifier does.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.errors import Blame, Reason, ReasonCode, UpdateRejected
from edge_agent.contract.verification import Floor, Request, Verified
from edge_agent.update.clock import floor_clock
from edge_agent.update.helper import Helper
from edge_agent.update.store import Refusal, Store, Trust

__all__ = ["FREE_REFUSALS", "RETRY_SECONDS", "WAIT_SECONDS_MAX", "Intake", "question", "wait_seconds"]

log = logging.getLogger(__name__)
RETRY_SECONDS = 60.0
FREE_REFUSALS = 5
WAIT_SECONDS_MAX = 300.0
# A clock that was wrong, or a verifier that had no room: the same envelope may pass later.
_MAY_PASS_LATER = frozenset({ReasonCode.EXPIRED, ReasonCode.ENVIRONMENT})


def wait_seconds(refusals: int, chance: float) -> float:
    """Return how long the next look waits after `refusals` in a row; `chance` in [0, 1) spreads devices."""
    if refusals <= FREE_REFUSALS:
        return 0.0
    return min(WAIT_SECONDS_MAX, 2.0 ** min(refusals - FREE_REFUSALS, 30)) * (0.5 + chance / 2)


def question(store: Store, fleet: str, channel: str, root: bytes, envelope: bytes, now: float) -> Request:
    """Return what to ask the verifier about an envelope, with all that this device knows of the channel."""
    trust = store.trust(channel)
    return Request(
        fleet=fleet,
        channel=channel,
        now=floor_clock(now, store.fact("clock")),
        root=root,
        envelope=envelope,
        accepted=trust.envelope if trust is not None else None,
        floors=[Floor(role=role, keyset=keyset, version=version) for role, keyset, version in store.floors(channel)],
    )


class Intake:
    """The envelopes of every channel of one device. All calls come from one thread; `helper` does the asking.

    `root(channel)` is the first root as enrolled, `accepted(channel, now)` is told when the accepted envelope is new or
    was announced again, `changed` when there is something to report.
    """

    def __init__(
        self,
        *,
        fleet: str,
        root: Callable[[str], bytes],
        store: Store,
        verify: Callable[[Request], Verified],
        helper: Helper,
        accepted: Callable[[str, float], None],
        changed: Callable[[], None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._fleet, self._root, self._store = fleet, root, store
        self._verify, self._helper = verify, helper
        self._accepted, self._changed, self._chance = accepted, changed, chance
        self._asked: dict[str, bytes] = {}
        self._waiting: dict[str, tuple[float, bytes]] = {}
        self._refusals: dict[str, int] = {}
        self._closed_until: dict[str, float] = {}

    def tick(self, now: float) -> float:
        """Look at what is due; return when to be called again at the latest (seconds UTC)."""
        for channel, (due, envelope) in list(self._waiting.items()):
            if not now < due <= now + WAIT_SECONDS_MAX and channel not in self._asked:  # or the clock was set back
                del self._waiting[channel]
                self.announced(channel, envelope, now)
        return min((due for due, _ in self._waiting.values()), default=now + 3600.0)

    def announced(self, channel: str, envelope: bytes, now: float) -> None:
        """An envelope arrived on a channel's topic: verify it, unless it is the one already accepted."""
        trust = self._store.trust(channel)
        if trust is not None and trust.envelope == envelope:
            self._accepted(channel, now)
            return
        self._waiting.pop(channel, None)
        if self._asked.get(channel) == envelope:
            return
        # No longer than the longest wait: the clock may have been set back.
        opens = min(self._closed_until.get(channel, 0.0), now + WAIT_SECONDS_MAX)
        if channel in self._asked or now < opens:
            self._waiting[channel] = (opens, envelope)
            return
        self._asked[channel] = envelope
        request = question(self._store, self._fleet, channel, self._root(channel), envelope, now)
        self._helper.submit(self._verified, (channel, request), self._verify, request)

    def _verified(self, channel: str, request: Request, result: Verified | Exception, now: float) -> None:
        # What the disk refuses is raised, and the helper hands the same result over again: nothing changes before that.
        if isinstance(result, Exception):
            self.refuse(channel, request.envelope, result, now)
        else:
            self._keep(channel, request.envelope, result, now)
        self._asked.pop(channel, None)
        waits = self._waiting.get(channel)
        if waits is not None and waits[0] <= now:  # it came meanwhile, and is compared with what was accepted just now
            self.announced(channel, waits[1], now)

    def _keep(self, channel: str, envelope: bytes, result: Verified, now: float) -> None:
        with self._store.transaction():
            self._store.save_trust(
                Trust(
                    channel=channel,
                    envelope=envelope,
                    verified=encode_json(
                        {"releases": result.releases, "rollouts": result.rollouts, "operators": result.operators}
                    ),
                    accepted=now,
                    expires=result.expires_at,
                ),
                {Digest(digest): data for digest, data in result.manifests.items()},
            )
            self._store.raise_floors(channel, [(one.role, one.keyset, one.version) for one in result.floors])
            self._store.raise_fact("clock", now)
        self._refusals.pop(channel, None)
        self._closed_until.pop(channel, None)
        log.info("trust accepted channel=%s bytes=%d", channel, len(envelope))
        self._accepted(channel, now)
        self._changed()

    def refuse(self, channel: str, envelope: bytes, error: Exception, now: float) -> None:
        """Remember and report why an envelope was refused; what runs goes on.

        In a flood only the first refusal of each wait is written down: the others would say the same.
        """
        flooded = now < min(self._closed_until.get(channel, 0.0), now + WAIT_SECONDS_MAX)
        if flooded:
            return
        if isinstance(error, UpdateRejected):
            reasons = error.reasons
        else:
            reasons = (Reason(code=ReasonCode.ENVIRONMENT, message=str(error), blame=Blame.ENVIRONMENT),)
        with self._store.transaction():
            self._store.save_refusal(Refusal(channel=channel, at=now, digest=Digest.of(envelope), reasons=reasons))
        self._refusals[channel] = self._refusals.get(channel, 0) + 1
        self._closed_until[channel] = now + wait_seconds(self._refusals[channel], self._chance())
        if {reason.code for reason in reasons} & _MAY_PASS_LATER and channel not in self._waiting:
            self._waiting[channel] = (now + RETRY_SECONDS * (0.5 + self._chance() / 2), envelope)
        log.warning("trust refused channel=%s reasons=%s", channel, "; ".join(map(str, reasons)))
        self._changed()
