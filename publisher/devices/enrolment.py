"""Who belongs to the fleet: devices are enrolled, listed and revoked.

The registry lies in the record, one object for each certificate, created and never overwritten, so every workstation
sees the same. What is revoked is said by a list that the authority signs and numbers; the highest number counts, and a
workstation never goes below the one it has seen. A device makes its own key and asks with a request; making the key
here instead is possible, weaker, and said so wherever it shows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_agent.contract import certificates
from edge_agent.contract.certificates import check_words
from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.enrolment import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    CONFIG_FILE,
    KEY_FILE,
    REQUEST_BYTES_MAX,
    Answer,
    encode_answer,
    root_file,
)
from edge_agent.contract.errors import AuthorError, ConfigError, StoreError
from edge_agent.contract.manifest import check_name
from publisher.config import Home, load_home
from publisher.devices.authority import DAYS, Authority, certificate_of, new_key, private_pem
from publisher.devices.device_config import STATE, channels_of, device_config
from publisher.devices.revocation import Revocations
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.passphrase import Passphrase, ask

__all__ = ["Admitted", "Enrolled", "Register", "enroll", "enrolled", "read_request"]

_ENTRY_BYTES_MAX = 64 * 1024
_DAYS_MAX = 20 * 365


class _Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    format: int
    fleet: str
    device: str
    serial: str
    certificate: str
    at: float
    labels: dict[str, str] = {}
    channels: list[str] = []
    key_made_here: bool = False


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate of one device. Times are seconds UTC; `revoked` is None as long as it is good."""

    id: str
    serial: str
    certificate: str
    labels: dict[str, str]
    channels: list[str]
    at: float
    ends: float
    key_made_here: bool
    revoked: float | None

    def good(self, now: float) -> bool:
        """Tell whether the certificate opens the broker at `now`."""
        return self.revoked is None and now < self.ends


@dataclass(frozen=True)
class Admitted:
    """The answer to one enrolment: the file to carry to the device, and words to compare on both sides."""

    device: str
    data: bytes
    request_words: str
    answer_words: str
    ends: float
    channels: list[str]
    key_made_here: bool


class Register:
    """The enrolled devices of a fleet, as they lie in its record."""

    def __init__(self, record: Record, fleet: str, authority_pem: bytes) -> None:
        self._record, self._fleet, self._authority_pem = record, fleet, authority_pem

    def all(self, revoked: Mapping[str, float]) -> list[Enrolled]:
        """Return every certificate by device, the newest last. Raises `StoreError` for an entry that is not ours."""
        found = [self._read(path, revoked) for path in self._record.walk(f"enrolled/{self._fleet}")]
        return sorted(found, key=lambda one: (one.id, one.at))

    def add(self, entry: _Entry) -> None:
        """Enter a certificate."""
        self._record.create(f"enrolled/{self._fleet}/{entry.device}/{entry.serial}.json", encode_json(entry))

    def _read(self, path: str, revoked: Mapping[str, float]) -> Enrolled:
        data = self._record.read(path, _ENTRY_BYTES_MAX) or b""
        try:
            entry = decode_json(data, _Entry)
            # Whoever can write to the record cannot enrol: the certificate must be the authority's.
            subject = certificates.issued_by(self._authority_pem, entry.certificate.encode(), None)
            if (subject.device, subject.serial) != (entry.device, entry.serial) or subject.fleet != self._fleet:
                raise ValueError("it contradicts its certificate")
            if path != f"enrolled/{self._fleet}/{entry.device}/{entry.serial}.json":
                raise ValueError("it contradicts its place")
        except (msgspec.DecodeError, ValueError) as error:
            raise StoreError(f"{path} in the record {self._record.location} is no enrolment of ours: {error}") from None
        return Enrolled(
            id=entry.device,
            serial=entry.serial,
            certificate=entry.certificate,
            labels=entry.labels,
            channels=entry.channels,
            at=entry.at,
            ends=subject.ends,
            key_made_here=entry.key_made_here,
            revoked=revoked.get(entry.serial),
        )


def enrolled(home: Home) -> list[Enrolled]:
    """Return every certificate of the fleet's devices, by device, the newest of each last; needs no passphrase."""
    pem = certificate_of(home)
    if pem is None:
        return []
    record = Record(home.record_location)
    return Register(record, home.fleet, pem).all(Revocations(home, record, pem).newest().serials)


