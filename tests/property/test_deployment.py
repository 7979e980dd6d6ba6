"""Any history of announcements, crashes, reboots, verdicts, pins and collections on a real store and disk (U2, U3).

The invariants are looked up in the database and on the disk after every step, not in what the updater believes.
`FIELDCAST_HISTORIES` sets how many histories are tried (25 in the suite; thousands in a long session).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Blame
from edge_agent.contract.manifest import parse_manifest
from edge_agent.update.collection import Retention
from edge_agent.update.deployment import UNDER_WAY, Deployment, EventKind, State
from tests.simulators.bench import CHANNEL, SLOT, Bench, Release, fault

HISTORIES = int(os.environ.get("FIELDCAST_HISTORIES", "25"))
RELEASES = ("one", "two", "three", "four")
WORKER = {
    State.STARTING: (EventKind.LOADED, EventKind.LOADED_ALONE),
    State.SHADOW: (EventKind.PROVEN,),
    State.LIVE: (EventKind.HEALTHY,),
}
BLAMES = st.sampled_from([Blame.RELEASE, Blame.ENVIRONMENT])
NUMBERS = st.integers(0, len(RELEASES) - 1)


class Histories(RuleBasedStateMachine):
    """One device through which anything happens."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="history-"))
        self.bench = Bench(self.directory)
        self.bench.retention = Retention(keep=2, budget_bytes=0)
        self.bench.crash()
        self.bench.restart()
        self.broker = self.bench.broker
        self.releases: list[Release] = []
        self.committed_once = False
        self.floors: dict[tuple[str, str], int] = {}
        self.started: set[int] = set()
        self.lifted: set[Digest] = set()

    def teardown(self) -> None:
        self.bench.crash()
        shutil.rmtree(self.directory)

    @initialize()
    def releases_are_made(self) -> None:
        self.releases = [self.bench.release(name) for name in RELEASES]

    def release(self, number: int) -> Release:
        return self.releases[number]

    # --- the channel -------------------------------------------------------------------------------------------------

    @rule(candidate=NUMBERS, stable=st.none() | NUMBERS, paused=st.booleans())
    def announce(self, candidate: int, stable: int | None, paused: bool) -> None:
        known = self.release(stable) if stable is not None and stable != candidate else None
        self.bench.announce(self.release(candidate), known, paused=paused)

    @rule(candidate=NUMBERS, stable=st.none() | NUMBERS)
    def abort(self, candidate: int, stable: int | None) -> None:
        known = self.release(stable) if stable is not None and stable != candidate else None
        self.bench.announce(self.release(candidate), known, aborted=True)

    @rule(number=NUMBERS)
    def promote_the_same_bytes_under_a_new_name(self, number: int) -> None:
        old = self.release(number)
        self.releases[number] = self.bench.sign(old.manifest, old.parsed)
        self.bench.announce(self.releases[number])

    @rule(number=NUMBERS)
    def let_it_be_tried_again_everywhere(self, number: int) -> None:
        old = self.release(number)
        info = msgspec.structs.replace(old.info, retry_generation=old.info.retry_generation + 1)
        self.releases[number] = msgspec.structs.replace(old, info=info)
        self.bench.announce(self.releases[number])

    # --- the world ---------------------------------------------------------------------------------------------------

    @rule(there=st.booleans())
    def the_broker_comes_and_goes(self, there: bool) -> None:
        self.bench.broker = self.broker if there else {}

    @rule(seconds=st.sampled_from([1.0, 6.0, 30.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.tick_at(self.bench.now + seconds)

    @rule()
    def the_agent_is_killed(self) -> None:
        self.bench.crash()
        self.started.clear()
        self.bench.restart()

    @rule()
    def the_machine_reboots(self) -> None:
        self.bench.crash()
        self.bench.boot += "'"
        self.bench.restart()

    @rule()
    def the_agent_is_restarted(self) -> None:
        self.bench.stop()
        self.bench.restart()

    @rule(number=NUMBERS)
    def a_cached_blob_rots(self, number: int) -> None:
        """Only of a release that nobody keeps: a damaged committed one is another test's."""
        kept = {one.digest for one in self.bench.store.committed(SLOT)}
        kept |= {self.under_way.digest} if self.under_way is not None else set()
        if self.release(number).info.digest in kept:
            return
        for ref in self.release(number).parsed.blobs():
            needed = any(ref in list(parse_manifest(self.bench.store.manifest(one)).blobs()) for one in kept)
            if not needed and self.bench.blob_path(ref).exists():
                self.bench.blob_path(ref).write_bytes(b"rot")

    # --- the runtime -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.under_way is not None)
    @rule(steps=st.integers(1, 4))
    def the_candidate_does_well(self, steps: int) -> None:
        for _ in range(steps):
            found = self.under_way
            if found is None or found.state not in WORKER:
                return
            alone = self.bench.active is None
            kinds = WORKER[found.state]
            self.bench.say(kinds[-1 if alone else 0], key=found.id)

    @precondition(lambda self: self.under_way is not None)
    @rule(blame=BLAMES)
    def the_candidate_fails(self, blame: Blame) -> None:
        self.bench.say(EventKind.FAILED, fault(blame), key=self.under_way.id)

    @precondition(lambda self: self.bench.active is not None)
    @rule(blame=BLAMES)
    def the_committed_release_fails(self, blame: Blame) -> None:
        self.bench.updater.stopped_serving(self.bench.active.id, (fault(blame),), self.bench.now)
        self.bench.settle()

    @rule(kind=st.sampled_from(EventKind), number=st.integers(1, 12))
    def stale_news_comes(self, kind: EventKind, number: int) -> None:
        """Whatever is said of a deployment that has ended or is committed."""
        if kind in (EventKind.RESTORED, EventKind.REPLACED):  # only ever fed inside a transition
            return
        for one in self.bench.store.deployments(SLOT):
            if one.id == number and one.state not in UNDER_WAY:
                self.bench.say(kind, key=number)

    # --- operators ---------------------------------------------------------------------------------------------------

    def ask(self, kind: str, argument: str = "") -> None:
        with self.bench.store.transaction():
            number = self.bench.store.ask(kind, SLOT, self.bench.now, argument)
        self.bench.settle()
        assert self.bench.store.answer_of(number)

    @rule()
    def roll_back(self) -> None:
        self.ask("rollback")

    @rule(number=NUMBERS)
    def pin(self, number: int) -> None:
        self.ask("pin", self.release(number).info.name)

    @rule()
    def unpin(self) -> None:
        self.ask("unpin")

    @rule(number=NUMBERS)
    def retry(self, number: int) -> None:
        self.ask("retry", self.release(number).info.name)

    @rule(argument=st.sampled_from(["", "60", "off", "off"]))
    def hold(self, argument: str) -> None:
        self.ask("hold", argument)

    @rule(everything=st.booleans())
    def collect(self, everything: bool) -> None:
        self.ask("gc", "all" if everything else "")

    # --- invariants --------------------------------------------------------------------------------------------------

    @property
    def under_way(self) -> Deployment | None:
        return self.bench.store.under_way(SLOT)

    @invariant()
    def a_committed_release_is_runnable_once_there_was_one(self) -> None:
        active = self.bench.active
        self.committed_once |= active is not None
        if not self.committed_once:
            return
        assert active is not None, "nothing is committed any more"
        assert active.state is State.COMMITTED
        laid_out = self.directory / "releases" / active.digest.hex / "manifest.json"
        assert laid_out.is_file(), "its files are gone"
        for ref in parse_manifest(self.bench.store.manifest(active.digest)).blobs():
            assert ref.matches(self.bench.blob_path(ref).read_bytes()), "a blob of it is gone"

    @invariant()
    def the_slot_points_at_the_one_committed_deployment(self) -> None:
        """Active changes only in a transaction: whoever looks from outside never sees half of it."""
        with sqlite3.connect(f"file:{self.directory}/agent.db?mode=ro", uri=True) as outside:
            committed = [row[0] for row in outside.execute("select id from deployment where state = 'committed'")]
            active = [row[0] for row in outside.execute("select active from slot where active is not null")]
            under_way = outside.execute(
                "select count(*) from deployment where state not in "
                "('committed', 'superseded', 'reverted', 'rolled_back', 'rejected')"
            ).fetchone()[0]
        outside.close()
        assert committed == active
        assert under_way <= 1

    @invariant()
    def floors_never_fall(self) -> None:
        found = {(role, keyset): version for role, keyset, version in self.bench.store.floors(CHANNEL)}
        for key, version in self.floors.items():
            assert found.get(key, 0) >= version
        self.floors = found

    @invariant()
    def what_is_condemned_never_starts_by_itself(self) -> None:
        found = self.under_way
        if found is None or found.state not in WORKER:
            return
        for entry in self.bench.updater._deployer.quarantined(SLOT):
            assert entry.digest != found.digest or entry.generation < found.generation, "a condemned release runs"

    @invariant()
    def attempts_and_reboots_stay_within_their_budgets(self) -> None:
        for one in self.bench.store.deployments(SLOT):
            assert 0 <= one.attempts <= 3
            assert one.reboots < 10

    @invariant()
    def nothing_is_left_without_a_next_step(self) -> None:
        """What is under way either waits for a worker's word or has a time at which it goes on."""
        found = self.under_way
        if found is not None and found.state not in WORKER:
            assert found.id in self.bench.updater._deployer.effects._waiting, f"{found.state} would stay for ever"


Histories.TestCase.settings = settings(
    max_examples=HISTORIES,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = Histories.TestCase
__all__ = ["TestHistories"]
