"""Runs a release once, away from everything: verify, lay out, start a real worker, self-test, stop.

The workstation starts this as a process of its own before anything is signed (`python -m edge_agent.rehearsal DIR`), so
what is pushed has passed the device's own steps in an interpreter that cannot see the author's source. `DIR` holds
`manifest.json` and the blobs under `blobs/<hex>`; with `--admission` the interpreter is judged first, as a device's is.
One JSON object on standard output: `ok`, `words`, `reasons`. What each stage made of the self-test is left in
`DIR/outputs`. The worker runs under the hash seed that this process was given in `PYTHONHASHSEED`.
"""

from __future__ import annotations

import os
import platform
import select
import sys
import time
from pathlib import Path

import msgspec

from edge_agent.contract.compatibility import judge
from edge_agent.contract.digest import encode_json
from edge_agent.contract.errors import FieldcastError, Reason, ReasonCode, UpdateRejected, WorkerFailed
from edge_agent.contract.manifest import parse_manifest
from edge_agent.runtime import wire
from edge_agent.runtime.member import Member, failure_of
from edge_agent.runtime.starting import Program
from edge_agent.update.layout import lay_out

__all__ = ["Rehearsed", "rehearse"]

STOP_SECONDS = 5.0
OUTPUTS = "outputs"
SEED = "PYTHONHASHSEED"


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """How it went: `words` about loading and self-test, or reasons and the traceback of what failed."""

    ok: bool
    words: str = ""
    reasons: list[Reason] = []
    traceback: str = ""
    python: str = ""


def rehearse(directory: Path, *, admission: bool = False) -> Rehearsed:
    """Lay out and start the release in `directory` and stop it again; with `admission`, only if it fits here."""
    data = (directory / "manifest.json").read_bytes()
    try:
        manifest = parse_manifest(data)
        if admission and (reasons := _judged(data)):
            return Rehearsed(ok=False, reasons=reasons)
        root = lay_out(directory / "releases", data, lambda ref: directory / "blobs" / ref.digest.hex)
    except UpdateRejected as error:
        return Rehearsed(ok=False, reasons=list(error.reasons))
    program = _program(directory / OUTPUTS, os.environ.get(SEED, ""))
    member = Member(0, manifest.pipeline, root, manifest.input.columns, {}, time.monotonic(), program)
    try:
        result = _listen(member, manifest.health.start_seconds)
        if result.ok:
            member.stop()
            _wait(member)
        return result
    finally:
        member.kill()
        _wait(member)


def _judged(manifest: bytes) -> list[Reason]:
    from edge_agent.profile import collect

    return judge(parse_manifest(manifest), collect())


def _program(outputs: Path, seed: str) -> Program:
    """Return the worker to start. `-I` would ignore the seed; nothing else of Python's environment is passed on."""
    run = ("-m", "edge_agent.witness", str(outputs.absolute()))
    return Program(("-s", "-P", *run), {SEED: seed}) if seed else Program(("-I", "-P", *run))


def _wait(member: Member) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while member.reap() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def _listen(member: Member, seconds: float) -> Rehearsed:
    poll = select.poll()
    poll.register(member.fd, select.POLLIN)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(left * 1000):
            break
        try:
            heard = member.receive()
        except ValueError as error:
            return Rehearsed(ok=False, reasons=[failure_of(error)])
        if heard is None:
            return Rehearsed(ok=False, reasons=[member.obituary()])
        if isinstance(heard, wire.Failure):
            return Rehearsed(ok=False, reasons=[heard.reason], traceback=heard.traceback)
        if isinstance(heard, wire.Loaded):
            return Rehearsed(ok=True, words=f"loaded in {heard.load_seconds:.2f} s; {heard.self_test}")
    reason = Reason(code=ReasonCode.START, message=f"not ready after {seconds:.0f} s")
    return Rehearsed(ok=False, reasons=[reason])


def main() -> None:
    """Rehearse the release in the directory named on the command line."""
    try:
        result = rehearse(Path(sys.argv[1]), admission="--admission" in sys.argv[2:])
    except (FieldcastError, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, WorkerFailed) else Reason(code=ReasonCode.START, message=str(error))
        result = Rehearsed(ok=False, reasons=[reason])
    result = msgspec.structs.replace(result, python=platform.python_version())
    sys.stdout.write(encode_json(result).decode() + "\n")


if __name__ == "__main__":
    main()
