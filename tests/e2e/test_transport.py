"""What is pushed arrives: over lines that break, brokers that lie or forget, mirrors, and as deltas."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from edge_agent.contract.messages import CHUNK_BYTES
from tests.simulators import author
from tests.simulators import mirror as web
from tests.simulators.broker import Mosquitto
from tests.simulators.fleet import FleetSimulator
from tests.simulators.hostile import Hostile, Tally, hostile, tallying
from tests.simulators.mirror import WebMirror
from tests.simulators.proxy import Faults, Proxy
from tests.simulators.waiting import until

Found = Callable[..., FleetSimulator]


def heavy(fleet: FleetSimulator, size: int, factor: int = 3) -> str:
    """An author's module with a file of random bytes."""
    fleet.write("noise.bin", os.urandom(size))
    return fleet.write("heavy.py", author.heavy(factor, "noise.bin"))


def arrived(state: Path) -> int:
    """How many bytes of a blob on its way the device has."""
    return sum(path.stat().st_size for path in (state / "blobs" / "partial").glob("*.part"))


def test_20_mb_arrive_over_a_line_cut_every_second_and_an_agent_killed_without_a_chunk_twice(
    found: Found, mosquitto: Mosquitto
) -> None:
    fleet, tally = found(mosquitto.url), Tally()
    signed = fleet.sign(heavy(fleet, 20_000_000))
    fleet.send(signed)
    fleet.announce(signed.message)
    with Proxy(mosquitto.port, Faults(cut_seconds=1.0, bytes_per_second=6e6), shaper=tallying(tally)) as proxy:
        agent = fleet.agent(url=proxy.url, start=False).start(wait=False)
        fleet.feed(agent)
        until(lambda: arrived(agent.state) > 4_000_000, 30, "a part of the blob")
        agent.kill()
        agent.start(wait=False)
        until(lambda: agent.log.count("blob_fetched") + agent.log.count("from=fetching") > 0, 60, "the blob")
        assert proxy.ends["cut"] >= 3, "the line was not cut"
        proxy.faults = [Faults()]
        agent.until_active(signed.name, 30)
    chunks = tally.chunks()
    assert len(chunks) >= 20_000_000 // CHUNK_BYTES
    # What was in the killed agent's hands was delivered, and lost with it: a window at most.
    assert sum(n - 1 for n in chunks.values()) <= 32


def test_an_update_passes_through_a_hostile_broker_and_bad_lines(found: Found, mosquitto_url: str) -> None:
    """More seeds and lines, without agents: `tests/edge_agent/transport/test_bad_lines.py`."""
    fleet, how = found(mosquitto_url), Hostile(0, drop=0.15)
    port = int(mosquitto_url.rpartition(":")[2])
    faults = [Faults(cut_bytes=400_000), Faults(cut_seconds=1.5, bytes_per_second=4e6, jitter=0.3)]
    with Proxy(port, *faults, Faults(cut_seconds=4.0), shaper=hostile(how)) as proxy:
        agent = fleet.agent(url=proxy.url, start=False).start(wait=False)
        fleet.feed(agent)
        signed = fleet.release(heavy(fleet, 900_000))
        agent.until_active(signed.name, 60)
    assert how.did["dropped"] > 0
    assert how.did["repeated"] > 0


def test_a_broker_that_forgot_everything_is_healed_by_pushing_again(found: Found, mosquitto: Mosquitto) -> None:
    """Without persistence the retained chunks are gone: the device says what it misses, and runs on."""
    fleet = found(mosquitto.url)
    agent, counter = fleet.settled()
    target = heavy(fleet, 150_000)
    signed = fleet.sign(target)
    mosquitto.kill()
    mosquitto.start()
    fleet.announce(signed.message)
    agent.until_ended(signed.name, "fetching")
    counter.until_flows("meter@1")
    fleet.push(target)
    agent.until_active(fleet.channel.current()["meter"][1].name, 30)


def test_blobs_come_from_mirrors_in_their_order_and_a_bad_one_is_reported_by_name(
    found: Found, mosquitto_url: str
) -> None:
    """Nothing but the envelope goes over the broker; the publisher's record is a mirror as it is."""
    fleet = found(mosquitto_url)
    signed = fleet.sign(heavy(fleet, 150_000))
    objects = {
        f"/blob/{path.name[:2]}/{path.name}": path.read_bytes()
        for path in Path(fleet.home.record_location, "blob").rglob("*")
        if path.is_file()
    }
    assert len(objects) >= len(signed.blobs)
    with WebMirror(objects, web.wrong) as bad:
        agent = fleet.agent(start=False)
        sources = f'sources = ["{bad.url}", "file://{Path(fleet.home.record_location).absolute()}"]'
        agent.config.write_text(f"{agent.config.read_text()}\n[blobs]\n{sources}\n")
        agent.start()
        fleet.feed(agent)
        fleet.announce(signed.message)
        agent.until_active(signed.name)
        until(lambda: bad.url in fleet.report(agent).get("sources", {}), 30, "the mirror in the report")
        assert "sha256" in fleet.report(agent)["sources"][bad.url]


def test_a_push_of_twenty_changed_lines_travels_as_a_delta(found: Found, mosquitto_url: str) -> None:
    fleet, tally = found(mosquitto_url), Tally()
    port = int(mosquitto_url.rpartition(":")[2])
    fleet.write("table.py", "\n".join(f"V{n} = {random.Random(n).random()}" for n in range(2000)) + "\n")
    with Proxy(port, shaper=tallying(tally)) as proxy:
        agent = fleet.agent(url=proxy.url)
        fleet.feed(agent)
        agent.until_active(fleet.release(fleet.write("one.py", "import table\n" + author.scale(2))).name)
        assert sum(tally.bytes[topic] for topic in tally.chunks()) > 15_000
        tally.bytes.clear()
        again = ("import table\n" + author.scale(2)).replace("x * 2", "x * 3 + 0 * table.V7")
        result = fleet.push(fleet.write("one.py", again), wait=True)
        assert result.ending.value == "committed"
    assert sum(n for topic, n in tally.bytes.items() if "/blob/" in topic) < 1500, tally.bytes
    assert "blob_patched" in agent.log
