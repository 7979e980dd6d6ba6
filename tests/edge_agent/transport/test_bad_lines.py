"""Blobs over lines that break: counted by the proxy in between, never by the code under test."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.messages import CHUNK_BYTES, Topics
from edge_agent.transport import blobs, puller
from edge_agent.transport.backoff import Backoff
from edge_agent.transport.client import Client
from edge_agent.transport.pace import Pace
from tests.edge_agent.transport.conftest import Pulling
from tests.simulators.broker import Mosquitto
from tests.simulators.hostile import Hostile, Tally, hostile, tallying
from tests.simulators.proxy import Faults, Proxy

Connect = Callable[..., Client]


@pytest.fixture
def pull(connect: Connect, topics: Topics, tmp_path: Path) -> Callable[..., Pulling]:
    """Make a puller that reaches its broker through a proxy."""

    def make(proxy: Proxy, pace: Pace | None = None, **options: object) -> Pulling:
        found: list[Pulling] = []
        client = connect(proxy.url, on_message=lambda *message: found[0].on_message(*message), wait=False, **options)
        found.append(Pulling(client, topics, tmp_path / "blobs", pace=pace))
        client.wait_connected(30)
        return found[0]

    return make


def test_a_line_cut_again_and_again_brings_no_chunk_twice(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, pull: Callable[..., Pulling]
) -> None:
    """20 MB through cuts and a killed agent: `tests/e2e/test_transport.py`."""
    data, tally = random.Random(5).randbytes(6_000_000), Tally()
    blobs.publish(connect(mosquitto.url), topics, data)
    faults = Faults(cut_seconds=0.4, bytes_per_second=4e6)
    with Proxy(mosquitto.port, faults, shaper=tallying(tally)) as proxy:
        source = pull(proxy, backoff=Backoff(0.05, 0.2))
        assert source.get(BlobRef.of(data), timeout_seconds=30).read_bytes() == data
        assert proxy.ends["cut"] >= 3, "the line was not cut"
    chunks = tally.chunks()
    assert len(chunks) == -(-len(data) // CHUNK_BYTES)
    assert {topic: n for topic, n in chunks.items() if n > 1} == {}


BAD_LINES = [
    Faults(cut_bytes=700_000, delay_seconds=0.005),
    Faults(silent_seconds=0.3, cut_seconds=0.9, bytes_per_second=3e6),
    Faults(cut_seconds=0.5, bytes_per_second=2e6),
]


@pytest.mark.parametrize("seed", range(2))
def test_a_blob_passes_through_a_hostile_broker_and_a_bad_line(
    mosquitto: Mosquitto,
    connect: Connect,
    topics: Topics,
    pull: Callable[..., Pulling],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    monkeypatch.setattr(puller, "ASK_AGAIN_SECONDS", 0.3)
    data, how = random.Random(seed).randbytes(40 * CHUNK_BYTES + seed), Hostile(seed)
    blobs.publish(connect(mosquitto.url), topics, data)
    with Proxy(mosquitto.port, *BAD_LINES, Faults(), seed=seed, shaper=hostile(how)) as proxy:
        source = pull(proxy, backoff=Backoff(0.05, 0.2))
        assert source.get(BlobRef.of(data), timeout_seconds=30).read_bytes() == data
    assert how.did["dropped"] > 0
    assert how.did["repeated"] > 0
    assert how.did["reordered"] > 0


def test_a_line_that_falls_silent_is_left_and_the_rest_comes_over_the_next(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, pull: Callable[..., Pulling]
) -> None:
    """Half open: nothing comes, nothing closes; only the keep-alive finds out."""
    data = random.Random(9).randbytes(30 * CHUNK_BYTES)
    blobs.publish(connect(mosquitto.url), topics, data)
    with Proxy(mosquitto.port, Faults(silent_seconds=0.3, bytes_per_second=2e6), Faults()) as proxy:
        source = pull(proxy, backoff=Backoff(0.05, 0.2), keep_alive_seconds=1)
        assert source.get(BlobRef.of(data), timeout_seconds=30).read_bytes() == data
        assert proxy.connections >= 2


def test_the_limit_holds_for_what_crosses_the_wire(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, pull: Callable[..., Pulling]
) -> None:
    data, limit = random.Random(3).randbytes(900_000), 600_000
    blobs.publish(connect(mosquitto.url), topics, data)
    with Proxy(mosquitto.port) as proxy:
        source = pull(proxy, Pace(limit))
        before, begun = proxy.down_bytes, time.monotonic()
        source.get(BlobRef.of(data), timeout_seconds=30)
        rate = (proxy.down_bytes - before) / (time.monotonic() - begun)
    assert rate < 1.3 * limit


def test_a_client_whose_line_brings_much_comes_back_soon(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, pull: Callable[..., Pulling]
) -> None:
    """The wait does not grow with every cut while data come."""
    data = random.Random(4).randbytes(4_000_000)
    blobs.publish(connect(mosquitto.url), topics, data)
    with Proxy(mosquitto.port, Faults(cut_bytes=500_000)) as proxy:
        source = pull(proxy, backoff=Backoff(0.5, 60.0, rng=random.Random(1)))
        begun = time.monotonic()
        assert source.get(BlobRef.of(data), timeout_seconds=30).read_bytes() == data
        assert proxy.ends["truncated"] >= 8
    assert time.monotonic() - begun < 25
