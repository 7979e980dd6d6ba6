"""Private keys in a directory of the workstation, each encrypted with a passphrase.

A key is a PKCS#8 PEM file that OpenSSL can open too: scrypt and AES-256-CBC, mode 0600 in a directory of mode 0700. The
store also pins the first root of each channel, so that whoever can write to the repository of record cannot make this
workstation sign into a channel of theirs. It never overwrites a key and never keeps a passphrase.

Keys may lie in several places: the home's own directory, others that a command names (`--keys DIR`: a USB stick with
the root keys), and, where nothing should lie on disk (CI), the environment:

    FIELDCAST_KEY_<NAME>    the encrypted PEM itself, as the file holds it; NAME is the key's name in upper case with
                            every other character than A–Z and 0–9 replaced by `_`: `FIELDCAST_KEY_STAGING_RELEASE`
    FIELDCAST_PASSPHRASE    what opens it

A push needs the keys `<channel>-release`, `-rollout`, `-snapshot` and `-timestamp`, a refresh the last two. The pinned
root (`keys/<channel>.root.json` in the home) is no secret and may be checked in beside `publisher.toml`.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from edge_agent.contract.errors import AuthorError
from edge_agent.contract.manifest import check_name
from publisher.trust.signers import CryptoSigner, Key, SSlibKey

__all__ = ["KeyStore", "public_bytes", "public_key", "public_pem", "variable"]

# OpenSSL's own choice for scrypt and the most it opens by default (32 MiB): about 40 ms a key.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 16_384, 8, 1
_KEY_BYTES_MAX = 16 * 1024


def variable(name: str) -> str:
    """Return the environment variable that may hold the key `name`: `FIELDCAST_KEY_STAGING_RELEASE`."""
    return f"FIELDCAST_KEY_{re.sub('[^A-Z0-9]', '_', name.upper())}"


class KeyStore:
    """Keys by name, such as `staging-release`: the file `staging-release.pem` in `directory` or one of the `others`.

    New keys and pins go to `directory`; `others` and the environment are only read.
    """

    def __init__(self, directory: Path | str, *others: Path | str) -> None:
        self.directory = Path(directory)
        self.directories = (self.directory, *(Path(one) for one in others))

    def create(self, names: Sequence[str], passphrase: str) -> None:
        """Make a new Ed25519 key for each name.

        Raises `AuthorError`, and then makes none, if one exists already or the passphrase opens none that is here.
        """
        if not passphrase:
            raise AuthorError("an empty passphrase does not protect a signing key: choose one")
        for name in names:
            if self._path(name).exists():
                raise AuthorError(f"key {name} exists in {self.directory} and is never overwritten: use another name")
        self._prepare()
        self._require_passphrase(passphrase)
        for name in names:
            if not self._keep(self._path(name), _encrypt(Ed25519PrivateKey.generate(), passphrase)):
                raise AuthorError(f"key {name} was made by someone else just now in {self.directory}: run it again")

    def keep(self, name: str, key: PrivateKeyTypes, passphrase: str) -> None:
        """Keep a key of any kind under a new name. Raises `AuthorError` if the name is taken."""
        if not passphrase:
            raise AuthorError("an empty passphrase does not protect a signing key: choose one")
        self._prepare()
        if not self._keep(self._path(name), _encrypt(key, passphrase)):
            raise AuthorError(f"key {name} exists in {self.directory} and is never overwritten: use another name")

    def has(self, name: str) -> bool:
        """Tell whether a key of this name is here."""
        return self._file(name) is not None or bool(os.environ.get(variable(name)))

    def signer(self, name: str, passphrase: str) -> CryptoSigner:
        """Return the signer of a key. Raises `AuthorError` with one line: no such key, open to others, passphrase."""
        return CryptoSigner(self.private(name, passphrase))

    def private(self, name: str, passphrase: str) -> PrivateKeyTypes:
        """Return a private key, opened. Raises `AuthorError` as `signer` does."""
        path = self._file(name)
        if path is not None:
            data, place = self._read(path), str(path)
        else:
            data, place = os.environ.get(variable(name), "").encode()[:_KEY_BYTES_MAX], f"${variable(name)}"
        if not data and path is None:
            places = ", ".join(map(str, self.directories))
            raise AuthorError(
                f"no key {name} in {places}, nor in ${variable(name)}: "
                "this workstation may not sign that; ask its holder"
            )
        return _opened(name, data, place, passphrase)

    def _require_passphrase(self, passphrase: str) -> None:
        """Raise `AuthorError` if there are keys in `directory` and the passphrase opens none of them.

        Before a new key is made: one that a mistyped passphrase protects is as good as lost.
        """
        fault = None
        for path in sorted(self.directory.glob("*.pem")):
            try:
                _opened(path.stem, self._read(path), str(path), passphrase)
            except AuthorError as error:
                fault = fault or error
            else:
                return
        if fault is not None:
            raise fault

    def pin(self, channel: str, root: bytes) -> bytes:
        """Remember the first root of a channel; return the one that was pinned first."""
        self._prepare()
        self._keep(self._pin_path(channel), root)
        return self.pinned(channel) or root

    def pinned(self, channel: str) -> bytes | None:
        """Return the first root of a channel as pinned on this workstation, or None."""
        name = self._pin_path(channel).name
        for directory in self.directories:
            try:
                return (directory / name).read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise AuthorError(f"{directory / name} cannot be read: {error.strerror}") from None
        return None

    def _file(self, name: str) -> Path | None:
        name = self._path(name).name
        return next((one / name for one in self.directories if (one / name).exists()), None)

    def _read(self, path: Path) -> bytes:
        try:
            if path.stat().st_mode & 0o077:
                raise AuthorError(
                    f"key {path} can be read by others: run `chmod 600 {path}`, and think who has read it"
                )
            return path.read_bytes()[:_KEY_BYTES_MAX]
        except OSError as error:
            raise AuthorError(f"key {path} cannot be read: {error.strerror}") from None

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


def _opened(name: str, data: bytes, place: str, passphrase: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(data, passphrase.encode())
    except (ValueError, TypeError):
        raise AuthorError(f"wrong passphrase for key {name} (or {place} is damaged)") from None


# --- public halves ---------------------------------------------------------------------------------------------------


def public_key(data: bytes, place: str) -> Key:
    """Return the public key in a PEM file. Raises `AuthorError` unless it is one Ed25519 public key."""
    if b"PRIVATE KEY" in data:
        raise AuthorError(
            f"{place} holds a private key: it belongs to its holder alone; ask for `publisher key export`"
        )
    try:
        found = load_pem_public_key(data[:_KEY_BYTES_MAX])
    except ValueError:
        raise AuthorError(f"{place} holds no public key in PEM: have it made by `publisher key export`") from None
    if not isinstance(found, Ed25519PublicKey):
        raise AuthorError(f"{place} holds another kind of key than Ed25519: have one made by `publisher key export`")
    return SSlibKey.from_crypto(found)


def public_bytes(key: Key) -> bytes:
    """Return the 32 bytes of an Ed25519 public key."""
    return bytes.fromhex(key.keyval["public"])


def public_pem(key: Key) -> bytes:
    """Return a public key as a PEM file."""
    found = Ed25519PublicKey.from_public_bytes(public_bytes(key))
    return found.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


# --- PKCS#8 with scrypt (RFC 5958, RFC 8018, RFC 7914) ----------------------------------------------------------------
# `cryptography` writes PKCS#8 with PBKDF2 at 2,048 rounds: a guess costs 1 ms. It reads scrypt, but offers no way to
# write it, hence these few lines of DER.

_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


def _encrypt(key: PrivateKeyTypes, passphrase: str) -> bytes:
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
