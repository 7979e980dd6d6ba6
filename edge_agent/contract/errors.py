"""Every failure Fieldcast raises on purpose, divided by *who must act*.

    FieldcastError
    ├── UpdateRejected   the publisher: the update is not acceptable; carries `Reason`s; never retried as it is
    ├── TransportError   nobody: broker or network; retried with back-off
    ├── StoreError       the device's owner: disk full, read-only, corrupt
    ├── WorkerFailed     the device itself: roll back
    ├── ConfigError      whoever wrote a configuration file or command line
    └── AuthorError      the author at the workstation: source, pipeline or key material that cannot be shipped

Misuse of our own Python API is `TypeError` or `ValueError`. A message says what, where, why, and what to do next.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

__all__ = [
    "AuthorError",
    "Blame",
    "ConfigError",
    "FieldcastError",
    "Reason",
    "ReasonCode",
    "StoreError",
    "TransportError",
    "UpdateRejected",
    "WorkerFailed",
]


class Blame(enum.Enum):
    """Whose fault a reason is. `ENVIRONMENT` never quarantines (U6); an operator's no counts like evidence."""

    RELEASE = "release"
    ENVIRONMENT = "environment"
    OPERATOR = "operator"


class ReasonCode(enum.Enum):
    """Why a release was refused, deferred or rolled back. The values are wire format."""

    # Trust (§6)
    SIGNATURE = "signature"
    EXPIRED = "expired"
    OLDER = "older"
    WRONG_CHANNEL = "wrong_channel"
    MALFORMED = "malformed"
    FORMAT = "format"
    CLOCK = "clock"
    # Admission (U5)
    INTERPRETER = "interpreter"
    REQUIREMENTS = "requirements"
    COLUMNS = "columns"
    UNITS = "units"
    MODEL = "model"
    MACHINE = "machine"
    SPACE = "space"
    QUARANTINE = "quarantine"
    SANDBOX = "sandbox"
    PARAMETERS = "parameters"
    # Fetching
    CONTENT = "content"
    SIZE = "size"
    UNAVAILABLE = "unavailable"
    # Probation (§10)
    START = "start"
    SELF_TEST = "self_test"
    ERRORS = "errors"
    OUTPUT = "output"
    HEARTBEAT = "heartbeat"
    EXITED = "exited"
    BEHIND = "behind"
    VETO = "veto"
    LATENCY = "latency"
    MEMORY = "memory"
    FLOOD = "flood"
    DISAGREEMENT = "disagreement"
    ATTEMPTS = "attempts"
    ENVIRONMENT = "environment"
    # People
    OPERATOR = "operator"
    WITHDRAWN = "withdrawn"
    # Local policy: not now
    HOLD = "hold"
    WINDOW = "window"
    LOCKED = "locked"
    CONDITION = "condition"
    PINNED = "pinned"


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reason in words and numbers, with the code that scripts and quarantine go by.

    `where` names the part it is about: a stage, a blob, a key path, a role; empty when it is the whole release.
    """

    code: ReasonCode
    message: str
    where: str = ""
    blame: Blame = Blame.RELEASE

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.code.value}: {self.message}{place}"


class FieldcastError(Exception):
    """Base of everything Fieldcast raises on purpose."""


class UpdateRejected(FieldcastError):
    """An update is not acceptable as it is. `reasons` holds *all* that was found wrong, never only the first."""

    def __init__(self, reasons: Sequence[Reason]) -> None:
        if not reasons:
            raise ValueError("UpdateRejected needs at least one reason")
        self.reasons: tuple[Reason, ...] = tuple(reasons)
        super().__init__("; ".join(str(reason) for reason in self.reasons))

    @classmethod
    def one(cls, code: ReasonCode, message: str, *, where: str = "", blame: Blame = Blame.RELEASE) -> UpdateRejected:
        """Return a rejection with a single reason."""
        return cls([Reason(code=code, message=message, where=where, blame=blame)])


class TransportError(FieldcastError):
    """The broker or the network did not do its part in time. Retry with back-off."""


class StoreError(FieldcastError):
    """The device's disk or database refuses: full, read-only, corrupt, or written by a newer program."""


class WorkerFailed(FieldcastError):
    """A worker process did not do what a release must do. `reason` says what."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(str(reason))


class ConfigError(FieldcastError):
    """A configuration file or a command line is wrong. The message carries file and key path."""


class AuthorError(FieldcastError):
    """What the author wants to ship cannot be shipped: the message names file, line or attribute, and the way out."""
