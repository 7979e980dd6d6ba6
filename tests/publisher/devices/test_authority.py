"""The fleet's authority: made once, one for all workstations, and each certificate good for one purpose."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from edge_agent.contract.errors import AuthorError, ConfigError
from publisher.config import Home, load_home
from publisher.devices.authority import KEY_NAME, Authority, certificate_of, new_key, private_pem, same_hosts
from publisher.founding import init
from publisher.record import Record
from publisher.trust.keys import KeyStore

NOW = 1_800_000_000.0
PASSPHRASE = "correct horse"
AUTHORITY = Authority.found("plant", new_key(), NOW)


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("founded") / "home"
    return init("plant", "mqtts://broker.example", passphrase=PASSPHRASE, channels=["staging"], home=place).path


@pytest.fixture
def home(founded: Path, tmp_path: Path) -> Home:
    shutil.copytree(founded, tmp_path / "home")
    return load_home(tmp_path / "home")


def test_it_is_founded_on_first_need_and_the_same_ever_after(home: Home) -> None:
    assert certificate_of(home) is None
    first = Authority.open(home, PASSPHRASE, NOW)
    assert Authority.open(home, PASSPHRASE, NOW + 9).pem == first.pem == certificate_of(home)
    assert first.fleet == "plant"
    file = home.keys / f"{KEY_NAME}.pem"
    assert b"ENCRYPTED" in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0


def test_its_key_needs_the_passphrase(home: Home) -> None:
    Authority.open(home, PASSPHRASE, NOW)
    with pytest.raises(AuthorError, match="wrong passphrase"):
        Authority.open(home, "guess", NOW)


def test_a_founding_that_was_interrupted_is_taken_up(home: Home) -> None:
    KeyStore(home.keys).keep(KEY_NAME, new_key(), PASSPHRASE)
    made = Authority.open(home, PASSPHRASE, NOW)
    shutil.rmtree(home.path / "ca")
    assert Authority.open(home, PASSPHRASE, NOW).pem == made.pem, "the record has it"


def test_an_authority_in_the_record_is_not_believed_without_its_key(home: Home) -> None:
    """Whoever writes to the record could else have devices and broker trust a stranger."""
    Record(home.record_location).create("authority/plant/ca.pem", AUTHORITY.pem)
    with pytest.raises(AuthorError, match="no key authority"):
        Authority.open(home, PASSPHRASE, NOW)
    KeyStore(home.keys).keep(KEY_NAME, new_key(), PASSPHRASE)
    with pytest.raises(AuthorError, match="names another authority"):
        Authority.open(home, PASSPHRASE, NOW)
    assert certificate_of(home) is None


def test_a_key_of_another_authority_or_kind_is_refused(home: Home) -> None:
    Authority.open(home, PASSPHRASE, NOW)
    (home.path / "ca" / "ca.pem").write_bytes(AUTHORITY.pem)
    with pytest.raises(AuthorError, match="is not that of"):
        Authority.open(home, PASSPHRASE, NOW)
    (home.keys / f"{KEY_NAME}.pem").unlink()
    KeyStore(home.keys).create([KEY_NAME], PASSPHRASE)
    with pytest.raises(AuthorError, match="not one of an authority"):
        Authority.open(home, PASSPHRASE, NOW)


def test_a_damaged_certificate_is_named(home: Home) -> None:
    (home.path / "ca").mkdir()
    (home.path / "ca" / "ca.pem").write_text("rubbish")
    with pytest.raises(ConfigError, match=r"ca\.pem: not a certificate"):
        certificate_of(home)


def test_purposes_are_kept_apart() -> None:
    """A device's certificate is no broker's, the broker's no client's, and neither issues any."""
    device, broker = (
        AUTHORITY.client("d1", new_key().public_key(), NOW),
        AUTHORITY.server(["h"], new_key().public_key(), NOW),
    )
    for pem, purpose in ((device, ExtendedKeyUsageOID.CLIENT_AUTH), (broker, ExtendedKeyUsageOID.SERVER_AUTH)):
        found = x509.load_pem_x509_certificate(pem).extensions
        assert list(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
        assert not found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_the_brokers_certificate_names_its_hosts_and_addresses(tmp_path: Path) -> None:
    key = new_key()
    pem = AUTHORITY.server(["broker.example", "192.0.2.7", "::1"], key.public_key(), NOW)
    assert same_hosts(pem, ["::1", "broker.example", "192.0.2.7"])
    assert not same_hosts(pem, ["broker.example"])
    (tmp_path / "both.pem").write_bytes(pem + private_pem(key))
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tmp_path / "both.pem")
    with pytest.raises(ConfigError, match="neither a host name nor an address"):
        AUTHORITY.server(["a" * 70], key.public_key(), NOW)


def test_the_longest_names_fit() -> None:
    long = "x" * 63
    authority = Authority.found(long, new_key(), NOW)
    assert authority.issued(authority.client(long, new_key().public_key(), NOW))
    assert not AUTHORITY.issued(authority.client(long, new_key().public_key(), NOW))


def test_a_revocation_list_outlives_everything_it_could_lock_out() -> None:
    found = x509.load_pem_x509_crl(AUTHORITY.revocation_list(3, {"ff": NOW, "a": NOW - 5}, NOW))
    assert found.is_signature_valid(AUTHORITY.key.public_key())
    assert found.next_update_utc == AUTHORITY.certificate.not_valid_after_utc
    assert {one.serial_number for one in found} == {255, 10}
