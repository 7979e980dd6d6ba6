"""Signatures are checked alike by libcrypto and by `cryptography`; nothing but a true one passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent import ed25519

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
SIGNATURE = KEY.sign(b"data")

CASES = {
    "true": (PUBLIC, SIGNATURE, b"data", True),
    "other data": (PUBLIC, SIGNATURE, b"Data", False),
    "a flipped bit": (PUBLIC, bytes([SIGNATURE[0] ^ 1]) + SIGNATURE[1:], b"data", False),
    "another's key": (Ed25519PrivateKey.generate().public_key().public_bytes_raw(), SIGNATURE, b"data", False),
    "a short key": (PUBLIC[:31], SIGNATURE, b"data", False),
    "a long signature": (PUBLIC, SIGNATURE + b"\0", b"data", False),
    "no signature": (PUBLIC, b"", b"data", False),
    "a key that is no point": (b"\xff" * 32, SIGNATURE, b"data", False),
}


@pytest.fixture(params=["libcrypto", "cryptography"])
def check(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, bytes, bytes], bool]:
    if request.param == "cryptography":
        monkeypatch.setattr(ed25519, "_library", lambda: None)
    return ed25519.verified


@pytest.mark.parametrize("case", CASES)
def test_only_a_true_signature_holds(case: str, check: Callable[[bytes, bytes, bytes], bool]) -> None:
    public, signature, data, holds = CASES[case]
    assert check(public, signature, data) is holds


def test_libcrypto_is_found_in_this_interpreter() -> None:
    assert ed25519._library() is not None
