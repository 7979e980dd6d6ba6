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
from typing import TYPE_CHECKING, Any

import msgspec

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.runtime import wire
from edge_agent.runtime.cells import decode_cells
from edge_agent.runtime.denial import denial
from edge_agent.runtime.handing import states_of, take_over, upgrading
from edge_agent.runtime.launched import LAUNCHED, receive_limits
from edge_agent.runtime.limits import Limits
from edge_agent.runtime.meter import Meter
from edge_agent.runtime.printed import Printed
from edge_agent.runtime.wire import Flag, Header, Kind
from edge_agent.runtime.wording import encodable, traceback_of, words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.contract.manifest import InputSpec, Manifest
    from edge_agent.sdk.frame import Frame, Values
    from edge_agent.sdk.pipeline import Pipeline

__all__ = ["Worker", "main"]

SOCKET_FD = 3
HEALTH_SECONDS = 1.0
SAMPLE_SECONDS = 0.1
# A disk that is full is nobody's fault whom we could name.
_ENVIRONMENT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
EXACT_MAX = 2**53
_NONE = Flag.NONE
# What every release needs of ours, and of the standard library for that.
_OWN = ("edge_agent.runtime.loader", "edge_agent.sdk.selftest", "edge_agent.sdk.validity")


class Worker:
    """Serves one release over one socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(wire.INLINE_BYTES + 64)
        self._sandbox: dict[str, str] = {}
        self._pipeline: Pipeline | None = None
        self._manifest: Manifest | None = None
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
            self._manifest, self._pipeline = _load(Path(load.root), load.tunables)
            self._pipeline.initialize()
        except Exception as error:  # noqa: BLE001 - whatever user code raises is the release's failure
            return self._fail(0, ReasonCode.START, error)
        try:
            words = self._self_test(Path(load.root))
        except Exception as error:  # noqa: BLE001
            return self._fail(0, ReasonCode.SELF_TEST, error)
        took = round(time.monotonic() - started, 4)
        loaded = wire.Loaded(load_seconds=took, self_test=words, upgrades=upgrading(self._pipeline))
        self._send(Header(Kind.LOADED), encode_json(loaded))
        return None

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
            if self._pipeline is None or self._manifest is None:
                raise RuntimeError("a frame came before the release was loaded")
            frame = _frame(header, payload, self._manifest.input)
            if header.flags is not _NONE and header.flags & Flag.WARM:
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
        from edge_agent.sdk.validity import invalid_rows

        assert self._manifest is not None
        invalid, words = invalid_rows(self._manifest.output, result)
        flags, columns, values = _encode_values(result)
        heads = b"".join(part.tobytes() for part in (result.sequences, result.firsts, result.timestamps))
        note = encode_json(self._note(encodable(words[:300]), stages, asked=True))
        header = Header(Kind.RESULT, flags, batch, len(result), columns, min(invalid, 0xFFFFFFFF))
        self._send(header, len(note).to_bytes(4, "little"), note, heads, values)

    def _note(self, words: str, stages: dict[str, int], *, asked: bool = False) -> wire.Note:
        """Return what the frame took, now and then with what the process uses; `asked` is whether it was well."""
        micros, waited = self._meter.end()
        veto = self._veto() if asked else ""
        now = time.monotonic()
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

    def _veto(self) -> str:
        """Return what the filters' own `health()` say against the release, asked once a second; empty: nothing."""
        assert self._pipeline is not None
        if time.monotonic() >= self._health_due:
            self._health_due = time.monotonic() + HEALTH_SECONDS
            self._vetoed = encodable((self._pipeline.health() or "")[:300])
        return self._vetoed

    def _fail(self, batch: int, code: ReasonCode, error: Exception, flags: Flag = Flag.NONE) -> None:
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

    def _send(self, header: Header, *parts: bytes) -> None:
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


def _frame(header: Header, payload: memoryview, spec: InputSpec) -> Frame:
    import numpy as np

    from edge_agent.sdk.frame import Frame, received

    rows, width = header.rows, header.columns
    # One copy of all: the buffer is reused, and filters may keep, and write to, what they were given.
    own = bytearray(payload)
    sequences = np.frombuffer(own, np.int64, rows)
    timestamps = np.frombuffer(own, np.int64, rows, 8 * rows)
    # Flags are slow to combine, and most frames have none.
    if spec.dtypes or (header.flags is not _NONE and header.flags & Flag.CELLS):
        return Frame(_cells(header, memoryview(own)[16 * rows :], spec), timestamps, sequences, columns=spec.columns)
    values = np.frombuffer(own, np.float64, rows * width, 16 * rows).reshape(rows, width)
    return received(values, timestamps, sequences, tuple(spec.columns))


def _cells(header: Header, body: memoryview, spec: InputSpec) -> Values:
    """Return the values of a frame that has, or is to have, other cells than float64."""
    from edge_agent.sdk.intake import arranged

    width, count = header.columns, header.rows * header.columns
    numbers = None if header.flags & Flag.CELLS else memoryview(bytes(body)).cast("d")
    cells = decode_cells(body, count) if numbers is None else numbers.tolist()
    return arranged([cells[at : at + width] for at in range(0, count, width)], spec)


def _encode_values(result: Frame) -> tuple[Flag, int, bytes]:
    """Return numbers as raw float64 rows, anything else as JSON rows."""
    import numpy as np

    rows = len(result)
    if rows == 0:
        return Flag.RAW, 0, b""
    values = result.values
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub" and not _beyond_floats(values):
        matrix = np.ascontiguousarray(values.reshape(rows, -1), np.float64)
        return Flag.RAW, matrix.shape[1], matrix.tobytes()
    listed = values.tolist() if isinstance(values, np.ndarray) else [_plain(row) for row in values]
    table = [row if isinstance(row, list) else [row] for row in listed]
    return Flag.NONE, len(table[0]), msgspec.json.encode(table)


def _beyond_floats(values: NDArray[Any]) -> bool:
    """Tell whether these are whole numbers that a float64 does not hold exactly."""
    return values.dtype.itemsize == 8 and values.dtype.kind in "iu" and bool((abs(values) > EXACT_MAX).any())


def _plain(value: object) -> object:
    """Return numpy scalars and arrays, wherever they are, as what JSON knows."""
    import numpy as np

    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


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
