"""Puts into words that it was the sandbox which refused an author's code something, and what that was.

The kernel says `Operation not permitted`, and libraries wrap that up in errors of their own. It looks at errors and
their causes, and guesses from where in the standard library they were raised. It refuses nothing itself.
"""

from __future__ import annotations

import errno
import socket
import traceback
from collections.abc import Iterator, Mapping

__all__ = ["denial"]

CAUSES_MAX = 16
_PLACES = {
    "socket.py": "opens a socket",
    "subprocess.py": "starts a process",
    "popen_fork.py": "starts a process",
    "tempfile.py": "writes a temporary file",
}


def denial(error: BaseException, sandbox: Mapping[str, str]) -> str:
    """Return what the sandbox refused when it caused this error, `""` when it probably did not."""
    calls = sandbox.get("system_calls", "").startswith("applied")
    files = sandbox.get("file_system", "").startswith("applied")
    for one in _causes(error):
        place = _PLACES.get(_raised_in(one), "")
        if calls and isinstance(one, socket.gaierror):
            return _words("opens a socket")
        if isinstance(one, FileNotFoundError) and "temporary directory" in str(one) and (calls or files):
            return _words("writes a temporary file")
        if isinstance(one, PermissionError) and one.errno == errno.EPERM and calls:
            return _words(place or "asks the system for what only agents may do")
        if isinstance(one, PermissionError) and files:
            return _words(place or (f"reaches for {one.filename}" if one.filename else "reaches for a file"))
    return ""


def _words(what: str) -> str:
    return f"this filter {what}; on devices it may not (sandbox)"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised from, its `reason` too, as urllib has it."""
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < CAUSES_MAX:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        more = (one.__cause__, one.__context__, getattr(one, "reason", None))
        waiting += [each for each in more if isinstance(each, BaseException)]


def _raised_in(error: BaseException) -> str:
    """Return the name of the file in which the error came up."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return frames[-1][0].f_code.co_filename.rpartition("/")[2] if frames else ""
