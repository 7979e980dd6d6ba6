"""Who can write to the broker can stop news, not change them: refused, told with a code, while the release runs on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.messages import CHUNK_HEADER, ChunkHeader, decode_envelope, encode_envelope
from edge_agent.transport import envelope
from tests.simulators import author
from tests.simulators.agents import AgentProcess, Counting
from tests.simulators.fleet import FleetSimulator, Signed
from tests.simulators.waiting import until


class Scene:
    """A device that runs `newest`, what an attacker has at hand, and how to found a fleet of their own."""

    def __init__(self, fleet: FleetSimulator, found: Callable[..., FleetSimulator]) -> None:
        self.fleet, self.found = fleet, found
        self.agent, self.counter = fleet.settled()
        self.newest = fleet.sign(fleet.write("second.py", author.scale(3)))
        self.older = self.newest
        self.push(self.newest)

    def push(self, signed: Signed) -> None:
        """Push a good release and see it committed."""
        self.older, self.newest = self.newest, signed
        self.fleet.send(signed)
        self.fleet.announce(signed.message)
        self.agent.until_active(signed.name)


@pytest.fixture(scope="module")
def scene(found_for_all: Callable[..., FleetSimulator], mosquitto_url: str) -> Scene:
    """One device for all attacks: it must stand them one after another."""
    scene = Scene(found_for_all(mosquitto_url), found_for_all)
    scene.push(scene.fleet.sign(scene.fleet.write("third.py", author.scale(4))))
    return scene


def truncated(scene: Scene) -> bytes:
    return scene.newest.message[:-100]


def garbage(scene: Scene) -> bytes:
    return os.urandom(5000)


def older(scene: Scene) -> bytes:
    return scene.older.message


def extended(scene: Scene) -> bytes:
    return scene.newest.message + b"more"


def unknown_format(scene: Scene) -> bytes:
    return _edited(scene.newest, format=99)


def other_manifest(scene: Scene) -> bytes:
    targets = dict(decode_envelope(scene.newest.published.envelope).targets)
    path = next(name for name in targets if name.startswith("release/"))
    targets[path] = targets[path].replace(b'"error_rate_max"', b'"error_rate_mix"').replace(b"0", b"1")
    return _edited(scene.newest, targets=targets)


def other_signature(scene: Scene) -> bytes:
    metadata = dict(decode_envelope(scene.newest.published.envelope).metadata)
    data = metadata["timestamp.json"]
    at = data.index(b'"sig":"') + 10
    metadata["timestamp.json"] = data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :]
    return _edited(scene.newest, metadata=metadata)


def other_fleet(scene: Scene) -> bytes:
    foreign = scene.found(scene.fleet.url)
    return foreign.sign(foreign.write("foreign.py", author.scale(9))).message


def other_keys(scene: Scene) -> bytes:
    """Somebody founded a fleet of the same name."""
    foreign = scene.found(scene.fleet.url, name=scene.fleet.home.fleet)
    return foreign.sign(foreign.write("foreign.py", author.scale(9))).message


def _edited(signed: Signed, **changes: Any) -> bytes:
    parts = decode_envelope(signed.published.envelope)
    return envelope.pack(encode_envelope(msgspec.structs.replace(parts, **changes)))


ATTACKS = {
    truncated: "malformed",
    garbage: "malformed",
    extended: "malformed",
    older: "older",
    unknown_format: "format",
    other_manifest: "signature",
    other_signature: "signature",
    other_fleet: "wrong_channel",
    other_keys: "signature",
}


@pytest.mark.parametrize(("attack", "code"), ATTACKS.items(), ids=[attack.__name__ for attack in ATTACKS])
def test_a_false_envelope_is_refused_and_reported_and_the_release_goes_on(
    scene: Scene, attack: Callable[[Scene], bytes], code: str
) -> None:
    fleet, agent, counter = scene.fleet, scene.agent, scene.counter
    runs, worker = scene.newest.name, agent.worker()
    deployments, refused = agent.deployments(), agent.log.count("trust refused")
    fleet.announce(attack(scene))
    until(lambda: agent.log.count("trust refused") > refused, 30, "the refusal")
    assert len(agent.until_refused(code)["message"]) > 20
    until(lambda: _codes_reported(fleet, agent) == {code}, 30, "the refusal in the report")
    counter.until_flows(runs)
    assert agent.worker() == worker, "the running release was disturbed"
    assert agent.deployments() == deployments
    scene.push(fleet.sign(fleet.write(f"after_{attack.__name__}.py", author.scale(5 + len(attack.__name__)))))
    counter.until_flows(scene.newest.name)
    assert (counter.told["repeated"], counter.told["redelivered"], counter.told["missing"][1:]) == (0, 0, [])


def _codes_reported(fleet: FleetSimulator, agent: AgentProcess) -> set[str]:
    return {one["code"] for one in fleet.report(agent)["channels"]["staging"].get("refused", [])}


def _slot_codes_reported(fleet: FleetSimulator, agent: AgentProcess) -> list[str]:
    """Return why the slot's newest release is not there, by the last report; one before it has no reasons at all."""
    return [one["code"] for one in fleet.report(agent)["slots"][0].get("reasons", [])]


