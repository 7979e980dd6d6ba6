"""Where a path in an author's source is meant from: the file that the path is written in."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["NAMESPACE_PREFIX", "resolve"]

NAMESPACE_PREFIX = "_fieldcast_"
"""How the private package names begin that the runtime imports bundles under (I5)."""

_ROOM = str(Path(__file__).parent) + "/"


def resolve(path: str | Path, what: str) -> Path:
    """Return the absolute path of an existing file, relative to the source file that calls into the SDK.

    In a notebook or at a prompt, where there is no such file, it is relative to the working directory. Raises
    `FileNotFoundError` naming `what`, the path and where it was looked for. On a device, where a class's module is
    imported from its bundle, the pipeline that stands beside it is not used and its files lie elsewhere: not an error.
    """
    given = Path(path).expanduser()
    base, module = _caller()
    found = (base / given).resolve()
    if not found.is_file() and not module.startswith(NAMESPACE_PREFIX):
        looked = "" if given.is_absolute() else f" (relative to {base})"
        raise FileNotFoundError(f"{what}: there is no file {str(path)!r}{looked}")
    return found


def _caller() -> tuple[Path, str]:
    """Return folder and module name of the source that calls into the SDK."""
    frame = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        # "<string>": a generated `__init__`, as of a dataclass; its caller's file is meant.
        if not filename.startswith(("<string>", _ROOM)):
            source = Path(filename)
            module = str(frame.f_globals.get("__name__", ""))
            return (source.resolve().parent if source.is_file() else Path.cwd()), module
        if frame.f_back is None:
            break
        frame = frame.f_back
    return Path.cwd(), ""
