"""Whom a certificate speaks for, and which ones speak for nobody."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract import certificates
from edge_agent.contract.certificates import CERTIFICATE_BYTES_MAX, PUBLISHER, check_words, issued_by, read
from publisher.devices.authority import Authority, new_key
from tests.simulators.certificates import Certificates

NOW = 1_800_000_000.0
DAY = 86_400
AUTHORITY = Authority.found("plant", new_key(), NOW)
DEVICE = AUTHORITY.client("d1", new_key().public_key(), NOW, 30)


def test_a_certificate_says_who_and_until_when() -> None:
    found = issued_by(AUTHORITY.pem, DEVICE, NOW)
    assert (found.fleet, found.name, found.device) == ("plant", "d1", "d1")
    assert found == read(DEVICE)
    assert found.ends - NOW == 30 * DAY
    assert int(found.serial, 16) == x509.load_pem_x509_certificate(DEVICE).serial_number


@pytest.mark.parametrize(("now", "words"), [(NOW + 31 * DAY, "has expired"), (NOW - 2 * DAY, "begins later")])
def test_outside_its_time_it_speaks_for_nobody_unless_time_is_not_asked(now: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        issued_by(AUTHORITY.pem, DEVICE, now)
    assert issued_by(AUTHORITY.pem, DEVICE, None).device == "d1"


def _without_purpose() -> bytes:
    key, certificate = new_key(), AUTHORITY.certificate
    return (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_before_utc + datetime.timedelta(days=9))
        .sign(AUTHORITY.key, SHA256())
        .public_bytes(Encoding.PEM)
    )


REFUSED = {
    "of an authority that calls itself the same": (
        Authority.found("plant", new_key(), NOW).client("d1", new_key().public_key(), NOW),
        "not issued by the fleet's authority",
    ),
    "the authority's own": (AUTHORITY.pem, "does not say what it is for"),
    "the broker's": (AUTHORITY.server(["h"], new_key().public_key(), NOW), "not for a client"),
    "without a purpose": (_without_purpose(), "does not say what it is for"),
    "of another fleet by the same key": (
        Authority.found("other", AUTHORITY.key, NOW).client("d1", new_key().public_key(), NOW),
        "not issued by the fleet's authority",
    ),
    "altered": (DEVICE.replace(DEVICE[200:204], b"AAAA"), "certificate"),
    "not one": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a certificate"),
    "endless": (b"x" * (CERTIFICATE_BYTES_MAX + 1), "exceeds"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_certificate_is_refused(name: str) -> None:
    pem, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        issued_by(AUTHORITY.pem, pem, NOW)


def test_the_publishers_certificate_is_no_devices() -> None:
    found = issued_by(AUTHORITY.pem, AUTHORITY.client(PUBLISHER, new_key().public_key(), NOW), NOW)
    with pytest.raises(ValueError, match="device name"):
        _ = found.device


def test_a_subject_without_a_fleet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one organisation"):
        read(Certificates(tmp_path).issue("d1").cert.read_bytes())
    with pytest.raises(ValueError, match="one organisation"):
        certificates.names_of(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "plant")]))


@settings(max_examples=60)
@given(st.binary(max_size=400), st.integers(0, 600))
def test_any_bytes_are_a_certificate_or_a_value_error(noise: bytes, at: int) -> None:
    for pem in (noise, DEVICE[:at] + noise + DEVICE[at + len(noise) :]):
        try:
            issued_by(AUTHORITY.pem, pem, NOW)
        except ValueError:
            continue
        assert pem.split() == DEVICE.split() or read(pem) == read(DEVICE)


def test_check_words_are_proquints_of_the_hash() -> None:
    assert check_words(b"x") == "fujud dinaf risok radah bajof"
    assert check_words(b"x") != check_words(b"y")
    assert certificates._proquint(0x7F00) == "lusab"  # the example of arXiv:0901.4016, 127.0.0.1
    assert certificates._proquint(0x0001) == "babad"
