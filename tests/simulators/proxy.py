"""A TCP proxy that does to a connection what networks do: delay, throttle, truncate, cut, and fall silent.

It stands between a device and its broker on a free loopback port, runs in a thread of its own, and counts what it
delivered, so that no test has to believe our own counters. Schedules come from a seed: equal seeds give equal faults.
What the bytes mean it does not know; `shaper` may (`hostile`, `Chunks`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from tests.simulators.broker import free_port

__all__ = ["Faults", "Proxy", "Shaper"]

PIECE_BYTES = 16 * 1024
IDLE_SECONDS = 0.05
BURST_SECONDS = 0.02


class Shaper(Protocol):
    """Sees one direction of one connection, and says what of it goes on."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take what came; return what goes on now."""

    def idle(self) -> list[bytes]:
        """Nothing came for a while: return what was held back."""

    def sent(self, size: int) -> None:
        """So many more bytes were handed to the receiver."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong on every connection; 0 is never.

    `bytes_per_second` limits each direction towards the device. A connection is cut after `cut_seconds`, or after
    `cut_bytes` towards the device (in the middle of a packet, as like as not: a truncation). `silent_seconds`: it stays
    open, and nothing is forwarded any more. Times vary by up to `jitter` (a fraction).
    """

    delay_seconds: float = 0.0
    bytes_per_second: float = 0.0
    cut_seconds: float = 0.0
    cut_bytes: int = 0
    silent_seconds: float = 0.0
    jitter: float = 0.0


@dataclass(eq=False)
class _Line:
    """One connection under way."""

    faults: Faults
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    silent: bool = False
    down_bytes: int = 0
    free_at: float = 0.0


class Proxy:
    """Forwards connections to `target_port`; a context manager. `faults` may be changed at any time.

    With several faults, each new connection has the next of them. `down_bytes` and `up_bytes` count what was handed on
    towards the device and the broker. `shaper` makes one for the direction towards the device of each connection.
    """

    def __init__(
        self,
        target_port: int,
        *faults: Faults,
        seed: int = 0,
        shaper: Callable[[], Shaper] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.faults: Sequence[Faults] = faults or (Faults(),)
        self.connections, self.down_bytes, self.up_bytes = 0, 0, 0
        self.ends: Counter[str] = Counter()
        self._target, self._shaper, self._rng = (host, target_port), shaper, random.Random(seed)
        self._lines: set[_Line] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    def cut(self) -> None:
        """Cut every connection now."""
        self._do(self._cut())

    def silence(self, silent: bool = True) -> None:
        """Forward nothing on the present connections, without closing them (half open), or go on."""

        async def set_them() -> None:
            for line in self._lines:
                line.silent = silent

        self._do(set_them())

    # --- in the loop's thread ----------------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0)

    async def _cut(self) -> None:
        for line in list(self._lines):
            self._end(line, "cut")

    def _end(self, line: _Line, why: str) -> None:
        if line not in self._lines:
            return
        self._lines.discard(line)
        self.ends[why] += 1
        for writer in line.writers:
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        faults = self.faults[self.connections % len(self.faults)]
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            self.ends["refused"] += 1
            writer.close()
            return
        line = _Line(faults, [writer, far_writer])
        self._lines.add(line)
        timers = [
            self._later(faults.cut_seconds, faults, self._end, line, "cut"),
            self._later(faults.silent_seconds, faults, setattr, line, "silent", True),
        ]
        shaper = self._shaper() if self._shaper is not None else None
        up = asyncio.create_task(self._pump(reader, far_writer, line, None))
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump(far_reader, writer, line, shaper)
        finally:
            up.cancel()
            for timer in filter(None, timers):
                timer.cancel()
            self._end(line, "ended")

    def _later(self, seconds: float, faults: Faults, act: Callable[..., Any], *arguments: Any) -> Any:
        if not seconds:
            return None
        return self._loop.call_later(seconds * (1 + faults.jitter * self._rng.uniform(-1, 1)), act, *arguments)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: _Line, shaper: Shaper | None
    ) -> None:
        down = writer is line.writers[0]
        with contextlib.suppress(OSError):
            while True:
                try:
                    data = await asyncio.wait_for(reader.read(PIECE_BYTES), IDLE_SECONDS if shaper else None)
                except TimeoutError:
                    pieces = shaper.idle() if shaper is not None else []
                else:
                    if not data:
                        break
                    pieces = shaper.feed(data) if shaper is not None else [data]
                for piece in pieces:
                    await self._forward(piece, writer, line, shaper, down)
        if not down:
            self._end(line, "left")

    async def _forward(
        self, data: bytes, writer: asyncio.StreamWriter, line: _Line, shaper: Shaper | None, down: bool
    ) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            while line.silent and line in self._lines:
                await asyncio.sleep(0.02)
            if line.faults.delay_seconds:
                await asyncio.sleep(line.faults.delay_seconds)
            limit = line.faults.cut_bytes if down else 0
            if limit and line.down_bytes + len(piece) > limit:
                piece = piece[: limit - line.down_bytes]
            if line not in self._lines:
                raise ConnectionResetError
            writer.write(piece)
            self._count(line, shaper, len(piece), down)
            if limit and line.down_bytes >= limit:
                self._end(line, "truncated")
                raise ConnectionResetError
            await writer.drain()
            if line.faults.bytes_per_second and down:
                now = self._loop.time()
                line.free_at = max(line.free_at, now - BURST_SECONDS) + len(piece) / line.faults.bytes_per_second
                if line.free_at > now:
                    await asyncio.sleep(line.free_at - now)

    def _count(self, line: _Line, shaper: Shaper | None, size: int, down: bool) -> None:
        if not down:
            self.up_bytes += size
            return
        self.down_bytes += size
        line.down_bytes += size
        if shaper is not None:
            shaper.sent(size)
