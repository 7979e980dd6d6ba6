"""Private keys in a directory of the workstation, each encrypted with a passphrase.

A key is a PKCS#8 PEM file that OpenSSL can open too: scrypt and AES-256-CBC, mode 0600 in a directory of mode 0700. The
store also pins the first root of each channel, so that whoever can write to the repository of record cannot make this
workstation sign into a channel of theirs. It never overwrites a key and never keeps a passphrase.
"""

from __future__ import annotations

import base64
import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

from edge_agent.contract.errors import AuthorError
from edge_agent.contract.manifest import check_name

__all__ = ["KeyStore"]

# OpenSSL's own choice for scrypt and the most it opens by default (32 MiB): about 40 ms a key.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 16_384, 8, 1
_KEY_BYTES_MAX = 16 * 1024


class KeyStore:
    """The keys in one directory. Names are like `staging-release`; the file is `staging-release.pem`."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    def create(self, names: Sequence[str], passphrase: str) -> None:
        """Make a new Ed25519 key for each name. Raises `AuthorError`, and then makes none, if one exists already."""
        if not passphrase:
            raise AuthorError("an empty passphrase does not protect a signing key: choose one")
        for name in names:
            if self._path(name).exists():
                raise AuthorError(f"key {name} exists in {self.directory} and is never overwritten: use another name")
        self._prepare()
        for name in names:
            if not self._keep(self._path(name), _encrypt(Ed25519PrivateKey.generate(), passphrase)):
                raise AuthorError(f"key {name} was made by someone else just now in {self.directory}: run it again")

    def has(self, name: str) -> bool:
        """Tell whether a key of this name is here."""
        return self._path(name).exists()

    def signer(self, name: str, passphrase: str) -> CryptoSigner:
        """Return the signer of a key. Raises `AuthorError` with one line: no such key, open to others, passphrase."""
        path = self._path(name)
        try:
            if path.stat().st_mode & 0o077:
                raise AuthorError(
                    f"key {path} can be read by others: run `chmod 600 {path}`, and think who has read it"
                )
            data = path.read_bytes()[:_KEY_BYTES_MAX]
        except FileNotFoundError:
            message = f"no key {name} in {self.directory}: this workstation may not sign that; ask its holder"
            raise AuthorError(message) from None
        except OSError as error:
            raise AuthorError(f"key {path} cannot be read: {error.strerror}") from None
        try:
            return CryptoSigner(load_pem_private_key(data, passphrase.encode()))
        except (ValueError, TypeError):
            raise AuthorError(f"wrong passphrase for key {name} (or {path} is damaged)") from None

    def pin(self, channel: str, root: bytes) -> bytes:
        """Remember the first root of a channel; return the one that was pinned first."""
        self._prepare()
        self._keep(self._pin_path(channel), root)
        return self.pinned(channel) or root

    def pinned(self, channel: str) -> bytes | None:
        """Return the first root of a channel as pinned on this workstation, or None."""
        try:
            return self._pin_path(channel).read_bytes()
        except FileNotFoundError:
            return None

    def _path(self, name: str) -> Path:
        return self.directory / f"{check_name('key', name)}.pem"

    def _pin_path(self, channel: str) -> Path:
        return self.directory / f"{check_name('channel', channel)}.root.json"

    def _prepare(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = stat.S_IMODE(self.directory.stat().st_mode)
        except OSError as error:
            raise AuthorError(f"key directory {self.directory} cannot be made: {error.strerror}") from None
        if mode & 0o077:
            raise AuthorError(f"key directory {self.directory} is open to others: run `chmod 700 {self.directory}`")

    def _keep(self, path: Path, data: bytes) -> bool:
        """Create a file whole or not at all, durably; return False, changing nothing, if it exists."""
        try:
            handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.link(temporary, path)
            finally:
                Path(temporary).unlink()
            directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except FileExistsError:
            return False
        except OSError as error:
            raise AuthorError(f"{path} cannot be written: {error.strerror}") from None
        return True


# --- PKCS#8 with scrypt (RFC 5958, RFC 8018, RFC 7914) ----------------------------------------------------------------
# `cryptography` writes PKCS#8 with PBKDF2 at 2,048 rounds: a guess costs 1 ms. It reads scrypt, but offers no way to
# write it, hence these few lines of DER.

_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


def _encrypt(key: Ed25519PrivateKey, passphrase: str) -> bytes:
    salt, iv = secrets.token_bytes(16), secrets.token_bytes(16)
    secret = Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P).derive(passphrase.encode())
    padder = PKCS7(128).padder()
    plain = padder.update(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(secret), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(plain) + encryptor.finalize()
    cost = b"".join(_integer(number) for number in (_SCRYPT_N, _SCRYPT_R, _SCRYPT_P))
    derivation = _sequence(_SCRYPT, _sequence(_octets(salt), cost))
    scheme = _sequence(_PBES2, _sequence(derivation, _sequence(_AES_256_CBC, _octets(iv))))
    return _pem(_sequence(scheme, _octets(sealed)))


def _tagged(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _sequence(*parts: bytes) -> bytes:
    return _tagged(0x30, b"".join(parts))


def _octets(data: bytes) -> bytes:
    return _tagged(0x04, data)


def _integer(number: int) -> bytes:
    return _tagged(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _pem(data: bytes) -> bytes:
    text = base64.b64encode(data).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    mark = "ENCRYPTED PRIVATE KEY-----"
    return "\n".join([f"-----BEGIN {mark}", *lines, f"-----END {mark}", ""]).encode()
