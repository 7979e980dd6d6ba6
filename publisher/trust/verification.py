"""Asks the device's own verifier program about an envelope before it is published (T10).

Same program, same question as on a device, in a process of its own. This side trusts its child: the envelope is one
that this workstation read from the record or has just signed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

import edge_agent
from edge_agent.contract.digest import decode_msgpack, encode_msgpack
from edge_agent.contract.errors import StoreError, UpdateRejected
from edge_agent.contract.verification import Reply, Request, Verified, verifier_command

__all__ = ["verify"]

_TIMEOUT_SECONDS = 60.0


def verify(request: Request) -> Verified:
    """Return what a device would find in `request.envelope`.

    Raises `UpdateRejected` with every reason a device would give, `StoreError` if the verifier could not judge.
    """
    reply = _asked(encode_msgpack(request))
    if reply.reasons:
        raise UpdateRejected(reply.reasons)
    if reply.verified is None:
        raise StoreError(f"the trust verifier could not judge the envelope: {reply.failure}")
    return reply.verified


def _asked(question: bytes) -> Reply:
    command = verifier_command(sys.executable, str(Path(edge_agent.__file__).parent.parent))
    try:
        done = subprocess.run(command, input=question, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
        return decode_msgpack(done.stdout, Reply) if done.returncode == 0 else Reply(failure=_last_line(done.stderr))
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError, ValueError) as error:
        raise StoreError(f"the trust verifier gave no verdict: {error}") from None


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "it said nothing"
