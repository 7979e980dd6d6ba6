"""A device is put out of the fleet: its certificates are revoked, and the broker's directory says so.

It takes effect when mosquitto reads its files again, which is for whoever runs the broker: nothing is signalled here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from edge_agent.contract.errors import AuthorError
from publisher.config import load_home
from publisher.devices import broker_directory
from publisher.devices.authority import certificate_of
from publisher.devices.enrolment import Enrolled, enrolled
from publisher.devices.revocation import Revocations
from publisher.trust.passphrase import Passphrase, ask

__all__ = ["Expelled", "barred", "revoke"]


@dataclass(frozen=True)
class Expelled:
    """What revoking did. `directory` is the broker's if it is on this machine, `at` where mosquitto reads it."""

    serials: list[str]
    number: int
    directory: str | None
    at: str
    changed: list[str]


def revoke(
    device: str, *, home: str | Path | None = None, passphrase: Passphrase = ask, now: float | None = None
) -> Expelled:
    """Revoke every certificate of `device` that is good. Raises `AuthorError` when it has none."""
    now = time.time() if now is None else now
    found = load_home(home)
    known = enrolled(found)
    serials = [one.serial for one in known if one.id == device and one.good(now)]
    if not serials:
        ids = sorted({one.id for one in known if one.good(now)})
        raise AuthorError(f"{device} has no certificate that is good; enrolled are {', '.join(ids) or 'none'}")
    secret = passphrase if isinstance(passphrase, str) else passphrase()
    made = Revocations.open(found, secret, now).revoke(serials, now)
    setup = broker_directory.setup_of(found)
    pem = certificate_of(found)
    if setup is None or pem is None or not Path(setup.out).is_dir():
        return Expelled(serials, made.number, None, "", [])
    changed = broker_directory.refresh(found.fleet, setup, pem, made.pem, barred(enrolled(found), now))
    return Expelled(serials, made.number, setup.out, setup.at, changed)


def barred(known: list[Enrolled], now: float) -> set[str]:
    """Return the devices that were enrolled once and have no good certificate now."""
    return {one.id for one in known} - {one.id for one in known if one.good(now)}
