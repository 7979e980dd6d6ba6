"""The far end of a serial line: a pty pair whose near end has a name that can vanish and come back."""

from __future__ import annotations

import os
import pty
import threading
import time
import tty
from pathlib import Path

__all__ = ["Cable", "SerialLine"]


class SerialLine:
    """`path` is the port; `send` writes into it. `unplug` takes it away, `plug` brings another one of that name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._far = -1
        self.plug()

    def plug(self) -> None:
        self._far, near = pty.openpty()
        tty.setraw(near)
        os.set_blocking(self._far, False)  # select() reports a line that nobody has open as ready
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(near))
        os.close(near)

    def unplug(self) -> None:
        self.path.unlink(missing_ok=True)
        far, self._far = self._far, -1
        os.close(far)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._far, data) :]

    @property
    def far(self) -> int:
        return self._far

    def __enter__(self) -> SerialLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._far >= 0:
            self.unplug()


class Cable:
    """Carries bytes between the far ends of two lines, as long as both are plugged."""

    def __init__(self, one: SerialLine, other: SerialLine) -> None:
        self._ways = ((one, other), (other, one))
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._carry)

    def _carry(self) -> None:
        while not self._done.is_set():
            for source, target in self._ways:
                try:
                    target.send(os.read(source.far, 4096))
                except OSError:  # nothing there, or nobody has one side open
                    time.sleep(0.0005)

    def __enter__(self) -> Cable:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
