"""Who a certificate of the fleet's authority speaks for, and whether something was signed with its key. Pure.

A certificate's subject is the device's id (common name) and the fleet (organisation). Names that no device can have are
the fleet's own: `_authority`, `_broker` and `_publisher`. It decides signature, time and purpose, not revocation.
`cryptography` is imported inside the functions: the agent process, which only signs, does without.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import TYPE_CHECKING

import msgspec

from edge_agent.contract.manifest import check_name

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, Name

__all__ = [
    "AUTHORITY",
    "BROKER",
    "CERTIFICATE_BYTES_MAX",
    "PUBLISHER",
    "Subject",
    "check_words",
    "issued_by",
    "names_of",
    "read",
    "verify_signature",
]

AUTHORITY, BROKER, PUBLISHER = "_authority", "_broker", "_publisher"
CERTIFICATE_BYTES_MAX = 16 * 1024
_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"
_WORDS = 5


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a certificate speaks for. `serial` is lower-case hex; times are seconds since 1970, UTC."""

    fleet: str
    name: str
    serial: str
    begins: float
    ends: float

    @property
    def device(self) -> str:
        """The device's id. Raises `ValueError` when it is the certificate of no device."""
        return check_name("device", self.name)


def read(certificate_pem: bytes) -> Subject:
    """Return whom a certificate says it speaks for; nothing is proven yet. Raises `ValueError`."""
    return _subject(_parse(certificate_pem))


def issued_by(authority_pem: bytes, certificate_pem: bytes, now: float | None) -> Subject:
    """Return whom a certificate speaks for that the fleet's authority issued for a client.

    `now` (seconds UTC) must lie in its time; None does not look at time. Raises `ValueError` with what is wrong.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.x509.oid import ExtendedKeyUsageOID

    certificate, authority = _parse(certificate_pem), _parse(authority_pem)
    try:
        certificate.verify_directly_issued_by(authority)
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise ValueError("the certificate was not issued by the fleet's authority") from None
    except x509.ExtensionNotFound:
        raise ValueError("the certificate does not say what it is for") from None
    if basic.ca or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise ValueError("the certificate is not for a client")
    found = _subject(certificate)
    if found.fleet != _subject(authority).fleet:
        raise ValueError(f"the certificate is for fleet {found.fleet!r}, which is not the authority's")
    if now is not None and not found.begins <= now <= found.ends:
        raise ValueError(f"the certificate of {found.name} {'has expired' if now > found.ends else 'begins later'}")
    return found


def verify_signature(certificate_pem: bytes, data: bytes, signature: bytes) -> None:
    """Check that the key of a certificate signed `data` (ECDSA, SHA-256, DER). Raises `ValueError` if it did not."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key = _parse(certificate_pem).public_key()
    except UnsupportedAlgorithm:
        raise ValueError("the certificate's key is of an unknown kind") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the certificate's key is not one that devices sign with")
    try:
        key.verify(signature, data, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise ValueError("the signature was not made with the certificate's key") from None


def check_words(data: bytes) -> str:
    """Return five words that two people can compare: 80 bits of sha256 as proquints (arXiv:0901.4016)."""
    digest = hashlib.sha256(data).digest()
    return " ".join(_proquint(int.from_bytes(digest[at : at + 2], "big")) for at in range(0, 2 * _WORDS, 2))


def _proquint(number: int) -> str:
    first, second, third, fourth, fifth = number >> 12, number >> 10 & 3, number >> 6 & 15, number >> 4 & 3, number & 15
    return _CONSONANTS[first] + _VOWELS[second] + _CONSONANTS[third] + _VOWELS[fourth] + _CONSONANTS[fifth]


@functools.lru_cache(maxsize=256)
def _parse(pem: bytes) -> Certificate:
    from cryptography import x509

    if len(pem) > CERTIFICATE_BYTES_MAX:
        raise ValueError(f"a certificate of {len(pem)} bytes exceeds {CERTIFICATE_BYTES_MAX}")
    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, TypeError, x509.InvalidVersion):
        raise ValueError(f"not a certificate: {base64.b64encode(pem[:30]).decode()}…") from None


def names_of(subject: Name) -> tuple[str, str]:
    """Return fleet and name of the subject of a certificate or of a request for one. Raises `ValueError`."""
    from cryptography.x509.oid import NameOID

    fleets = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(fleets) != 1 or len(names) != 1:
        raise ValueError("its subject must have one organisation, the fleet, and one common name")
    return str(fleets[0].value), str(names[0].value)


def _subject(certificate: Certificate) -> Subject:
    fleet, name = names_of(certificate.subject)
    return Subject(
        fleet=fleet,
        name=name,
        serial=f"{certificate.serial_number:x}",
        begins=certificate.not_valid_before_utc.timestamp(),
        ends=certificate.not_valid_after_utc.timestamp(),
    )
