"""What workers log and print, as lines of the agent's own log with slot, pipeline and release (R6, §9).

Each worker writes to a pipe; one thread reads them all, so that neither a flood nor a slow log holds up frames. The
agent writes the fields, and lines are split here: whatever a worker prints comes after them on its line, so it cannot
pass for another's. A second has room for `LINES_PER_SECOND` lines and `BYTES_PER_SECOND` bytes of each worker; what is
more is read, counted and dropped, and the count is told. A line may begin with its level as `<4>` (sd-daemon(3)).
It judges nothing: how much a release may print is its health policy's.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import select
import threading
import time
from collections import deque

from edge_agent.runtime.wording import encodable

__all__ = ["Chatter", "Lines", "Voice"]

log = logging.getLogger(__name__)
LINE_BYTES_MAX = 2_048
LINES_PER_SECOND = 200
BYTES_PER_SECOND = 65_536
LAST_LINES, LAST_CHARACTERS_MAX = 30, 8_192
PIPE_BYTES = 256 * 1024
# While a worker floods it is looked at this often: bounds what the flood costs the agent, and how long a write waits.
REST_SECONDS = 0.002
TELL_SECONDS = 1.0
_SEVERITY = re.compile(rb"<([0-7])>")
# syslog's severities, from `emerg` to `debug`.
_LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)


class Lines:
    """Bytes in, bounded lines out: (level, text). `lines` and `bytes` count what was dropped since `told` last."""

    def __init__(self) -> None:
        self._line, self._cut = bytearray(), 0
        self._skipping = False  # the rest of a line that is dropped
        self._until, self._lines, self._bytes = 0.0, 0, 0
        self.lines = self.bytes = 0

    def feed(self, data: bytes, now: float) -> list[tuple[int, str]]:
        """Return the lines that end in `data`, as many as there is room for at `now` (monotonic seconds)."""
        if now >= self._until:
            self._until, self._lines, self._bytes = now + 1.0, LINES_PER_SECOND, BYTES_PER_SECOND
        found: list[tuple[int, str]] = []
        at = 0
        while at < len(data):
            end = data.find(b"\n", at)
            if not self.room:
                found += self.end()
                self._drop(data, at, len(data))
                break
            if self._skipping:
                at = self._drop(data, at, end + 1 or len(data))
                continue
            self._extend(data[at : end if end >= 0 else len(data)])
            if end < 0:
                break
            found += self.end()
            at = end + 1
        return found

    def end(self) -> list[tuple[int, str]]:
        """Return the line so far, if there is anything in it."""
        line, cut, self._line, self._cut = bytes(self._line), self._cut, bytearray(), 0
        self._lines -= 1
        severity = _SEVERITY.match(line)
        level = _LEVELS[int(severity[1])] if severity else logging.INFO
        text = encodable(line[severity.end() if severity else 0 :].decode(errors="backslashreplace").rstrip())
        return [(level, f"{text} … {cut} bytes more" if cut else text)] if text else []

    @property
    def room(self) -> bool:
        """Whether another line fits into this second."""
        return self._lines > 0 and self._bytes > 0

    def told(self) -> tuple[int, int]:
        """Return how many lines and bytes were dropped, and count anew."""
        lines, self.lines = self.lines, 0
        dropped, self.bytes = self.bytes, 0
        return lines, dropped

    def _extend(self, piece: bytes) -> None:
        kept = min(len(piece), LINE_BYTES_MAX - len(self._line))
        self._line += piece[:kept]
        self._cut += len(piece) - kept
        self._bytes -= len(piece)  # a long line has had its share, though most of it is cut

    def _drop(self, data: bytes, at: int, end: int) -> int:
        self.lines += data.count(b"\n", at, end)
        self.bytes += end - at
        self._skipping = data[end - 1 : end] != b"\n"
        return end


class Voice:
    """One worker's pipe. `theirs` is the worker's end, -1 once it was passed on; `slot` and `release` may change."""

    def __init__(self, slot: str, release: str) -> None:
        self.slot, self.release = slot, release
        self.descriptor, self.theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.descriptor, False)
        with contextlib.suppress(OSError):  # beyond what this user may have; the usual 64 KB do
            fcntl.fcntl(self.theirs, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._lines, self._lock = Lines(), threading.Lock()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self.loud = False  # something was dropped that has not been told

    def passed(self) -> None:
        """Close the worker's end here: it has been given away."""
        theirs, self.theirs = self.theirs, -1  # in one step: the other thread hears the end of it at once
        if theirs >= 0:
            os.close(theirs)

    def hear(self, now: float) -> bool:
        """Log what has been written, a pipe full of it; return whether there is room for more in this second."""
        with self._lock:
            most = PIPE_BYTES
            while most > 0 and self.descriptor >= 0:
                try:
                    data = os.read(self.descriptor, 65_536)
                except BlockingIOError:
                    break
                if not data:
                    self._close()
                    break
                most -= len(data)
                self._log(self._lines.feed(data, now))
            self.loud = self._lines.bytes > 0
            return self._lines.room

    def tell(self) -> None:
        """Log how much was dropped, if anything was."""
        with self._lock:
            lines, dropped = self._lines.told()
            self.loud = False
            if dropped:
                log.warning("dropped %s: %d lines, %d bytes more were printed", self._fields, lines, dropped)

    def last(self) -> str:
        """Return the last lines that came, what has been written until now included."""
        self.hear(time.monotonic())
        with self._lock:
            return "".join(f"{line}\n" for line in self._last)[-LAST_CHARACTERS_MAX:]

    def end(self) -> None:
        """The worker has ended: log what is left, and close the pipe."""
        self.hear(time.monotonic())
        with self._lock:
            self._log(self._lines.end())
            self._close()
        self.tell()

    def _log(self, lines: list[tuple[int, str]]) -> None:
        for level, text in lines:
            self._last.append(text)
            log.log(level, "%s: %s", self._fields, text)

    @property
    def _fields(self) -> str:
        return f"slot={self.slot} pipeline={self.release.partition('@')[0]} release={self.release}"

    def _close(self) -> None:
        self.passed()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Chatter:
    """The thread that hears every worker of one supervisor."""

    def __init__(self) -> None:
        self._voices: dict[int, Voice] = {}
        self._lock = threading.Lock()
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="chatter", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def voice(self, slot: str, release: str) -> Voice:
        """Return the pipe for a new worker, listened to until `Voice.end`. Raises `OSError`."""
        voice = Voice(slot, release)
        with self._lock:  # closed pipes leave epoll by themselves, and their numbers are used again
            self._voices[voice.descriptor] = voice
            self._poll.register(voice.descriptor, select.EPOLLIN)
        return voice

    def stop(self) -> None:
        """End the thread and every voice."""
        if self._stopping:
            return
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None:
            self._thread.join()
        for voice in self._voices.values():
            voice.end()
        self._poll.close()
        os.close(self._wake)

    def _run(self) -> None:
        due = 0.0
        while not self._stopping:
            with self._lock:
                self._voices = {number: one for number, one in self._voices.items() if one.descriptor >= 0}
                voices = self._voices
            loud = any(voice.loud for voice in voices.values())
            ready = self._poll.poll(TELL_SECONDS if loud else None)
            now = time.monotonic()
            # Not for longer than a round: what else is new in `_voices` is heard in the next one.
            room = [voices[number].hear(now) for number, _ in ready if number in voices]
            if now >= due:
                due = now + TELL_SECONDS
                for voice in voices.values():
                    voice.tell()
            if not all(room):
                time.sleep(REST_SECONDS)
