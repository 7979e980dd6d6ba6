from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.messages import Topics
from edge_agent.transport.blobs import Puller
from edge_agent.transport.client import Client
from edge_agent.transport.fetcher import Fetcher
from edge_agent.transport.landing import disk, landed
from publisher.broker import EmbeddedBroker
from tests.simulators.broker import Mosquitto


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[Mosquitto]:
    with Mosquitto("set_tcp_nodelay true") as broker:
        yield broker


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A running broker of each kind."""
    with Mosquitto("set_tcp_nodelay true") if request.param == "mosquitto" else EmbeddedBroker() as broker:
        yield broker.url


@pytest.fixture
def topics() -> Topics:
    """A fleet of its own for each test: brokers are shared."""
    return Topics(f"f{uuid.uuid4().hex[:12]}")


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Start clients that are connected, and stopped after the test."""
    clients: list[Client] = []
    numbers = itertools.count()

    def make(url: str, client_id: str | None = None, *, wait: bool = True, **options: Any) -> Client:
        client = Client(url, client_id or f"c{next(numbers)}-{uuid.uuid4().hex[:8]}", **options)
        clients.append(client.start())
        if wait:
            client.wait_connected(30)
        return client

    yield make
    for client in clients:
        client.stop()


class Pulling(Puller):
    """A puller as the fetcher uses it: into the blob directory, and only for what is not there."""

    def get(self, ref: BlobRef, *, timeout_seconds: float = 60.0, stop: threading.Event | None = None) -> Path:
        target = Fetcher(self._directory, [self]).path(ref.digest)
        with disk(self._directory):
            if landed(target, ref):
                return target
        self.fetch(ref, target, timeout_seconds=timeout_seconds, stop=stop or threading.Event())
        return target


@pytest.fixture
def make_puller(connect: Callable[..., Client], topics: Topics, tmp_path: Path) -> Callable[..., Pulling]:
    """Make pullers into `tmp_path/blobs`, each with a client of its own."""

    def make(url: str, **options: Any) -> Pulling:
        pullers: list[Pulling] = []
        client = connect(url, on_message=lambda *message: [one.on_message(*message) for one in pullers], **options)
        pullers.append(Pulling(client, topics, tmp_path / "blobs"))
        return pullers[0]

    return make
