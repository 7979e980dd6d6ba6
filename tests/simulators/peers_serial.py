"""The far end of a serial line: a pty pair whose near end has a name that can vanish and come back."""

from __future__ import annotations

import os
import pty
import tty
from pathlib import Path

__all__ = ["SerialLine"]


class SerialLine:
    """`path` is the port; `send` writes into it. `unplug` takes it away, `plug` brings another one of that name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._far = -1
        self.plug()

    def plug(self) -> None:
        self._far, near = pty.openpty()
        tty.setraw(near)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(near))
        os.close(near)

    def unplug(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._far)
        self._far = -1

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
