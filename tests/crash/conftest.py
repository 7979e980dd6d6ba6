"""One forking process and one set of releases for all kills of a test process; how many there were is printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.device import Device, Scene, Wrapped
from tests.crash.points import ALL, CHOSEN, SEED


@pytest.fixture(scope="session")
def wrapped() -> Iterator[Wrapped]:
    with Wrapped() as process:
        yield process


@pytest.fixture(scope="session")
def scene(wrapped: Wrapped, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    made = Scene(tmp_path_factory.mktemp("scene"))
    made.prepare(wrapped)
    return made


@pytest.fixture
def device(wrapped: Wrapped, scene: Scene, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Make devices that end with the test."""
    made: list[Device] = []

    def make(committed: int = 1, directory: Path | None = None) -> Device:
        made.append(Device(scene, wrapped, directory or tmp_path / f"device{len(made)}", committed))
        return made[-1]

    yield make
    for one in made:
        one.kill()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    run = [report for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
           if "test_every_row.py::test_killed_at" in report.nodeid and report.when == "call"]  # fmt: skip
    if run:
        terminalreporter.write_line(
            f"crash points: {len(ALL)} in the tables, {len(CHOSEN)} chosen (FIELDCAST_SEED={SEED}), {len(run)} killed"
        )
