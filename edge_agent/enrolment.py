"""A device's side of enrolment: make its key, ask for a certificate, put the answer in place.

The private key is made here, is readable by its owner alone, and never leaves. Before anything of an answer is written,
it is checked whole: the certificate is for this key and this device, the authority issued it, every file has its place.
What is there and differs is never overwritten unless asked for. Files lie beside the agent's configuration.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.contract import certificates
from edge_agent.contract.digest import encode_json
from edge_agent.contract.enrolment import (
    ANSWER_BYTES_MAX,
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    CONFIG_FILE,
    KEY_FILE,
    Answer,
    decode_answer,
)
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import check_name

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

__all__ = ["Installed", "Request", "install", "request"]

_KEY_BYTES_MAX = 16 * 1024
_STATE = re.compile(r'^state = ".*"$', re.MULTILINE)


@dataclass(frozen=True)
class Request:
    """A request to be certified, as the file to hand over, and the words by which its key is recognised."""

    pem: bytes
    words: str
    key_is_new: bool


@dataclass(frozen=True)
class Installed:
    """What an installation did: names of files written, and of those that were left as they were."""

    answer: Answer
    words: str
    written: list[str]
    kept: list[str]


def request(directory: Path, fleet: str, device: str) -> Request:
    """Return a request for `device`, signed with the key in `directory`; the key is made if there is none.

    Raises `ConfigError` for a name that no device can have, and for a key that cannot be used.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    for kind, name in (("fleet", fleet), ("device", device)):
        _checked_name(kind, name)
    path = directory / KEY_FILE
    new = not path.exists()
    if new:
        _make_key(path)
    key = _read_key(path)
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet), x509.NameAttribute(NameOID.COMMON_NAME, device)]
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).sign(key, SHA256())
    return Request(made.public_bytes(Encoding.PEM), _words(key.public_key()), new)


def install(
    data: bytes, config: Path, *, state: Path | None = None, force: bool = False, keep_config: bool = False
) -> Installed:
    """Put the files of an answer beside the configuration `config`, which is one of them.

    `state` replaces the state directory that the answer proposes. With `force`, files that differ are replaced and the
    old ones kept as `<name>.before`; with `keep_config`, the configuration that is there stays. Raises `ConfigError`
    with everything that speaks against it, and then nothing was written.
    """
    answer = _read_answer(data)
    files = {name: text.encode() for name, text in answer.files.items()}
    if state is not None:
        files[CONFIG_FILE] = _with_state(files[CONFIG_FILE], state)
    _check_certificate(answer, files, config.parent / KEY_FILE, force=force)
    files = {(config.name if name == CONFIG_FILE else name): content for name, content in files.items()}
    kept = [config.name] if keep_config and config.exists() else []
    wanted = {name: content for name, content in files.items() if name not in kept}
    changed = {name: content for name, content in wanted.items() if _differs(config.parent / name, content)}
    _refuse_overwriting(config, changed, force=force)
    for name in sorted(changed, key=lambda name: name == config.name):  # the configuration last: it names the others
        _put(config.parent / name, changed[name], private=name == KEY_FILE)
    kept += sorted(wanted.keys() - changed.keys())
    return Installed(answer, certificates.check_words(data), list(changed), kept)


def _checked_name(kind: str, name: str) -> str:
    try:
        return check_name(kind, name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _read_answer(data: bytes) -> Answer:
    try:
        answer = decode_answer(data[: ANSWER_BYTES_MAX + 1])
        tomllib.loads(answer.files[CONFIG_FILE])
    except (ValueError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"this answer cannot be used: {error}") from None
    return answer


def _with_state(config: bytes, state: Path) -> bytes:
    line = f"state = {encode_json(str(state.absolute())).decode()}"
    return _STATE.sub(lambda _: line, config.decode(), count=1).encode()


def _check_certificate(answer: Answer, files: dict[str, bytes], key_path: Path, *, force: bool) -> None:
    try:
        subject = certificates.issued_by(files[AUTHORITY_FILE], files[CERTIFICATE_FILE], None)
    except ValueError as error:
        raise ConfigError(f"this answer cannot be used: {error}") from None
    if (subject.fleet, subject.name) != (answer.fleet, answer.device):
        raise ConfigError(
            f"this answer cannot be used: it is for {answer.device} of {answer.fleet}, its certificate for "
            f"{subject.name} of {subject.fleet}"
        )
    given = files.get(KEY_FILE)
    if given is not None and (force or not key_path.exists()):
        key = _parse_key(given, "the key in this answer")
    elif key_path.exists():
        key = _read_key(key_path)
    else:
        raise ConfigError(
            f"there is no {key_path}: this answer belongs to the device that made the request (`edge-agent enroll --id "
            f"{answer.device} --fleet {answer.fleet} --out REQUEST`)"
        )
    if _spki(key.public_key()) != _spki_of_certificate(files[CERTIFICATE_FILE]):
        raise ConfigError(
            f"this answer is for another key than {key_path}: was the request made on another device, or before this "
            "key? Make a new request"
        )


def _refuse_overwriting(config: Path, changed: dict[str, bytes], *, force: bool) -> None:
    """A certificate may be replaced, since it is for this device's own key; what else differs, only by force."""
    existing = [name for name in changed if name != CERTIFICATE_FILE and (config.parent / name).exists()]
    if existing and not force:
        advice = " (--keep-config leaves the configuration as it is)" if config.name in existing else ""
        raise ConfigError(
            f"{', '.join(str(config.parent / name) for name in existing)}: there already, and different; nothing was "
            f"written. --force replaces and keeps the old as *.before{advice}"
        )


def _differs(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() != content
    except FileNotFoundError:
        return True


def _put(path: Path, content: bytes, *, private: bool) -> None:
    """Write a file whole, durably; one that was there before stays beside it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o600 if private else 0o644)
        if path.exists():
            path.replace(path.with_name(f"{path.name}.before"))
        Path(temporary).rename(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


# --- the key ---------------------------------------------------------------------------------------------------------


def _make_key(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path.parent.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    _put(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), private=True)


def _read_key(path: Path) -> EllipticCurvePrivateKey:
    try:
        if path.stat().st_mode & 0o007:
            raise ConfigError(f"{path} can be read by everybody: run `chmod 600 {path}`, and think who has read it")
        data = path.read_bytes()[:_KEY_BYTES_MAX]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    return _parse_key(data, str(path))


def _parse_key(data: bytes, place: str) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{place} is no unencrypted P-256 private key: move it away and make a new request")
    return key


def _words(key: EllipticCurvePublicKey) -> str:
    return certificates.check_words(_spki(key))


def _spki(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _spki_of_certificate(pem: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return (
        x509.load_pem_x509_certificate(pem).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
