"""A device without a broker: nothing is opened, nothing piles up, and what is missing is said."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import TransportError
from edge_agent.transport.fetcher import Fetcher
from edge_agent.transport.unconnected import Nowhere, Unconnected


def test_it_never_connects_and_starts_no_thread() -> None:
    before = threading.active_count()
    with Unconnected("plant-d1") as client:
        client.subscribe(["a/topic"])
        assert (client.connected, client.condition, client.ask(["a/topic"])) == (False, "no broker configured", 0)
        assert threading.active_count() <= before
        client.unsubscribe(["a/topic"])


def test_what_is_said_is_refused_and_does_not_pile_up() -> None:
    with Unconnected("plant-d1") as client, pytest.raises(TransportError, match="has no broker"):
        client.publish("a/topic", b"x", retain=True)


def test_a_blob_that_was_not_imported_is_missed_at_once(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="edge-agent import DIR"):
        Fetcher(tmp_path, [Nowhere()]).fetch(BlobRef.of(b"x"))
