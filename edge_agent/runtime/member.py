"""One worker process as the supervisor sees it: hand it frames, take its answers, end it.

It keeps order (answers come in the order of the frames) and deadlines; it decides nothing about releases.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.runtime import wire
from edge_agent.runtime.answers import Answer, Batch, Told, Upgraded, answer_in
from edge_agent.runtime.cells import encode_cells
from edge_agent.runtime.chatter import Voice
from edge_agent.runtime.launched import Launched
from edge_agent.runtime.limits import DEFAULT, Confinement, unmet
from edge_agent.runtime.patience import Patience
from edge_agent.runtime.starting import WORKER, Program, ending, spawn
from edge_agent.runtime.view import View
from edge_agent.runtime.wire import Flag, Header, Kind

__all__ = ["WARM_BATCHES_MAX", "Member", "failure_of"]

OUTSTANDING_MAX = 512
WAITING_BYTES_MAX = 64 << 20  # of texts and the like that the worker's socket does not take yet
WARM_BATCHES_MAX = 16
SOCKET_BYTES = 1 << 20
OBITUARY_SECONDS = 0.02


Heard: TypeAlias = Answer | wire.Loaded | wire.Ready | wire.Failure | Told | Upgraded
# Beside states there are names and fingerprints.
_BYTES_MAX = {Kind.STATE: wire.STATES_BYTES_MAX + wire.INLINE_BYTES}


class _Owed(NamedTuple):
    """A batch that was given: when, and the number of its newest sample, beyond which no result can lie."""

    number: int
    since: float
    newest: int
    warm: bool


class Member:
    """A worker process for release `release`, known to the updater as deployment `key`.

    Without a release it is a spare, which `employ` gives one. `view` is the directory that was made for it alone.
    """

    def __init__(
        self,
        key: int,
        release: str,
        root: Path,
        columns: list[str],
        tunables: dict[str, Any],
        now: float,
        program: Program = WORKER,
        confinement: Confinement = DEFAULT,
        voice: Voice | None = None,
    ) -> None:
        self.key, self.release, self.root, self.columns, self.tunables = key, release, root, columns, tunables
        self.started_at = now
        self.voice = voice
        self.loaded: wire.Loaded | None = None
        self.sandbox: dict[str, str] = {}
        self.owed: deque[_Owed] = deque()
        self._waiting: deque[tuple[Header, tuple[wire.Part, ...]]] = deque()
        self._waiting_bytes = 0
        self._ready = False
        self._asked, self._upgrading = 0, False
        self._ended: str | None = None
        self._require, self._launched = confinement.require, None
        self.view: View | None = None
        self.given_up: Reason | None = None
        limits = msgspec.structs.replace(confinement.limits, release=str(root))
        self._buffer = bytearray(wire.INLINE_BYTES + 64)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            if confinement.launcher:
                self.pid, self._launched = 0, Launched(confinement.launcher, theirs, limits, voice)
            else:
                self.pid = spawn(theirs, program.within(limits), 2 if voice is None else voice.theirs)
        except BaseException:
            ours.close()
            if voice is not None:
                voice.end()
            raise
        finally:
            theirs.close()
        if voice is not None:
            voice.passed()
        ours.setblocking(False)
        self.patience = Patience(self.pid)
        self.sock = ours
        self.fd = ours.fileno()

    def employ(self, key: int, release: str, columns: list[str], tunables: dict[str, Any], now: float) -> None:
        """Make a spare that is ready a worker of `release`; its files come into `root`, and then `load`."""
        self.key, self.release, self.columns, self.tunables, self.started_at = key, release, columns, tunables, now
        if self.voice is not None:
            self.voice.release = release
        self._line = self.sock.dup()  # for the other thread: whoever kills meanwhile closes the socket itself

    def load(self) -> None:
        """Tell an employed worker to load, from any thread, once."""
        with self._line as line, contextlib.suppress(OSError):  # its end of file says it all
            wire.send(line, Header(Kind.LOAD), encode_json(self._release))

    def give_up(self, reason: Reason) -> None:
        """Let an employed worker go since it cannot have its release, from any thread, instead of `load`."""
        self.given_up = reason
        with self._line as line, contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    @property
    def _release(self) -> wire.Load:
        return wire.Load(root=str(self.root), release=self.release, tunables=self.tunables)

    def give(self, batch: Batch, now: float, *, warm: bool = False) -> None:
        """Send a batch's columns, or keep them until the worker has answered others and its socket takes more.

        Raises `OSError` when the worker is gone or owes too much, `KeyError` for a column that the samples lack.
        """
        if len(self.owed) >= OUTSTANDING_MAX:
            raise BlockingIOError(f"{len(self.owed)} batches unanswered")
        if self._waiting_bytes > WAITING_BYTES_MAX:
            raise BlockingIOError(f"{self._waiting_bytes} bytes of frames not taken")
        samples = batch.samples
        flags, selected = Flag.WARM if warm else Flag.NONE, samples.select(self.columns)
        if isinstance(selected, list):
            values: wire.Part = encode_cells(selected)
            flags |= Flag.CELLS
            self._waiting_bytes += len(values)
        else:
            values = selected
        header = Header(Kind.FRAME, flags, batch.number, batch.rows, len(self.columns))
        self._waiting.append((header, (samples.sequences, samples.timestamps, values)))
        self.owed.append(_Owed(batch.number, now, max(samples.sequences), warm))
        self._push()

    def ask(self, stages: list[str]) -> None:
        """Ask what these stages have learned, up to the last batch given; the answer comes in its turn."""
        self._asked += 1
        self._queue(Kind.STATE, encode_json(wire.Asked(stages=stages)))

    def hand_over(self, states: wire.States) -> None:
        """Give what the version before has learned, after everything given so far."""
        self._upgrading = True
        self._queue(Kind.UPGRADE, msgspec.msgpack.encode(states))

    def _queue(self, kind: Kind, payload: bytes) -> None:
        self._waiting_bytes += len(payload)
        self._waiting.append((Header(kind), (payload,)))
        with contextlib.suppress(OSError):  # its end of file says it all
            self._push()

    def _push(self) -> None:
        while self._waiting:
            header, parts = self._waiting[0]
            try:
                wire.send(self.sock, header, *parts)
            except BlockingIOError:
                return
            self._waiting.popleft()
            self._waiting_bytes -= len(parts[-1]) if isinstance(parts[-1], bytes) else 0

    def owes(self, batch: Batch) -> bool:
        """Tell whether the batch was given and not yet answered."""
        return any(one.number == batch.number for one in self.owed)

    def owes_since(self) -> float | None:
        """Return since when the worker may have been at its oldest unanswered batch, None when nothing is owed."""
        return self.owed[0].since if self.owed else None

    @property
    def says_something(self) -> bool:
        """Whether there is something to receive: who is asked late, on a busy machine, may have answered in time."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def receive(self) -> Heard | None:
        """Return the next message, or None at the end of the worker. Raises `BlockingIOError` when nothing waits.

        A message that is none of ours raises `ValueError`: the worker is not to be trusted any further.
        """
        try:
            message = wire.receive(self.sock, self._buffer)
        except BlockingIOError:
            raise
        except OSError:
            return None
        if message is None:
            return None
        header, payload = message
        try:
            return self._parse(header, payload)
        except (msgspec.DecodeError, OSError) as error:  # OSError: gone, or not taking what it must
            raise ValueError(f"unreadable {header.kind.name}: {error}") from None

    def _parse(self, header: Header, payload: memoryview) -> Heard:
        if header.kind is Kind.RESULT:
            owed = self._answered(header)
            return Answer(batch=header.batch, warm=True) if owed.warm else answer_in(header, payload, owed.newest)
        if len(payload) > _BYTES_MAX.get(header.kind, wire.INLINE_BYTES):
            raise ValueError(f"{header.kind.name} of {len(payload)} bytes")
        if header.kind is Kind.READY and not self._ready:
            self._ready = True
            ready = decode_json(payload, wire.Ready)
            self.sandbox = ready.sandbox
            if (reason := unmet(self._require, ready.sandbox)) is not None:
                return wire.Failure(reason=reason)  # it is never told where the release lies
            if self.release:
                self._send(Header(Kind.LOAD), self._release)
            return ready
        if header.kind is Kind.LOADED and self._ready and self.loaded is None:
            self.loaded = decode_json(payload, wire.Loaded)
            return self.loaded
        if header.kind is Kind.STATE and self._asked:
            self._asked -= 1
            return Told(msgspec.msgpack.decode(payload, type=wire.States), latest=not self._asked)
        if header.kind is Kind.UPGRADED and self._upgrading:
            self._upgrading = False
            return Upgraded()
        if header.kind is Kind.ERROR and header.batch == 0:
            return decode_json(payload, wire.Failure)
        if header.kind is not Kind.ERROR:
            raise ValueError(f"a worker does not send {header.kind.name} now")
        owed = self._answered(header)
        failure = decode_json(payload, wire.Failure)
        return Answer(batch=header.batch, warm=owed.warm, failure=failure, note=failure.note)

    def _answered(self, header: Header) -> _Owed:
        """Take the oldest batch off; the worker has time for the next one from now on, and room in its socket."""
        if not self.owed or self.owed[0].number != header.batch:
            raise ValueError(f"an answer to batch {header.batch} out of turn")
        done = self.owed.popleft()
        if self.owed:
            self.owed[0] = self.owed[0]._replace(since=max(self.owed[0].since, time.monotonic()))
        if self._waiting:
            with contextlib.suppress(OSError):  # its end of file says it all
                self._push()
        return done

    def stop(self) -> None:
        """Ask the worker to clean up and exit; follow with `kill` after a grace period."""
        with contextlib.suppress(OSError):
            wire.send(self.sock, Header(Kind.STOP))

    def kill(self) -> None:
        """End the process now. `reap` collects it later: tearing down an interpreter takes milliseconds."""
        self.sock.close()
        if self._ended is None:  # a reaped pid may belong to somebody else by now
            self._kill_group()

    def _kill_group(self) -> None:
        """Kill the worker, a session leader, and the processes that its filters started."""
        if self._launched is not None:
            self._launched.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> str | None:
        """Return how the process ended in words, None while it has not; what it printed has been logged by then."""
        if self._ended is None and self._find_end() and self.voice is not None:
            self.voice.end()
        return self._ended

    def _find_end(self) -> str | None:
        if self._launched is not None:
            self._ended = self._launched.ended()
            return self._ended
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self._kill_group()  # while its number is still taken
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            self._ended = "is gone"
            return self._ended
        self._ended = ending(code)
        return self._ended

    def obituary(self) -> Reason:
        """Say how the worker ended, once its socket is at its end; waits `OBITUARY_SECONDS` at the most."""
        if self.given_up is not None:
            return self.given_up
        deadline = time.monotonic() + OBITUARY_SECONDS
        while (ended := self.reap()) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        return Reason(code=ReasonCode.EXITED, message=f"the worker {ended or 'closed its socket'}")

    def _send(self, header: Header, body: msgspec.Struct) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end of file says it all
            wire.send(self.sock, header, encode_json(body))


def failure_of(error: Exception) -> Reason:
    """Return the reason for a worker that breaks the protocol or does not take its frames."""
    if isinstance(error, BlockingIOError):
        return Reason(code=ReasonCode.BEHIND, message=f"the worker falls behind: {error}")
    return Reason(code=ReasonCode.EXITED, message=f"the worker is gone or talks nonsense: {error}")
