"""A device's identity: the private key that its enrolment made, and the certificate that the fleet gave for it.

One pair opens the broker (mutual TLS) and signs what the device says of itself; it is `[broker] cert` and `key`. A
device without them has no identity: it says things unsigned. Whoever can read the key file is the device.

Signing goes through the libcrypto that `ssl` has loaded already: importing `cryptography` for a signature now and then
would cost the agent 8 to 10 MiB for as long as it runs (this: 0.4). Where that library hides its symbols,
`cryptography` does it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.config.sections import Config
from edge_agent.contract.errors import ConfigError, StoreError

__all__ = ["DeviceIdentity"]

PEM_BYTES_MAX = 64 * 1024
SIGNATURE_BYTES_MAX = 256
Sign = Callable[[bytes], bytes]


class DeviceIdentity:
    """The device's certificate and the power to sign with its key. `certificate_pem` is for whoever checks that."""

    def __init__(self, certificate_pem: bytes, sign: Sign) -> None:
        self.certificate_pem = certificate_pem
        self._sign = sign

    @classmethod
    def load(cls, config: Config) -> DeviceIdentity | None:
        """Return the identity that `config` names, None if it names none. Raises `ConfigError` for unusable files."""
        broker = config.broker
        cert, key = (broker.cert, broker.key) if broker is not None else (None, None)
        if cert is None or key is None:
            return None
        return cls.of_files(cert, key)

    @classmethod
    def of_files(cls, cert: Path, key: Path) -> DeviceIdentity:
        """Return the identity in two PEM files, the key an unencrypted P-256 one. Raises `ConfigError`."""
        certificate, secret = _read(cert), _read(key)
        library = _library()
        sign = _with_cryptography(secret, key) if library is None else _Libcrypto(library, secret, key).sign
        return cls(certificate, sign)

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA signature (P-256, SHA-256, DER) of `data`; some 50 µs. Raises `StoreError` if refused."""
        return self._sign(data)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(PEM_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"identity file {path} cannot be read: {error.strerror}") from None


def _unusable(path: Path) -> ConfigError:
    return ConfigError(f"{path} is no unencrypted P-256 private key: enrol this device (`edge-agent enroll`)")


def _with_cryptography(secret: bytes, path: Path) -> Sign:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(secret, None)
    except (ValueError, TypeError):
        raise _unusable(path) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _unusable(path)
    return lambda data: key.sign(data, ec.ECDSA(SHA256()))


# --- libcrypto (EVP_DigestSign(3), PEM_read_bio_PrivateKey(3)) --------------------------------------------------------

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "BIO_new_mem_buf": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]),
    "BIO_free": (ctypes.c_int, [ctypes.c_void_p]),
    "PEM_read_bio_PrivateKey": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p]),
    "EVP_PKEY_free": (None, [ctypes.c_void_p]),
    "EVP_PKEY_get1_EC_KEY": (ctypes.c_void_p, [ctypes.c_void_p]),
    "EC_KEY_free": (None, [ctypes.c_void_p]),
    "EC_KEY_get0_group": (ctypes.c_void_p, [ctypes.c_void_p]),
    "EC_GROUP_get_curve_name": (ctypes.c_int, [ctypes.c_void_p]),
    "ERR_clear_error": (None, []),
    "EVP_MD_CTX_new": (ctypes.c_void_p, []),
    "EVP_MD_CTX_free": (None, [ctypes.c_void_p]),
    "EVP_sha256": (ctypes.c_void_p, []),
    "EVP_DigestSignInit": (ctypes.c_int, [ctypes.c_void_p] * 5),
    "EVP_DigestSign": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t), ctypes.c_char_p, ctypes.c_size_t],
    ),
}
_NID_P256 = 415  # X9_62_prime256v1


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the libcrypto of this process, found through the module that links it; None if it shows no symbols."""
    import _ssl

    try:
        library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library


class _Libcrypto:
    """One private key inside libcrypto; it stays there as long as this object."""

    def __init__(self, library: ctypes.CDLL, secret: bytes, path: Path) -> None:
        self._library = library
        bio = library.BIO_new_mem_buf(secret, len(secret))
        # An empty password instead of a callback: an encrypted key must fail, and not ask on a terminal.
        self._key = library.PEM_read_bio_PrivateKey(bio, None, None, b"")
        library.BIO_free(bio)
        if not self._key or not self._is_p256():
            library.ERR_clear_error()  # what is left there would be taken for a fault of the next TLS call
            raise _unusable(path)

    def _is_p256(self) -> bool:
        inner = self._library.EVP_PKEY_get1_EC_KEY(self._key)
        if not inner:
            return False
        curve = self._library.EC_GROUP_get_curve_name(self._library.EC_KEY_get0_group(inner))
        self._library.EC_KEY_free(inner)
        return bool(curve == _NID_P256)

    def sign(self, data: bytes) -> bytes:
        library = self._library
        signature, size = ctypes.create_string_buffer(SIGNATURE_BYTES_MAX), ctypes.c_size_t(SIGNATURE_BYTES_MAX)
        context = library.EVP_MD_CTX_new()
        try:
            ready = library.EVP_DigestSignInit(context, None, library.EVP_sha256(), None, self._key)
            if ready != 1 or library.EVP_DigestSign(context, signature, ctypes.byref(size), data, len(data)) != 1:
                library.ERR_clear_error()
                raise StoreError("libcrypto refused to sign: restart the agent")
        finally:
            library.EVP_MD_CTX_free(context)
        return signature.raw[: size.value]

    def __del__(self) -> None:
        if getattr(self, "_key", None):
            self._library.EVP_PKEY_free(self._key)
