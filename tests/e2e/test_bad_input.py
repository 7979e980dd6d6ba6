"""What cannot be done is one clear line and an exit code that is not 0, and nothing is half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulators import author
from tests.simulators.broker import free_port
from tests.simulators.fleet import FleetSimulator

REFUSED = {
    "unknown target": (["nothing.py", "-c", "staging"], 1, "nothing.py"),
    "unknown attribute": (["good.py:pipelin", "-c", "staging"], 1, "pipeline"),
    "unknown channel": (["good.py", "-c", "stagin"], 2, "staging"),
    "class without source": (["sourceless.py", "-c", "staging"], 1, "Made"),
    "failing self-test": (["failing.py", "-c", "staging"], 1, "ZeroDivisionError"),
}


@pytest.fixture(scope="module")
def workshop(found_for_all: Callable[..., FleetSimulator], mosquitto_url: str) -> FleetSimulator:
    fleet = found_for_all(mosquitto_url)
    fleet.write("good.py", author.scale(2))
    fleet.write(
        "failing.py", author.module("class Fails(Filter):\n    def predict(self, x):\n        1 / 0", "Fails()")
    )
    made = "made = {'Filter': Filter, '__name__': 'nowhere'}\nexec('class Made(Filter): pass', made)"
    fleet.write("sourceless.py", author.module(made, "made['Made']()"))
    return fleet


@pytest.mark.parametrize(("arguments", "code", "word"), REFUSED.values(), ids=REFUSED)
def test_a_push_that_cannot_be_is_one_line_and_signs_nothing(
    workshop: FleetSimulator, arguments: list[str], code: int, word: str
) -> None:
    before = _files(workshop.directory)
    done = workshop.publisher("push", *arguments)
    assert done.returncode == code, done.stderr
    assert word in done.stderr
    assert _complaint(done.stderr).startswith("publisher: ")
    assert _files(workshop.directory) == before
    assert not workshop.retained(workshop.topics.trust("staging"), 0.3)


def test_a_wrong_passphrase_is_one_line_and_signs_nothing(workshop: FleetSimulator) -> None:
    before = _files(workshop.directory)
    done = workshop.publisher("push", "good.py", "-c", "staging", passphrase="guessed")
    assert done.returncode in (1, 2), done.stderr
    assert "passphrase" in _complaint(done.stderr)
    assert _files(workshop.directory) == before


def test_an_unreachable_broker_is_one_line_that_names_it_and_signs_nothing(
    found: Callable[..., FleetSimulator],
) -> None:
    address = f"127.0.0.1:{free_port()}"
    fleet = found(f"mqtt://{address}")
    fleet.write("good.py", author.scale(2))
    before = _files(fleet.directory)
    done = fleet.publisher("push", "good.py", "-c", "staging")
    assert done.returncode == 6, done.stderr
    assert address in _complaint(done.stderr)
    assert _files(fleet.directory) == before


def test_a_configuration_with_wrong_keys_and_types_starts_no_agent(workshop: FleetSimulator) -> None:
    agent = workshop.agent(start=False)
    text = agent.config.read_text()
    agent.config.write_text(text.replace('fleet = "', 'flet = "').replace('sequence = "id"', "sequence = 7"))
    done = agent.cli("run")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "device.flet" in done.stderr
    assert "did you mean fleet" in done.stderr.replace("'", "")
    assert "slot.meter.input.sequence" in done.stderr
    assert not agent.state.exists()


def _complaint(stderr: str) -> str:
    """Return the one line that is no progress; progress is indented, a preflight's traceback follows it."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith(" ")]
    lines = lines[: next((at for at, line in enumerate(lines) if line.startswith("Traceback")), len(lines))]
    assert len(lines) == 1, stderr
    return lines[0]


def _files(directory: Path) -> dict[Path, bytes]:
    """Return all that could be half-written, but for what Python itself caches."""
    return {
        path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
