"""Content addresses and the codec that knows them."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.digest import (
    BlobRef,
    Digest,
    decode_json,
    decode_msgpack,
    encode_json,
    encode_msgpack,
)

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    refs: list[BlobRef]
    by_digest: dict[Digest, int] = {}


@given(st.binary(max_size=200))
def test_a_digest_is_sha256_of_the_bytes(data: bytes) -> None:
    found = Digest.of(data)
    assert found == "sha256:" + hashlib.sha256(data).hexdigest()
    assert found.hex == found[7:]
    assert found.short == found.hex[:12]
    assert Digest.of(bytearray(data)) == Digest.of(memoryview(data)) == found


def test_the_empty_blob_has_the_well_known_digest() -> None:
    assert Digest.of(b"") == Digest(EMPTY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        EMPTY[7:],
        EMPTY.upper(),
        EMPTY[:-1],
        EMPTY + "0",
        EMPTY + "\n",
        " " + EMPTY,
        "md5:" + EMPTY[7:],
        "sha256:../x",
    ],
)
def test_anything_else_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        Digest(text)


def test_a_reference_matches_by_size_and_content() -> None:
    ref = BlobRef.of(b"blob")
    assert ref.size == 4
    assert ref.matches(b"blob")
    assert ref.matches(bytearray(b"blob"))
    assert not ref.matches(b"blub")
    assert not ref.matches(b"blob ")
    assert not BlobRef(digest=ref.digest, size=5).matches(b"blob")


@pytest.mark.parametrize(("encode", "decode"), [(encode_json, decode_json), (encode_msgpack, decode_msgpack)])
def test_digests_travel_as_text_and_come_back_checked(encode: Any, decode: Any) -> None:
    holder = Holder(refs=[BlobRef.of(b"a"), BlobRef.of(b"b")], by_digest={Digest.of(b"a"): 1})
    found = decode(encode(holder), Holder)
    assert found == holder
    assert isinstance(found.refs[0].digest, Digest)
    assert all(isinstance(key, Digest) for key in found.by_digest)
    with pytest.raises(msgspec.ValidationError, match=r"not a digest.*\$\.refs\[0\]\.digest"):
        decode(encode({"refs": [{"digest": "sha256:x", "size": 1}]}), Holder)


@given(JSON)
def test_equal_values_give_equal_bytes_whatever_the_order(value: Any) -> None:
    def turned(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: turned(one[key]) for key in reversed(one)}
        return [turned(item) for item in one] if isinstance(one, list) else one

    assert encode_json(turned(value)) == encode_json(value)
    assert encode_msgpack(turned(value)) == encode_msgpack(value)
    assert decode_json(encode_json(value), Any) == value  # type: ignore[arg-type]
    assert decode_msgpack(encode_msgpack(value), Any) == value  # type: ignore[arg-type]


def test_canonical_json_has_no_blanks_and_sorted_keys() -> None:
    assert encode_json({"b": [1, 2], "a": {"d": None, "c": "ü"}}) == '{"a":{"c":"ü","d":null},"b":[1,2]}'.encode()


@pytest.mark.parametrize("encode", [encode_json, encode_msgpack])
def test_what_has_no_place_in_a_message_is_named(encode: Any) -> None:
    with pytest.raises(NotImplementedError, match="complex has no place"):
        encode({"x": 1j})


@pytest.mark.parametrize("decode", [decode_json, decode_msgpack])
def test_an_unknown_kind_is_refused(decode: Any) -> None:
    data = encode_json("x") if decode is decode_json else encode_msgpack("x")
    with pytest.raises(NotImplementedError, match="no place"):
        decode(data, complex)


@pytest.mark.parametrize(
    ("decode", "data"),
    [(decode_json, b"[" * 100_000 + b"]" * 100_000), (decode_msgpack, b"\x91" * 100_000 + b"\xc0")],
)
def test_brackets_without_end_are_a_decode_error(decode: Any, data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError, match="nested too deeply"):
        decode(data, Any)
