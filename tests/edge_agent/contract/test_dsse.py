"""The signed envelope of devices and operators: as the standard says, bounded, and refused with words."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract import dsse
from edge_agent.contract.dsse import BYTES_MAX, COMMAND_TYPE, EVENT_TYPE, REPORT_TYPE, Signer, open_sealed, pae, seal
from edge_agent.contract.reports import Answer, Command, DeviceEvent, encode, parse


def signer(cert: str = "") -> Signer:
    return Signer(sign=lambda data: b"over " + data[:20], keyid="k1", cert=cert)


def raw(**fields: Any) -> bytes:
    plain = {"payloadType": COMMAND_TYPE, "payload": base64.b64encode(b"{}").decode(), "signatures": []}
    return json.dumps({**plain, **fields}).encode()


def entry(**fields: Any) -> dict[str, Any]:
    return {"sig": base64.b64encode(b"x").decode(), **fields}


def test_the_encoding_is_that_of_the_standards_own_example() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@settings(max_examples=40)
@given(st.binary(max_size=200), st.sampled_from(sorted(BYTES_MAX)))
def test_what_is_sealed_comes_back_with_what_was_signed(payload: bytes, kind: str) -> None:
    found = open_sealed(seal(kind, payload, signer("PEM")), kind)
    assert (found.kind, found.payload) == (kind, payload)
    assert [(one.keyid, one.cert, one.sig) for one in found.signatures] == [("k1", "PEM", b"over " + found.signed[:20])]


@settings(max_examples=40)
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_two_payloads_never_have_the_same_encoding(one: bytes, other: bytes) -> None:
    assert (pae(EVENT_TYPE, one) == pae(EVENT_TYPE, other)) is (one == other)
    assert pae(EVENT_TYPE, one) != pae(REPORT_TYPE, one)


@settings(max_examples=60)
@given(st.binary(max_size=100))
def test_any_bytes_are_refused_as_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="command"):
        open_sealed(data, COMMAND_TYPE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"x" * (BYTES_MAX[COMMAND_TYPE] + 1), "command of 16385 bytes exceeds 16384"),
        (raw(payloadType=EVENT_TYPE), "is not a command"),
        (raw(payload="?"), "cannot be read"),
        (raw(signatures=[entry()] * (dsse.SIGNATURES_MAX + 1)), "5 signatures exceeds 4"),
        (raw(signatures=[{"sig": "!"}]), "cannot be read"),
        (raw(signatures=[{}]), "sig"),
        (raw(signatures={}), "signatures"),
    ],
)
def test_what_does_not_look_so_is_refused_with_words(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_sealed(data, COMMAND_TYPE)


def test_a_certificate_is_bounded() -> None:
    data = raw(payloadType=REPORT_TYPE, signatures=[entry(cert="x" * (dsse.CERTIFICATE_BYTES_MAX + 1))])
    with pytest.raises(ValueError, match="certificate"):
        open_sealed(data, REPORT_TYPE)


def test_what_would_be_too_large_is_not_sent() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        seal(COMMAND_TYPE, b"x" * BYTES_MAX[COMMAND_TYPE])


COMMAND = Command(
    format=1,
    fleet="plant",
    device="d1",
    session="s",
    type="ping",
    issuer="olga",
    counter=1,
    issued=1.0,
    expires=2.0,
    response_topic="t",
)
ANSWER = Answer(
    format=1, fleet="plant", device="d1", session="s", issuer="olga", counter=1, time=1.0, done=True, words="yes"
)
EVENT = DeviceEvent(
    format=1,
    fleet="plant",
    device="d1",
    boot=1,
    counter=1,
    time=1.0,
    number=1,
    slot="meter",
    channel="staging",
    release="meter@1",
    digest="d",
    event="admitted",
    before="announced",
    after="admitted",
)


@pytest.mark.parametrize("body", [COMMAND, ANSWER, EVENT], ids=lambda body: type(body).__name__)
def test_every_kind_comes_back_signed(body: Command | Answer | DeviceEvent) -> None:
    found, sealed = parse(encode(body, signer()), type(body))
    assert found == body
    assert len(sealed.signatures) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"format": 2}, "command format 2 is not supported"),
        ({"counter": -1}, "a counter is out of bounds"),
        ({"counter": 2**53 + 1}, "a counter is out of bounds"),
        ({"arguments": ["x"] * 9}, "too many arguments"),
        ({"response_topic": "t" * 513}, "too long a response topic"),
        ({"type": 1}, r"\$\.type"),
    ],
)
def test_a_command_out_of_bounds_is_refused(fields: dict[str, Any], words: str) -> None:
    import msgspec

    body = json.dumps({**msgspec.to_builtins(COMMAND), **fields}).encode()
    with pytest.raises(ValueError, match=words):
        parse(seal(COMMAND_TYPE, body), Command)


def test_words_of_an_event_are_bounded() -> None:
    import msgspec

    with pytest.raises(ValueError, match="characters of words"):
        parse(encode(msgspec.structs.replace(EVENT, words="x" * 2_001)), DeviceEvent)
