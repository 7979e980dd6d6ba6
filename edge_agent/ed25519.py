"""Whether an Ed25519 signature holds (RFC 8032), asked of the libcrypto that `ssl` has loaded already.

An operator's command is checked now and then; importing `cryptography` for it would cost the agent 8 to 10 MiB for as
long as it runs. Where that library hides its symbols, `cryptography` does it. Holds no key and decides nothing else.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

__all__ = ["verified"]

KEY_BYTES, SIGNATURE_BYTES = 32, 64
_EVP_PKEY_ED25519 = 1087
# EVP_PKEY_new(3), EVP_DigestVerifyInit(3)
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "EVP_PKEY_new_raw_public_key": (
        ctypes.c_void_p,
        [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "EVP_PKEY_free": (None, [ctypes.c_void_p]),
    "EVP_MD_CTX_new": (ctypes.c_void_p, []),
    "EVP_MD_CTX_free": (None, [ctypes.c_void_p]),
    "EVP_DigestVerifyInit": (ctypes.c_int, [ctypes.c_void_p] * 5),
    "EVP_DigestVerify": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "ERR_clear_error": (None, []),
}


def verified(public: bytes, signature: bytes, data: bytes) -> bool:
    """Tell whether the holder of the raw public key signed `data`; False for a key or signature of a wrong size."""
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    library = _library()
    return _by_cryptography(public, signature, data) if library is None else _ask(library, public, signature, data)


def _ask(library: ctypes.CDLL, public: bytes, signature: bytes, data: bytes) -> bool:
    key = library.EVP_PKEY_new_raw_public_key(_EVP_PKEY_ED25519, None, public, len(public))
    context = library.EVP_MD_CTX_new()
    try:
        return bool(
            key
            and context
            and library.EVP_DigestVerifyInit(context, None, None, None, key) == 1
            and library.EVP_DigestVerify(context, signature, len(signature), data, len(data)) == 1
        )
    finally:
        library.ERR_clear_error()  # what is left there would be taken for a fault of the next TLS call
        library.EVP_MD_CTX_free(context)
        library.EVP_PKEY_free(key)


def _by_cryptography(public: bytes, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the libcrypto of this process, found through the module that links it; None if it shows no symbols."""
    import _ssl

    try:
        library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library