def enroll(
    request: bytes | None,
    device: str | None = None,
    *,
    home: str | Path | None = None,
    passphrase: Passphrase = ask,
    labels: Mapping[str, str] | None = None,
    channels: Sequence[str] = (),
    slots: str = "",
    state: str = STATE,
    days: int = DAYS,
    replace: bool = False,
    now: float | None = None,
) -> Admitted:
    """Enrol the device that made `request`, or, without one, `device` with a key made here; return the answer.

    `slots` is TOML with the device's slots, `%u` for its id. A device that has a good certificate for another key is
    refused unless `replace`, which revokes that one. Raises `ConfigError` or `AuthorError` by who must act.
    """
    now = time.time() if now is None else now
    found = load_home(home)
    if not 1 <= days <= _DAYS_MAX:
        raise ConfigError(f"{days} days: a certificate is good for 1 to {_DAYS_MAX}")
    made = new_key() if request is None else None
    name, public = (_named(device), _public(made)) if made is not None else read_request(request or b"", found.fleet)
    if device is not None and device != name:
        raise ConfigError(f"the request is for {name}, not for {device}: which of the two is meant?")
    chosen = channels_of(found, channels, slots)
    roots = {root_file(channel): _root(found, channel) for channel in chosen}
    config = device_config(found, name, chosen, labels or {}, slots, state)
    secret = passphrase if isinstance(passphrase, str) else passphrase()
    authority = Authority.open(found, secret, now)
    _require_free(found, name, public, secret, now, replace=replace)
    certificate = authority.client(name, public, now, days).decode()
    subject = certificates.read(certificate.encode())
    entry = _Entry(
        format=1,
        fleet=found.fleet,
        device=name,
        serial=subject.serial,
        certificate=certificate,
        at=now,
        labels=dict(labels or {}),
        channels=chosen,
        key_made_here=made is not None,
    )
    Register(Record(found.record_location), found.fleet, authority.pem).add(entry)
    files = {CONFIG_FILE: config, CERTIFICATE_FILE: certificate, AUTHORITY_FILE: authority.pem.decode(), **roots}
    if made is not None:
        files[KEY_FILE] = private_pem(made).decode()
    note = WEAKER if made is not None else ""
    data = encode_answer(Answer(format=1, fleet=found.fleet, device=name, note=note, files=files))
    return Admitted(name, data, check_words(_spki(public)), check_words(data), subject.ends, chosen, made is not None)


WEAKER = (
    "Weaker: this answer holds the device's private key, which was made on the publisher's workstation. Whoever sees "
    "this file can be the device. Carry it safely and delete every copy; a device that makes its own key is safer."
)


def read_request(data: bytes, fleet: str) -> tuple[str, ec.EllipticCurvePublicKey]:
    """Return which device asks, and its public key; the request must be signed with that key's other half.

    Raises `ConfigError`.
    """
    try:
        if len(data) > REQUEST_BYTES_MAX:
            raise ValueError(f"it has {len(data)} bytes, a request at most {REQUEST_BYTES_MAX}")
        asked = x509.load_pem_x509_csr(data)
        key = asked.public_key()
        names = certificates.names_of(asked.subject)
        if not asked.is_signature_valid:
            raise ValueError("whoever made it does not hold the key it asks for, or it was changed on its way")
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("its key is not P-256")
        device = check_name("device", names[1])
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError(f"the request cannot be used: {error}; make it with `edge-agent enroll`") from None
    if names[0] != fleet:
        raise ConfigError(f"the request is for fleet {names[0]!r}, this home is of {fleet!r}")
    return device, key


def _named(device: str | None) -> str:
    if device is None:
        raise ConfigError("say who is enrolled: the device's REQUEST, or --id ID to make its key here")
    try:
        return check_name("device", device)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _public(key: ec.EllipticCurvePrivateKey | None) -> ec.EllipticCurvePublicKey:
    assert key is not None
    return key.public_key()


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _require_free(
    home: Home, device: str, key: ec.EllipticCurvePublicKey, passphrase: str, now: float, *, replace: bool
) -> None:
    """Refuse a second holder of a device's name; the same key again is a renewal."""
    others = [
        one
        for one in enrolled(home)
        if one.id == device
        and one.good(now)
        and x509.load_pem_x509_certificate(one.certificate.encode()).public_key() != key
    ]
    if not others:
        return
    if not replace:
        raise AuthorError(
            f"{device} is enrolled already, with another key (serial {others[-1].serial}): if that device is gone or "
            "was set up anew, --replace revokes it; otherwise somebody asks for a name that is not theirs"
        )
    Revocations.open(home, passphrase, now).revoke([one.serial for one in others], now)


def _root(home: Home, channel: str) -> str:
    root = KeyStore(home.keys).pinned(channel)
    if root is None:
        raise AuthorError(
            f"{home.keys} does not hold {channel}.root.json, by which devices will know the channel: copy it from the "
            "workstation that created the channel"
        )
    return root.decode()
