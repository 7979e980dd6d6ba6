"""Brokers, fleets, and what a failing test shows: the logs of every process it started."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.simulators.broker import EXECUTABLE, Mosquitto
from tests.simulators.fleet import FleetSimulator
from tests.simulators.thrift import verifier_at_hand

FLEETS = pytest.StashKey[list[FleetSimulator]]()


def require_mosquitto() -> None:
    if not Path(EXECUTABLE).exists():
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")


@pytest.fixture(scope="module", autouse=True)
def publisher_verifies_at_hand() -> Iterator[None]:
    """The publisher that is played in this process; devices and commands verify in processes of their own."""
    with verifier_at_hand():
        yield


@pytest.fixture(scope="session")
def mosquitto_url() -> Iterator[str]:
    """One mosquitto for all tests that do not disturb it; every test has a fleet and devices of its own names."""
    require_mosquitto()
    with Mosquitto("set_tcp_nodelay true") as broker:
        yield broker.url


@pytest.fixture
def mosquitto() -> Iterator[Mosquitto]:
    """A mosquitto of one's own, to be stopped and killed; it keeps its state over a clean stop."""
    require_mosquitto()
    with Mosquitto("set_tcp_nodelay true", persistent=True) as broker:
        yield broker


@pytest.fixture
def found(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., FleetSimulator]]:
    """Found fleets that end with the test."""
    yield from _founder(request, tmp_path)


@pytest.fixture(scope="module")
def found_for_all(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., FleetSimulator]]:
    """Found fleets that end with the module."""
    yield from _founder(request, tmp_path_factory.mktemp("fleets"))


def _founder(request: pytest.FixtureRequest, directory: Path) -> Iterator[Callable[..., FleetSimulator]]:
    fleets = request.node.stash.setdefault(FLEETS, [])
    with ExitStack() as stack:

        def make(url: str, **options: Any) -> FleetSimulator:
            fleet = FleetSimulator(directory / f"fleet-{len(fleets) + 1}", url, **options)
            fleets.append(fleet)
            return stack.enter_context(fleet)

        yield make


@pytest.fixture
def fleet(found: Callable[..., FleetSimulator], mosquitto_url: str) -> FleetSimulator:
    """A fleet on mosquitto, with no device yet."""
    return found(mosquitto_url)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        for fleet in [one for node in item.listchain() for one in node.stash.get(FLEETS, [])]:
            for log in sorted(fleet.directory.glob("*/agent.log")) + sorted(fleet.directory.glob("*.log")):
                report.sections.append((f"{log.parent.name}/{log.name}", "\n".join(log.read_text().splitlines()[-60:])))
    return report
