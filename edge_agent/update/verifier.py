"""The trust verifier: a short-lived process, `python -m edge_agent.update.verifier`, question in, verdict out (T4).

It runs TUF's own client over the files of one envelope and leaves what the verified roles say to `signed.py`. It keeps
nothing: TUF's cache is rebuilt in a temporary directory from the accepted envelope every time and is never the truth,
because a truncated cache silently accepts old metadata. It neither parses manifests nor knows devices.

The envelope is judged twice: *alone*, so that only complete envelopes are ever kept, and *after the accepted one*, so
that nothing gets older. Floors (in `signed.py`) forbid that too when the accepted envelope is lost.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp  # type: ignore[attr-defined]
from tuf.api.serialization import DeserializationError

from edge_agent.contract.digest import decode_msgpack, encode_msgpack
from edge_agent.contract.errors import FieldcastError, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.messages import Envelope
from edge_agent.contract.verification import REQUEST_BYTES_MAX, Reply, Request, Verified, open_envelope
from edge_agent.update.chain import DELEGATED, Chain, reason, refusal
from edge_agent.update.clock import clock_doubt
from edge_agent.update.signed import judge
from edge_agent.update.walk import Files, Walk

__all__ = ["answer", "main", "reply_to"]

_CPU_SECONDS = 60
_MEMORY_BYTES = 1 << 30
_NAME = re.compile(r"(?:([1-9][0-9]{0,9})\.(root|snapshot|targets|release|rollout)|(timestamp))\.json")


def main() -> int:
    """Answer the one question on standard input; return the exit status.

    `sys.argv` may name a directory made for this process; who starts it removes that, or is gone when nothing is asked.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    output = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not end up in the answer
    question = sys.stdin.buffer.read(REQUEST_BYTES_MAX + 1)
    if not question:
        for directory in sys.argv[1:]:
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
    with os.fdopen(output, "wb") as stream:
        stream.write(encode_msgpack(reply_to(question)))
    return 0


def reply_to(question: bytes) -> Reply:
    """Return what is written for a question; every failure becomes one in words."""
    if len(question) > REQUEST_BYTES_MAX:
        return Reply(failure=f"the question exceeds {REQUEST_BYTES_MAX} bytes")
    try:
        return Reply(verified=answer(decode_msgpack(question, Request)))
    except UpdateRejected as error:
        return Reply(reasons=list(error.reasons))
    except FieldcastError as error:
        return Reply(failure=str(error))
    except Exception as error:  # noqa: BLE001 - the parent must learn of every failure, and none may mean "accepted"
        return Reply(failure=f"{type(error).__name__}: {str(error)[:500]}")


def answer(request: Request) -> Verified:
    """Return what the envelope proves. Raises `UpdateRejected`, and `StoreError` when this process cannot judge."""
    envelope = open_envelope(request.envelope)
    _check_header(request, envelope)
    _check_first_root(request, envelope)
    with tempfile.TemporaryDirectory(prefix="trust-") as directory:
        alone = Path(directory, "alone")
        alone.mkdir()
        chain = _follow(request, envelope, alone, delegated=True)
        verified = judge(request, envelope, chain)
        accepted = _accepted(request)
        if accepted is not None:
            after = Path(directory, "after")
            _seed(after, accepted)
            _check_not_older(chain, _follow(request, envelope, after, delegated=False))
    return verified


# --- the envelope's outside ------------------------------------------------------------------------------------------


def _check_header(request: Request, envelope: Envelope) -> None:
    """Refuse early, in plain words, what signatures would refuse later in other words."""
    if (envelope.fleet, envelope.channel) != (request.fleet, request.channel):
        raise refusal(
            ReasonCode.WRONG_CHANNEL,
            f"the envelope is for channel {envelope.channel[:80]!r} of fleet {envelope.fleet[:80]!r}, "
            f"this topic is channel {request.channel!r} of fleet {request.fleet!r}: publish it where it belongs",
            "$.channel",
        )


def _check_first_root(request: Request, envelope: Envelope) -> None:
    """Refuse another party's chain by name; TUF would only say that some signature is missing."""
    try:
        metadata: Metadata[Root] = Metadata.from_bytes(request.root)
        if metadata.signed.type != Root.type:
            raise exceptions.RepositoryError(f"it holds {metadata.signed.type} metadata")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except (exceptions.RepositoryError, ValueError) as error:
        raise StoreError(f"the root enrolled for channel {request.channel!r} is damaged: {error}; enrol anew") from None
    name = f"{metadata.signed.version}.root.json"
    if name in envelope.metadata and envelope.metadata[name] != request.root:
        raise refusal(
            ReasonCode.SIGNATURE,
            f"{name} of the envelope is not the root enrolled for channel {request.channel!r}: it comes from other key "
            "holders, or the channel was created anew; in that case enrol the device with the new root",
            name,
        )


def _accepted(request: Request) -> Envelope | None:
    """The last accepted envelope, or None when it is lost: then the floors alone protect."""
    if request.accepted is None:
        return None
    try:
        return open_envelope(request.accepted)
    except UpdateRejected:
        return None


