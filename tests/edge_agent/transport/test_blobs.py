from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import TransportError
from edge_agent.contract.messages import CHUNK_BYTES, Topics
from edge_agent.transport import blobs
from edge_agent.transport.backoff import Backoff
from edge_agent.transport.client import Client
from tests.simulators.broker import Mosquitto
from tests.simulators.waiting import until

Connect = Callable[..., Client]
DATA = os.urandom(3 * CHUNK_BYTES)


def test_what_is_on_the_broker_is_not_missing(url: str, connect: Connect, topics: Topics) -> None:
    client = connect(url)
    refs = []
    for data in (b"", b"x", DATA, bytes(1_000_000)):
        blobs.publish(client, topics, data)
        refs.append(BlobRef.of(data))
        assert not blobs.missing(client, topics, refs[-1])
    begun = time.monotonic()
    assert blobs.absent(client, topics, refs, timeout_seconds=30) == []
    assert blobs.absent(client, topics, [], timeout_seconds=30) == []
    assert time.monotonic() - begun < 25


def test_a_blob_without_its_first_or_last_chunk_is_missing(url: str, connect: Connect, topics: Topics) -> None:
    client, ref = connect(url), BlobRef.of(DATA)
    blobs.publish(client, topics, DATA)
    blobs.publish(client, topics, b"there")
    gone = BlobRef.of(b"never published")
    for index in (2, 0):
        client.publish(topics.chunk(ref.digest, index), b"", retain=True).wait(30)
        assert blobs.absent(client, topics, [ref, BlobRef.of(b"there"), gone], 0.3) == [ref, gone]


@pytest.mark.parametrize("junk", [b"junk", blobs.split(DATA[::-1])[2], blobs.split(DATA)[1]])
def test_a_last_chunk_that_does_not_belong_counts_as_missing(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, junk: bytes
) -> None:
    client, ref = connect(mosquitto.url), BlobRef.of(DATA)
    blobs.publish(client, topics, DATA)
    client.publish(topics.chunk(ref.digest, 2), junk, retain=True).wait(30)
    assert blobs.missing(client, topics, ref, 0.3)


def test_publishing_to_a_broker_that_refuses_is_an_error(connect: Connect, topics: Topics, tmp_path: Path) -> None:
    access = tmp_path / "acl"
    access.write_text("topic read #\n")
    access.chmod(0o644)
    with (
        Mosquitto(f"acl_file {access}") as broker,
        pytest.raises(TransportError, match=rf"{BlobRef.of(DATA).digest.hex}/0.*[Nn]ot authorized"),
    ):
        blobs.publish(connect(broker.url), topics, DATA)


def test_publishing_to_a_broker_with_too_small_packets_is_an_error(connect: Connect, topics: Topics) -> None:
    with Mosquitto("max_packet_size 50000") as broker, pytest.raises(TransportError, match="max_packet_size"):
        blobs.publish(connect(broker.url), topics, DATA)


def test_publishing_to_a_broker_that_is_gone_is_an_error(connect: Connect, topics: Topics) -> None:
    with Mosquitto() as broker:
        client = connect(broker.url)
        broker.kill()
        until(lambda: not client.connected)
        with pytest.raises(TransportError, match=rf"{client.address}.*not connected"):
            blobs.publish(client, topics, DATA, timeout_seconds=0.2)


def test_publishing_survives_a_restart_of_the_broker(connect: Connect, topics: Topics) -> None:
    data = os.urandom(60 * CHUNK_BYTES)
    with Mosquitto(persistent=True) as broker:
        client = connect(broker.url, backoff=Backoff(0.05, 0.2))
        published = [0]

        original = client.publish

        def publish(*arguments: object, **options: object) -> object:
            published[0] += 1
            if published[0] == 30:
                broker.restart()
            return original(*arguments, **options)  # type: ignore[arg-type]

        client.publish = publish  # type: ignore[assignment, method-assign]
        assert blobs.publish(client, topics, data) == sum(map(len, blobs.split(data)))
        assert not blobs.missing(client, topics, BlobRef.of(data))