def _require_whole(counter: Counting) -> None:
    count = counter.final()
    assert (count["lost"], count["repeated"], count["redelivered"]) == (0, 0, 0), count


def test_a_flipped_byte_in_any_chunk_is_refused_and_the_release_goes_on(fleet: FleetSimulator) -> None:
    """One release per chunk, so that no attempt waits for an earlier one's next try."""
    agent, counter = fleet.settled()
    worker = agent.worker()
    chunks = 3
    for broken in range(chunks):
        signed = fleet.sign(_heavy(fleet, f"noise-{broken}", broken))
        seen = _Seen(broken)
        fleet.send(signed, seen.flip)
        assert seen.chunks == chunks
        fleet.announce(signed.message)
        slot = agent.until_ended(signed.name, "deferred")
        assert [one["code"] for one in slot["reasons"]] == ["content"]
        assert slot["reasons"][0]["where"] == str(seen.digest)
        assert slot["reasons"][0]["blame"] == "environment"
        assert slot["active"] == "meter@1"
        counter.until_flows("meter@1", 5)
    assert agent.worker() == worker, "the running release was disturbed"
    until(lambda: _slot_codes_reported(fleet, agent) == ["content"], 30, "the report")
    good = fleet.release(_heavy(fleet, "noise-good", 7))
    agent.until_active(good.name)
    _require_whole(counter)


def test_a_blob_of_the_wrong_size_is_refused_and_taken_once_the_broker_has_the_right_one(fleet: FleetSimulator) -> None:
    agent, counter = fleet.settled()
    signed = fleet.sign(_heavy(fleet, "noise", 1))
    fleet.send(signed, _longer)
    fleet.announce(signed.message)
    slot = agent.until_ended(signed.name, "deferred")
    assert [one["code"] for one in slot["reasons"]] == ["size"]
    counter.until_flows("meter@1", 5)
    assert not any(path.is_file() and path.stat().st_size > 150_000 for path in (agent.state / "blobs").rglob("*"))
    fleet.send(signed)
    agent.until_active(signed.name)
    _require_whole(counter)


def _heavy(fleet: FleetSimulator, name: str, factor: float) -> str:
    """An author's module with a file that does not compress: its bundle is cut into three chunks."""
    fleet.write(f"{name}.bin", os.urandom(150_000))
    return fleet.write(f"{Path(name).name.replace('-', '_')}.py", author.heavy(factor + 3, f"{name}.bin"))


class _Seen:
    """Flips one byte in the middle of chunk `broken` of the blob that has several."""

    def __init__(self, broken: int) -> None:
        self.broken, self.chunks = broken, 0
        self.digest: Digest | None = None

    def flip(self, ref: BlobRef, index: int, message: bytes) -> bytes:
        header, payload = ChunkHeader.split(message)
        if header.count == 1:
            return message
        self.chunks, self.digest = header.count, ref.digest
        if index != self.broken:
            return message
        at = CHUNK_HEADER.size + len(payload) // 2
        return message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]


def _longer(ref: BlobRef, index: int, message: bytes) -> bytes:
    """Announce ten bytes more than the manifest says, consistently in every chunk."""
    if ref.size < 150_000:
        return message
    header, payload = ChunkHeader.split(message)
    whole = ChunkHeader(0, index, header.count, ref.size + 10, header.stream)
    filled = bytes(payload) if index < header.count - 1 else bytes(ref.size + 10 - 60_000 * (header.count - 1))
    return whole.pack() + filled
