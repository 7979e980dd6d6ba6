"""An input spool between real peers: a mosquitto at QoS 1, and a disk that is full."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.config import Config, load
from edge_agent.runtime.detour import State
from edge_agent.runtime.overflow import DroppingSource
from edge_agent.runtime.ports import Source
from edge_agent.runtime.sources import open_source
from edge_agent.runtime.spooling import SpoolingSource
from edge_agent.spools import open_spool
from edge_agent.trails import first_sequence
from tests.simulators.broker import Mosquitto
from tests.simulators.peer import Peer
from tests.simulators.pump import pump

MQTT = 'source = "mqtt"\ntopic = "in/a"\ncolumns = {x = "x"}\n'


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with Mosquitto("max_inflight_messages 50") as running:
        yield running


def configured(directory: Path, url: str, policy: str) -> Config:
    (directory / "root.json").touch()
    path = directory / "agent.toml"
    path.write_text(
        f'[device]\nid = "{directory.name.replace("_", "-")[:40]}"\nfleet = "f"\nstate = "state"\n'
        f'[broker]\nurl = "{url}"\n[channel.c]\nroot = "root.json"\n'
        f'[slot.s]\nchannel = "c"\n[slot.s.input]\n{MQTT}{policy}\n[slot.s.output]\nsink = "jsonl"\npath = "o.jsonl"\n'
    )
    return load(path)


def opened(config: Config) -> Source:
    """Open the source as the agent does after a kill, with a trail that the disk refused."""
    spool = open_spool(config, "s", None)
    start = first_sequence(config.slot["s"], 1, None, None, spool)
    marks = spool.marks if spool is not None else ()
    return open_source(config, "s", start_sequence=start, answered=marks, spool=spool)


def spooling(config: Config) -> SpoolingSource:
    source = opened(config)
    assert isinstance(source, SpoolingSource)
    return source


def connected(source: Source) -> None:
    pump(source, until=lambda: not source.problem)


def drained(source: Source, count: int) -> list[int]:
    """Take and acknowledge `count` samples; return their values."""
    found: list[int] = []

    def done() -> bool:
        samples = source.take(64)
        if samples is not None:
            found.extend(int(value) for value in samples.values)
            source.acknowledge(samples.rows)
        return len(found) >= count

    pump(source, until=done)
    return found


def test_at_qos_1_more_than_the_broker_gives_at_once_goes_to_disk_and_comes_out_once(
    tmp_path: Path, broker: Mosquitto
) -> None:
    config = configured(tmp_path, broker.url, 'overflow = "spool"')
    source = spooling(config)
    connected(source)
    with Peer(broker.port, name=tmp_path.name) as peer:
        peer.publish_all("in/a", [{"x": number} for number in range(300)])
        pump(source, until=lambda: source.spooled == 300)
        source.inner.close()  # what is on disk stays there, and nothing else is done: as after a kill
        again = spooling(config)
        peer.publish_all("in/a", [{"x": number} for number in range(300, 320)])
        assert drained(again, 320) == list(range(320))
        pump(again, until=lambda: again.state is State.DIRECT)
        again.close()
    last = opened(config)
    connected(last)
    assert last.take(10) is None, "everything was acknowledged"
    last.close()


def test_at_qos_1_what_is_not_on_disk_is_not_acknowledged(tmp_path: Path, broker: Mosquitto) -> None:
    config = configured(tmp_path, broker.url, 'overflow = "spool"')
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "inputs").write_text("no directory can be made here")
    source = spooling(config)
    connected(source)
    with Peer(broker.port, name=tmp_path.name) as peer:
        peer.publish_all("in/a", [{"x": number} for number in range(30)])
        pump(source, until=lambda: "input spool" in source.problem and source.waiting == 30)
        source.inner.close()
        (tmp_path / "state" / "inputs").unlink()
        again = opened(config)
        assert drained(again, 30) == list(range(30))
        again.close()


def test_a_queue_of_the_newest_over_a_real_broker(tmp_path: Path, broker: Mosquitto) -> None:
    source = opened(configured(tmp_path, broker.url, 'overflow = "drop_oldest"\nqueue_rows = 16\nqos = 0'))
    assert isinstance(source, DroppingSource)
    connected(source)
    with Peer(broker.port, name=tmp_path.name) as peer:
        peer.publish_all("in/a", [{"x": number} for number in range(200)])
        pump(source, until=lambda: source.waiting + source.dropped == 200)
    assert drained(source, 16) == list(range(184, 200))
    source.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB, for which one has to be root."""
    place = tmp_path / "state"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "fieldcast-test", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_makes_the_broker_wait_and_heals(tmp_path: Path, small_disk: Path, broker: Mosquitto) -> None:
    source = spooling(configured(tmp_path, broker.url, 'overflow = "spool"\nspool_mb = 2'))
    connected(source)
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(1 << 20))
    with Peer(broker.port, name=tmp_path.name) as peer:
        peer.publish_all("in/a", [{"x": number} for number in range(200)])
        pump(source, until=lambda: "would stay free" in source.problem)
        assert source.spooled == 0
        (small_disk / "ballast").unlink()
        pump(source, until=lambda: source.spooled == 200)
        assert not source.problem
    assert drained(source, 200) == list(range(200))
    source.close()