def _seed(directory: Path, accepted: Envelope) -> None:
    """Lay the accepted envelope out as TUF's cache. TUF verifies these files again and ignores what does not fit."""
    roots = directory / "root_history"
    roots.mkdir(parents=True)
    newest = 0
    for name, data in accepted.metadata.items():
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        version, role, _ = found.groups()
        if role == "root":
            (roots / name).write_bytes(data)
        elif role is None:
            (directory / name).write_bytes(data)
        elif role == "snapshot" and int(version) > newest:
            newest = int(version)
            (directory / "snapshot.json").write_bytes(data)


# --- TUF's client over the envelope's files --------------------------------------------------------------------------


def _follow(request: Request, envelope: Envelope, directory: Path, *, delegated: bool) -> Chain:
    """Let TUF's client follow the chain from the enrolled root; return the roles it verified at `request.now`."""
    walk = Walk(directory, Files(envelope.metadata), bootstrap=request.root, now=request.now)
    try:
        walk.refresh()
        for role in DELEGATED if delegated else ():
            walk.load(role)
    except (exceptions.RepositoryError, exceptions.DownloadError) as error:
        _refuse(error, envelope, request)
    trusted = walk.trusted
    roles = {role: trusted[role] for role in DELEGATED if role in trusted} if delegated else {}
    return Chain(
        root=trusted.root,
        timestamp=trusted.timestamp,
        snapshot=trusted.snapshot,
        targets=trusted.targets,
        delegated=roles,
    )


def _check_not_older(chain: Chain, after: Chain) -> None:
    """Refuse what is valid alone but does not continue the accepted envelope."""
    if chain.root.version < after.root.version:
        raise refusal(
            ReasonCode.OLDER,
            f"root version {chain.root.version} is older than the accepted {after.root.version}: "
            "push again from the repository of record",
            "root",
        )
    if chain.timestamp != after.timestamp:
        raise refusal(
            ReasonCode.SIGNATURE,
            f"two different timestamps carry version {chain.timestamp.version}: someone signs beside the repository "
            "of record; run `publisher refresh` there, and rotate the timestamp key if nobody can explain it",
            "timestamp",
        )


# --- TUF's refusals in our words -------------------------------------------------------------------------------------


def _refuse(error: Exception, envelope: Envelope, request: Request) -> NoReturn:
    role = _role_in(str(error))
    detail = str(error)[:300]
    match error:
        case exceptions.ExpiredMetadataError():
            raise _expired(role, envelope, request) from None
        case exceptions.BadVersionNumberError():
            code, words = ReasonCode.OLDER, "older than what was accepted before, or not of the version it claims"
        case exceptions.UnsignedMetadataError():
            code, words = ReasonCode.SIGNATURE, "not signed by the keys in force (altered, foreign or revoked key)"
        case exceptions.LengthOrHashMismatchError():
            code, words = ReasonCode.SIGNATURE, "altered, or of another publication than the rest"
        case exceptions.DownloadLengthMismatchError():
            code, words = ReasonCode.SIZE, "longer than what is signed or allowed"
        case exceptions.DownloadError() | DeserializationError():
            code, words = ReasonCode.MALFORMED, "missing or unreadable"
        case _:
            code, words = ReasonCode.MALFORMED, "not acceptable"
    raise refusal(code, f"{role or 'metadata'} is {words}: {detail}; push again from the repository of record", role)


def _role_in(text: str) -> str:
    found = re.search(r"\b(root|timestamp|snapshot|targets|release|rollout)\b", text)
    return found.group(1) if found else ""


def _expired(role: str, envelope: Envelope, request: Request) -> UpdateRejected:
    """Say since when, who can help, and whether the clock is to be doubted. The file's signature was found good."""
    expires = _expiry(role, envelope)
    since = f" on {expires:%Y-%m-%d %H:%M} UTC" if expires is not None else ""
    remedy = {
        Timestamp.type: "run `publisher refresh`",
        Snapshot.type: "run `publisher refresh`",
        Targets.type: "the holder of the targets key must sign it anew",
        "release": "push a release, which signs the list anew",
        "rollout": "push a release, which signs the list anew",
    }.get(role, "the holders of the root key must sign it anew")
    clock = datetime.fromtimestamp(request.now, UTC)
    words = f"{role or 'metadata'} of channel {request.channel!r} expired{since} (now {clock:%Y-%m-%d %H:%M}): {remedy}"
    doubt = clock_doubt(request.now, 0.0, expires.timestamp() if expires is not None else None)
    doubts = [reason(ReasonCode.CLOCK, f"the clock of this device is {doubt}", role)] if doubt else []
    return UpdateRejected([reason(ReasonCode.EXPIRED, words, role), *doubts])


def _expiry(role: str, envelope: Envelope) -> datetime | None:
    names = [name for name in envelope.metadata if name == f"{role}.json" or name.endswith(f".{role}.json")]
    if not names:
        return None
    newest = max(names, key=lambda name: int(name.partition(".")[0]) if name[0].isdigit() else 0)
    try:
        expires: datetime = Metadata.from_bytes(envelope.metadata[newest]).signed.expires
    except DeserializationError:
        return None
    return expires


if __name__ == "__main__":
    os._exit(main())  # all is written and closed; taking the interpreter apart takes longer than judging an envelope
