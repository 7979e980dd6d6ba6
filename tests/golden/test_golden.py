"""What was written in an earlier format is read for ever, and says the same (F8)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_agent import Frame, Input, Output, Pipeline
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.manifest import encode_manifest, parse_manifest
from edge_agent.contract.messages import ChunkHeader, decode_envelope, decode_report, encode_envelope
from edge_agent.sdk import selftest, state
from edge_agent.sdk.pass_through import PassThrough
from edge_agent.transport.chunks import accept
from tests.golden import make

FORMAT_1 = Path(__file__).resolve().parent / "format_1"
# Digests of what devices hold: if one changes, their bytes are not what we think they are.
DIGESTS = {
    "bundle.whl": "afcee390bfa7",
    "chunk.bin": "e4a1db25a63d",
    "envelope.msgpack": "c9772e130565",
    "frame.msgpack": "17d2db63029b",
    "manifest.json": "b7f9560f5a53",
    "report.json": "21f35df698d8",
    "self_test.msgpack": "376631d0b30b",
    "state.msgpack": "a9a125436f46",
    "typed_frame.msgpack": "bf7484c19008",
    "typed_manifest.json": "03b3386e3a16",
}


def read(name: str) -> bytes:
    return (FORMAT_1 / name).read_bytes()


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_no_released_example_was_touched(name: str) -> None:
    assert Digest.of(read(name)).short == DIGESTS[name]


def test_every_example_is_guarded() -> None:
    assert {path.name for path in FORMAT_1.iterdir()} == set(DIGESTS)


def test_the_manifest_says_the_same_and_keeps_its_digest() -> None:
    assert parse_manifest(read("manifest.json")) == make.manifest()
    assert encode_manifest(make.manifest()) == read("manifest.json")


def test_a_manifest_without_dtypes_takes_numbers() -> None:
    spec = parse_manifest(read("manifest.json")).input
    assert (spec.typed, spec.dtype_of("x")) == (False, "float64")


def test_the_manifest_with_dtypes_says_the_same_and_keeps_its_digest() -> None:
    assert parse_manifest(read("typed_manifest.json")) == make.typed_manifest()
    assert encode_manifest(make.typed_manifest()) == read("typed_manifest.json")


def test_the_frame_of_every_dtype_is_read() -> None:
    frame, mine = Frame.from_bytes(read("typed_frame.msgpack")), make.typed_frame()
    assert frame.columns == mine.columns
    assert mine.to_bytes() == read("typed_frame.msgpack")
    (row,), (same,) = frame.values, mine.values
    assert [cell for cell in row if not isinstance(cell, np.ndarray)] == [0.5, 2**60, True, "é", {"k": [None, 1]}]
    assert np.array_equal(row[4], same[4])


def test_the_bundle_opens_and_is_built_the_same() -> None:
    bundle = read_bundle(read("bundle.whl"))
    assert (bundle.target, bundle.tag, bundle.members["gains.py"]) == ("gains:Gain", "py3-none-any", make.SOURCE)
    assert make.examples()["bundle.whl"] == read("bundle.whl")


def test_the_envelope_opens_and_is_encoded_the_same() -> None:
    envelope = decode_envelope(read("envelope.msgpack"))
    assert (envelope.fleet, envelope.channel) == ("f", "staging")
    assert envelope.metadata == {"1.root.json": b"{}"}
    assert encode_envelope(envelope) == read("envelope.msgpack")


def test_the_chunk_is_accepted_for_its_blob() -> None:
    header, payload = accept(BlobRef.of(b"golden" * 10), 0, read("chunk.bin"))
    assert isinstance(header, ChunkHeader)
    assert (header.index, header.count, len(payload)) == (0, 1, header.encoded_bytes)


def test_the_report_is_read() -> None:
    assert decode_report(read("report.json")) == make.report()


def test_the_state_is_restored() -> None:
    filter_ = make.Learned(scale=2.0)
    state.restore(filter_, read("state.msgpack"))
    assert filter_.fitted is not None
    assert filter_.fitted["mean"].tolist() == [0.0, 1.0, 2.0]
    assert {key: filter_.fitted[key] for key in ("names", "raw", "seen", "k")} == {
        "names": ("a", "b"),
        "raw": b"\x00\xff",
        "seen": {1, 2},
        "k": None,
    }


def test_the_self_test_and_the_frame_are_read() -> None:
    pipeline = Pipeline("golden", [PassThrough()], input=Input(["x"]), output=Output(["y"]))
    assert selftest.check(pipeline, read("self_test.msgpack")) == "4 rows in, 4 out, equal within 1e-04"
    frame = Frame.from_bytes(read("frame.msgpack"))
    assert np.array_equal(frame.values, np.arange(4.0).reshape(4, 1))
