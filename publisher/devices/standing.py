"""Whose word a device's message is, and whether it counts (T8): the standing of a report or an event. Pure.

Authority and enrolment say whom to believe, the mark says what was counted last. What does not verify is shown with its
standing and never counted. One exception, said aloud wherever devices are listed: while a fleet has no enrolled device,
unsigned messages count, so that a try-out needs no certificates.
"""

from __future__ import annotations

import enum

import msgspec

from edge_agent.contract import certificates
from edge_agent.contract.dsse import Sealed
from edge_agent.contract.reports import Answer, DeviceEvent, Report

__all__ = ["AHEAD_SECONDS_MAX", "Mark", "Standing", "Trusted", "Verdict", "judge", "judge_answer"]

AHEAD_SECONDS_MAX = 600


class Standing(enum.Enum):
    """How a device's last message stands. Only `VERIFIED` counts, and `UNSIGNED` while no device is enrolled."""

    VERIFIED = "verified"
    UNSIGNED = "unsigned"
    FOREIGN = "foreign"
    EXPIRED = "expired"
    REVOKED = "revoked"
    REPLAYED = "replayed"
    ALTERED = "altered"
    MISDATED = "misdated"


class Mark(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What orders the messages of one certificate: boot counter, then counter."""

    boot: int
    counter: int


class Trusted(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a publisher believes: the authority's certificate (PEM, empty for none), and serials in lower-case hex."""

    authority: bytes = b""
    enrolled: int = 0
    revoked: frozenset[str] = frozenset()

    @property
    def strict(self) -> bool:
        """Whether only verified messages count: the fleet has an authority, and a device enrolled with it."""
        return bool(self.authority) and self.enrolled > 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The standing of one message, in words, and whether it counts. `serial` is its certificate's, else empty."""

    standing: Standing
    words: str
    counts: bool = False
    serial: str = ""


def judge(
    body: Report | DeviceEvent,
    sealed: Sealed,
    *,
    fleet: str,
    device: str,
    trusted: Trusted,
    marks: dict[str, Mark],
    now: float,
) -> Verdict:
    """Judge a message that came on a topic of `device`.

    `marks` holds the last counted message of each certificate, by serial; one as new as that is the same again. `now`
    is seconds UTC.
    """
    found = judge_answer(body, sealed, fleet=fleet, device=device, trusted=trusted, now=now)
    return _timely(body, found, marks.get(found.serial), now) if found.standing is Standing.VERIFIED else found


def judge_answer(
    body: Answer | Report | DeviceEvent, sealed: Sealed, *, fleet: str, device: str, trusted: Trusted, now: float
) -> Verdict:
    """Judge whose word a message is, however old: an answer names the command that it belongs to."""
    if (body.device, body.fleet) != (device, fleet):
        return _refused(Standing.FOREIGN, f"claims to be device {body.device} of fleet {body.fleet}")
    if not sealed.signatures:
        return Verdict(standing=Standing.UNSIGNED, words="is not signed", counts=not trusted.strict)
    if not trusted.authority:
        words = "is signed, but this home has no authority (ca/ca.pem) to check it by"
        return Verdict(standing=Standing.UNSIGNED, words=words, counts=True)
    return _identified(sealed, fleet=fleet, device=device, trusted=trusted, now=now)


def _identified(sealed: Sealed, *, fleet: str, device: str, trusted: Trusted, now: float) -> Verdict:
    """Say whose certificate signed. Only the first signature counts: a device has one key."""
    signature = sealed.signatures[0]
    certificate = signature.cert.encode("ascii", "replace")
    try:
        subject = certificates.issued_by(trusted.authority, certificate, None)
    except ValueError as error:
        return _refused(Standing.FOREIGN, f"cannot be believed: {error}")
    if (subject.name, subject.fleet) != (device, fleet):
        return _refused(Standing.FOREIGN, f"comes with the certificate of {subject.name} in fleet {subject.fleet}")
    try:
        certificates.verify_signature(certificate, sealed.signed, signature.sig)
    except ValueError:
        return _refused(Standing.ALTERED, "was altered, or signed with another key than its certificate's")
    if subject.serial in trusted.revoked:
        return _refused(Standing.REVOKED, f"comes with a revoked certificate ({subject.serial[:16]})", subject.serial)
    try:
        certificates.issued_by(trusted.authority, certificate, now)
    except ValueError as error:
        return _refused(Standing.EXPIRED, f"comes too late: {error}; enrol it again", subject.serial)
    words = f"is signed with certificate {subject.serial[:16]}"
    return Verdict(standing=Standing.VERIFIED, words=words, counts=True, serial=subject.serial)


def _timely(body: Report | DeviceEvent, verified: Verdict, mark: Mark | None, now: float) -> Verdict:
    found = Mark(boot=body.boot, counter=body.counter)
    if mark is not None and found < mark:
        words = (
            f"is number {found.counter} of boot {found.boot}, and {mark.counter} of boot {mark.boot} has counted: an "
            "old one was sent again, or the device lost its memory (then enrol it anew)"
        )
        return _refused(Standing.REPLAYED, words, verified.serial)
    if body.time > now + AHEAD_SECONDS_MAX:
        words = f"comes from a clock that is {body.time - now:.0f} s ahead of this one: set it"
        return _refused(Standing.MISDATED, words, verified.serial)
    return verified


def _refused(standing: Standing, words: str, serial: str = "") -> Verdict:
    return Verdict(standing=standing, words=words, serial=serial)
