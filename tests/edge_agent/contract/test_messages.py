"""Topics and message bodies: nothing crosses the broker that is not checked where it arrives."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.digest import Digest, decode_json, encode_json, encode_msgpack
from edge_agent.contract.errors import Reason, ReasonCode, UpdateRejected
from edge_agent.contract.messages import (
    CHUNK_BYTES,
    CHUNK_HEADER,
    ENVELOPE_BYTES_MAX,
    REPORT_BYTES_MAX,
    REPORT_TYPE,
    ChunkHeader,
    Envelope,
    ReleaseInfo,
    Report,
    Rollout,
    SlotReport,
    Topics,
    decode_envelope,
    decode_report,
    encode_envelope,
    encode_report,
    release_path,
    rollout_path,
)

DIGEST = Digest.of(b"blob")
TOPICS = Topics("plant")


# --- topics ----------------------------------------------------------------------------------------------------------


def test_topics_are_as_documented() -> None:
    assert TOPICS.trust("staging") == "fieldcast/plant/channel/staging/trust"
    assert TOPICS.chunk(DIGEST, 3) == f"fieldcast/plant/blob/{DIGEST.hex}/3"
    assert TOPICS.online("m1") == "fieldcast/plant/device/m1/online"
    assert TOPICS.report("m1") == "fieldcast/plant/device/m1/report"
    assert TOPICS.event("m1") == "fieldcast/plant/device/m1/event"
    assert TOPICS.everything() == "fieldcast/plant/#"
    assert TOPICS.every("report") == "fieldcast/plant/device/+/report"


@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "a/../b", "$share", "a\0"])
def test_no_wildcard_or_separator_slips_into_a_topic(name: str) -> None:
    for make in (Topics, TOPICS.trust, TOPICS.online, TOPICS.report, TOPICS.event):
        with pytest.raises(ValueError, match="is not allowed"):
            make(name)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True))
def test_the_device_of_a_topic_is_read_back(device: str) -> None:
    for topic in (TOPICS.online(device), TOPICS.report(device), TOPICS.event(device)):
        assert TOPICS.device_of(topic) == device


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fieldcast/plant/device/m1",
        "fieldcast/other/device/m1/report",
        "fieldcast/plant/channel/staging/trust",
        "x/plant/device/m1/report",
        "fieldcast/plant/device//report",
        "fieldcast/plant/device/+/report",
        "/fieldcast/plant/device/m1/report",
    ],
)
def test_what_is_no_device_topic_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match=r"no device topic|not allowed"):
        TOPICS.device_of(topic)


def test_target_paths_fall_under_their_roles() -> None:
    assert release_path("activity", 7) == "release/activity@7"
    assert rollout_path("activity") == "rollout/activity"


# --- envelope --------------------------------------------------------------------------------------------------------

ENVELOPES = st.builds(
    Envelope,
    format=st.just(1),
    fleet=st.text(max_size=5),
    channel=st.text(max_size=5),
    metadata=st.dictionaries(st.text(max_size=5), st.binary(max_size=20), max_size=3),
    targets=st.dictionaries(st.text(max_size=5), st.binary(max_size=20), max_size=3),
)


@given(ENVELOPES)
def test_an_envelope_comes_back(envelope: Envelope) -> None:
    assert decode_envelope(encode_envelope(envelope)) == envelope


@given(ENVELOPES, st.data())
def test_a_truncated_envelope_is_rejected(envelope: Envelope, data: st.DataObject) -> None:
    whole = encode_envelope(envelope)
    with pytest.raises(UpdateRejected, match="cannot be read") as caught:
        decode_envelope(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert caught.value.reasons[0].code is ReasonCode.MALFORMED


@given(st.binary(max_size=80))
def test_rubbish_is_no_envelope(data: bytes) -> None:
    with pytest.raises(UpdateRejected):
        decode_envelope(data)


def test_an_envelope_of_another_format_is_refused_and_unknown_fields_are_not() -> None:
    fields = {"format": 1, "fleet": "f", "channel": "c", "metadata": {}, "targets": {}}
    assert decode_envelope(encode_msgpack({**fields, "later": [1]})).fleet == "f"
    with pytest.raises(UpdateRejected, match=r"format 2 is not supported .* update the agent") as caught:
        decode_envelope(encode_msgpack({**fields, "format": 2, "metadata": "new"}))
    assert caught.value.reasons[0].code is ReasonCode.FORMAT
    with pytest.raises(UpdateRejected, match=r"\$\.metadata"):
        decode_envelope(encode_msgpack({**fields, "metadata": {"x": 1}}))


def test_an_envelope_over_its_bound_is_refused_unread() -> None:
    with pytest.raises(UpdateRejected, match="exceeds") as caught:
        decode_envelope(b"\0" * (ENVELOPE_BYTES_MAX + 1))
    assert caught.value.reasons[0].code is ReasonCode.SIZE


def test_brackets_without_end_are_no_envelope() -> None:
    with pytest.raises(UpdateRejected, match="nested too deeply"):
        decode_envelope(b"\x82\xa1a" + b"\x91" * 100_000 + b"\xc0\xa6format\x01")


def test_signed_documents_tolerate_unknown_fields() -> None:
    info = ReleaseInfo(fleet="f", channel="c", pipeline="p", sequence=3, digest=DIGEST, published=1)
    assert info.name == "p@3"
    assert decode_json(encode_json({**json.loads(encode_json(info)), "from_the_future": 2}), ReleaseInfo) == info
    rollout = Rollout(fleet="f", channel="c", pipeline="p", rollout_id="r", candidate=3)
    assert decode_json(encode_json({**json.loads(encode_json(rollout)), "selector": {}}), Rollout) == rollout
    assert (rollout.percent, rollout.paused, rollout.aborted, rollout.stable) == (100.0, False, False, None)


# --- chunks ----------------------------------------------------------------------------------------------------------


def chunk(encoding: int = 0, index: int = 0, count: int = 1, encoded: int = 5, payload: bytes = b"12345") -> bytes:
    return ChunkHeader(encoding, index, count, encoded, b"streamid").pack() + payload


@given(st.sampled_from([0, 1]), st.integers(0, 3 * CHUNK_BYTES), st.data())
def test_every_honest_chunk_is_split(encoding: int, encoded: int, data: st.DataObject) -> None:
    count = max(1, -(-encoded // CHUNK_BYTES))
    index = data.draw(st.integers(0, count - 1))
    size = CHUNK_BYTES if index < count - 1 else encoded - (count - 1) * CHUNK_BYTES
    header, payload = ChunkHeader.split(chunk(encoding, index, count, encoded, b"x" * size))
    assert header == ChunkHeader(encoding, index, count, encoded, b"streamid")
    assert bytes(payload) == b"x" * size


LIES = [
    ("empty", b""),
    ("shorter than its header", chunk()[: CHUNK_HEADER.size - 1]),
    ("wrong magic", b"\x00" + chunk()[1:]),
    ("unknown encoding", chunk(encoding=2)),
    ("index beyond count", chunk(index=1)),
    ("no chunks at all", chunk(count=0)),
    ("more chunks than bytes", chunk(count=2)),
    ("fewer chunks than bytes", chunk(count=1, encoded=CHUNK_BYTES + 1, payload=b"x" * CHUNK_BYTES)),
    ("huge size, few chunks", chunk(count=1, encoded=2**63)),
    ("payload too short", chunk(payload=b"1234")),
    ("payload too long", chunk(payload=b"123456")),
    ("first of two not full", chunk(count=2, encoded=CHUNK_BYTES + 5)),
    ("last of two too full", chunk(index=1, count=2, encoded=CHUNK_BYTES + 5, payload=b"x" * CHUNK_BYTES)),
    ("payload of an empty blob", chunk(encoded=0, payload=b"1")),
]


@pytest.mark.parametrize("message", [lie[1] for lie in LIES], ids=[lie[0] for lie in LIES])
def test_a_header_that_lies_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match="chunk"):
        ChunkHeader.split(message)


@given(st.binary(max_size=120))
def test_random_bytes_are_a_chunk_or_a_value_error(message: bytes) -> None:
    try:
        header, payload = ChunkHeader.split(message)
    except ValueError:
        return
    assert header.pack()[:1] == message[:1]
    assert len(payload) == len(message) - CHUNK_HEADER.size


# --- reports ---------------------------------------------------------------------------------------------------------

SLOTS = st.builds(
    SlotReport,
    pipeline=st.text(max_size=5),
    channel=st.text(max_size=5),
    active=st.text(max_size=5),
    state=st.sampled_from(["", "committed", "rolled_back"]),
    reasons=st.lists(st.builds(Reason, code=st.sampled_from(ReasonCode), message=st.text(max_size=5)), max_size=2),
    counters=st.dictionaries(st.text(max_size=5), st.integers(0, 2**53), max_size=2),
)
REPORTS = st.builds(
    Report,
    format=st.just(1),
    fleet=st.text(max_size=5),
    device=st.text(max_size=5),
    boot=st.integers(0, 100),
    counter=st.integers(0, 100),
    time=st.floats(0, 1e10),
    agent=st.text(max_size=5),
    slots=st.lists(SLOTS, max_size=2),
    labels=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)


def dsse(payload: bytes | str, kind: str = REPORT_TYPE, **fields: Any) -> bytes:
    body = payload if isinstance(payload, str) else base64.b64encode(payload).decode()
    return json.dumps({"payloadType": kind, "payload": body, "signatures": [], **fields}).encode()


def body(**fields: Any) -> bytes:
    plain = {"format": 1, "fleet": "f", "device": "d", "boot": 1, "counter": 1, "time": 1.0, "agent": "0", "slots": []}
    return json.dumps({**plain, **fields}).encode()


@given(REPORTS)
def test_a_report_comes_back(report: Report) -> None:
    assert decode_report(encode_report(report)) == report


@given(st.binary(max_size=80))
def test_random_bytes_are_no_report(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_report(data)


def test_unknown_fields_of_a_report_are_tolerated() -> None:
    assert decode_report(dsse(body(mood="good"), extra=1)).device == "d"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "cannot be read"),
        (dsse(body(), kind="text/plain"), "payload type 'text/plain' is not a report"),
        (dsse("not base64!"), "cannot be read"),
        (dsse("ä"), "ASCII"),
        (dsse(b"{}"), "missing required field"),
        (dsse(body(slots=[{"pipeline": 1}])), r"\$\.slots\[0\]\.pipeline"),
        (dsse(body(format=2)), "report format 2 is not supported"),
        (dsse(b"[" * 50_000 + b"]" * 50_000), "Expected `object`"),
        (dsse(body()[:-1] + b',"profile":{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}}"), "nested too deeply"),
        (b"x" * (REPORT_BYTES_MAX + 1), "exceeds"),
    ],
)
def test_what_is_no_report_is_told(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_report(data)
