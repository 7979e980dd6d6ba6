"""Tries a package in a clean process before it is signed, as a device would: the author's source is out of reach.

It starts the device's own rehearsal program and believes its answer. Nothing is sent anywhere.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import msgspec

from edge_agent.contract.digest import decode_json
from edge_agent.contract.errors import AuthorError, Reason
from publisher.packaging import Package

__all__ = ["preflight"]

SECONDS_MAX = 120.0


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool
    words: str = ""
    reasons: list[Reason] = []
    traceback: str = ""


def preflight(package: Package) -> str:
    """Rebuild, start and self-test the package in a fresh interpreter; return what was seen, in words.

    Raises `AuthorError` with the failing stage and the remote traceback.
    """
    with tempfile.TemporaryDirectory(prefix="fieldcast-preflight-") as name:
        directory = Path(name)
        (directory / "blobs").mkdir()
        (directory / "manifest.json").write_bytes(package.data)
        for digest, data in package.blobs.items():
            (directory / "blobs" / digest.hex).write_bytes(data)
        answer = _run(directory)
    if answer.ok:
        return answer.words
    reasons = "; ".join(map(str, answer.reasons))
    trace = "\n" + textwrap.indent(answer.traceback.rstrip(), "  ") if answer.traceback else ""
    raise AuthorError(f"preflight failed, nothing was pushed: {reasons}{trace}")


def _run(directory: Path) -> _Answer:
    command = [sys.executable, "-I", "-P", "-m", "edge_agent.rehearsal", str(directory)]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=SECONDS_MAX, cwd=directory, check=False, stdin=subprocess.DEVNULL
        )
        return decode_json(done.stdout, _Answer)
    except subprocess.TimeoutExpired:
        raise AuthorError(f"preflight failed: the pipeline did not load within {SECONDS_MAX:.0f} s") from None
    except msgspec.DecodeError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise AuthorError(
            f"preflight failed: the clean process ended with status {done.returncode}: {last[0]}"
        ) from None
