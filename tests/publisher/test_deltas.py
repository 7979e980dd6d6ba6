"""Which deltas are made: between blobs that belong together, and only where they save something."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import StoreError
from edge_agent.contract.manifest import InputSpec, Manifest, ModelRef, OutputSpec, Stage, encode_manifest
from publisher import deltas as module
from publisher.deltas import bases, deltas, make, pairs
from publisher.founding import init
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.repository import Channel

NOISE = random.Random(1).randbytes(200_000)


def ref(data: bytes) -> BlobRef:
    return BlobRef.of(data)


def stage(name: str, *, state: bytes = b"", model: bytes = b"") -> Stage:
    return Stage(
        name=name,
        target="edge_agent.sdk.window:Window",
        fingerprint="builtin:x",
        state=ref(state) if state else None,
        models={"path": ModelRef(blob=ref(model), name="m.bin")} if model else {},
    )


def manifest(*stages: Stage, self_test: bytes = b"") -> Manifest:
    more: dict[str, Any] = {"self_test": ref(self_test)} if self_test else {}
    spec = {"input": InputSpec(columns=["x"]), "output": OutputSpec(columns=["y"])}
    return Manifest(format=1, pipeline="p", stages=list(stages), **spec, **more)


@pytest.mark.parametrize(
    ("old", "new", "worth"),
    [
        (NOISE, NOISE[:-50] + b"x" * 50, True),
        (NOISE, NOISE[50:], True),
        (NOISE * 2, NOISE + b"inserted" + NOISE, True),
        (NOISE, NOISE[::-1], False),
        (NOISE, NOISE[:100_000] + NOISE[:100_000:-1], True),
        (NOISE, NOISE[:70_000] + NOISE[:70_000:-1], False),
        (NOISE, b"short", False),
        (b"", NOISE, False),
        (NOISE, b"a" * 100_000, False),
    ],
)
def test_a_delta_is_made_where_it_is_clearly_smaller_than_the_compressed_whole(
    old: bytes, new: bytes, worth: bool
) -> None:
    found = make(old, new)
    assert (found is not None) == worth


def test_a_large_blob_with_scattered_edits_stays_small() -> None:
    old = bytearray(random.Random(2).randbytes(4_000_000))
    new = bytearray(old)
    for place in random.Random(3).sample(range(0, len(new), 4), len(new) // 400):
        new[place] ^= 0xFF
    found = make(bytes(old), bytes(new))
    assert found is not None
    assert len(found) < 0.025 * len(new)


def test_blobs_belong_together_by_stage_and_role() -> None:
    old = manifest(stage("a", state=b"a1", model=b"m1"), stage("b", state=b"b1"), self_test=b"t1")
    new = manifest(
        stage("a", state=b"a2", model=b"m1"), stage("c", state=b"b1"), stage("b", state=b"b2"), self_test=b"t2"
    )
    assert list(pairs(old, new)) == [(ref(b"a1"), ref(b"a2")), (ref(b"b1"), ref(b"b2")), (ref(b"t1"), ref(b"t2"))]
    assert list(pairs(new, new)) == []


def test_each_pair_is_made_once_and_what_the_record_lost_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {ref(data): data for data in (NOISE, NOISE[:-9] + b"different", NOISE[9:])}
    one, two, new = (manifest(stage("a", model=data)) for data in there.values())
    lost = manifest(stage("a", model=b"lost"))

    def read(wanted: BlobRef) -> bytes:
        if wanted not in there:
            raise StoreError("gone")
        return there[wanted]

    found = deltas(new, [one, lost, two, one], read)
    assert [delta.base for delta in found] == [ref(NOISE).digest, ref(NOISE[:-9] + b"different").digest]
    assert {delta.target for delta in found} == {ref(NOISE[9:])}
    monkeypatch.setattr(module, "WORK_BYTES_MAX", 500_000)
    assert len(deltas(new, [one, two], read)) == 1


def test_bases_are_what_most_devices_run_then_what_is_offered(tmp_path: Path) -> None:
    home = init("plant", "mqtt://127.0.0.1", passphrase="secret", channels=["staging"], home=tmp_path / "home")
    channel = Channel(Record(home.record_location), home.fleet, "staging")
    made = [manifest(stage(f"s{number}")) for number in range(3)]
    for one in made:
        channel.publish(encode_manifest(one), pipeline="p", keys=KeyStore(home.keys), passphrase="secret")
    digests = [str(ref(encode_manifest(one)).digest) for one in made]
    unknown = str(ref(b"never signed").digest)
    assert bases(channel, "p", []) == [made[2], made[1]]
    assert bases(channel, "p", [digests[1], digests[0], "rubbish", unknown, digests[0]]) == [made[0], made[1], made[2]]
    assert bases(channel, "other", digests) == []
