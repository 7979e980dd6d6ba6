"""Which certificates are no longer good: numbered lists that the fleet's authority signs.

Each list replaces the one before it and names every revoked serial. They lie in the record, created and never
overwritten; the highest number counts. The home keeps the last list seen, so that whoever empties the record cannot
bring a revoked device back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from edge_agent.contract.errors import AuthorError, StoreError
from publisher.config import Home
from publisher.devices.authority import Authority
from publisher.devices.whole_file import write_whole
from publisher.record import Record

__all__ = ["RevocationList", "Revocations"]

_LIST_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True)
class RevocationList:
    """One list: its number (0 before there is any), its PEM, and the revoked serials (hex) with their times."""

    number: int
    pem: bytes
    serials: Mapping[str, float]


class Revocations:
    """The revocation lists of one fleet. To `revoke` it needs the authority with its key."""

    def __init__(self, home: Home, record: Record, authority_pem: bytes, authority: Authority | None = None) -> None:
        self._record, self._folder = record, f"authority/{home.fleet}/revoked"
        self._seen = home.path / "ca" / "revoked.pem"
        self._certificate = x509.load_pem_x509_certificate(authority_pem)
        self._authority = authority

    @classmethod
    def open(cls, home: Home, passphrase: str, now: float) -> Revocations:
        """Return them with the authority's key. Raises `AuthorError` for a wrong passphrase."""
        authority = Authority.open(home, passphrase, now)
        return cls(home, Record(home.record_location), authority.pem, authority)

    def newest(self) -> RevocationList:
        """Return the list that counts, its signature checked. Raises `StoreError` if the record lost it."""
        numbers = [int(name.removesuffix(".pem")) for name in self._record.names(self._folder) if name[:-4].isdigit()]
        seen = self._parse(self._seen.read_bytes(), str(self._seen)) if self._seen.exists() else _NONE
        highest = max(numbers, default=0)
        if highest < seen.number:
            raise StoreError(
                f"the record {self._record.location} has revocation list {highest}, this home has seen {seen.number}: "
                f"restore the record; until then {self._seen} counts and nothing is signed"
            )
        if highest == 0:
            return _NONE
        path = f"{self._folder}/{highest}.pem"
        found = self._parse(self._record.read(path, _LIST_BYTES_MAX) or b"", path)
        if found.number != highest:
            raise StoreError(f"{path} in the record is revocation list {found.number}: restore a backup of the record")
        if found.number > seen.number:
            _remember(self._seen, found.pem)
        return found

    def current(self, now: float) -> RevocationList:
        """Return the list that counts; an empty first one is signed if there is none: a broker needs a list."""
        newest = self.newest()
        return newest if newest.number else self._sign({}, 1, now)

    def revoke(self, serials: Sequence[str], now: float) -> RevocationList:
        """Revoke certificates; return the list that says so. Raises `Conflict` when another workstation was faster."""
        newest = self.newest()
        return self._sign({**dict.fromkeys(serials, now), **newest.serials}, newest.number + 1, now)

    def _sign(self, serials: Mapping[str, float], number: int, now: float) -> RevocationList:
        if self._authority is None:
            raise AuthorError("revoking needs the authority's key: give its passphrase")
        pem = self._authority.revocation_list(number, serials, now)
        self._record.create(f"{self._folder}/{number}.pem", pem)
        _remember(self._seen, pem)
        return RevocationList(number, pem, serials)

    def _parse(self, pem: bytes, place: str) -> RevocationList:
        try:
            found = x509.load_pem_x509_crl(pem)
            number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except (ValueError, x509.ExtensionNotFound) as error:
            raise StoreError(f"revocation list {place} is damaged ({error}): restore a backup") from None
        if not found.is_signature_valid(self._certificate.public_key()):  # type: ignore[arg-type]
            raise StoreError(f"revocation list {place} was not signed by the fleet's authority: restore a backup")
        return RevocationList(
            number, pem, {f"{one.serial_number:x}": one.revocation_date_utc.timestamp() for one in found}
        )


_NONE = RevocationList(0, b"", {})


def _remember(path: Path, pem: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_whole(path, pem)
