"""Blobs made of older ones: the delta, the hint about it, and what happens when either lies."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import TransportError, UpdateRejected
from edge_agent.contract.manifest import InputSpec, Manifest, OutputSpec, Stage
from edge_agent.contract.messages import WAYS_MAX, Topics, Way, Ways, decode_ways, encode_ways
from edge_agent.transport import blobs, child, landing, patching
from edge_agent.transport.client import Client
from edge_agent.transport.fetcher import Fetcher
from edge_agent.transport.patch import memory_bytes
from edge_agent.transport.patching import Hints, choose, patch, room
from edge_agent.transport.puller import Puller
from edge_agent.update.admission import SPACE_RESERVE_BYTES, space
from publisher.deltas import make
from tests.simulators.broker import Mosquitto
from tests.simulators.hostile import Tally, tallying
from tests.simulators.proxy import Proxy

OLD = random.Random(1).randbytes(300_000)
NEW = OLD[:100_000] + b"twenty lines" * 20 + OLD[100_100:]
OTHER = random.Random(2).randbytes(300_000)
Device = Callable[..., Fetcher]


@pytest.fixture(scope="module")
def delta() -> bytes:
    found = make(OLD, NEW)
    assert found is not None
    assert len(found) < 600
    return found


@pytest.fixture
def device(connect: Callable[..., Client], topics: Topics, tmp_path: Path) -> Device:
    """A device's fetcher, which has `OLD`."""

    def make_device(url: str, *has: bytes) -> Fetcher:
        found: list[Puller | Hints] = []
        client = connect(url, on_message=lambda *message: [one.on_message(*message) for one in found])
        puller, hints = Puller(client, topics, tmp_path / "blobs"), Hints(client, topics)
        found += [hints, puller]
        fetcher = Fetcher(tmp_path / "blobs", [puller], hints)
        for data in has:
            path = fetcher.path(BlobRef.of(data).digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return fetcher

    return make_device


def hint(client: Client, topics: Topics, target: bytes, *ways: tuple[bytes, bytes]) -> None:
    them = [Way(base=BlobRef.of(base).digest, delta=BlobRef.of(delta)) for base, delta in ways]
    message = encode_ways(Ways(format=1, ways=them))
    client.publish(topics.ways(BlobRef.of(target).digest), message, retain=True).wait(30)


def test_a_small_edit_travels_as_a_delta(
    mosquitto: Mosquitto,
    connect: Callable[..., Client],
    topics: Topics,
    device: Device,
    delta: bytes,
    tmp_path: Path,
) -> None:
    publisher, tally = connect(mosquitto.url), Tally()
    for data in (NEW, delta):
        blobs.publish(publisher, topics, data)
    hint(publisher, topics, NEW, (OTHER, b"a base that is not here"), (OLD, delta))
    with Proxy(mosquitto.port, shaper=tallying(tally)) as proxy:
        fetcher = device(proxy.url, OLD)
        assert fetcher.fetch(BlobRef.of(NEW)).read_bytes() == NEW
    assert sum(tally.bytes.values()) < 1200, tally.bytes
    assert fetcher.faults == {}
    assert not fetcher.path(BlobRef.of(delta).digest).exists(), "the delta is of no more use"
    assert not list((tmp_path / "blobs").rglob("*.new"))


LIES = {
    "no delta at all": b"hello, this is no zstd frame",
    "of other bytes": make(OLD, OLD[:-1000] + b"0123456789" * 100),
    "truncated": (make(OLD, NEW) or b"")[:-5],
    "endless": make(OLD, OLD * 4),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_delta_that_lies_costs_time_and_the_whole_blob_is_fetched(
    mosquitto: Mosquitto, connect: Callable[..., Client], topics: Topics, device: Device, tmp_path: Path, lie: str
) -> None:
    publisher, false = connect(mosquitto.url), LIES[lie] or b""
    for data in (NEW, false):
        blobs.publish(publisher, topics, data)
    hint(publisher, topics, NEW, (OLD, false))
    fetcher = device(mosquitto.url, OLD)
    assert fetcher.fetch(BlobRef.of(NEW)).read_bytes() == NEW
    assert BlobRef.of(NEW).digest.short in fetcher.faults["delta"]
    found = sorted(path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    assert found == sorted(BlobRef.of(data).digest.hex for data in (OLD, NEW))


def test_a_delta_never_takes_more_room_than_admission_has_set_aside(
    mosquitto: Mosquitto,
    connect: Callable[..., Client],
    topics: Topics,
    device: Device,
    delta: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Base, delta and result lie on the disk at once; looked at when the result is whole and the delta still there."""
    publisher, ref, used = connect(mosquitto.url), BlobRef.of(NEW), []

    def taken() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "blobs").rglob("*") if path.is_file())

    def settle(file: Path, target: Path) -> None:
        used.append(taken())
        landing.settle(file, target)

    monkeypatch.setattr(patching, "settle", settle)
    blobs.publish(publisher, topics, delta)
    hint(publisher, topics, NEW, (OLD, delta))
    fetcher = device(mosquitto.url, OLD)
    before = taken()
    fetcher.fetch(ref)
    assert used == [len(OLD) + len(delta) + len(NEW)]
    needs = Manifest(
        format=1,
        pipeline="p",
        stages=[Stage(name="s", target="m:C", fingerprint="f", state=ref)],
        input=InputSpec(columns=["x"]),
        output=OutputSpec(columns=["y"]),
    )
    free_bytes = used[0] - before + SPACE_RESERVE_BYTES
    assert space(needs, present={BlobRef.of(OLD).digest}, free_bytes=free_bytes) is not None, "laid out it needs more"
    assert space(needs, present=set(), free_bytes=2 * ref.size + SPACE_RESERVE_BYTES) is None
    assert used[0] - before <= 2 * ref.size


def test_a_delta_that_nobody_has_is_given_up_and_not_asked_for_again(
    mosquitto: Mosquitto,
    connect: Callable[..., Client],
    topics: Topics,
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge_agent.transport.fetcher.PATIENCE_SECONDS", 0.4)
    publisher = connect(mosquitto.url)
    blobs.publish(publisher, topics, NEW)
    hint(publisher, topics, NEW, (OLD, b"gone"))
    fetcher = device(mosquitto.url, OLD)
    path = fetcher.fetch(BlobRef.of(NEW))
    assert "missing on the broker" in fetcher.faults["delta"]
    fetcher._faults.clear()
    path.unlink()
    fetcher.fetch(BlobRef.of(NEW))
    assert fetcher.faults == {}


@pytest.mark.parametrize("message", [b"", b"rubbish", b"x" * 5000, encode_ways(Ways(format=9, ways=[]))])
def test_a_hint_that_cannot_be_read_changes_nothing(
    mosquitto: Mosquitto, connect: Callable[..., Client], topics: Topics, device: Device, message: bytes
) -> None:
    publisher = connect(mosquitto.url)
    blobs.publish(publisher, topics, NEW)
    publisher.publish(topics.ways(BlobRef.of(NEW).digest), message, retain=True).wait(30)
    assert device(mosquitto.url, OLD).fetch(BlobRef.of(NEW)).read_bytes() == NEW


def test_a_part_of_the_whole_that_is_here_is_resumed_instead(
    mosquitto: Mosquitto,
    connect: Callable[..., Client],
    topics: Topics,
    device: Device,
    delta: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher = connect(mosquitto.url)
    hint(publisher, topics, NEW, (OLD, delta))
    blobs.publish(publisher, topics, delta)
    messages = blobs.split(NEW)
    topic = topics.chunk(BlobRef.of(NEW).digest, 0)
    publisher.publish(topic, messages[0], retain=True).wait(30)
    fetcher = device(mosquitto.url)
    monkeypatch.setattr("edge_agent.transport.fetcher.PATIENCE_SECONDS_LAST", 0.5)
    with pytest.raises(TransportError, match=r"[45] of [56] chunks"):
        fetcher.fetch(BlobRef.of(NEW))
    base = fetcher.path(BlobRef.of(OLD).digest)
    base.parent.mkdir(exist_ok=True)
    base.write_bytes(OLD)
    blobs.publish(publisher, topics, NEW)
    tally = Tally()
    with Proxy(mosquitto.port, shaper=tallying(tally)) as proxy:
        assert device(proxy.url).fetch(BlobRef.of(NEW)).read_bytes() == NEW
    assert topic not in tally.chunks()
    assert len(tally.chunks()) == len(messages) - 1


def test_a_patch_that_is_stopped_leaves_nothing(tmp_path: Path, delta: bytes) -> None:
    old, difference, target = tmp_path / "old", tmp_path / "delta", tmp_path / "new"
    old.write_bytes(OLD)
    difference.write_bytes(delta)
    stop = threading.Event()
    stop.set()
    with pytest.raises(TransportError, match="stopped"):
        patch(BlobRef.of(NEW), old, difference, target, stop)
    stop.clear()
    with pytest.raises(UpdateRejected, match="makes other bytes"):
        patch(BlobRef.of(NEW[::-1]), old, difference, target, stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta", "old"]
    patch(BlobRef.of(NEW), old, difference, target, stop)
    assert target.read_bytes() == NEW


SMALL = OLD[:20_000]
SMALL_NEW = SMALL[:5_000] + b"twenty lines" * 20 + SMALL[5_100:]
NO_DELTA = {
    "no delta at all": (b"hello, this is no zstd frame", "does not unpack"),
    "truncated": ((make(SMALL, SMALL_NEW) or b"")[:-5], "in the middle of its zstd frame"),
    "endless": (make(SMALL, SMALL * 4) or b"", "more than 20140 bytes"),
    # RFC 8878, section 3.1.1: magic number, descriptor, a window of 2^27 bytes, and a last block of five as they are.
    "asking for much memory": (b"\x28\xb5\x2f\xfd" + b"\x00\x88" + b"\x29\x00\x00hello", "does not unpack"),
}


def test_small_blobs_are_patched_without_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "pieces", lambda *_, **__: pytest.fail("a process was started"))
    old, difference, target = tmp_path / "old", tmp_path / "delta", tmp_path / "new"
    old.write_bytes(SMALL)
    difference.write_bytes(make(SMALL, SMALL_NEW) or b"")
    patch(BlobRef.of(SMALL_NEW), old, difference, target, threading.Event())
    assert target.read_bytes() == SMALL_NEW
    with pytest.raises(UpdateRejected, match="makes other bytes"):
        patch(BlobRef.of(SMALL_NEW[::-1]), old, difference, tmp_path / "other", threading.Event())


@pytest.mark.parametrize("name", NO_DELTA)
def test_what_is_no_delta_of_a_small_blob_leaves_nothing(tmp_path: Path, name: str) -> None:
    lie, words = NO_DELTA[name]
    old, difference = tmp_path / "old", tmp_path / "delta"
    old.write_bytes(SMALL)
    difference.write_bytes(lie)
    with pytest.raises(TransportError, match=words):
        patch(BlobRef.of(SMALL_NEW), old, difference, tmp_path / "new", threading.Event())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta", "old"]


def test_without_memory_for_a_patch_there_is_none(
    tmp_path: Path, delta: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = memory_bytes(1000, 2000) + 32 * 1024 * 1024
    assert room(1000, 2000, f"MemTotal: 9 kB\nMemAvailable:  {need // 1024 + 1} kB\n")
    assert not room(1000, 2000, f"MemAvailable:  {need // 1024 - 1} kB\n")
    assert not room(1000, 2000, "")
    monkeypatch.setattr(patching, "room", lambda *_: False)
    old = tmp_path / "old"
    old.write_bytes(OLD)
    with pytest.raises(TransportError, match="not enough memory"):
        patch(BlobRef.of(NEW), old, old, tmp_path / "new", threading.Event())


def test_the_smallest_delta_whose_base_is_here_is_chosen(tmp_path: Path) -> None:
    ref = BlobRef.of(NEW)
    ways = [Way(base=BlobRef.of(bytes([n])).digest, delta=BlobRef.of(bytes(n + 1))) for n in range(5)]
    there = {ways[2].base, ways[3].base}
    (tmp_path / "there").touch()
    path = lambda digest: tmp_path / ("there" if digest in there else "gone")  # noqa: E731
    assert choose(ref, ways, path) is ways[2]
    assert choose(BlobRef.of(b"xyz"), ways, path) is None, "no smaller than the blob"
    assert choose(ref, [], path) is None


def test_a_hint_holds_a_bounded_number_of_ways() -> None:
    way = Way(base=BlobRef.of(OLD).digest, delta=BlobRef.of(NEW))
    assert len(decode_ways(encode_ways(Ways(format=1, ways=[way] * WAYS_MAX))).ways) == WAYS_MAX
    with pytest.raises(ValueError, match="not supported"):
        decode_ways(encode_ways(Ways(format=1, ways=[way] * (WAYS_MAX + 1))))
