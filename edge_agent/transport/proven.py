"""Which files this process has hashed itself: what was right a moment ago is not read a second time.

It remembers a file by inode, size and times, so one that was replaced or written to counts as unknown. It forgets with
the process: a disk may have decayed by the next start, and whoever lays out then hashes again. It is no defence against
somebody who may write below the agent's state directory; nothing is.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from edge_agent.contract.digest import BlobRef, Digest

__all__ = ["Proven"]

KEPT_MAX = 256

_Mark = tuple[Digest, int, int, int, int, int]


class Proven:
    """Files with what was found in them, the last `KEPT_MAX`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._marks: dict[str, _Mark] = {}  # by path: a `Path` takes several times as much

    def note(self, ref: BlobRef, path: Path) -> None:
        """Note that the file at `path` was just found to be the blob. Raises `OSError` if it is gone."""
        mark, name = _mark(ref, path), str(path)
        with self._lock:
            self._marks.pop(name, None)
            self._marks[name] = mark
            while len(self._marks) > KEPT_MAX:
                del self._marks[next(iter(self._marks))]

    def holds(self, ref: BlobRef, path: Path) -> bool:
        """Tell whether the file at `path` was found to be the blob, and has not been touched since."""
        with self._lock:
            known = self._marks.get(str(path))
        try:
            return known is not None and known[3] == ref.size and known == _mark(ref, path)
        except OSError:
            return False


def _mark(ref: BlobRef, path: Path) -> _Mark:
    found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - a link is not the file that was hashed
    return (ref.digest, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
