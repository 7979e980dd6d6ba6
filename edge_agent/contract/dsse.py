"""Signed messages: the Dead Simple Signing Envelope, version 1 (T8; https://github.com/secure-systems-lab/dsse).

What a device or an operator says is a payload with its type, in base64, and at most a few signatures over both (PAE).
It decides how such a message looks and refuses what does not look so. It holds no key: who may sign, and whether a
signature holds, is decided by whoever reads.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import msgspec

from edge_agent.contract.digest import decode_json, encode_json

__all__ = [
    "ANSWER_TYPE",
    "BYTES_MAX",
    "CERTIFICATE_BYTES_MAX",
    "COMMAND_TYPE",
    "EVENT_TYPE",
    "REPORT_BYTES_MAX",
    "REPORT_TYPE",
    "SIGNATURES_MAX",
    "Sealed",
    "Signature",
    "Signer",
    "open_sealed",
    "pae",
    "seal",
]

REPORT_TYPE = "application/vnd.fieldcast.report+json"
EVENT_TYPE = "application/vnd.fieldcast.event+json"
COMMAND_TYPE = "application/vnd.fieldcast.command+json"
ANSWER_TYPE = "application/vnd.fieldcast.answer+json"

REPORT_BYTES_MAX = 256 * 1024
BYTES_MAX = {REPORT_TYPE: REPORT_BYTES_MAX, EVENT_TYPE: 32 * 1024, COMMAND_TYPE: 16 * 1024, ANSWER_TYPE: 32 * 1024}
SIGNATURES_MAX = 4
CERTIFICATE_BYTES_MAX = 16 * 1024


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature. `keyid` is a hint at the key, `cert` the PEM certificate of a device's key, else empty."""

    sig: bytes
    keyid: str = ""
    cert: str = ""


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A message taken apart. Nothing in it is believed yet; `signed` is what the signatures are over."""

    kind: str
    payload: bytes
    signatures: tuple[Signature, ...] = ()

    @property
    def signed(self) -> bytes:
        """The bytes that a signature must fit."""
        return pae(self.kind, self.payload)

    @property
    def words(self) -> str:
        """The kind as people say it: `report`, `event`, `command`, `answer`."""
        return _word(self.kind)


class Signer(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs: `sign(data)` returns the raw signature; `keyid` and `cert` go along with it."""

    sign: Callable[[bytes], bytes]
    keyid: str = ""
    cert: str = ""


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    sig: str
    keyid: str = ""
    cert: str = ""


class _Dsse(msgspec.Struct, frozen=True):
    payloadType: str  # noqa: N815 - the standard's spelling
    payload: str
    signatures: list[_Entry]


def pae(kind: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding of a payload and its type, as the standard writes it."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def seal(kind: str, payload: bytes, signer: Signer | None = None) -> bytes:
    """Return `payload` as a message, signed if there is a `signer`. Raises `ValueError` if it becomes too large."""
    entries = []
    if signer is not None:
        signature = base64.b64encode(signer.sign(pae(kind, payload))).decode()
        entries.append(_Entry(sig=signature, keyid=signer.keyid, cert=signer.cert))
    data = encode_json(_Dsse(payloadType=kind, payload=base64.b64encode(payload).decode(), signatures=entries))
    if len(data) > BYTES_MAX[kind]:
        raise ValueError(f"{_word(kind)} of {len(data)} bytes exceeds {BYTES_MAX[kind]}")
    return data


def open_sealed(data: bytes, kind: str) -> Sealed:
    """Take a message of one kind apart, without judging its signatures. Raises `ValueError` with what is wrong."""
    word, bytes_max = _word(kind), BYTES_MAX[kind]
    if len(data) > bytes_max:
        raise ValueError(f"{word} of {len(data)} bytes exceeds {bytes_max}")
    try:
        found = decode_json(data, _Dsse)
        if found.payloadType != kind:
            article = "an" if word[0] in "ae" else "a"
            raise ValueError(f"payload type {found.payloadType[:80]!r} is not {article} {word}")
        if len(found.signatures) > SIGNATURES_MAX:
            raise ValueError(f"{word} with {len(found.signatures)} signatures exceeds {SIGNATURES_MAX}")
        if any(len(entry.cert) > CERTIFICATE_BYTES_MAX for entry in found.signatures):
            raise ValueError(f"{word} with a certificate that exceeds {CERTIFICATE_BYTES_MAX} bytes")
        signatures = tuple(
            Signature(sig=base64.b64decode(entry.sig, validate=True), keyid=entry.keyid, cert=entry.cert)
            for entry in found.signatures
        )
        return Sealed(kind=kind, payload=base64.b64decode(found.payload, validate=True), signatures=signatures)
    except (msgspec.DecodeError, binascii.Error, UnicodeError) as error:
        raise ValueError(f"{word} cannot be read: {error}") from None


def _word(kind: str) -> str:
    return kind.removeprefix("application/vnd.fieldcast.").removesuffix("+json")
