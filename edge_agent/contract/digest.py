"""Content addresses: `sha256:<hex>` of a blob's bytes, and the one JSON codec that knows them.

A digest is a blob's name and its integrity at once (F7: it always comes with the size).
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, TypeVar

import msgspec

__all__ = ["BlobRef", "Digest", "decode_json", "decode_msgpack", "encode_json", "encode_msgpack"]

T = TypeVar("T")
_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")
# A few KB of brackets from anybody must not end the reader with a `RecursionError`.
_TOO_DEEP = "nested too deeply"


class Digest(str):
    """A blob's address, `sha256:<64 hex digits>`. Anything else raises `ValueError`."""

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        """Check and make."""
        if not _PATTERN.fullmatch(text):
            raise ValueError(f"not a digest: {text[:80]!r} (want 'sha256:' and 64 hex digits)")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Digest:
        """Return the digest of `data`."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def hex(self) -> str:
        """The 64 hex digits alone."""
        return self[7:]

    @property
    def short(self) -> str:
        """The first 12 hex digits, for people."""
        return self[7:19]


class BlobRef(msgspec.Struct, frozen=True, kw_only=True):
    """A blob's address together with its exact size in bytes; nothing is read past it."""

    digest: Digest
    size: int

    @classmethod
    def of(cls, data: bytes) -> BlobRef:
        """Return the reference of `data`."""
        return cls(digest=Digest.of(data), size=len(data))

    def matches(self, data: bytes | bytearray | memoryview) -> bool:
        """Tell whether `data` is exactly the blob meant, by size and sha256."""
        return len(data) == self.size and Digest.of(data) == self.digest


def _encode_other(value: Any) -> Any:
    if isinstance(value, Digest):
        return str.__str__(value)
    raise NotImplementedError(f"{type(value).__name__} has no place in a Fieldcast message")


def _decode_other(kind: type, value: Any) -> Any:
    if kind is Digest and isinstance(value, str):
        return Digest(value)
    raise NotImplementedError(f"{kind!r} has no place in a Fieldcast message")


def encode_json(value: Any) -> bytes:
    """Return canonical JSON: sorted keys, no blanks; equal values give equal bytes."""
    return msgspec.json.encode(value, enc_hook=_encode_other, order="sorted")


def decode_json(data: bytes | bytearray | memoryview | str, kind: type[T]) -> T:
    """Decode JSON into `kind`. Raises `msgspec.ValidationError` with the key path, `DecodeError` if it is no JSON."""
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_decode_other)
    except RecursionError:
        raise msgspec.DecodeError(_TOO_DEEP) from None


def encode_msgpack(value: Any) -> bytes:
    """Return MessagePack with sorted keys."""
    return msgspec.msgpack.encode(value, enc_hook=_encode_other, order="sorted")


def decode_msgpack(data: bytes | bytearray | memoryview, kind: type[T]) -> T:
    """Decode MessagePack into `kind`. Raises as `decode_json` does."""
    try:
        return msgspec.msgpack.decode(data, type=kind, dec_hook=_decode_other)
    except RecursionError:
        raise msgspec.DecodeError(_TOO_DEEP) from None
