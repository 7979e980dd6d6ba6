"""The one directory that a spare worker may read: made empty, filled with a release's files, removed with the worker.

It lies among the laid-out releases, under a hidden name that a start of the agent clears away. What it holds are hard
links, or copies where the disk knows no links; nobody who may read it may write it.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from pathlib import Path

__all__ = ["View"]

_COUNTER = itertools.count(1)
# No links between file systems, on this file system, or any more of this file.
_UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class View:
    """A new empty directory below `releases`. Raises `OSError` when the disk refuses."""

    def __init__(self, releases: Path) -> None:
        self.path = releases / f".spare-{os.getpid()}-{next(_COUNTER)}"
        self.path.mkdir()
        self._filling = threading.Lock()
        self._removal: threading.Thread | None = None

    def fill(self, root: Path) -> None:
        """Give it the files of the release laid out at `root`. Raises `OSError`; it waits for the disk."""
        with self._filling:
            _link_tree(root, self.path)

    def removed(self) -> bool:
        """Have it removed, by a thread of its own the first time that this is asked, and tell whether that is done."""
        if self._removal is None:
            self._removal = threading.Thread(target=self._remove, daemon=True)
            self._removal.start()
        return not self._removal.is_alive()

    def _remove(self) -> None:
        with self._filling:  # whose worker was killed meanwhile
            shutil.rmtree(self.path, ignore_errors=True)


def _link_tree(source: Path, target: Path) -> None:
    with os.scandir(source) as entries:
        for entry in entries:
            place = target / entry.name
            if entry.is_dir(follow_symlinks=False):
                place.mkdir()
                _link_tree(Path(entry.path), place)
            else:
                _link(entry.path, place)


def _link(source: str, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
