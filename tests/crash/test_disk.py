"""A disk that is full, read-only, failing or rotten, and clocks that jump: what runs goes on, and it heals (U3, U6).

The state directory is a small tmpfs of its own, filled, remounted and emptied from outside, for which one has to be
root: otherwise those tests are skipped and say so.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge_agent.doorbell import ring
from tests.crash.device import Device, Scene
from tests.simulators.agents import workers_of
from tests.simulators.waiting import until

Make = Callable[..., Device]
DISK_MB = 40
DAY_SECONDS = 86_400.0


class Disk:
    """A device whose state directory is a file system of its own."""

    def __init__(self, device: Device, cleanup: contextlib.ExitStack) -> None:
        self.device, self.state = device, device.state
        aside = device.directory / "aside"
        device.state.rename(aside)
        device.state.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=700", "fieldcast-test", str(device.state)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            aside.rename(device.state.with_name("state.back"))
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        cleanup.callback(subprocess.run, ["umount", "-l", str(device.state)], check=False)
        subprocess.run(["cp", "-a", f"{aside}/.", str(device.state)], check=True)

    def fill(self) -> None:
        """Leave not one free block."""
        with (self.state / "ballast").open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def free(self) -> None:
        """Give the space back."""
        (self.state / "ballast").unlink()

    def remount(self, how: str) -> None:
        """Make it `ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.state)], check=True)


@pytest.fixture
def disk(device: Make) -> Iterator[Callable[..., Disk]]:
    with contextlib.ExitStack() as cleanup:

        def make(committed: int = 1) -> Disk:
            made = device(committed)
            cleanup.callback(made.kill)
            return Disk(made, cleanup)

        yield make


def told(device: Device) -> dict[str, Any]:
    """Return what `edge-agent status` would be told by the running agent."""
    found = ring(device.state)
    return json.loads(found) if found else {}


def until_trouble(device: Device) -> None:
    """Wait until the agent, which runs on, tells what the disk refuses."""
    until(lambda: told(device).get("trouble"), 30, f"trouble in {told(device)}\n{device.log}")


def until_well(device: Device) -> None:
    until(lambda: told(device).get("trouble", "x") == "", 30, f"no trouble in {told(device)}\n{device.log}")


# The row after which the disk is full: what comes next needs space.
STAGES = {
    "before anything is accepted": ("", "", "leftovers removed"),
    "announced": ("announced", "admitted", "before"),
    "fetching": ("admitted", "reserved", "after"),
    "half fetched": ("admitted", "reserved", "half fetched"),
    "laying out": ("fetching", "fetched", "after"),
    "half laid out": ("fetching", "fetched", "half laid out"),
    "starting": ("staged", "begun", "before"),
    "in shadow": ("starting", "loaded", "after"),
    "live": ("shadow", "proven", "after"),
    "committing": ("live", "healthy", "before"),
    "collecting": ("live", "healthy", "after"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_stops_an_update_and_nothing_else(stage: str, disk: Callable[..., Disk], scene: Scene) -> None:
    made = disk()
    one, floors = made.device, made.device.floors()
    state, event, moment = STAGES[stage]
    one.start(state=state, event=event, moment=moment, announce=scene.envelope(2).hex())
    one.reach()
    made.fill()
    one.go_on()
    until(lambda: told(one), 30, f"an answer\n{one.log}")
    until(lambda: told(one).get("trouble") or told(one)["slots"][0].get("reasons") or one.runs(2), 30,
          f"a word of it\n{one.log}")  # fmt: skip
    one.require_sound()
    assert one.active() in (scene.digest(1), scene.digest(2))
    made.free()
    one.settle(2)
    until_well(one)
    one.until_tidy()
    one.stop()
    one.require_sound()
    one.require_tidy()
    assert not one.condemned(), "a full disk is nobody's fault"
    assert all(one.floors()[key] >= value for key, value in floors.items())


@pytest.mark.parametrize("how", ["full", "read-only"])
@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_device_starts_on_a_disk_that_refuses_and_runs_its_release(
    how: str, end: str, disk: Callable[..., Disk], scene: Scene
) -> None:
    """U3: with real workers, and whether a log lies beside the database or not."""
    made = disk()
    one = made.device
    if end == "killed":
        one.start(moment="resumed")
        one.reach()
        one.kill()
    made.fill() if how == "full" else made.remount("ro")
    pid = one.start(real=True, announce=scene.envelope(2).hex())
    until(lambda: len(workers_of(pid)) == 1, 30, f"a worker\n{one.log}")
    until_trouble(one)
    slot = told(one)["slots"][0]
    assert (slot["active"], slot["active_digest"]) == ("meter@1", scene.digest(1))
    until(lambda: told(one)["slots"][0]["counters"].get("samples"), 30, f"results\n{one.log}")
    made.free() if how == "full" else made.remount("rw")
    one.settle(2)
    until_well(one)
    one.until_tidy()
    one.stop()
    one.require_sound()
    one.require_tidy()
    assert not one.condemned()


@pytest.mark.parametrize("name", ["blobs", "releases"])
def test_a_directory_that_turns_read_only_under_a_running_agent(
    name: str, disk: Callable[..., Disk], scene: Scene
) -> None:
    """No file system with files open for writing can be remounted, so it is a mount above the directory."""
    made = disk()
    one = made.device
    one.start(state="admitted", event="reserved", moment="before", announce=scene.envelope(2).hex())
    one.reach()
    place = str(one.state / name)
    for arguments in (["--bind", place, place], ["-o", "remount,bind,ro", place]):
        subprocess.run(["mount", *arguments], check=True)
    one.go_on()
    until(lambda: told(one).get("slots", [{}])[0].get("reasons"), 30, f"a reason\n{one.log}")
    assert one.active() == scene.digest(1)
    subprocess.run(["umount", "-l", place], check=True)
    one.settle(2)
    until_well(one)
    one.stop()
    one.require_sound()
    assert not one.condemned()


@pytest.mark.parametrize("stage", ["announced", "starting", "live", "committing"])
def test_writes_that_fail_under_a_running_agent(stage: str, device: Make, scene: Scene) -> None:
    """Every write of the process gives an error (EFBIG, by its own resource limit), and then it does not any more."""
    one = device(1)
    state, event, moment = STAGES[stage]
    pid = one.start(state=state, event=event, moment=moment, announce=scene.envelope(2).hex())
    one.reach()
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    one.go_on()
    until_trouble(one)
    one.require_sound()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    one.settle(2)
    until_well(one)
    one.until_tidy()
    one.stop()
    one.require_sound()
    one.require_tidy()
    assert not one.condemned()


def test_a_clean_stop_on_a_full_disk_ends_everything_and_exits_0(disk: Callable[..., Disk], scene: Scene) -> None:
    made = disk()
    one = made.device
    pid = one.start(real=True)
    until(lambda: len(workers_of(pid)) == 1, 30, f"a worker\n{one.log}")
    made.fill()
    one.stop()
    made.free()
    one.start(announce=scene.envelope(2).hex())
    one.settle(2)


def test_errors_of_the_file_system_are_told_and_heal(device: Make, scene: Scene) -> None:
    """A directory that gives errors: here one that is no directory any more."""
    one = device(1)
    one.start(state="admitted", event="reserved", moment="before", announce=scene.envelope(2).hex())
    one.reach()
    aside = one.directory / "aside"
    (one.state / "blobs").rename(aside)
    (one.state / "blobs").write_text("not a directory")
    one.go_on()
    until(lambda: told(one).get("slots", [{}])[0].get("reasons"), 30, f"a reason\n{one.log}")
    assert one.active() == scene.digest(1)
    (one.state / "blobs").unlink()
    aside.rename(one.state / "blobs")
    one.settle(2)
    one.stop()
    one.require_sound()
    assert not one.condemned()


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [-20_000, -400, -1, 1, 400, 10_000])
def test_a_clock_that_jumps_condemns_nobody_and_what_runs_goes_on(days: int, device: Make, scene: Scene) -> None:
    """The shift is put into the agent's process, since nothing else may change the time of one process."""
    one = device(1)
    floors = one.floors()
    one.start(state="shadow", event="proven", moment="after", announce=scene.envelope(2).hex())
    one.reach()
    one.kill()
    pid = one.start(real=True, clock_seconds=days * DAY_SECONDS)
    until(lambda: workers_of(pid), 30, f"a worker\n{one.log}")
    until(lambda: told(one).get("slots", [{}])[0].get("active") in ("meter@1", "meter@2"), 30, "a release")
    if days > 100:
        assert told(one)["channels"]["staging"]["stale_since"]
    if days < -100:
        assert "behind" in told(one)["channels"]["staging"]["clock"]
    one.stop()
    one.require_sound()
    assert not one.condemned()
    one.start(announce=scene.envelope(2).hex())  # the clock is right again
    one.settle(2)
    one.stop()
    one.require_sound()
    assert all(one.floors()[key] >= value for key, value in floors.items())
