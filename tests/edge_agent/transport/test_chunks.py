from __future__ import annotations

import hashlib
import os
import random
import tracemalloc

import pytest
from backports.zstd import CompressionParameter, compress
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import Blame, ReasonCode, UpdateRejected
from edge_agent.contract.messages import CHUNK_BYTES, CHUNK_HEADER, RAW, ZSTD, ChunkHeader
from edge_agent.transport.chunks import Progress, accept, count_max, decode, split

MB = 1024 * 1024


def joined(data: bytes) -> bytes:
    ref = BlobRef.of(data)
    accepted = [accept(ref, index, message) for index, message in enumerate(split(data))]
    return b"".join(decode(ref, accepted[0][0].encoding, (bytes(payload) for _, payload in accepted)))


@pytest.mark.parametrize("size", [0, 1, 59_999, 60_000, 60_001, 120_000, 1_000_003])
@pytest.mark.parametrize("kind", ["random", "repeating"])
def test_a_blob_survives_being_cut_and_joined(size: int, kind: str) -> None:
    data = os.urandom(size) if kind == "random" else (b"fieldcast" * (size // 9 + 1))[:size]
    assert joined(data) == data
    messages = split(data)
    assert all(len(message) <= CHUNK_BYTES + CHUNK_HEADER.size for message in messages)
    assert len(messages) <= count_max(size)


@given(st.binary(max_size=3000), st.integers(0, 200))
def test_any_bytes_survive(data: bytes, repeats: int) -> None:
    assert joined(data * repeats) == data * repeats


def test_only_what_shrinks_is_compressed() -> None:
    assert ChunkHeader.split(split(os.urandom(1000))[0])[0].encoding == RAW
    assert ChunkHeader.split(split(bytes(1000))[0])[0].encoding == ZSTD


def reason_of(error: pytest.ExceptionInfo[UpdateRejected]) -> ReasonCode:
    (reason,) = error.value.reasons
    assert reason.blame is Blame.ENVIRONMENT
    return reason.code


RANDOM = random.Random(7).randbytes(150_000)
REF = BlobRef.of(RANDOM)
CHUNKS = split(RANDOM)


def lie(message: bytes, **change: int) -> bytes:
    header, payload = ChunkHeader.split(message)
    fields = {"encoding": header.encoding, "index": header.index, "count": header.count, "bytes": header.encoded_bytes}
    fields |= change
    return CHUNK_HEADER.pack(
        0xFC, fields["encoding"], 0, fields["index"], fields["count"], fields["bytes"], header.stream
    ) + bytes(payload)


DAMAGED = {
    "empty": (b"", ReasonCode.CONTENT),
    "shorter than a header": (CHUNKS[1][:20], ReasonCode.CONTENT),
    "truncated": (CHUNKS[1][:-1], ReasonCode.CONTENT),
    "lengthened": (CHUNKS[1] + b"x", ReasonCode.CONTENT),
    "not a chunk": (os.urandom(60_028), ReasonCode.CONTENT),
    "another chunk": (CHUNKS[0], ReasonCode.CONTENT),
    "unknown encoding": (lie(CHUNKS[1], encoding=9), ReasonCode.CONTENT),
    "index past count": (lie(CHUNKS[1], index=3), ReasonCode.CONTENT),
    "no chunks": (lie(CHUNKS[1], count=0), ReasonCode.CONTENT),
    "count against size": (lie(CHUNKS[1], count=2), ReasonCode.CONTENT),
    "larger than pinned": (lie(CHUNKS[1], count=4, bytes=200_000), ReasonCode.SIZE),
    "smaller than pinned": (lie(CHUNKS[1], bytes=149_999), ReasonCode.SIZE),
    "huge": (lie(CHUNKS[1], count=2**32 - 1, bytes=(2**32 - 1) * CHUNK_BYTES), ReasonCode.SIZE),
    "compressed, yet not smaller": (lie(CHUNKS[1], encoding=ZSTD), ReasonCode.SIZE),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_chunk_that_cannot_belong_to_the_blob_is_refused_by_name(case: str) -> None:
    message, code = DAMAGED[case]
    with pytest.raises(UpdateRejected, match=REF.digest.short) as caught:
        accept(REF, 1, message)
    assert reason_of(caught) is code


def test_a_bomb_is_stopped_at_the_pinned_size() -> None:
    bomb = compress(bytes(512 * MB), level=1)
    ref = BlobRef(digest=REF.digest, size=1000)
    tracemalloc.start()
    with pytest.raises(UpdateRejected, match="more than the 1000") as caught:
        list(decode(ref, ZSTD, [bomb]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason_of(caught) is ReasonCode.SIZE
    assert peak < 16 * MB


GREEDY = compress(
    bytes(100_000), options={CompressionParameter.window_log: 27, CompressionParameter.enable_long_distance_matching: 1}
)
FRAME = compress(bytes(100_000))
UNPACKABLE = {
    "no frame": [b"garbage, not zstd"],
    "truncated frame": [FRAME[:-3]],
    "two frames": [FRAME + compress(b"x")],
    "bytes after the frame": [FRAME, b"x"],
    "nothing": [b""],
}


@pytest.mark.parametrize("case", UNPACKABLE)
def test_what_is_no_single_whole_frame_is_refused(case: str) -> None:
    with pytest.raises(UpdateRejected) as caught:
        list(decode(BlobRef(digest=REF.digest, size=100_000), ZSTD, UNPACKABLE[case]))
    assert reason_of(caught) is ReasonCode.CONTENT


def test_a_frame_that_wants_too_much_memory_is_refused() -> None:
    data = os.urandom(16) * (20 * MB // 16)
    greedy = compress(data, options={CompressionParameter.window_log: 27, CompressionParameter.content_size_flag: 0})
    with pytest.raises(UpdateRejected, match="does not unpack") as caught:
        list(decode(BlobRef.of(data), ZSTD, [greedy]))
    assert reason_of(caught) is ReasonCode.CONTENT


def test_a_frame_may_arrive_in_any_pieces() -> None:
    data = os.urandom(1000) * 300
    packed = compress(data)
    pieces = [packed[i : i + 7] for i in range(0, len(packed), 7)]
    assert b"".join(decode(BlobRef.of(data), ZSTD, pieces)) == data


def test_raw_bytes_past_the_size_are_refused() -> None:
    with pytest.raises(UpdateRejected) as caught:
        list(decode(BlobRef.of(b"abc"), RAW, [b"ab", b"cd"]))
    assert reason_of(caught) is ReasonCode.SIZE


@given(st.integers(1, 80), st.sets(st.integers(0, 99)), st.integers(1, 20), st.randoms())
def test_progress_asks_for_each_missing_chunk_once_and_never_for_more_than_the_window(
    count: int, have: set[int], window: int, rng: random.Random
) -> None:
    progress = Progress(count, have)
    asked: list[int] = []
    while progress.missing:
        asked += progress.ask(window)
        assert len(progress.asked) <= window
        index = rng.choice(sorted(progress.asked))
        assert progress.got(index)
        assert not progress.got(index)
    assert sorted(asked) == sorted(set(range(count)) - have)


def test_the_stream_is_named_by_the_encoded_bytes() -> None:
    assert ChunkHeader.split(CHUNKS[0])[0].stream == hashlib.sha256(RANDOM).digest()[:8]
