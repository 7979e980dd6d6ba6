"""Asks a short-lived child process whether an envelope is what the key holders signed, and fresh (T4).

The child (`edge_agent.update.verifier`) imports TUF, which would cost the agent 25 MiB for good; this module does not.
It decides nothing about trust: it bounds the child in time, memory and output, and takes anything but one clear answer
for a failure. A child that crashes, hangs or babbles never means "accepted".
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

import edge_agent
from edge_agent.contract.digest import decode_msgpack, encode_msgpack
from edge_agent.contract.errors import StoreError, UpdateRejected
from edge_agent.contract.verification import (
    REPLY_BYTES_MAX,
    Floor,
    Reply,
    Request,
    Verified,
    open_envelope,
    verifier_command,
)

__all__ = ["Floor", "Reply", "Request", "Verified", "verify"]

_STDERR_BYTES_KEPT = 2_000
_NOW_MAX = 253_402_300_799.0  # the last second of the year 9999
_ONE_AT_A_TIME = threading.Lock()  # 25 MiB each; a device follows few channels
_LOCK_POLL_SECONDS = 0.05


def verify(request: Request, timeout_seconds: float = 30.0, *, lock: Path | None = None) -> Verified:
    """Return what `request.envelope` proves, judged at `request.now`.

    `lock` is a file that all processes of the device share: whoever holds it has the one verifier (T4). Raises
    `UpdateRejected` with every reason found, and `StoreError` when the verifier itself could not do its work (no
    memory, no room for its files, damaged installation, time out, or another one at work all the time). Blocks for up
    to `timeout_seconds` for each of the two, plus the time another verification of this process is under way.
    """
    if not (math.isfinite(request.now) and 0 <= request.now <= _NOW_MAX):
        raise ValueError(f"now = {request.now} is no time in seconds since 1970")
    open_envelope(request.envelope)  # what cannot even be read, or is too large, does not deserve a process
    with _ONE_AT_A_TIME, _held(lock, timeout_seconds), _workspace() as directory:
        output = _run(encode_msgpack(request), directory, timeout_seconds)
    try:
        reply = decode_msgpack(output, Reply)
    except (msgspec.DecodeError, ValueError) as error:
        raise StoreError(f"the trust verifier's answer cannot be read ({error}): nothing was accepted") from None
    if reply.failure:
        raise StoreError(f"the trust verifier could not judge the envelope: {reply.failure}")
    if reply.reasons:
        raise UpdateRejected(reply.reasons)
    if reply.verified is None:
        raise StoreError("the trust verifier gave no verdict: nothing was accepted")
    return reply.verified


@contextlib.contextmanager
def _held(lock: Path | None, timeout_seconds: float) -> Iterator[None]:
    """Keep other processes' verifiers out. The kernel lets go of the lock if this process dies."""
    if lock is None:
        yield
        return
    deadline = time.monotonic() + timeout_seconds
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"the verifier's lock {lock} cannot be opened: {error}") from error
    try:
        while not _taken(descriptor):
            if time.monotonic() > deadline:
                raise StoreError(f"another process has verified for {timeout_seconds:g} s ({lock}): tried again later")
            time.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _workspace() -> Iterator[str]:
    """Give the child a directory that is removed even if the child is killed."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="fieldcast-trust-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(f"no temporary directory for the trust verifier: {error}") from error
    with directory as path:
        yield path


def _command() -> list[str]:
    root = str(Path(edge_agent.__file__).parent.parent)
    return verifier_command(sys.executable, root)


def _run(question: bytes, directory: str, timeout_seconds: float) -> bytes:
    """Run the child on `question`; return its bounded standard output. Raises `StoreError`."""
    deadline = time.monotonic() + timeout_seconds
    try:
        # A file, not a pipe, for the question: a child that does not read cannot make the parent wait.
        with tempfile.TemporaryFile(dir=directory) as stdin:
            stdin.write(question)
            stdin.seek(0)
            child = subprocess.Popen(
                _command(),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "TMPDIR": directory},
                start_new_session=True,
            )
    except OSError as error:
        raise StoreError(f"the trust verifier cannot be started: {error}") from error
    try:
        output, complaint = _collect(child, deadline)
        status = child.wait(timeout=max(0.1, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise StoreError(f"the trust verifier gave no answer in {timeout_seconds:g} s: nothing was accepted") from None
    finally:
        _end(child)
    if status != 0:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        last = complaint.decode(errors="replace").strip().splitlines()
        raise StoreError(f"the trust verifier {how}: {last[-1] if last else 'it said nothing'}; nothing was accepted")
    return output


def _collect(child: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Read both outputs to their end: standard output up to its bound, of standard error only the end is kept."""
    assert child.stdout is not None
    assert child.stderr is not None
    kept: dict[IO[bytes], bytearray] = {child.stdout: bytearray(), child.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in kept:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for key, _ in selector.select(left):
                piece = os.read(key.fd, 65_536)
                buffer = kept[key.fileobj]  # type: ignore[index]
                buffer += piece
                if not piece:
                    selector.unregister(key.fileobj)
                elif buffer is kept[child.stderr]:
                    del buffer[:-_STDERR_BYTES_KEPT]
                elif len(buffer) > REPLY_BYTES_MAX:
                    raise StoreError(f"the trust verifier wrote over {REPLY_BYTES_MAX} bytes: nothing was accepted")
    return bytes(kept[child.stdout]), bytes(kept[child.stderr])


def _end(child: subprocess.Popen[bytes]) -> None:
    """Leave no process, zombie or open pipe behind."""
    if child.poll() is None:
        child.kill()
        child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()
