"""The worker: one process, one release, user code inside (R1, R7). `python -m edge_agent.runtime.worker PARENT_PID`.

It locks itself down before anything is imported that could start a thread, then obeys the supervisor on descriptor 3:
load, answer frames in order, stop. Whatever a filter raises becomes an ERROR message; the process itself only ends when
told to, when the supervisor is gone, or when user code kills it.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.runtime import wire
from edge_agent.runtime.denial import denial
from edge_agent.runtime.handing import states_of, take_over, upgrading
from edge_agent.runtime.launched import LAUNCHED, receive_limits
from edge_agent.runtime.limits import Limits
from edge_agent.runtime.meter import Meter
from edge_agent.runtime.printed import Printed
from edge_agent.runtime.wire import Flag, Header, Kind
from edge_agent.runtime.wording import encodable, traceback_of, words_of

if TYPE_CHECKING:
    from edge_agent.contract.manifest import Manifest
    from edge_agent.runtime.exchange import Exchange
    from edge_agent.sdk.frame import Frame
    from edge_agent.sdk.pipeline import Pipeline

__all__ = ["Worker", "main"]

SOCKET_FD = 3
HEALTH_SECONDS = 1.0
SAMPLE_SECONDS = 0.1
# A disk that is full is nobody's fault whom we could name.
_ENVIRONMENT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_encode = msgspec.json.Encoder().encode
# What every release needs of ours, and of the standard library for that.
_OWN = (
    "edge_agent.runtime.loader",
    "edge_agent.runtime.exchange",
    "edge_agent.sdk.selftest",
)


class Worker:
    """Serves one release over one socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(wire.INLINE_BYTES + 64)
        self._sandbox: dict[str, str] = {}
        self._pipeline: Pipeline | None = None
        self._manifest: Manifest | None = None
        self._exchange: Exchange | None = None
        self._health_due, self._vetoed = 0.0, ""
        self._meter, self._sample_due = Meter(), 0.0

    def serve(self, sandbox: dict[str, str], imports: tuple[str, ...] = ()) -> None:
        """Answer messages until STOP or until the supervisor is gone; before that, as a spare, import these modules."""
        self._sandbox = sandbox
        self._send(Header(Kind.READY), encode_json(wire.Ready(pid=os.getpid(), sandbox=sandbox)))
        _prepare(imports)
        while (message := wire.receive(self._sock, self._buffer)) is not None:
            header, payload = message
            if header.kind is Kind.FRAME:
                self._answer(header, payload)
            elif header.kind is Kind.LOAD:
                self._load(decode_json(payload, wire.Load))
            elif header.kind is Kind.STATE:
                self._tell_state(decode_json(payload, wire.Asked))
            elif header.kind is Kind.UPGRADE:
                self._upgrade(bytes(payload))
            elif header.kind is Kind.STOP:
                break
            else:
                raise ValueError(f"the supervisor sent {header.kind.name}, which is not for workers")
        if self._pipeline is not None:
            self._pipeline.cleanup()

    def _load(self, load: wire.Load) -> None:
        started = time.monotonic()
        try:
            manifest, pipeline = _load(Path(load.root), load.tunables)
            self._prepare_for(manifest, pipeline)
        except Exception as error:  # noqa: BLE001 - whatever user code raises is the release's failure
            return self._fail(0, ReasonCode.START, error)
        try:
            words = self._self_test(Path(load.root))
        except Exception as error:  # noqa: BLE001
            return self._fail(0, ReasonCode.SELF_TEST, error)
        took = round(time.monotonic() - started, 4)
        loaded = wire.Loaded(load_seconds=took, self_test=words, upgrades=upgrading(pipeline))
        self._send(Header(Kind.LOADED), encode_json(loaded))
        return None

    def _prepare_for(self, manifest: Manifest, pipeline: Pipeline) -> None:
        """Initialize the pipeline, with all at hand that a frame of its needs."""
        from edge_agent.runtime.exchange import Exchange

        self._manifest, self._pipeline = manifest, pipeline
        self._exchange = Exchange(manifest.input, manifest.output)
        pipeline.initialize()

    def _self_test(self, root: Path) -> str:
        """Run the release's own test on a pipeline of its own, so that no state of it reaches live data."""
        assert self._manifest is not None
        ref = self._manifest.self_test
        if ref is None:
            return "no self-test shipped"
        _, twin = _load(root, {})
        twin.initialize()
        try:
            return self.judge(twin, (root / "blobs" / ref.digest.hex).read_bytes())
        finally:
            twin.cleanup()

    def judge(self, twin: Pipeline, data: bytes) -> str:
        """Run the self-test in `data` on `twin` and return its result in words. Raises what it raises."""
        from edge_agent.sdk.selftest import check

        return check(twin, data)

    def _tell_state(self, asked: wire.Asked) -> None:
        """Say what stages have learned so far; that it cannot be said is no failure of this release."""
        assert self._manifest is not None
        assert self._pipeline is not None
        try:
            states = states_of(self._pipeline, self._manifest, asked.stages)
        except Exception as error:  # noqa: BLE001 - an author's __getstate__ may raise anything
            states = wire.States(failure=words_of(error))
        self._send(Header(Kind.STATE), msgspec.msgpack.encode(states))

    def _upgrade(self, data: bytes) -> None:
        assert self._pipeline is not None
        try:
            take_over(self._pipeline, msgspec.msgpack.decode(data, type=wire.States))
        except Exception as error:  # noqa: BLE001
            return self._fail(0, ReasonCode.START, error)
        self._send(Header(Kind.UPGRADED))
        return None

    def _answer(self, header: Header, payload: memoryview) -> None:
        self._meter.begin()
        stages: dict[str, int] = {}
        try:
            if self._pipeline is None or self._exchange is None:
                raise RuntimeError("a frame came before the release was loaded")
            frame = self._exchange.frame(header, payload)
            if header.flags & Flag.WARM:
                self._pipeline.run(frame)
                return self._send(Header(Kind.RESULT, Flag.WARM, header.batch))
            if time.monotonic() < self._sample_due:
                result = self._pipeline.run(frame)
            else:
                result, seconds = self._pipeline.timed(frame)
                stages = {name: int(taken * 1e6) for name, taken in seconds.items()}
            self._reply(header.batch, result, stages)
        except Exception as error:  # noqa: BLE001
            self._fail(header.batch, ReasonCode.ERRORS, error, header.flags & Flag.WARM)

    def _reply(self, batch: int, result: Frame, stages: dict[str, int]) -> None:
        assert self._exchange is not None
        invalid, words = self._exchange.invalid_rows(result)
        flags, columns, heads, values = self._exchange.parts(result)
        note = _encode(self._note(encodable(words[:300]) if words else "", stages, asked=True))
        header = Header(Kind.RESULT, flags, batch, len(result), columns, min(invalid, 0xFFFFFFFF))
        self._send(header, len(note).to_bytes(4, "little") + note, heads, values)

    def _note(self, words: str, stages: dict[str, int], *, asked: bool = False) -> wire.Note:
        """Return what the frame took, now and then with what the process uses; `asked` is whether it was well."""
        micros, waited = self._meter.end()
        now = time.monotonic()
        veto = self._veto(now) if asked else ""
        if now < self._sample_due:
            return wire.Note(invalid=words, veto=veto, micros=micros, waited=waited)
        self._sample_due = now + SAMPLE_SECONDS
        memory, printed = self._meter.memory_kb(), Printed.total
        return wire.Note(
            invalid=words,
            veto=veto,
            micros=micros,
            waited=waited,
            memory_kb=memory,
            printed=printed,
            stages=stages,
        )

    def _veto(self, now: float) -> str:
        """Return what the filters' own `health()` say against the release, asked once a second; empty: nothing."""
        assert self._pipeline is not None
        if now >= self._health_due:
            self._health_due = now + HEALTH_SECONDS
            self._vetoed = encodable((self._pipeline.health() or "")[:300])
        return self._vetoed

    def _fail(self, batch: int, code: ReasonCode, error: Exception, flags: int = Flag.NONE) -> None:
        stage = str(getattr(error, "stage", ""))
        cause = getattr(error, "original", error)
        environment = isinstance(cause, OSError) and cause.errno in _ENVIRONMENT
        blame = Blame.ENVIRONMENT if environment else Blame.RELEASE
        denied = denial(cause, self._sandbox)
        message = f"{words_of(cause)}: {denied}" if denied else words_of(cause)
        reason = Reason(code=code, message=message, where=stage, blame=blame)
        note = self._note("", {}) if batch and self._pipeline is not None else wire.Note()
        failure = wire.Failure(reason=reason, traceback=traceback_of(cause), note=note)
        self._send(Header(Kind.ERROR, flags, batch), encode_json(failure))

    def _send(self, header: Header, *parts: wire.Part) -> None:
        wire.send(self._sock, header, *parts)


