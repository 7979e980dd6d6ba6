"""A channel that needs two people: what one has pushed reaches the devices once the other has signed it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.simulators import author
from tests.simulators.fleet import FleetSimulator


def test_a_push_under_a_threshold_of_two_is_committed_once_the_second_has_signed(fleet: FleetSimulator) -> None:
    agent, counter = fleet.settled()
    added = fleet.publisher("key", "add", "staging", "release", "second", "--threshold", "2")
    assert (added.returncode, added.stdout) == (0, "published and announced\n"), added.stderr
    second = _workstation(fleet, "second")

    fleet.write("two.py", author.scale(3))
    pushed = fleet.publisher("push", "two.py", "-c", "staging", "--wait", "-m", "warmer")
    assert pushed.returncode == 7, pushed.stderr
    assert "1 more of second" in pushed.stderr
    assert "`publisher key sign staging`" in pushed.stderr
    assert "Traceback" not in pushed.stderr
    assert fleet.channel.releases()[-1].name == "meter@1"

    # What is announced meanwhile is the refreshed state from before: the pending release is in nobody's envelope.
    assert fleet.publisher("refresh").returncode == 0
    agent.until_active("meter@1")
    counter.until_flows("meter@1")

    signed = fleet.publisher("key", "sign", "staging", "--yes", "--home", str(second))
    assert signed.returncode == 0, signed.stderr
    assert "release meter@2: manifest sha256:" in signed.stdout
    assert "'warmer'" in signed.stdout
    assert signed.stdout.endswith("published and announced\n")
    agent.until_active("meter@2")
    counter.until_flows("meter@2")
    assert counter.final()["lost"] == 0


def _workstation(fleet: FleetSimulator, key: str) -> Path:
    """Set up a second workstation on the same record, which holds `key` alone and copies of the online keys."""
    first, place = fleet.home.path, fleet.directory / "second"
    (place / "keys").mkdir(parents=True, mode=0o700)
    text = (first / "publisher.toml").read_text()
    (place / "publisher.toml").write_text(text.replace('record = "record"', f'record = "{first / "record"}"'))
    shutil.copy(first / "keys" / "staging.root.json", place / "keys")
    shutil.move(first / "keys" / f"{key}.pem", place / "keys")
    for role in ("snapshot", "timestamp"):
        shutil.copy(first / "keys" / f"staging-{role}.pem", place / "keys")
    return place
