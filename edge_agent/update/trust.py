"""Asks a short-lived child process whether an envelope is what the key holders signed, and fresh (T4).

The child (`edge_agent.update.verifier`) imports TUF, which would cost the agent 25 MiB for good; this module does not.
It decides nothing about trust: whatever is not one clear answer is a failure. A child that crashes, hangs or babbles
never means "accepted".
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

import edge_agent
from edge_agent.contract.digest import decode_msgpack, encode_msgpack
from edge_agent.contract.errors import StoreError, UpdateRejected
from edge_agent.contract.verification import (
    Floor,
    Reply,
    Request,
    Verified,
    open_envelope,
    verifier_command,
)
from edge_agent.update.child import Child

__all__ = ["Floor", "Reply", "Request", "Verified", "Verifier", "verify"]

SPARE_AFTER_SECONDS = 2.0
_NOW_MAX = 253_402_300_799.0  # the last second of the year 9999
_ONE_AT_A_TIME = threading.Lock()  # 25 MiB each; a device follows few channels
_LOCK_POLL_SECONDS = 0.05


class Verifier:
    """One device's verifier: a child process for each question. `lock` as for `verify`.

    With `spare`, one that has imported everything waits for the next question, some time after the last one: starting
    it takes most of a verification's time.
    """

    def __init__(self, lock: Path | None = None, *, spare: bool = False) -> None:
        self._lock, self._wants_spare = lock, spare
        self._spare: Child | None = None
        self._due = 0.0

    def verify(self, request: Request, timeout_seconds: float = 30.0) -> Verified:
        """Return what `request.envelope` proves, as `verify` does, from any thread."""
        try:
            return verify(request, timeout_seconds, lock=self._lock, child=self._take)
        finally:
            self._due = time.monotonic() + SPARE_AFTER_SECONDS

    def _take(self) -> Child:
        spare, self._spare = self._spare, None
        return spare if spare is not None and spare.waits else Child(_command())

    def tend(self, now: float) -> None:
        """Start a spare if there is to be one, nobody verifies, and some time has passed (monotonic seconds)."""
        if not self._wants_spare or self._spare is not None or now < self._due or not _ONE_AT_A_TIME.acquire(False):
            return
        try:
            self._spare = Child(_command())
        except StoreError:  # whoever asks next is told
            self._due = now + 60.0
        finally:
            _ONE_AT_A_TIME.release()

    def close(self) -> None:
        """End the spare; no other one is started."""
        self._wants_spare = False
        with _ONE_AT_A_TIME:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()


def verify(
    request: Request,
    timeout_seconds: float = 30.0,
    *,
    lock: Path | None = None,
    child: Callable[[], Child] | None = None,
) -> Verified:
    """Return what `request.envelope` proves, judged at `request.now`.

    `lock` is a file that all processes of the device share: whoever holds it has the one verifier (T4). `child` gives
    the process to ask, a new one without it. Raises `UpdateRejected` with every reason found, and `StoreError` when
    the verifier itself could not do its work (no memory, no room for its files, damaged installation, time out, or
    another one at work all the time). Blocks for up to `timeout_seconds` for each of the two, plus the time another
    verification of this process is under way.
    """
    if not (math.isfinite(request.now) and 0 <= request.now <= _NOW_MAX):
        raise ValueError(f"now = {request.now} is no time in seconds since 1970")
    open_envelope(request.envelope)  # what cannot even be read, or is too large, does not deserve a process
    with _ONE_AT_A_TIME, _held(lock, timeout_seconds):
        asked = child() if child is not None else Child(_command())
        output = asked.ask(encode_msgpack(request), timeout_seconds)
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


def _command() -> list[str]:
    return verifier_command(sys.executable, str(Path(edge_agent.__file__).parent.parent))
