"""The fleet's certificate authority: who may connect to the broker, and as whom.

One authority a fleet, P-256. Its key is one of the workstation's encrypted keys, its certificate lies in the home and
in the record. It issues to devices, to the broker and to publishers, and signs the list of what is revoked. A subject
is the name (common name) and the fleet (organisation); purposes are kept apart: no device can pose as the broker. It
keeps no list of what it issued: that is `enrolment`.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.contract.certificates import AUTHORITY, BROKER, CERTIFICATE_BYTES_MAX, read
from edge_agent.contract.errors import AuthorError, ConfigError
from publisher.config import Home
from publisher.devices.whole_file import write_whole
from publisher.record import Record
from publisher.trust.keys import KeyStore

__all__ = ["DAYS", "KEY_NAME", "Authority", "certificate_of", "new_key", "private_pem", "same_hosts"]

KEY_NAME = "authority"
DAYS = 825
_AUTHORITY_DAYS = 20 * 365
# A device whose clock is a little behind must not find its new certificate, or the broker's, to begin in the future.
_EARLIER = datetime.timedelta(days=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key as unencrypted PKCS#8 PEM, as a program needs it that starts without a person."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True)
class Authority:
    """The authority with its key, ready to sign. Times are seconds UTC; what is returned is PEM."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def found(cls, fleet: str, key: ec.EllipticCurvePrivateKey, now: float) -> Authority:
        """Return a new authority for `fleet`, good for twenty years."""
        name = _name(AUTHORITY, fleet)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            _builder(name, name, key.public_key(), _AUTHORITY_DAYS, now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def open(cls, home: Home, passphrase: str, now: float) -> Authority:
        """Return the fleet's authority; it is founded on first need.

        Raises `AuthorError` for a wrong passphrase, or when this home lacks the key of an authority that exists.
        """
        keys, record = KeyStore(home.keys), Record(home.record_location)
        if certificate_of(home) is None:
            _found(home, keys, record, passphrase, now)
        pem = certificate_of(home)
        assert pem is not None
        key, certificate = _private(keys, passphrase), x509.load_pem_x509_certificate(pem)
        if key.public_key() != certificate.public_key():
            raise AuthorError(f"key {KEY_NAME} in {home.keys} is not that of {_path(home)}: restore both from a backup")
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def fleet(self) -> str:
        """The fleet it speaks for."""
        return read(self.pem).fleet

    def issued(self, certificate_pem: bytes) -> bool:
        """Tell whether this authority issued a certificate. Raises `ValueError` for what is none."""
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError):
            return False
        return True

    def client(self, name: str, key: ec.EllipticCurvePublicKey, now: float, days: int = DAYS) -> bytes:
        """Certify `name` (a device's id, or a name that no device can have) as a client of the broker."""
        return (
            self._issue(name, key, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)
            .sign(self.key, SHA256())
            .public_bytes(Encoding.PEM)
        )

    def server(self, hosts: Sequence[str], key: ec.EllipticCurvePublicKey, now: float, days: int = DAYS) -> bytes:
        """Certify the broker under the names and addresses by which clients call it."""
        places = x509.SubjectAlternativeName([_place(host) for host in hosts])
        builder = self._issue(BROKER, key, ExtendedKeyUsageOID.SERVER_AUTH, now, days)
        certificate = builder.add_extension(places, critical=False).sign(self.key, SHA256())
        return certificate.public_bytes(Encoding.PEM)

    def revocation_list(self, number: int, revoked: Mapping[str, float], now: float) -> bytes:
        """Sign revocation list `number`: serials (hex) and when each was revoked.

        It never expires before the authority does: an expired list would lock every device out.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(_time(now) - _EARLIER)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial, at in sorted(revoked.items()):
            one = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(_time(at))
            builder = builder.add_revoked_certificate(one.build())
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM)

    def _issue(
        self, name: str, key: ec.EllipticCurvePublicKey, purpose: x509.ObjectIdentifier, now: float, days: int
    ) -> x509.CertificateBuilder:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return (
            _builder(_name(name, self.fleet), self.certificate.subject, key, days, now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(issuer, critical=False)
        )


def same_hosts(certificate_pem: bytes, hosts: Sequence[str]) -> bool:
    """Tell whether the broker's certificate names exactly these hosts."""
    extensions = x509.load_pem_x509_certificate(certificate_pem).extensions
    return set(extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == {_place(one) for one in hosts}


def certificate_of(home: Home) -> bytes | None:
    """Return the certificate of the fleet's authority as this home pins it, None before there is one."""
    try:
        pem = _path(home).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{_path(home)} cannot be read: {error.strerror}") from None
    try:
        read(pem)
    except ValueError as error:
        raise ConfigError(f"{_path(home)}: {error}: restore it from a backup") from None
    return pem


def _path(home: Home) -> Path:
    return home.path / "ca" / "ca.pem"


def _found(home: Home, keys: KeyStore, record: Record, passphrase: str, now: float) -> None:
    """Make the authority; the record decides between two workstations that do so at once.

    A key without a certificate is what an interrupted run left: it is taken up. Another workstation's authority is
    taken over only together with its key, so nothing in the record can make us trust a stranger.
    """
    place = f"authority/{home.fleet}/ca.pem"
    existing = record.read(place, CERTIFICATE_BYTES_MAX)
    if existing is None:
        if not keys.has(KEY_NAME):
            keys.keep(KEY_NAME, new_key(), passphrase)
        existing = Authority.found(home.fleet, _private(keys, passphrase), now).pem
        record.create(place, existing)
    if _private(keys, passphrase).public_key() != x509.load_pem_x509_certificate(existing).public_key():
        raise AuthorError(
            f"the record {record.location} names another authority than the key {KEY_NAME} in {home.keys}: "
            "copy that key from the workstation that founded it"
        )
    _path(home).parent.mkdir(mode=0o700, exist_ok=True)
    write_whole(_path(home), existing)


def _private(keys: KeyStore, passphrase: str) -> ec.EllipticCurvePrivateKey:
    key = keys.private(KEY_NAME, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorError(f"key {KEY_NAME} in {keys.directory} is not one of an authority: move it away")
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, now: float
) -> x509.CertificateBuilder:
    begin = _time(now)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _EARLIER)
        .not_valid_after(begin + datetime.timedelta(days=days))
    )


def _name(name: str, fleet: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    off = dict.fromkeys((*names, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **off)


def _place(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode())
    except UnicodeError:
        raise ConfigError(f"{host!r} is neither a host name nor an address") from None


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(microsecond=0)