def _prepare(imports: tuple[str, ...]) -> None:
    """Import what a release will most likely need."""
    for name in (*imports, *(_OWN if imports else ())):
        with contextlib.suppress(ImportError):  # which a release that does need it will say
            importlib.import_module(name)


def _load(root: Path, tunables: dict[str, object]) -> tuple[Manifest, Pipeline]:
    from edge_agent.contract.manifest import parse_manifest
    from edge_agent.runtime.loader import load_pipeline

    return parse_manifest((root / "manifest.json").read_bytes()), load_pipeline(root, tunables)


def main(kind: Callable[[socket.socket], Worker] = Worker) -> None:
    """Lock down, then serve the socket on descriptor 3."""
    from edge_agent.runtime.sandbox import apply

    limits = _limits(sys.argv[1:])
    Meter.prepare()
    faulthandler.enable()  # onto standard error: the only word that a crash of native code leaves
    applied = apply(limits)
    Printed.install()
    sock = socket.socket(fileno=SOCKET_FD)
    try:
        kind(sock).serve(applied, limits.imports)
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the supervisor is gone; so are we
    except BaseException as error:  # noqa: BLE001 - it ends the process
        # At once: the socket would end before the interpreter is torn down, and the supervisor wait to hear why.
        status = _status(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _limits(arguments: list[str]) -> Limits:
    """Return what this worker is told of its limits: on the command line, or by the agent through a launcher."""
    if arguments == [LAUNCHED]:
        return receive_limits(SOCKET_FD)
    parent, *told = arguments
    limits = decode_json(told[0].encode(), Limits) if told else Limits()
    return msgspec.structs.replace(limits, parent=int(parent))


def _status(error: BaseException) -> int:
    """Return the exit status for what ended the worker, and print it as the interpreter would."""
    if isinstance(error, SystemExit) and isinstance(error.code, int | None):
        return (error.code or 0) & 0xFF
    traceback.print_exception(error)
    return 1


if __name__ == "__main__":
    main()
