"""What a worker prints and logs, on its way out: counted, bounded, and never waited for.

Standard output and error of a worker are replaced by a `Printed` each. `PRINTED_BYTES_PER_SECOND` go through, if
whoever reads them keeps up; what is more is counted and dropped, and said so. Records of `logging` go the same way,
with their level in front as sd-daemon(3) spells it. What native code writes past Python is bounded by the reader alone.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import threading
import time
from typing import Any

__all__ = ["Printed", "Spoken"]

PRINTED_BYTES_PER_SECOND = 65_536
LINE_BYTES_MAX = 4_096  # PIPE_BUF: what fits as one piece where there is room at all
_SEVERITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class Printed(io.TextIOBase):
    """A text stream onto `descriptor` that drops what there is no room for; `total` counts the bytes of all of them."""

    total = 0

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._until, self._room, self._dropped = descriptor, 0.0, 0, 0
        self._line, self._lock = bytearray(), threading.RLock()
        self._begun = False  # a line that has not ended
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self.buffer = _Bytes(self)

    @classmethod
    def install(cls) -> None:
        """Count from now on, and let records of `logging` through from INFO on."""
        sys.stdout, sys.stderr = cls(sys.stdout.fileno()), cls(sys.stderr.fileno())
        logging.basicConfig(level=logging.INFO, handlers=[Spoken(sys.stderr)])
        logging.captureWarnings(True)

    def write(self, text: str) -> int:
        """Print, count, or drop."""
        self.pass_on(text.encode(errors="backslashreplace"))
        return len(text)

    def pass_on(self, data: bytes) -> None:
        """Take bytes, and give away what there is room for when their line ends."""
        with self._lock:
            self._take(data, time.monotonic())

    def speak(self, lines: str) -> None:
        """Print whole lines, each on a line of its own also where something was left unended."""
        with self._lock:
            self.write(f"\n{lines}" if self._begun else lines)

    def _take(self, data: bytes, now: float) -> None:
        if now >= self._until:
            note, self._dropped = self._dropped, 0
            self._until, self._room = now + 1.0, PRINTED_BYTES_PER_SECOND
            if note:
                self._give(b"\n<4>%d bytes more were printed and dropped\n" % note)
        Printed.total += len(data)
        kept = data[: self._room]
        self._room -= len(kept)
        self._dropped += len(data) - len(kept)
        self._line += kept
        self._begun = not kept.endswith(b"\n") if kept else self._begun
        if b"\n" in kept or len(self._line) >= LINE_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Pass on what was printed."""
        with self._lock:
            line, self._line = bytes(self._line), bytearray()
            self._give(line)

    def _give(self, data: bytes) -> None:
        for at in range(0, len(data), LINE_BYTES_MAX):
            piece = data[at : at + LINE_BYTES_MAX]
            try:
                # A pipe that says so has room for this much: the write does not wait.
                written = os.write(self._descriptor, piece) if self._poll.poll(0) else 0
            except OSError:  # nobody reads any more
                written = 0
            self._dropped += len(piece) - written

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Always UTF-8."""
        return "utf-8"

    def writable(self) -> bool:
        """It is for writing."""
        return True


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer`: bytes go the way of the text."""

    def __init__(self, printed: Printed) -> None:
        self._printed = printed

    def write(self, data: Any) -> int:
        taken = bytes(data)
        self._printed.pass_on(taken)
        return len(taken)

    def flush(self) -> None:
        self._printed.flush()

    def fileno(self) -> int:
        return self._printed.fileno()

    def writable(self) -> bool:
        return True


class Spoken(logging.Handler):
    """Writes each line of a record with its level in front: `<4>name: message`."""

    def __init__(self, stream: Printed) -> None:
        super().__init__()
        self._stream = stream
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; one that cannot be formatted is told by `logging` itself."""
        try:
            severity = next((number for level, number in _SEVERITIES if record.levelno >= level), 7)
            lines = self.format(record).splitlines() or [""]
            self._stream.speak("".join(f"<{severity}>{line}\n" for line in lines))
        except Exception:  # noqa: BLE001 - as every handler does: a log call must not fail the filter
            self.handleError(record)
