"""Deaths that add up, and deaths with real workers: budgets, blame, and no process left behind (U2, U6)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_agent.update.deployment import ATTEMPTS_MAX, REBOOTS_MAX
from tests.crash.device import Device, Scene
from tests.simulators.agents import alive, workers_of
from tests.simulators.waiting import until

Make = Callable[..., Device]
LIVE = {"state": "shadow", "event": "proven", "moment": "after"}


def test_the_third_death_in_probation_rolls_back_and_condemns(device: Make, scene: Scene) -> None:
    one = device(1)
    announce = scene.envelope(2).hex()
    for _ in range(ATTEMPTS_MAX):
        one.start(announce=announce, **LIVE)
        one.reach()
        one.kill()
        one.require_sound()
        assert not one.condemned()
    one.start(announce=announce)
    one.settle(1)
    one.until_tidy()
    one.stop()
    assert one.condemned() == {scene.digest(2)}
    assert one.rows("select state, attempts from deployment order by id desc limit 1") == [("rolled_back", 3)]
    one.require_sound()
    one.require_tidy()


def test_the_last_reboot_of_the_budget_rolls_back_and_condemns_nobody(device: Make, scene: Scene) -> None:
    one = device(1)
    announce = scene.envelope(2).hex()
    for _ in range(REBOOTS_MAX):
        one.start(announce=announce, **LIVE)
        one.reach()
        one.kill()
        one.require_sound()
        one.write("update note set value = 'an earlier boot' where key = 'life'")
        one.write("update deployment set due = 0")  # the waits between reboots grow
    one.start(announce=announce)
    one.settle(1)
    one.until_tidy()
    one.stop()
    assert not one.condemned()
    rows = one.rows("select state, attempts, reboots from deployment order by id desc limit 1")
    assert rows == [("rolled_back", 1, REBOOTS_MAX - 1)]
    one.require_sound()
    one.require_tidy()


# Rows that tell a worker something, by what is said in which state.
WORKED: dict[str, tuple[str, str, str, dict[str, str], int]] = {
    "starting": ("staged", "begun", "done 0", {}, 1),
    "in shadow": ("starting", "loaded", "done 0", {}, 1),
    "live": ("shadow", "proven", "done 0", {}, 1),
    "committing": ("live", "healthy", "before", {}, 1),
    "committed": ("live", "healthy", "done 0", {}, 1),
    "rolling back": ("live", "failed", "done 0", {"live": "failed"}, 1),
    "reverting": ("committed", "failed", "done 0", {"committed": "failed"}, 2),
}


@pytest.mark.parametrize("when", WORKED)
def test_real_workers_die_with_the_agent_and_a_release_runs_again(when: str, device: Make, scene: Scene) -> None:
    state, event, moment, say, committed = WORKED[when]
    one = device(committed)
    announce = scene.envelope(2).hex()
    pid = one.start(real=True, state=state, event=event, moment=moment, say=say, announce=announce)
    one.reach()
    workers = workers_of(pid)
    assert workers, "no worker was there to die"
    one.kill()
    until(lambda: not any(map(alive, workers)), 30, "the end of the workers")
    one.require_sound()
    pid = one.start(real=True, announce=announce)
    one.settle(1 if one.condemned() else 2)
    until(lambda: len(workers_of(pid)) == 1, 30, "one worker")
    one.until_tidy()
    one.stop()
    one.require_sound()
    one.require_tidy()
