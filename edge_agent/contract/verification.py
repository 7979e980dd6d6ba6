"""The question put to the verifier process and its answer, as MessagePack.

Agent and publisher ask the same question of the same program (T10), so both sides of it stand here. Judges nothing.
"""

from __future__ import annotations

import msgspec

from edge_agent.contract.errors import Blame, Reason, UpdateRejected
from edge_agent.contract.messages import ENVELOPE_BYTES_MAX, Envelope, ReleaseInfo, Rollout, decode_envelope

__all__ = [
    "OPERATORS_MAX",
    "REPLY_BYTES_MAX",
    "REQUEST_BYTES_MAX",
    "Floor",
    "Operator",
    "Reply",
    "Request",
    "Verified",
    "open_envelope",
    "verifier_command",
]

OPERATORS_MAX = 64  # of a channel
REQUEST_BYTES_MAX = 4 * ENVELOPE_BYTES_MAX
REPLY_BYTES_MAX = 4 * ENVELOPE_BYTES_MAX


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """The lowest version of a role that is still acceptable under one set of keys (T5).

    `keyset` is a short hash of the key ids and the threshold by which the role was authorised. For `root` the highest
    version of any key set counts: its versions form one chain, and a replay of an old chain must not bring back keys
    that were revoked since.
    """

    role: str
    keyset: str
    version: int


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """A key that may command devices (T8), as a channel's signed targets list it (`x-fieldcast.operators`).

    `public` is the raw Ed25519 key in hex; `scope` lists the command types that it may send.
    """

    name: str
    keyid: str
    public: str
    scope: list[str] = []


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to verify, and everything the verdict may depend on.

    `now` is seconds UTC, already raised to the caller's floor clock. `root` is the channel's first root as enrolled.
    `accepted` is the envelope that was accepted last; without it (lost, damaged) the floors alone forbid going back.
    """

    fleet: str
    channel: str
    now: float
    root: bytes
    envelope: bytes
    accepted: bytes | None = None
    floors: list[Floor] = []


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What the key holders signed, and nothing else.

    `releases` are all that `release` signs now, by pipeline and sequence; `rollouts` one per pipeline. `manifests`
    maps the digest of each rollout's candidate and stable manifest to its bytes, checked by size and sha256 but not
    parsed. `floors` are the rows to store with the envelope. Times are seconds UTC; `expires_at` is the earliest.
    """

    releases: list[ReleaseInfo]
    rollouts: list[Rollout]
    manifests: dict[str, bytes]
    floors: list[Floor]
    expires_at: float
    timestamp_expires_at: float
    operators: list[Operator] = []


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Exactly one of: what was verified, why it is refused, or why the verifier could not judge."""

    verified: Verified | None = None
    reasons: list[Reason] = []
    failure: str = ""


def open_envelope(data: bytes) -> Envelope:
    """Parse an envelope from the broker. Raises `UpdateRejected` that blames no release: anyone may have sent it."""
    try:
        return decode_envelope(data)
    except UpdateRejected as error:
        found = [msgspec.structs.replace(reason, blame=Blame.ENVIRONMENT) for reason in error.reasons]
        raise UpdateRejected(found) from None


# `-I` ignores PYTHONPATH, so a source tree that is not installed must be named; `-P` keeps the working directory out.
# TUF's library imports the software of every cloud it finds installed, to sign there; boto3 alone doubles the start. It
# also imports its own way to fetch over HTTP, a third of the rest; the verifier has files (`update/walk.py`).
_START = """\
import runpy, sys, types
for cloud in ("azure", "boto3", "google.cloud"):
    sys.modules[cloud] = None
unused = sys.modules["tuf.ngclient.urllib3_fetcher"] = types.ModuleType("tuf.ngclient.urllib3_fetcher")
unused.Urllib3Fetcher = object
root = sys.argv.pop(1)
if root not in sys.path:
    sys.path.insert(0, root)
runpy.run_module("edge_agent.update.verifier", run_name="__main__", alter_sys=True)
"""


def verifier_command(executable: str, root: str) -> list[str]:
    """Return the command that runs the verifier isolated from environment and working directory.

    `executable` is the Python interpreter, `root` the directory in which the package `edge_agent` lies. The verifier
    reads one `Request` from standard input and writes one `Reply` to standard output.
    """
    return [executable, "-I", "-P", "-c", _START, root]
